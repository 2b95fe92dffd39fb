"""Prediction: scores of batches of images, over the views of test-time augmentation."""

import statistics
import time
from collections.abc import Callable, Mapping, Sequence

import keras
import numpy as np
import tensorflow as tf

from drtf.config import Tta
from drtf.data.pipeline import eval_dataset, record_errors
from drtf.models.network import scale_images
from drtf.progress import progress
from drtf.records.reader import ShardDataset
from drtf.tasks import TaskName

Predict = Callable[[tf.Tensor], tf.Tensor]
NUM_TIMED = 3
# What `build_views` makes, in its order.
VIEWS: Mapping[Tta, Sequence[str]] = {
    "none": ("as it is",),
    "flips5": (
        "as it is",
        "mirrored left to right",
        "upside down",
        "mirrored and upside down",
        "1.1 times as bright, clipped at white",
    ),
    "dihedral8": (
        "as it is",
        "turned by 180 degrees",
        "transposed",
        "transposed and turned by 180 degrees",
        "mirrored left to right",
        "turned by 180 degrees and mirrored left to right",
        "transposed and mirrored left to right",
        "transposed, turned by 180 degrees and mirrored left to right",
    ),
}


def fit_batch(batch_size: int, tta: Tta) -> int:
    """Return how many photographs, one at least, have no more views than a batch."""
    return max(batch_size // len(VIEWS[tta]), 1)


def build_predictor(network: keras.Model, tta: Tta) -> Predict:
    """Return a compiled function from uint8 images to probabilities of V views.

    It takes [B, H, W, 3] and returns float32 [B, V, C], what the network puts out. The
    mean over the views is what counts under test-time augmentation. The weights are
    those that the network has now.
    """
    # As constants, so that TensorFlow folds batch normalization into convolutions.
    weights = [variable.numpy() for variable in network.trainable_variables]
    state = [variable.numpy() for variable in network.non_trainable_variables]

    @tf.function(autograph=False)
    def predict(images: tf.Tensor) -> tf.Tensor:
        views = build_views(scale_images(images), tta)  # [V, B, H, W, 3]
        flat = tf.reshape(views, [-1, *views.shape[2:]])
        found, _ = network.stateless_call(weights, state, flat, training=False)
        shape = [*views.shape[:1], -1, *found.shape[1:]]
        return tf.transpose(tf.reshape(found, shape), [1, 0, 2])

    return predict


def build_views(images: tf.Tensor, tta: Tta) -> tf.Tensor:
    """Make the views of each image.

    `flips5` is the predecessor's: as it is, mirrored left to right, upside down, both,
    and 1.1 times as bright, clipped. `dihedral8` are the four quarter turns of the
    image and of its mirror image. `VIEWS` names them in order.

    Args:
        images: float32 [B, H, W, 3] in [0, 1]; for `dihedral8` H equals W.
        tta: which views.

    Returns:
        float32 [V, B, H, W, 3] in [0, 1]; the first view is `images`.
    """
    if tta == "none":
        return images[None]
    if tta == "dihedral8":
        upright = [images, images[:, ::-1, ::-1]]
        lying = [tf.transpose(x, [0, 2, 1, 3]) for x in upright]
        views = [*upright, *lying]
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


def measure_views_cost(network: keras.Model, tta: Tta, batch_size: int) -> float:
    """Measure how many times as long a batch takes with all views as with one."""
    if tta == "none":
        return 1.0
    images = tf.zeros([batch_size, *network.input.shape[1:]], tf.uint8)
    ways = [build_predictor(network, views) for views in (tta, "none")]
    seconds: list[list[float]] = [[], []]
    for _ in range(1 + NUM_TIMED):
        for predict, times in zip(ways, seconds, strict=True):
            start = time.perf_counter()
            predict(images).numpy()
            times.append(time.perf_counter() - start)
    all_views, one = (statistics.median(times[1:]) for times in seconds)
    return all_views / one


def predict_split(
    predict: Predict,
    shards: ShardDataset,
    *,
    split: str,
    task: TaskName,
    batch_size: int,
) -> np.ndarray:
    """Predict each photograph of a split, in the order of the index.

    Args:
        predict: from `build_predictor`.
        shards: an open set.
        split: of the set.
        task: what the labels say.
        batch_size: photographs at once.

    Returns:
        float32 [n, V, C], what the network puts out for each view.
    """
    dataset = eval_dataset(shards, split=split, task=task, batch_size=batch_size)
    found = []
    with record_errors(), progress(f"Scoring split {split}", len(dataset)) as advance:
        for batch in dataset:
            found.append(predict(batch["image"]).numpy()[batch["mask"].numpy()])
            advance("")
    return np.concatenate(found)
