"""One page per patient that prints on a sheet of A4: result, pictures, limits."""

import base64
import datetime
import functools
import hashlib
import html
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import numpy as np

from drtf.clinic.patient_texts import LANGUAGES, Texts
from drtf.config import GradcamConfig
from drtf.evaluation.result import EvaluationResult, load_evaluations
from drtf.files import read_regular, write_atomic
from drtf.heatmaps.heatmaps import ComputeMaps, build_map_function
from drtf.heatmaps.overlays import (
    PICTURE_SIDE,
    draw_overlay,
    draw_photograph,
    explain,
    heat_scale,
)
from drtf.images.preprocess import encode_image
from drtf.intervals import Estimate, clopper_pearson_interval
from drtf.models.decision_rule import Threshold
from drtf.models.run import Run
from drtf.photographs.listing import list_photographs
from drtf.photographs.prepare import NetworkInput
from drtf.photographs.references import PhotographRef, photograph_id
from drtf.progress import progress
from drtf.scoring.growing_table import Growth, append_scores
from drtf.scoring.patient_table import SIDES, patient_row, rows_by_person
from drtf.scoring.photograph_scores import prepare_photographs
from drtf.scoring.score_table import (
    HASH_LENGTH,
    Row,
    parse_path,
    split_flags,
    written_path,
)
from drtf.scoring.scorer import Scorer

TABLE_FILE = "scores.csv"
PAGES_FOLDER = "pages"
MAX_TABLE_ROWS = 6  # more do not fit on the sheet
MAX_NAME_LENGTH = 60  # of a page
MAX_PATH_LENGTH = 40  # of a photograph on a page
JPEG_QUALITY = 88
# In the head of a page, before the hash of everything that it shows.
CONTENT_MARK = '<meta name="drtf-content" content="{}">'
HEAD_BYTES = 2000
STYLE = """
@page { size: A4; margin: 11mm 13mm; }
* { box-sizing: border-box; }
body { font: 9pt/1.35 system-ui, "Noto Sans KR", "Malgun Gothic", "Apple SD Gothic Neo",
       NanumGothic, sans-serif; color: #111; width: 184mm; margin: 8mm auto; }
header { display: flex; justify-content: space-between; gap: 6mm;
         border-bottom: .5mm solid #111; padding-bottom: 1.5mm; }
h1 { font-size: 14pt; margin: 0; } p { margin: .8mm 0; }
.who { font-size: 11pt; } .who, td, .name { overflow: hidden; text-overflow: ellipsis;
       white-space: nowrap; max-width: 100mm; }
.research { font-weight: 700; text-align: right; flex: none; }
.result { border: .5mm solid #555; border-left-width: 3mm; padding: 1.5mm 3mm;
          margin: 2.5mm 0; }
.positive { border-color: #b3261e; } .negative { border-color: #1b6e3c; }
.result h2 { font-size: 13pt; margin: 0 0 .5mm; }
.eyes { display: grid; grid-template-columns: repeat(2, minmax(0, 1fr)); gap: 4mm; }
.eyes h3 { font-size: 10pt; margin: 0 0 1mm; }
figure { margin: 0 0 1.5mm; } figcaption { font-size: 8pt; color: #444; }
img { width: 56mm; height: 56mm; display: block; background: #000; }
table { border-collapse: collapse; width: 100%; margin: 1.5mm 0; font-size: 8pt; }
th, td { text-align: left; padding: .3mm 2mm .3mm 0; border-bottom: .2mm solid #bbb; }
td { max-width: 60mm; } .small { font-size: 8pt; color: #333; }
@media print { body { margin: 0; width: auto; }
  * { print-color-adjust: exact; -webkit-print-color-adjust: exact; } }
"""


@dataclass(frozen=True)
class PagesReport:
    """The pages that were written.

    Attributes:
        folder: The folder of the pages.
        growth: What was appended to the table next to it.
        written: The pages that are new or changed.
        num_kept: Number of pages that show what they showed before.
    """

    folder: Path
    growth: Growth
    written: list[Path] = field(default_factory=list)
    num_kept: int = 0


