"""Prediction: probabilities of images, with test-time augmentation."""

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from drtf.config import Tta
from drtf.data.pipeline import eval_dataset
from drtf.data.stream import translate_record_errors
from drtf.models.network import build_feature_model, scale_images
from drtf.progress import progress
from drtf.records.reader import ShardDataset
from drtf.tasks import TaskName

Predict = Callable[[tf.Tensor], tf.Tensor]
PredictFeatures = Callable[[tf.Tensor], tuple[tf.Tensor, tf.Tensor]]


def build_predictor(network: keras.Model, tta: Tta) -> Predict:
    """Build a compiled function from images to the probabilities of their views.

    It takes uint8 [B, H, W, 3] and returns float32 [B, V, C], the output of the network
    for each of V views. Their mean is the prediction. Later changes to the network's
    weights have no effect on the function.
    """
    call = _build_call(network)

    @tf.function(autograph=False)
    def predict(images: tf.Tensor) -> tf.Tensor:
        views = build_views(scale_images(images), tta)
        return _divide_views(call(_join_views(views)), views.shape[0])

    return predict


def build_feature_predictor(network: keras.Model, tta: Tta) -> PredictFeatures:
    """Build a compiled function as `build_predictor` does, which returns features too.

    The features, float32 [B, F], are those of the first view, which is the image as it
    is; see `build_feature_model`.
    """
    call = _build_call(build_feature_model(network))

    @tf.function(autograph=False)
    def predict(images: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        views = build_views(scale_images(images), tta)
        output, features = call(_join_views(views))
        return (
            _divide_views(output, views.shape[0]),
            _divide_views(features, views.shape[0])[:, 0],
        )

    return predict


def _build_call(network: keras.Model) -> Callable[[tf.Tensor], Any]:
    """Build a function that calls a network with its present weights as constants.

    So TensorFlow can fold batch normalization into convolutions.
    """
    weights = [variable.numpy() for variable in network.trainable_variables]
    state = [variable.numpy() for variable in network.non_trainable_variables]

    def call(images: tf.Tensor) -> Any:
        return network.stateless_call(weights, state, images, training=False)[0]

    return call


def _join_views(views: tf.Tensor) -> tf.Tensor:
    """Turn views, [V, B, H, W, 3], into one batch, [V * B, H, W, 3]."""
    return tf.reshape(views, [-1, *views.shape[2:]])


def _divide_views(outputs: tf.Tensor, num_views: int) -> tf.Tensor:
    """Divide a network's output for joined views, [V * B, C], into [B, V, C]."""
    by_view = tf.reshape(outputs, [num_views, -1, *outputs.shape[1:]])
    return tf.transpose(by_view, [1, 0, 2])


def build_views(images: tf.Tensor, tta: Tta) -> tf.Tensor:
    """Build the views of each image for test-time augmentation.

    `flips5` are the views of the notebook: unchanged, flipped horizontally, flipped
    vertically, both, and 1.1 times as bright, clipped. `dihedral8` are the four
    rotations by 90 degrees of the image and of its mirror image. `VIEWS` names them in
    order.

    Args:
        images: float32 [B, H, W, 3] in [0, 1]. `dihedral8` requires H = W.
        tta: The kind of test-time augmentation.

    Returns:
        float32 [V, B, H, W, 3] in [0, 1]. The first view is `images`.
    """
    if tta == "none":
        return images[None]
    if tta == "dihedral8":
        upright = [images, images[:, ::-1, ::-1]]
        transposed = [tf.transpose(x, [0, 2, 1, 3]) for x in upright]
        views = [*upright, *transposed]
        return tf.stack([*views, *(view[:, :, ::-1] for view in views)])
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
    predict: Predict,
    shards: ShardDataset,
    *,
    split: str,
    task: TaskName,
    batch_size: int,
) -> np.ndarray:
    """Predict the probabilities of each photograph of a split, in index order.

    Args:
        predict: From `build_predictor`.
        shards: An open dataset.
        split: A split of the dataset.
        task: What the network was trained for.
        batch_size: Photographs per batch.

    Returns:
        float32 [n, V, C], the output of the network for each view.
    """
    dataset = eval_dataset(shards, split=split, task=task, batch_size=batch_size)
    parts = []
    with (
        translate_record_errors(),
        progress(f"Scoring split {split}", len(dataset)) as advance,
    ):
        for batch in dataset:
            parts.append(predict(batch["image"]).numpy()[batch["mask"].numpy()])
            advance("")
    return np.concatenate(parts)
