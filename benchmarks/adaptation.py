"""Measure how well runs predict after their adaptation to another camera.

    python benchmarks/adaptation.py TABLE.csv SHARDS RUN...

SHARDS is a dataset of the other camera, all of it in the split `train`. Each run is
adapted to 30, to 100 or to all photographs of it, with several weights of their
statistics. ROC AUC is measured on all photographs, one view each, for grade >= 1 and
grade >= 2. A weight of 0 is the run itself.
"""

import sys
from pathlib import Path

import numpy as np
import pandas as pd
import tensorflow as tf
from sklearn.metrics import roc_auc_score

from drtf.adaptation.batch_norm import adapt_batch_norms
from drtf.data.loader import read_batch
from drtf.models.prediction import build_predictor
from drtf.models.run import load_run
from drtf.records.reader import ShardDataset

COUNTS = (30, 100, None)
WEIGHTS = (0.1, 0.3, 0.5, 1.0)
BATCH_SIZE = 64


def main() -> None:
    """Measure each run, and write a table."""
    table, shards, *folders = sys.argv[1:]
    with ShardDataset(Path(shards)) as dataset:
        rows = dataset.split_rows("train")
        pixels = read_batch(dataset, rows)
        grades = dataset.grades[rows]
    results = []
    for folder in map(Path, folders):
        for count, weight in [(0, 0.0), *((n, w) for n in COUNTS for w in WEIGHTS)]:
            run = load_run(folder)
            if weight:
                order = np.random.default_rng(0).permutation(len(pixels))
                chosen = pixels[np.sort(order[:count])]
                adapt_batch_norms(run.network, chosen, weight=weight)
            predict = build_predictor(run.network, "none")
            scores = np.concatenate(
                [
                    run.task.disease_scores(predict(tf.constant(batch)).numpy()[:, 0])
                    for batch in np.array_split(pixels, -(-len(pixels) // BATCH_SIZE))
                ]
            )
            aucs = {f"roc_auc_{x}": roc_auc_score(grades >= x, scores) for x in (1, 2)}
            results.append(
                {"run": run.name, "photographs": count, "weight": weight, **aucs}
            )
            print(results[-1])
    pd.DataFrame(results).round(4).to_csv(table, index=False)


if __name__ == "__main__":
    main()