@dataclass(frozen=True)
class _Patient:
    """A patient.

    Attributes:
        summary: The patient's row of the table of patients.
        rows: The rows of the photographs, the highest score first.
        shown: The rows of the photographs whose pictures are shown, by column.
        path: The page.
        content: Hash of everything that the page shows.
    """

    summary: Row
    rows: list[Row]
    shown: dict[str, Row]
    path: Path
    content: str


def report_patients(
    scorer: Scorer,
    images: Path | str,
    *,
    out: Path,
    gradcam: GradcamConfig,
    language: str = "en",
) -> PagesReport:
    """Score the new photographs of a folder, and write one page per patient.

    The table of scores grows as with `append_scores`. Pages are written again only if
    something that they show has changed.

    Args:
        scorer: What scores the photographs.
        images: As for `append_scores`.
        out: The folder of the table, the table of patients and the pages.
        gradcam: How to draw the heat maps.
        language: A key of `LANGUAGES`.

    Raises:
        DrtfError: As `append_scores`.
    """
    out.mkdir(parents=True, exist_ok=True)
    growth = append_scores(scorer, images, out / TABLE_FILE, by_patient=True)
    report = PagesReport(out / PAGES_FOLDER, growth)
    report.folder.mkdir(exist_ok=True)
    photographs = {written_path(x.path): x for x in list_photographs(images)}
    facts = _Facts(
        scorer.run,
        LANGUAGES[language],
        scorer.run.threshold if scorer.has_stored_threshold else None,
        find_evaluation(scorer),
        gradcam,
    )
    patients = _plan_pages(scorer, growth.current, photographs, facts, report.folder)
    outdated = [x for x in patients if _load_content(x.path) != x.content]
    with progress("Writing pages", len(patients), done=0) as advance:
        advance(num_done=len(patients) - len(outdated))
        for patient, pictures in _draw_pictures(scorer, outdated, photographs, gradcam):
            write_atomic(patient.path, _format_page(patient, pictures, facts))
            report.written.append(patient.path)
            advance()
    return replace(report, num_kept=len(patients) - len(outdated))


def find_evaluation(scorer: Scorer) -> EvaluationResult | None:
    """Find the evaluation with the threshold to score with and the most photographs."""
    found = load_evaluations(scorer.run) if scorer.has_stored_threshold else []
    return max(found, key=lambda result: result.num_photographs, default=None)


@dataclass(frozen=True)
class _Facts:
    """Facts that all pages show.

    Attributes:
        run: The run.
        texts: The words.
        threshold: Where the threshold is from; None if the user gave it.
        evaluation: The evaluation with this threshold, or None.
        gradcam: How the heat maps are drawn.
    """

    run: Run
    texts: Texts
    threshold: Threshold | None
    evaluation: EvaluationResult | None
    gradcam: GradcamConfig

    @functools.cached_property
    def hash(self) -> str:
        """The hash of all of it."""
        shown = [
            STYLE,
            asdict(self.texts),
            self.run.describe(),
            self.run.decision_rule and self.run.decision_rule.model_dump(mode="json"),
            self.evaluation and list(map(str, self.accuracy())),
            self.gradcam.model_dump(mode="json"),
        ]
        return hashlib.sha256(json.dumps(shown).encode()).hexdigest()

    def accuracy(self) -> Iterator[Estimate]:
        """Yield sensitivity and specificity."""
        if self.evaluation:
            yield self.evaluation.metrics["sensitivity"]
            yield self.evaluation.metrics["specificity"]


def _plan_pages(
    scorer: Scorer,
    rows: Sequence[Row],
    photographs: Mapping[str, PhotographRef],
    facts: _Facts,
    folder: Path,
) -> list[_Patient]:
    """Return the patients, in the order of the table of patients."""
    patients = []
    names: set[str] = set()  # not every file system has upper and lower case
    for own in rows_by_person(rows, scorer.patient_pattern):
        own.sort(key=_scores, reverse=True)
        summary = patient_row(own)
        shown = _choose_shown([x for x in own if x["score"]])
        name = _file_stem(summary, own)
        if name.casefold() in names:  # patients of the same name in several folders
            name = f"{name}-{_digest(min(row['path'] for row in own))}"
        names.add(name.casefold())
        present = [row["path"] in photographs for row in own]
        content = json.dumps([facts.hash, own, present])
        digest = hashlib.sha256(content.encode()).hexdigest()
        path = folder / f"{name}.html"
        patients.append(_Patient(summary, own, shown, path, digest))
    return patients


