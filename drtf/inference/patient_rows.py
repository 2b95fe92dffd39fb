"""What the rows of one patient tell about each other: both eyes, and the prediction."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import PurePosixPath

import numpy as np
import pandas as pd

from drtf.config import ScoreConfig
from drtf.data.patients import eyes_by_name, patients_by_name
from drtf.inference.kept_rows import KeptRow, KeptRows
from drtf.inference.score_table import (
    VIEWS_DISAGREE,
    effective_threshold,
    parse_row,
    replace_cells,
)
from drtf.models.fellow_eye import combine_eyes, fellow_logits
from drtf.models.run import Run

# The cells that depend on all rows.
CELLS = ("patient", "eye", "score", "fellow_used", "predicted_label", "probability")


def complete_rows(
    rows: KeptRows,
    names: Mapping[str, str],
    *,
    run: Run,
    config: ScoreConfig,
    patient_pattern: str,
) -> KeptRows:
    """Fill in the cells that depend on all rows: patient, eye, score and prediction.

    They depend only on the names and on each photograph's own score, so a table that
    was resumed, merged or extended is the same as one written at once.

    Args:
        rows: Rows of photographs, from tables in CSV.
        names: The names, without extensions, of these photographs and of others that
            are scored with them, by the cell of the column `path`.
        run: The run that scored them.
        config: The threshold, and what to do with ungradable photographs.
        patient_pattern: The pattern of patients in names.
    """
    rows = dict(sorted(rows.items()))
    table = _patients_and_eyes(names, patient_pattern).loc[list(rows)]
    scores = [_own_scores(row, config) for row in rows.values()]
    own, usable = np.array(scores, np.float32).reshape(-1, 2).T
    fellows = fellow_logits(
        pd.DataFrame({"patient": table["person"], "eye": table["eye"], "score": usable})
    )
    combined, is_used = combine_eyes(own, fellows, run.fellow_eye)
    threshold, _ = effective_threshold(run, config)
    table["score"] = [f"{score:.6f}" for score in combined]
    table["fellow_used"] = is_used.astype(int).astype(str)
    table["predicted_label"] = (combined >= threshold).astype(int).astype(str)
    table["probability"] = (
        run.calibration.apply_rounded(combined) if run.calibration else ""
    )
    table.loc[np.isnan(own), ["score", "fellow_used"]] = ""
    table.loc[np.isnan(usable), ["predicted_label", "probability"]] = ""
    return {
        path: replace(
            row, line=replace_cells(row.line, dict(zip(CELLS, cells, strict=True)))
        )
        for (path, row), cells in zip(
            rows.items(), table[list(CELLS)].to_numpy(), strict=True
        )
    }


def _patients_and_eyes(names: Mapping[str, str], pattern: str) -> pd.DataFrame:
    """Return the `patient` and `eye` in each name, and the `person`, by path.

    If a name repeats in several folders, names alone do not identify a person: the
    folder belongs to it. Cells are empty where nothing is known.
    """
    # pandas 3 refuses names that are not UTF-8.
    texts = [name.encode(errors="backslashreplace").decode() for name in names.values()]
    series = pd.Series(texts, list(names), dtype=str)
    patients = patients_by_name(series, pattern).fillna("")
    folders = pd.Series([str(PurePosixPath(x).parent) for x in names], list(names))
    places = pd.DataFrame({"name": series, "folder": folders}).drop_duplicates()
    persons = patients
    if places["name"].duplicated().any():
        persons = patients.where(patients == "", folders + "/" + patients)
    eyes = eyes_by_name(series)
    return pd.DataFrame({"patient": patients, "eye": eyes, "person": persons})


def _own_scores(row: KeptRow, config: ScoreConfig) -> tuple[float, float]:
    """Return a photograph's own score, and the one to predict from; NaN without one.

    With `on_ungradable="flag"`, nothing is predicted from a photograph that may be
    ungradable: neither its own label nor the fellow eye's score.
    """
    cells = parse_row(row.line)
    if not cells["own_score"]:
        return np.nan, np.nan
    score = float(cells["own_score"])
    flags = {*filter(None, cells["flags"].split(";"))} - {VIEWS_DISAGREE}
    is_gradable = not flags or config.on_ungradable == "predict"
    return score, score if is_gradable else np.nan
