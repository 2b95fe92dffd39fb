import dataclasses
import json
import re
import shutil
from pathlib import Path
from string import Formatter
from types import SimpleNamespace

import numpy as np
import pytest

from drawing import draw_fundus, encode
from drtf.clinic import patient_pages
from drtf.clinic.patient_pages import report_patients
from drtf.clinic.patient_texts import ENGLISH, KOREAN
from drtf.intervals import Estimate
from drtf.scoring.score_table import load_rows
from drtf.scoring.scorer import load_scorer
from drtf.synthetic import draw_photograph
from naming import assert_names


@pytest.fixture
def scorer(run_folder, tmp_path, config, save_rule):
    run = tmp_path / "run"
    shutil.copytree(run_folder, run)
    save_rule(run, 0.5)
    return load_scorer(run, config.score)


def test_each_patient_has_a_page_that_shows_the_rows_of_the_table(
    scorer, config, tmp_path
):
    images, out = tmp_path / "images", tmp_path / "out"
    images.mkdir()
    for number, name in enumerate(("1_left", "1_right", "눈<b>_left", "scan")):
        (images / f"{name}.png").write_bytes(encode(draw_fundus(seed=number)))
    (images / "2_right.png").write_bytes(b"")

    def write_pages(language="en"):
        report = report_patients(
            scorer, images, out=out, gradcam=config.gradcam, language=language
        )
        return {path.name: path.read_text() for path in report.written}

    pages = write_pages()
    assert len(pages) == len(list((out / "pages").iterdir())) == 4
    assert {"1.html", "2.html", "scan.html"} < pages.keys()
    rows = {row["path"]: row for _, row in load_rows(out / "scores.csv")}
    for text in pages.values():
        assert "<b>_left" not in text
        assert all(
            x.startswith("data:image/jpeg") for x in re.findall('src="([^"]*)', text)
        )
        assert "http" not in text
        assert ENGLISH.research in text
    for eye in ("left", "right"):
        assert_names(pages["1.html"], f"{float(rows[f'1_{eye}.png']['score']):.3f}")
    is_known = {rows[f"1_{eye}.png"]["in_training"] for eye in ("left", "right")}
    assert "1" in is_known  # the run was trained on the same drawings
    assert ENGLISH.in_training in pages["1.html"]
    assert ENGLISH.in_training not in pages["2.html"]
    names = re.findall(r"<td>(1_\w+\.png)", pages["1.html"])
    assert names == re.findall(r">photograph (1_\w+\.png)", pages["1.html"])
    assert f"{ENGLISH.left}: {ENGLISH.results['missing']}" in pages["2.html"]
    assert ENGLISH.unknown_eyes in pages["scan.html"]
    assert f"{ENGLISH.left}:" not in pages["scan.html"]
    assert pages["1.html"].count("<img") == 4
    assert pages["2.html"].count("<img") == 0
    assert_names(pages["2.html"], rows["2_right.png"]["error"])
    assert write_pages() == {}
    (images / "1_left_2.png").write_bytes(encode(draw_fundus(seed=9)))
    (images / "scan.png").unlink()
    changed = write_pages()
    assert changed.keys() == {"1.html", "scan.html"}
    assert ENGLISH.gone in changed["scan.html"]
    assert all(KOREAN.research in text for text in write_pages("ko").values())


def test_patients_of_one_name_and_renamed_photographs_keep_their_own_pages(
    scorer, config, tmp_path
):
    images = tmp_path / "images"
    names = ("a/12_left.png", "b/12_left.png", "c/scan.png")
    for number, name in enumerate(names):
        (images / name).parent.mkdir(parents=True)
        (images / name).write_bytes(encode(draw_fundus(seed=number)))
    (images / "list.csv").write_text(
        "path,patient\n" + "".join(f"{x},{'12-2' * ('c/' in x)}\n" for x in names)
    )

    def write_pages():
        out = tmp_path / "out"
        listed = images / "list.csv"
        return report_patients(scorer, listed, out=out, gradcam=config.gradcam).written

    pages = write_pages()
    assert len({path.name for path in pages}) == 3
    assert all(sum(x in path.read_text() for x in names) == 1 for path in pages)
    # The photograph of one patient is now at the path of another one's.
    (images / names[1]).replace(images / names[0])
    (images / "list.csv").write_text(f"path,patient\n{names[0]},\n")
    texts = [path.read_text() for path in write_pages()]
    assert all("<img" not in text for text in texts)


