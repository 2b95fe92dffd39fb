"""Measure whether fusing the features of both eyes predicts better than their scores.

    python benchmarks/fellow_eye_features.py OUT.csv EPOCHS RUN DATASET FOLD [...]

RUN was trained on DATASET, a dataset with the splits train and val. FOLD is a dataset
of other patients, in its split train, with the same preprocessing. Give RUN, DATASET
and FOLD for each fold. With EPOCHS > 0, the network is also trained on with both eyes
for this many epochs.

OUT.csv has the ROC AUC of each way to use the fellow eye, over all folds together, and
the difference to the logistic regression of both scores that `drtf evaluate` fits. The
intervals are paired, by bootstrap over patients. Only photographs with a fellow eye
count.

Ways whose name begins with `head` are logistic regressions on the mean features over
the views, fitted on the validation split: of the photograph (`head-own`), of both eyes
one after the other (`head-both`), or on the mean and the maximum of both eyes
(`head-mean-max`). `head-scores` is what fusing features must beat: the head of single
photographs, whose scores of both eyes are combined as the network's are. Ways that end
in `-and-scores` are the mean of such a head and of the network's combined scores, both
with the deviation 1.

`trained-single` and `trained-joint` are trained on from RUN. The first sees single
photographs, and its scores are combined. The second sees both eyes, whose pooled
features have their own weights in the last layer; these start as the weights that
combine the scores.
"""

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pandas as pd
import tensorflow as tf
from predictions import roc_auc_rows
from scipy.special import expit

from drtf.adaptation.quality_gates import fit_logistic_regression
from drtf.config import Tta
from drtf.data.augment import augment
from drtf.data.loader import read_batch
from drtf.data.pipeline import train_dataset
from drtf.labels.grouping import load_eyes
from drtf.models.calibration import clipped_logits
from drtf.models.fellow_eye import FELLOWS, combine_eyes, fellow_logits, fit_fellow_eye
from drtf.models.head import LOGITS, POOL
from drtf.models.network import build_feature_model, scale_images
from drtf.models.prediction import build_views
from drtf.models.run import Run, load_run
from drtf.records.reader import ShardDataset
from drtf.tasks import TASKS

FROM_GRADES = (1, 2)
BATCH_SIZE = 32
LEARNING_RATE = 3e-4
TTA: Tta = "flips5"


def main() -> None:
    """Write the table and print it."""
    out, num_epochs, *folders = sys.argv[1:]
    folds = zip(folders[::3], folders[1::3], folders[2::3], strict=True)
    tables = [
        measure_fold(Path(run), Path(dataset), Path(fold), num_epochs=int(num_epochs))
        for run, dataset, fold in folds
    ]
    table = pd.concat(tables, ignore_index=True)
    rows = pd.DataFrame(
        [row for grade in FROM_GRADES for row in compare(table, grade)]
    ).round(4)
    rows.to_csv(out, index=False)
    print(rows.to_string(index=False))


def measure_fold(
    run: Path, dataset: Path, fold: Path, *, num_epochs: int
) -> pd.DataFrame:
    """Return the photographs of a fold with a column of logits for each way."""
    with ShardDataset(dataset) as shards, ShardDataset(fold) as others:
        loaded = load_run(run)
        validation = load_eye_pairs(shards, "val")
        tested = load_eye_pairs(others, "train")
        validation["score"], features = predict_features(loaded, shards, validation)
        tested["score"], test_features = predict_features(loaded, others, tested)
        prior = loaded.info.train_prior
        weights = fit_fellow_eye(validation, train_prior=prior)
        tested["own"] = clipped_logits(tested["score"].to_numpy())
        tested["scores"] = fuse_scores(validation, tested, prior)
        for kind, fuse in FUSIONS.items():
            tested[f"head-{kind}"] = fit_head(
                validation, features, tested, test_features, fuse
            )
        own = tested["head-own"].to_numpy()
        tested["head-scores"] = weights.own * own
        tested["head-scores"] += weights.fellow * own[tested["fellow"]]
        for name in ("head-scores", "head-both", "head-mean-max"):
            columns = tested[[name, "scores"]]
            tested[f"{name}-and-scores"] = (columns / columns.std()).mean(axis=1)
        if num_epochs:
            train = load_eye_pairs(shards, "train")
            common: dict[str, Any] = {"num_epochs": num_epochs}
            single = train_on(loaded, shards, train, weights=(1.0, 0.0), **common)
            joint = train_on(
                loaded, shards, train, weights=(weights.own, weights.fellow), **common
            )
            tested["trained-joint"] = predict_pairs(joint, others, tested)
            for table, place in ((validation, shards), (tested, others)):
                table["score"] = expit(predict_pairs(single, place, table))
            tested["trained-single"] = fuse_scores(validation, tested, prior)
    return tested[tested["fellow"] >= 0]


