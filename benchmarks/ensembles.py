"""Measure what an ensemble of two image sizes gains over its members.

    python benchmarks/ensembles.py OUT.csv SMALL LARGE ENSEMBLE [...]

These are folders of evaluations on the same photographs, which none of the runs was
trained on: those of a run, of a run on larger images, and of the mean of their scores.
OUT.csv has the ROC AUC of each, over all photographs together, and the gain over the
larger run, with paired intervals by bootstrap over patients.
"""

import sys
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
from predictions import load_predictions, roc_auc_rows

FROM_GRADES = (1, 2)


def main() -> None:
    """Write the table, print it and how the smaller member's scores differ."""
    out, *folders = map(Path, sys.argv[1:])
    triples = zip(folders[::3], folders[1::3], folders[2::3], strict=True)
    table = pd.concat([join(*triple) for triple in triples], ignore_index=True)
    rows = pd.DataFrame([row for x in FROM_GRADES for row in measure(table, x)])
    rows.round(4).to_csv(out, index=False)
    print(rows.round(4).to_string(index=False))
    difference = table["small inside the ensemble"] - table["small"]
    print(
        f"Scores of the smaller member inside the ensemble minus its own: mean "
        f"{difference.mean():+.4f}, mean absolute {difference.abs().mean():.4f}, "
        f"95 % below {difference.abs().quantile(0.95):.4f}, largest "
        f"{difference.abs().max():.4f}, n = {len(difference)}"
    )


def join(small: Path, large: Path, ensemble: Path) -> pd.DataFrame:
    """Return the scores of three evaluations, one row per photograph."""
    table = load_predictions(large)[["patient", "grade", "score"]]
    table = table.rename(columns={"score": "large"})
    for name, folder in (("small", small), ("ensemble", ensemble)):
        table[name] = load_predictions(folder)["score"]
    table["mean of the two scores"] = (table["small"] + table["large"]) / 2
    table["small inside the ensemble"] = 2 * table["ensemble"] - table["large"]
    return table.dropna()


def measure(table: pd.DataFrame, from_grade: int) -> Iterator[dict[str, object]]:
    """Yield a row for each column of scores: its ROC AUC, and the gain over `large`."""
    names = ["large", *table.columns.drop(["patient", "grade", "large"])]
    for name, cells in roc_auc_rows(table, names, from_grade=from_grade):
        yield {"from_grade": from_grade, "scores": name, **cells}


if __name__ == "__main__":
    main()