def _scores(row: Row) -> tuple[float, float]:
    """Return the score of both eyes and the photograph's own; -1 without a score."""
    return float(row["score"] or -1), float(row["own_score"] or -1)


def _choose_shown(scored: Sequence[Row]) -> dict[str, Row]:
    """Return the photograph of each eye that is shown, from rows by falling score."""
    labeled = [x for x in scored if x["predicted_label"]]
    best = [*labeled, *(x for x in scored if not x["predicted_label"])]
    by_eye: dict[str, Row] = {}
    for row in best:
        by_eye.setdefault(row["eye"], row)
    if {*by_eye} & {*SIDES}:
        return {side: by_eye[side] for side in ("right", "left") if side in by_eye}
    return {f"unknown {n}": row for n, row in enumerate(best[:2])}


def _file_stem(summary: Row, rows: Sequence[Row]) -> str:
    """Return the name of a page, which any file system can have."""
    name = parse_path(summary["patient"]) or photograph_id(parse_path(rows[0]["path"]))
    stem = re.sub(r"[^\w.-]+", "_", name).strip("._")
    if stem == name and len(name) < MAX_NAME_LENGTH:
        return stem
    return f"{stem[:MAX_NAME_LENGTH]}-{_digest(name)}"


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:8]


def _load_content(path: Path) -> str:
    """Return the hash that a page has in its head; empty if there is no page."""
    try:
        head = read_regular(path).decode(errors="replace")[:HEAD_BYTES]
    except OSError:
        return ""
    match = re.search(CONTENT_MARK.format("([0-9a-f]+)"), head)
    return match[1] if match else ""


def _draw_pictures(
    scorer: Scorer,
    patients: Sequence[_Patient],
    photographs: Mapping[str, PhotographRef],
    config: GradcamConfig,
) -> Iterator[tuple[_Patient, dict[str, tuple[np.ndarray, np.ndarray]]]]:
    """Yield each patient with the photographs and overlays that are shown, by column.

    Photographs that are gone, or were replaced by others, have none.
    """
    if not patients:
        return
    run = scorer.run
    compute_maps = build_map_function(run, config)
    shown = [
        {x: row for x, row in patient.shown.items() if row["path"] in photographs}
        for patient in patients
    ]
    prepared = prepare_photographs(
        run,
        [photographs[row["path"]] for own in shown for row in own.values()],
        num_workers=scorer.config.num_workers,
        picture_size=max(PICTURE_SIDE, run.info.image_size),
    )
    with closing(prepared):
        for patient, own in zip(patients, shown, strict=True):
            read = {
                column: (row, item)
                for (column, row), item in zip(own.items(), prepared, strict=False)
                if isinstance(item, NetworkInput)
                and item.sha256[:HASH_LENGTH] == row["photograph"]
            }
            yield patient, _draw_eyes(read, config, compute_maps)