def load_eye_pairs(shards: ShardDataset, split: str) -> pd.DataFrame:
    """Return the photographs of a split, and the number of each one's fellow eye.

    `row` is the row of the dataset's index; `fellow` is -1 without a fellow eye.
    """
    rows = shards.split_rows(split)
    table = shards.load_index(["id", "patient", "grade"], rows).reset_index(drop=True)
    table = table.assign(row=rows, eye=load_eyes(shards, rows).to_numpy(object))
    table["label"] = TASKS["binary"].labels(table["grade"].to_numpy())
    numbers = {
        key: number
        for number, key in enumerate(zip(table["patient"], table["eye"], strict=True))
    }
    keys = zip(table["patient"], table["eye"].map(FELLOWS), strict=True)
    table["fellow"] = [numbers.get(key, -1) for key in keys]
    return table


def predict_features(
    run: Run, shards: ShardDataset, table: pd.DataFrame
) -> tuple[np.ndarray, np.ndarray]:
    """Return the mean score and the mean features over the views, [n] and [n, F]."""
    model = build_feature_model(run.network)

    @tf.function
    def predict(images: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        views = tf.unstack(build_views(scale_images(images), TTA))
        outputs, features = zip(*(model(x, training=False) for x in views), strict=True)
        return tf.add_n(outputs) / len(views), tf.add_n(features) / len(views)

    batches = [predict(images) for images in read_images(shards, table["row"])]
    scores, features = (
        np.concatenate(parts)[: len(table)] for parts in zip(*batches, strict=True)
    )
    return scores[:, 0], features


def read_images(shards: ShardDataset, rows: pd.Series) -> Iterator[tf.Tensor]:
    """Yield batches of one shape, uint8 [BATCH_SIZE, S, S, 3], of rows of the index."""
    size = shards.manifest.image_size
    for start in range(0, len(rows), BATCH_SIZE):
        images = np.zeros((BATCH_SIZE, size, size, 3), np.uint8)
        batch = rows.to_numpy()[start : start + BATCH_SIZE]
        read_batch(shards, batch, images[: len(batch)])
        yield tf.constant(images)


def fuse_scores(
    validation: pd.DataFrame, tested: pd.DataFrame, prior: float
) -> np.ndarray:
    """Return the logits of combined scores, as a decision rule combines them."""
    fitted = fit_fellow_eye(validation, train_prior=prior)
    scores, _ = combine_eyes(
        tested["score"].to_numpy(np.float32), fellow_logits(tested), fitted
    )
    return clipped_logits(scores)


FUSIONS: dict[str, Callable[[np.ndarray, np.ndarray], np.ndarray]] = {
    "own": lambda own, fellow: own,
    "both": lambda own, fellow: np.concatenate([own, fellow], axis=1),
    "mean-max": lambda own, fellow: np.concatenate(
        [(own + fellow) / 2, np.maximum(own, fellow)], axis=1
    ),
}


def fit_head(
    fitted: pd.DataFrame,
    features: np.ndarray,
    tested: pd.DataFrame,
    test_features: np.ndarray,
    fuse: Callable[[np.ndarray, np.ndarray], np.ndarray],
) -> np.ndarray:
    """Fit a head on the features of pairs of eyes; return the logits of a fold.

    The logits of photographs without a fellow eye have no meaning.
    """
    pairs = fitted[fitted["fellow"] >= 0]
    weights, bias = fit_logistic_regression(
        fuse(features[pairs.index], features[pairs["fellow"]]),
        pairs["label"].to_numpy(bool),
    )
    return fuse(test_features, test_features[tested["fellow"]]) @ weights + bias


def train_on(
    run: Run,
    shards: ShardDataset,
    table: pd.DataFrame,
    *,
    num_epochs: int,
    weights: tuple[float, float],
) -> keras.Model:
    """Train a run's network on, with photographs and their fellow eyes.

    Args:
        run: A run for the task `binary` whose head has no hidden layers.
        shards: Its dataset.
        table: From `load_eye_pairs`, of the split train.
        num_epochs: Number of epochs, sampled and augmented as in the run's config.
        weights: How much of the network's last layer the photograph and its fellow
            start with. If the second is 0, fellows have no effect.

    Returns:
        A model from images in [0, 1] and their fellows to logits.
    """
    config, model = run.config, build_pair_model(run, weights)
    batches = train_dataset(shards, sampling=config.sampling, batch_size=BATCH_SIZE)
    num_steps = num_epochs * len(batches)
    rate = keras.optimizers.schedules.CosineDecay(LEARNING_RATE, num_steps)
    optimizer = keras.optimizers.AdamW(rate, weight_decay=config.train.weight_decay)
    optimizer.build(model.trainable_variables)

    @tf.function
    def step(
        images: tf.Tensor, others: tf.Tensor, seeds: tf.Tensor, labels: tf.Tensor
    ) -> tf.Tensor:
        own, fellow = (
            augment(scale_images(x), y, labels, config.augment)
            for x, y in ((images, seeds), (others, seeds + 1))
        )
        with tf.GradientTape() as tape:
            logits = model([own, fellow], training=True)
            loss = tf.reduce_mean(
                tf.nn.sigmoid_cross_entropy_with_logits(
                    labels=tf.cast(labels, tf.float32), logits=logits[:, 0]
                )
            )
        gradients = tape.gradient(loss, [x.value for x in model.trainable_variables])
        optimizer.apply(gradients)
        return loss

    fellow_rows = pd.Series(rows_of_fellows(table).to_numpy(), table["row"])
    for number, batch in enumerate(batches.repeat(num_epochs), start=1):
        others = np.zeros(batch["image"].shape, np.uint8)
        if weights[1]:
            read_batch(shards, fellow_rows[batch["row"].numpy()].to_numpy(), others)
        loss = step(batch["image"], tf.constant(others), batch["seed"], batch["label"])
        if number % 20 == 0:
            print(f"step {number} of {num_steps}: {loss:.3f}", file=sys.stderr)
    return model


def build_pair_model(run: Run, weights: tuple[float, float]) -> keras.Model:
    """Build a model from photographs and their fellow eyes to logits.

    Both have the same backbone. Each has its own weights in the last layer, which start
    as those of the run's network times `weights`.
    """
    network = keras.models.clone_model(run.network)
    network.set_weights(run.network.get_weights())
    backbone = keras.Model(network.input, network.get_layer(POOL).output)
    kernel, bias = network.get_layer(LOGITS).get_weights()
    own, fellow = (keras.Input(network.input.shape[1:]) for _ in weights)
    dropout = keras.layers.Dropout(run.config.model.dropout)
    last = keras.layers.Dense(1, dtype="float32")
    logits = last(dropout(backbone(own)))
    last.set_weights([kernel * weights[0], bias])
    if weights[1]:
        other = keras.layers.Dense(1, use_bias=False, dtype="float32")
        logits = logits + other(dropout(backbone(fellow)))
        other.set_weights([kernel * weights[1]])
    return keras.Model([own, fellow], logits)


def rows_of_fellows(table: pd.DataFrame) -> pd.Series:
    """Return the row of each fellow; a photograph without one is its own."""
    numbers = np.where(table["fellow"] < 0, table.index, table["fellow"])
    return table["row"].iloc[numbers]


def predict_pairs(
    model: keras.Model, shards: ShardDataset, table: pd.DataFrame
) -> np.ndarray:
    """Return the logit of the mean score over the views, for each photograph."""

    @tf.function
    def predict_views(images: tf.Tensor, others: tf.Tensor) -> tf.Tensor:
        views, other_views = (
            tf.unstack(build_views(scale_images(x), TTA)) for x in (images, others)
        )
        pairs = zip(views, other_views, strict=True)
        scores = [tf.sigmoid(model(list(pair), training=False)) for pair in pairs]
        return tf.add_n(scores) / len(scores)

    batches = zip(
        read_images(shards, table["row"]),
        read_images(shards, rows_of_fellows(table)),
        strict=True,
    )
    scores = np.concatenate([predict_views(*x)[:, 0] for x in batches])
    return clipped_logits(scores[: len(table)])


def compare(table: pd.DataFrame, from_grade: int) -> Iterator[dict[str, Any]]:
    """Yield a row for each way to use the fellow eye."""
    ways = ["scores", "own", *table.filter(regex="^(head|trained)-").columns]
    for way, cells in roc_auc_rows(table, ways, from_grade=from_grade):
        yield {
            "from_grade": from_grade,
            "way": way,
            "num_photographs": len(table),
            **cells,
        }


if __name__ == "__main__":
    main()
