"""Prediction: scores of batches of images, over the views of test-time augmentation."""

from collections.abc import Callable

import keras
import numpy as np
import tensorflow as tf

from drtf.config import Task, Tta
from drtf.data.pipeline import eval_dataset, record_errors
from drtf.models.network import find_scores, scale_images
from drtf.progress import progress
from drtf.records.reader import ShardSet

Predict = Callable[[tf.Tensor], tf.Tensor]


def build_predictor(network: keras.Model, tta: Tta) -> Predict:
    """Return a compiled function from uint8 images [B, H, W, 3] to scores [B, V].

    A score is the network's probability of disease; one for each of the V views. Their
    mean is the score under test-time augmentation.
    """

    @tf.function(autograph=False)
    def predict(images: tf.Tensor) -> tf.Tensor:
        views = build_views(scale_images(images), tta)  # [V, B, H, W, 3]
        flat = tf.reshape(views, [-1, *views.shape[2:]])
        scores = find_scores(network(flat, training=False))
        return tf.transpose(tf.reshape(scores, tf.shape(views)[:2]))

    return predict


def build_views(images: tf.Tensor, tta: Tta) -> tf.Tensor:
    """Make the views of each image.

    `flips5` is the predecessor's: as it is, mirrored left to right, upside down, both,
    and 1.1 times as bright, clipped.

    Args:
        images: float32 [B, H, W, 3] in [0, 1].
        tta: which views.

    Returns:
        float32 [V, B, H, W, 3] in [0, 1]; the first view is `images`.
    """
    if tta == "none":
        return images[None]
    return tf.stack(
        [
            images,
            images[:, :, ::-1],
            images[:, ::-1],
            images[:, ::-1, ::-1],
            tf.clip_by_value(images * 1.1, 0, 1),
        ]
    )


def predict_split(
    predict: Predict, shards: ShardSet, *, split: str, task: Task, batch_size: int
) -> np.ndarray:
    """Score each photograph of a split, in the order of the index.

    Args:
        predict: from `build_predictor`.
        shards: an open set.
        split: of the set.
        task: what the labels say.
        batch_size: photographs at once.

    Returns:
        float32 [n, V]: the score of each view.
    """
    dataset = eval_dataset(shards, split=split, task=task, batch_size=batch_size)
    scores = []
    with record_errors(), progress(f"Scoring split {split}", len(dataset)) as advance:
        for batch in dataset:
            scores.append(predict(batch["image"]).numpy()[batch["mask"].numpy()])
            advance("")
    return np.concatenate(scores)