def test_a_given_threshold_has_no_rule_and_no_accuracy(scorer, config, tmp_path):
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "1_left.png").write_bytes(encode(draw_fundus(seed=0)))
    texts = []
    for threshold in ("stored", 0.3):
        given = config.score.model_copy(update={"threshold": threshold})
        report = report_patients(
            dataclasses.replace(scorer, config=given),
            tmp_path / "images",
            out=tmp_path / str(threshold),
            gradcam=config.gradcam,
        )
        texts += [path.read_text() for path in report.written]
    assert ["split val" in text for text in texts] == [True, False]
    assert ENGLISH.no_accuracy in texts[1]


def test_the_score_of_a_page_is_of_a_photograph_with_a_result(scorer, config, tmp_path):
    images, out = tmp_path / "images", tmp_path / "out"
    images.mkdir()
    drawn = draw_photograph(1, patient_seed=0, eye="left", seed=0).image
    for eye, brightness in (("left", 1), ("right", 0.15)):
        fundus = (drawn * brightness).astype(np.uint8)
        (images / f"1_{eye}.png").write_bytes(encode(fundus))
    flagging = config.score.model_copy(update={"on_ungradable": "flag"})
    report_patients(
        dataclasses.replace(scorer, config=flagging),
        images,
        out=out,
        gradcam=config.gradcam,
    )
    left, right = (row for _, row in load_rows(out / "scores.csv"))
    assert left["predicted_label"] and not right["predicted_label"]
    score = f"{float(left['score']):.3f}"
    text = (out / "pages" / "1.html").read_text()
    assert f"Highest score of the photographs with a result: {score}," in text
    assert "worse eye" not in text


@pytest.mark.parametrize("threshold", [0.0, 1.0])
def test_a_result_that_the_probability_contradicts_is_explained(
    scorer, config, save_rule, tmp_path, threshold
):
    images = tmp_path / "images"
    images.mkdir()
    for number in range(6):
        (images / f"{number}.png").write_bytes(encode(draw_fundus(seed=number)))
    save_rule(scorer.run.folder, threshold)
    scorer = load_scorer(scorer.run.folder, config.score)
    out = tmp_path / "out"
    report = report_patients(scorer, images, out=out, gradcam=config.gradcam)
    pages = {path.stem: path.read_text() for path in report.written}
    for _, row in load_rows(out / "scores.csv"):
        text, is_likely = (
            pages[Path(row["path"]).stem],
            float(row["probability"]) >= 0.5,
        )
        assert (ENGLISH.unlikely in text) == (threshold == 0 and not is_likely)
        assert (ENGLISH.likely in text) == (threshold == 1 and is_likely)


@pytest.mark.parametrize(
    ("sensitivity", "specificity", "is_useless"),
    [
        (Estimate(0.9, 0.8, 0.95), Estimate(0.7, 0.6, 0.8), False),
        (Estimate(0.99, 0.95, 1.0), Estimate(0.05, 0.01, 0.1), True),
    ],
)
def test_a_threshold_that_separates_nothing_is_explained(
    scorer, config, tmp_path, monkeypatch, sensitivity, specificity, is_useless
):
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "1_left.png").write_bytes(encode(draw_fundus(seed=0)))
    evaluation = SimpleNamespace(
        metrics={"sensitivity": sensitivity, "specificity": specificity},
        num_photographs=100,
        dataset_name="eyes",
        split="test",
    )
    monkeypatch.setattr(patient_pages, "find_evaluation", lambda scorer: evaluation)
    report = report_patients(
        scorer, tmp_path / "images", out=tmp_path / "out", gradcam=config.gradcam
    )
    (page,) = report.written
    assert (ENGLISH.useless in page.read_text()) == is_useless


def test_the_command_notes_photographs_that_were_in_training(run, run_folder, tmp_path):
    images = tmp_path / "images"
    images.mkdir()
    for number in range(4):
        (images / f"{number}.png").write_bytes(encode(draw_fundus(seed=number)))
    code, out, _ = run(
        "report-patients",
        run_folder,
        *("--images", images, "--out", tmp_path / "out"),
        *("--set", "score.num_workers=1"),
    )
    assert code == 0
    rows = [row for _, row in load_rows(tmp_path / "out" / "scores.csv")]
    num_in_training = sum(row["in_training"] == "1" for row in rows)
    assert num_in_training > 0
    note = next(line for line in out.splitlines() if "in_training" in line)
    assert_names(note, "Note", num_in_training, len(rows))


def test_both_languages_fill_in_the_same_facts():
    english, korean = map(dataclasses.asdict, (ENGLISH, KOREAN))
    for name, text in english.items():
        fields = [
            {field for _, field, _, _ in Formatter().parse(json.dumps(x)) if field}
            for x in (text, korean[name])
            if isinstance(text, str)
        ]
        assert fields[1:] == fields[:1] if isinstance(text, str) else True, name
        if isinstance(text, dict):
            assert text.keys() == korean[name].keys(), name
