"""The cells of a row that depend on other rows: the patient, and the prediction."""

from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import PurePosixPath

import numpy as np
import pandas as pd

from drtf.config import ScoreConfig
from drtf.labels.patients import eyes_by_name, patients_by_name
from drtf.models.fellow_eye import combine_eyes, fellow_logits
from drtf.models.run import Run
from drtf.photographs.patient_columns import PatientEye
from drtf.photographs.references import PhotographRef
from drtf.scoring.kept_rows import KeptRows
from drtf.scoring.score_check import probability_flags
from drtf.scoring.score_table import (
    VIEWS_DISAGREE,
    Row,
    effective_threshold,
    parse_path,
    parse_row,
    replace_cells,
    split_flags,
    written_path,
)

# The cells that depend on all rows.
CELLS = (
    "patient",
    "eye",
    "score",
    "fellow_used",
    "predicted_label",
    "probability",
    "probability_flags",
)


def complete_rows(
    rows: KeptRows,
    photographs: Mapping[str, PhotographRef],
    *,
    run: Run,
    config: ScoreConfig,
    patient_pattern: str,
) -> KeptRows:
    """Fill in the cells that depend on all rows.

    They depend only on the names, on the stated patients and eyes, and on each
    photograph's own score, so a table that was resumed, merged or extended is the same
    as one written at once.

    Args:
        rows: Rows of photographs, from tables in CSV.
        photographs: Photographs of the rows, and others that are scored with them, by
            the cell of the column `path`. For rows of others, which may be gone, the
            rows say what was stated of them.
        run: The run that scored them.
        config: The threshold, and what to do with ungradable photographs.
        patient_pattern: The pattern of patients in names.
    """
    rows = dict(sorted(rows.items()))
    others = {
        path: _reference(path, row.stated)
        for path, row in rows.items()
        if path not in photographs
    }
    table = _patients_and_eyes({**others, **photographs}, patient_pattern)
    table = table.loc[list(rows)].join(_own_scores(rows, config))
    own = table["own_score"].to_numpy()
    is_scored = table["own_score"].notna()
    is_predicted = is_scored & table["is_gradable"]
    persons = pd.DataFrame(
        {
            "patient": table["person"],
            "eye": table["eye"],
            # Nothing is predicted from an ungradable photograph, for either eye.
            "score": table["own_score"].where(is_predicted),
        }
    )
    scores, is_used = combine_eyes(own, fellow_logits(persons), run.fellow_eye)
    threshold, _ = effective_threshold(run, config)
    cells = pd.DataFrame("", table.index, CELLS, dtype=object)
    cells[["patient", "eye"]] = table[["patient", "eye"]]
    cells["score"] = [f"{score:.6f}" for score in scores]
    cells["fellow_used"] = is_used.astype(int).astype(str)
    cells["predicted_label"] = (scores >= threshold).astype(int).astype(str)
    if run.calibration:
        cells["probability"] = run.calibration.format_probabilities(scores)
        is_checked = (is_predicted & ~table["in_training"]).to_numpy()
        patients = table["patient"].where(table["patient"] != "", table.index)
        flags = probability_flags(
            run.calibration,
            own[is_checked],
            num_patients=patients[is_checked].nunique(),
        )
        cells["probability_flags"] = ";".join(flags)
    cells.loc[~is_scored, ["score", "fellow_used"]] = ""
    cells.loc[~is_predicted, list(CELLS[4:])] = ""
    return {
        path: replace(
            row, line=replace_cells(row.line, dict(zip(CELLS, new, strict=True)))
        )
        for (path, row), new in zip(rows.items(), cells.to_numpy(), strict=True)
    }


def patient_cells(
    photographs: Mapping[str, PhotographRef], pattern: str
) -> dict[str, PatientEye]:
    """Return the cells of the patient and the eye of each photograph, by path."""
    table = _patients_and_eyes(photographs, pattern)
    return {
        path: PatientEye(written_path(patient), eye)
        for path, patient, eye in zip(
            table.index, table["patient"], table["eye"], strict=True
        )
    }


def persons_by_path(rows: Iterable[Row], pattern: str) -> dict[str, str]:
    """Return a key of the person of each row; empty if it is unknown.

    Args:
        rows: Rows of a table, with their patients and eyes.
        pattern: The pattern of patients in names.
    """
    references = {
        row["path"]: _reference(row["path"], PatientEye(row["patient"], row["eye"]))
        for row in rows
    }
    persons = _patients_and_eyes(references, pattern)["person"]
    return dict(zip(references, persons, strict=True))


def _reference(path: str, stated: PatientEye) -> PhotographRef:
    """Return a reference to a photograph with the cells that its row has."""
    patient = parse_path(stated.patient)
    return PhotographRef("", parse_path(path), patient=patient, eye=stated.eye)


def _patients_and_eyes(
    photographs: Mapping[str, PhotographRef], pattern: str
) -> pd.DataFrame:
    """Return the `patient` and `eye` of each photograph, and the `person`, by path.

    What a table or the photograph's file states comes before the photograph's name. If
    several folders have photographs of the same name, a patient in a name is a person
    of its folder. Cells are empty where nothing is known.
    """
    # pandas 3 refuses names that are not UTF-8.
    names = [
        x.id.encode(errors="backslashreplace").decode() for x in photographs.values()
    ]
    series = pd.Series(names, list(photographs), dtype=str)
    named = patients_by_name(series, pattern).astype(object).fillna("")
    stated = pd.DataFrame(
        [(x.patient, x.eye) for x in photographs.values()],
        series.index,
        ["patient", "eye"],
        dtype=object,
    )
    table = stated.where(
        stated != "", pd.DataFrame({"patient": named, "eye": eyes_by_name(series)})
    )
    table["person"] = table["patient"]
    folders = [str(PurePosixPath(path).parent) for path in photographs]
    if len({*zip(folders, names, strict=True)}) > len({*names}):
        by_folder = [
            patient and f"{folder}/{patient}"
            for folder, patient in zip(folders, named, strict=True)
        ]
        is_named = table["patient"] == named
        table["person"] = table["patient"].mask(is_named, by_folder)
    return table


def _own_scores(rows: KeptRows, config: ScoreConfig) -> pd.DataFrame:
    """Return the score of each photograph by itself.

    By path, this is `own_score` (float32, NaN without a score), `is_gradable` (whether
    something may be predicted from the photograph) and `in_training`.
    """
    values = []
    for row in rows.values():
        cells = parse_row(row.line)
        is_flagged = {*split_flags(cells["flags"])} - {VIEWS_DISAGREE}
        values.append(
            (
                float(cells["own_score"] or "nan"),
                config.on_ungradable == "predict" or not is_flagged,
                cells["in_training"] == "1",
            )
        )
    columns = ["own_score", "is_gradable", "in_training"]
    table = pd.DataFrame(values, list(rows), columns)
    return table.astype(
        {"own_score": np.float32, "is_gradable": bool, "in_training": bool}
    )
