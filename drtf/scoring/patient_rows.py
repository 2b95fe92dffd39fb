"""The cells of a row that depend on other rows: the patient, and what is predicted."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import PurePosixPath

import numpy as np
import pandas as pd

from drtf.config import ScoreConfig
from drtf.labels.patients import eyes_by_name, patients_by_name
from drtf.models.fellow_eye import combine_eyes, fellow_logits
from drtf.models.run import Run
from drtf.scoring.kept_rows import KeptRows
from drtf.scoring.score_check import probability_flags
from drtf.scoring.score_table import (
    VIEWS_DISAGREE,
    effective_threshold,
    parse_row,
    replace_cells,
    split_flags,
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
    names: Mapping[str, str],
    *,
    run: Run,
    config: ScoreConfig,
    patient_pattern: str,
) -> KeptRows:
    """Fill in the cells that depend on all rows.

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
    table = table.join(_own_scores(rows, config))
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
        cells["probability"] = run.calibration.apply_rounded(scores)
        is_checked = (is_predicted & ~table["in_training"]).to_numpy()
        patients = table["patient"].where(table["patient"] != "", table.index)
        flags = probability_flags(
            run.calibration,
            scores[is_checked],
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


def _patients_and_eyes(names: Mapping[str, str], pattern: str) -> pd.DataFrame:
    """Return the `patient` and `eye` in each name, and the `person`, by path.

    If several folders have photographs of the same name, a person is identified by the
    folder and the name. Cells are empty where nothing is known.
    """
    # pandas 3 refuses names that are not UTF-8.
    texts = [name.encode(errors="backslashreplace").decode() for name in names.values()]
    series = pd.Series(texts, list(names), dtype=str)
    table = pd.DataFrame(
        {
            "patient": patients_by_name(series, pattern).astype(object).fillna(""),
            "eye": eyes_by_name(series),
        }
    )
    folders = [str(PurePosixPath(path).parent) for path in names]
    places = {*zip(folders, texts, strict=True)}
    table["person"] = table["patient"]
    if len(places) > len({*texts}):
        table["person"] = [
            patient and f"{folder}/{patient}"
            for folder, patient in zip(folders, table["patient"], strict=True)
        ]
    return table


def _own_scores(rows: KeptRows, config: ScoreConfig) -> pd.DataFrame:
    """Return what each photograph's row says about the photograph by itself.

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