def _draw_eyes(
    read: Mapping[str, tuple[Row, NetworkInput]],
    config: GradcamConfig,
    compute_maps: ComputeMaps,
) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Return the photographs and overlays of a patient, which share a scale."""
    if not read:
        return {}
    rows, items = zip(*read.values(), strict=True)
    explained = explain(
        compute_maps,
        np.stack([item.image for item in items]),
        names=[item.path for item in items],
        scores=[float(row["score"]) for row in rows],
        is_positive=[row["predicted_label"] == "1" for row in rows],
        pictures=[
            item.image if item.picture is None else item.picture for item in items
        ],
    )
    scale = heat_scale(explained)
    return {
        column: (draw_photograph(item), draw_overlay(item, config, scale=scale))
        for column, item in zip(read, explained, strict=True)
    }


def _format_page(
    patient: _Patient,
    pictures: Mapping[str, tuple[np.ndarray, np.ndarray]],
    facts: _Facts,
) -> str:
    """Format the page of a patient."""
    texts, escape = facts.texts, html.escape
    language = next(key for key, value in LANGUAGES.items() if value is texts)
    name = parse_path(patient.summary["patient"])
    if not name:
        name = texts.unknown_patient.format(name=parse_path(patient.rows[0]["path"]))
    headline, kind = _headline(patient, facts)
    columns = "".join(
        _format_column(column, row, pictures.get(column), texts)
        for column, row in patient.shown.items()
    )
    info = facts.run.info
    lines = [
        texts.model.format(
            name=f"{facts.run.name} ({info.model_sha256[:8]})",
            description=facts.run.describe(),
            dataset=info.dataset_name,
        ),
        texts.heat,
        texts.later,
        texts.limits,
    ]
    return (
        f'<!doctype html><html lang="{language}"><meta charset="utf-8">'
        f"{CONTENT_MARK.format(patient.content)}"
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(texts.patient)} {escape(name)}</title><style>{STYLE}</style>"
        f"<body><header><div><h1>{escape(texts.title)}</h1>"
        f'<div class="who">{escape(texts.patient)}: <b>{escape(name)}</b></div></div>'
        f'<div class="research">{escape(texts.research)}<br><span class="small">'
        f"{escape(texts.made.format(date=datetime.date.today()))}</span></div></header>"
        f'<section class="result {kind}"><h2>{escape(headline)}</h2>'
        + "".join(f"<p>{escape(x)}</p>" for x in _result_sentences(patient, facts))
        + f'</section><div class="eyes">{columns}</div>'
        + _format_table(patient, facts)
        + "".join(f'<p class="small">{escape(line)}</p>' for line in lines)
        + "</body></html>\n"
    )


def _headline(patient: _Patient, facts: _Facts) -> tuple[str, str]:
    """Return the result in a few words, and its class in the style."""
    texts, label = facts.texts, patient.summary["predicted_label"]
    disease = texts.diseases[facts.run.task.name]
    if label == "1":
        return texts.positive.format(disease=disease), "positive"
    if not label:
        return texts.no_result, ""
    is_known = patient.summary["worse_eye"] in SIDES
    if is_known and patient.summary["both_eyes"] == "0":
        return texts.one_eye_negative, ""
    return texts.negative.format(disease=disease), "negative"


def _result_sentences(patient: _Patient, facts: _Facts) -> Iterator[str]:
    """Yield the result in plain words: score, probability, operating point."""
    texts, summary = facts.texts, patient.summary
    results = {side: summary[f"{side}_eye"] for side in ("right", "left")}
    if {*results.values()} == {"unknown"}:
        yield texts.unknown_eyes
    else:
        names = {"right": texts.right, "left": texts.left}
        yield " · ".join(f"{names[x]}: {texts.results[y]}" for x, y in results.items())
    if not summary["predicted_label"]:
        return
    yield texts.score.format(
        score=f"{float(summary['score']):.3f}",
        threshold=f"{float(summary['threshold']):.3f}",
    )
    if summary["probability"]:
        # The calibration knows the scores of single eyes.
        worst = next(row for row in patient.rows if row["predicted_label"])
        yield (
            f"{texts.probability.format(probability=summary['probability'])} "
            f"{_describe_similar(worst, facts)}"
        )
        is_positive = summary["predicted_label"] == "1"
        is_likely = float(summary["probability"]) >= 0.5
        if is_positive != is_likely:
            yield texts.likely if is_likely else texts.unlikely
        flags = {
            x for row in patient.rows for x in split_flags(row["probability_flags"])
        }
        yield from (texts.doubts[flag] for flag in sorted(flags))
    if any(row["in_training"] == "1" for row in patient.rows):
        yield texts.in_training
    if summary["predicted_grade"]:
        yield texts.grade.format(grade=summary["predicted_grade"])
    if facts.threshold:
        yield texts.rule.format(
            source=facts.threshold.source,
            count=f"{facts.threshold.num_photographs:,}",
            rule=facts.threshold.rule,
        )
    yield _describe_accuracy(facts)


def _describe_similar(row: Mapping[str, str], facts: _Facts) -> str:
    """Return how many calibration photographs with similar scores were positive."""
    calibration, texts = facts.run.calibration, facts.texts
    if calibration is None:
        return ""
    score, probability = float(row["own_score"]), float(row["probability"])
    histograms = calibration.histograms
    place = int(histograms.count(np.array([score])).argmax())
    positive, negative = histograms.positive[place], histograms.negative[place]
    total = positive + negative
    if not total:
        return texts.not_similar
    interval = clopper_pearson_interval(positive / total, total)
    similar = texts.similar.format(
        total=f"{total:,}",
        positive=f"{positive:,}",
        value=_percent(interval.value),
        low=_percent(interval.ci_low),
        high=_percent(interval.ci_high),
    )
    is_inside = interval.ci_low <= probability <= interval.ci_high
    return similar if is_inside else f"{similar} {texts.unlike_similar}"


def _describe_accuracy(facts: _Facts) -> str:
    """Return the sensitivity and the specificity at the threshold in plain words."""
    result = facts.evaluation
    if result is None:
        return facts.texts.no_accuracy
    values = {}
    for name, estimate in zip(
        ("sensitivity", "specificity"), facts.accuracy(), strict=True
    ):
        values[name] = _per_hundred(estimate.value)
        values[f"{name}_low"] = _per_hundred(estimate.ci_low)
        values[f"{name}_high"] = _per_hundred(estimate.ci_high)
    accuracy = facts.texts.accuracy.format(
        count=f"{result.num_photographs:,}",
        name=f"{result.dataset_name}, {result.split}",
        **values,
    )
    sensitivity, specificity = facts.accuracy()
    # The intervals of the fractions above the threshold, with and without disease.
    is_useful = sensitivity.ci_low > 1 - specificity.ci_low
    return accuracy if is_useful else f"{accuracy} {facts.texts.useless}"


def _percent(fraction: float) -> str:
    return f"{_per_hundred(fraction)} %"


def _per_hundred(fraction: float) -> str:
    return f"{100 * fraction:.0f}" if np.isfinite(fraction) else "?"


def _format_column(
    column: str,
    row: Row,
    pictures: tuple[np.ndarray, np.ndarray] | None,
    texts: Texts,
) -> str:
    """Format the pictures of an eye."""
    title = {"right": texts.right, "left": texts.left}.get(column, texts.unknown_eye)
    heading = f"<h3>{html.escape(title)}</h3>"
    if pictures is None:
        return f"<div>{heading}<p>{html.escape(texts.gone)}</p></div>"
    name = _shorten(parse_path(row["path"]))
    figures = "".join(
        f'<figure><img alt="{html.escape(caption)}" src="{_encode(picture)}">'
        f'<figcaption class="name">{html.escape(caption)}</figcaption></figure>'
        for picture, caption in zip(
            pictures, (f"{texts.photograph} {name}", texts.overlay), strict=True
        )
    )
    return f"<div>{heading}{figures}</div>"


def _format_table(patient: _Patient, facts: _Facts) -> str:
    """Format the table of the photographs: first those whose pictures are shown."""
    texts = facts.texts
    eyes = {"right": texts.right, "left": texts.left}
    head = "".join(f"<th>{html.escape(x)}</th>" for x in texts.columns)
    body = ""
    shown = [*patient.shown.values()]
    rows = [*shown, *(row for row in patient.rows if row not in shown)]
    for row in rows[:MAX_TABLE_ROWS]:
        results = {"1": "positive", "0": "negative"}
        kind = "ungradable" if row["score"] else "error"
        result = results.get(row["predicted_label"], kind)
        flags = [texts.flags.get(x, x) for x in split_flags(row["flags"])]
        cells = (
            _shorten(parse_path(row["path"])),
            eyes.get(row["eye"], texts.unknown_eye),
            f"{float(row['score']):.3f}" if row["score"] else "",
            texts.results[result],
            row["error"] or ", ".join(flags) or texts.no_remarks,
        )
        body += "<tr>" + "".join(f"<td>{html.escape(x)}</td>" for x in cells) + "</tr>"
    rest = len(patient.rows) - MAX_TABLE_ROWS
    more = f'<p class="small">{html.escape(texts.more.format(count=rest))}</p>'
    table = f"<table><tr>{head}</tr>{body}</table>"
    return table + (more if rest > 0 else "")


def _shorten(path: str) -> str:
    """Shorten a path; its end names the eye."""
    return path if len(path) <= MAX_PATH_LENGTH else f"…{path[1 - MAX_PATH_LENGTH :]}"


def _encode(picture: np.ndarray) -> str:
    data = encode_image(picture, "jpeg", jpeg_quality=JPEG_QUALITY)
    return f"data:image/jpeg;base64,{base64.b64encode(data).decode()}"
