"""Divide a list of labels into folds by patient.

    python benchmarks/divide_folds.py LABELS.csv OUT [NUM_FOLDS]

OUT gets two lists per fold: fold-N.csv with the photographs of the fold, and
others-N.csv with those of the other folds. The folds have similar fractions of each
grade. The patient is the part of the name before the first underscore.
"""

import sys
from pathlib import Path

import pandas as pd
from sklearn.model_selection import StratifiedGroupKFold

NUM_FOLDS = 5
SEED = 42


def main() -> None:
    """Write the lists and print how many photographs each fold has."""
    labels_file, out, *given = sys.argv[1:]
    num_folds = int(given[0]) if given else NUM_FOLDS
    labels = pd.read_csv(labels_file, dtype=str)
    names, grades = labels.columns[:2]
    patients = labels[names].str.split("_").str[0]
    folder = Path(out)
    folder.mkdir(parents=True, exist_ok=True)
    folds = StratifiedGroupKFold(num_folds, shuffle=True, random_state=SEED)
    for number, (others, fold) in enumerate(
        folds.split(labels, labels[grades], patients), start=1
    ):
        labels.iloc[fold].to_csv(folder / f"fold-{number}.csv", index=False)
        labels.iloc[others].to_csv(folder / f"others-{number}.csv", index=False)
        print(f"fold {number}: {len(fold)} photographs, {len(others)} others")


if __name__ == "__main__":
    main()
