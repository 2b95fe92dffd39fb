"""Export: a run's network for other runtimes, tried before it is handed over."""

import json
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias

import absl.logging
import numpy as np
import tensorflow as tf
from sklearn.metrics import roc_auc_score

from drtf.data.loader import read_batch
from drtf.data.pipeline import binary_labels
from drtf.files import check_absent, replacing, write_atomic
from drtf.inference.evaluation import check_preprocessing
from drtf.models.device import silence_stderr
from drtf.models.network import scale_images
from drtf.models.prediction import VIEWS
from drtf.models.run import Run, load_run, training_versions
from drtf.progress import progress
from drtf.records.reader import ShardDataset

Format = Literal["savedmodel", "tflite", "tflite-int8"]
# From uint8 RGB [B, H, W, 3] to scores, float32 [B].
Score = Callable[[np.ndarray], np.ndarray]
# The same of tensors, as a graph.
Serve: TypeAlias = "tf.types.experimental.PolymorphicFunction"

NUM_REPRESENTATIVE = 256


@dataclass(frozen=True)
class Exported:
    """What was written, and what it is worth beside the network in Keras.

    Attributes:
        path: of the folder or file.
        size_bytes: of it.
        num_photographs: of the split that both were tried on, one at a time.
        max_difference: the largest between both scores of one photograph.
        num_changed_predictions: photographs whose predicted label differs.
        roc_auc: of the exported network.
        keras_roc_auc: of Keras's.
        images_per_second: of the exported network.
        keras_images_per_second: of Keras's, compiled.
    """

    path: Path
    size_bytes: int
    num_photographs: int
    max_difference: float
    num_changed_predictions: int
    roc_auc: float
    keras_roc_auc: float
    images_per_second: float
    keras_images_per_second: float


def export(
    run_folder: Path, shards: Path, *, out: Path, target: Format, split: str = "test"
) -> Exported:
    """Write a run's network as SavedModel or TFLite, and compare it with Keras's.

    What is written takes uint8 RGB [B, H, W, 3] of any size, preprocessed (cropped,
    equalised) as the run's config says, and gives float32 `score` [B] of one view; TTA
    and calibration are the caller's. Beside it stands a JSON file with all that a
    caller must know.

    Args:
        run_folder: what `train` or `ensemble` left.
        shards: a set preprocessed like the one trained on.
        out: the folder (SavedModel) or file (TFLite) to write.
        target: the format; `tflite-int8` is calibrated on validation photographs.
        split: of the set, to compare on.

    Raises:
        DrtfError: if `out` exists, or run and set don't fit together.
    """
    check_absent(out)
    facts = out.with_name(f"{out.name}.json")
    check_absent(facts)
    run = load_run(run_folder)
    serve = build_serving(run)
    with ShardDataset(shards) as shard_set, replacing(out) as aside:
        check_preprocessing(run, shard_set)
        truth = binary_labels(shard_set, split, run.task.name)
        if target == "savedmodel":
            module = tf.Module()
            module.network, module.serve = run.network, serve
            tf.saved_model.save(module, str(aside), signatures=serve)
            exported = _load_saved_model(aside)
        else:
            samples = None
            if target == "tflite-int8":
                rows = shard_set.split_rows(run.config.train.validation_split)
                samples = read_batch(shard_set, rows[:NUM_REPRESENTATIVE])
            aside.write_bytes(convert_to_tflite(serve, samples))
            exported = _load_tflite(aside)
        rows = shard_set.split_rows(split)
        scores, seconds = _score_by_both(shard_set, rows, serve, exported)
        files = [aside] if aside.is_file() else aside.rglob("*")
        result = Exported(
            path=out,
            size_bytes=sum(path.stat().st_size for path in files if path.is_file()),
            num_photographs=len(rows),
            max_difference=float(np.abs(scores[0] - scores[1]).max()),
            num_changed_predictions=int(np.logical_xor(*(scores >= run.cutoff)).sum()),
            roc_auc=float(roc_auc_score(truth, scores[1])),
            keras_roc_auc=float(roc_auc_score(truth, scores[0])),
            images_per_second=len(rows) / seconds[1],
            keras_images_per_second=len(rows) / seconds[0],
        )
        described = _describe(run, result, target, split)
        write_atomic(facts, json.dumps(described, indent=2) + "\n")
    return result


def build_serving(run: Run) -> Serve:
    """Return a function from uint8 images of any size to `score`."""
    size = run.info.image_size

    def serve(image: tf.Tensor) -> dict[str, tf.Tensor]:
        pixels = tf.image.resize(scale_images(image), (size, size))
        probabilities = run.network(pixels, training=False)
        diseased = probabilities[:, run.task.disease_outputs]
        return {"score": tf.reduce_sum(diseased, axis=-1)}

    spec = tf.TensorSpec([None, None, None, 3], tf.uint8, name="image")
    return tf.function(serve, autograph=False, input_signature=[spec])


def convert_to_tflite(serve: Serve, samples: np.ndarray | None) -> bytes:
    """Convert to TFLite: float32, or int8 inside where there are samples.

    Args:
        serve: from `build_serving`.
        samples: uint8 RGB [N, H, W, 3], to find the ranges of activations with.
    """
    # By the whole module the converter aborts the process on TensorFlow 2.16 and 2.17:
    # github.com/tensorflow/tensorflow/issues/63987. By the function alone it freezes
    # the variables first.
    with _quiet():
        converter = tf.lite.TFLiteConverter.from_concrete_functions(
            [serve.get_concrete_function()]
        )
        if samples is not None:
            converter.optimizations = [tf.lite.Optimize.DEFAULT]
            converter.representative_dataset = lambda: ([x[None]] for x in samples)
        return converter.convert()


def _load_saved_model(folder: Path) -> Score:
    loaded = tf.saved_model.load(str(folder))
    serve = loaded.signatures["serving_default"]
    return lambda images: serve(tf.constant(images))["score"].numpy()


def _load_tflite(path: Path) -> Score:
    with _quiet():
        interpreter = tf.lite.Interpreter(str(path))
        interpreter.allocate_tensors()
    source = interpreter.get_input_details()[0]["index"]
    target = interpreter.get_output_details()[0]["index"]

    def score(images: np.ndarray) -> np.ndarray:
        interpreter.resize_tensor_input(source, images.shape)
        interpreter.allocate_tensors()
        interpreter.set_tensor(source, images)
        interpreter.invoke()
        return interpreter.get_tensor(target)

    return score


def _score_by_both(
    shards: ShardDataset, rows: np.ndarray, serve: Serve, exported: Score
) -> tuple[np.ndarray, np.ndarray]:
    """Score photographs one at a time, as where exported networks are used.

    Returns:
        Scores by Keras and as exported, float32 [2, N], and the seconds of each, [2].
    """

    def in_keras(images: np.ndarray) -> np.ndarray:
        return serve(tf.constant(images))["score"].numpy()

    size = shards.manifest.image_size
    scores = np.empty((2, len(rows)), np.float32)
    seconds = np.zeros(2)
    for predict in (in_keras, exported):
        predict(np.zeros((1, size, size, 3), np.uint8))  # traced, and memory allotted
    with progress("Comparing scores", len(rows)) as advance:
        for number, row in enumerate(rows):
            image = read_batch(shards, row[None])
            for way, predict in enumerate((in_keras, exported)):
                start = time.perf_counter()
                scores[way, number] = predict(image)[0]
                seconds[way] += time.perf_counter() - start
            advance()
    return scores, seconds


def _describe(run: Run, result: Exported, target: Format, split: str) -> dict[str, Any]:
    return {
        "format": target,
        "input": "image: uint8 RGB [B, H, W, 3], preprocessed as below; another size "
        "than preprocessing.size is resized bilinearly",
        "output": "score: float32 [B] in [0, 1], of one view, that the grade is "
        "positive",
        "views": VIEWS[run.tta],
        "predicted_label": "positive if the mean score of all views of a photograph is "
        "threshold.value or more; 0.5 where there is no threshold yet",
        "probability": "sigmoid((logit(mean score) + calibration.prior_shift) / "
        "calibration.temperature); method isotonic: interpolated linearly between "
        "calibration.scores and calibration.probabilities at sigmoid(logit(mean score) "
        "+ prior_shift)",
        "task": run.task.name,
        "positive_from_grade": run.task.positive_from,
        "preprocessing": run.config.images.model_dump(mode="json"),
        "encoding": {"of": run.info.encoding, "jpeg_quality": run.info.jpeg_quality},
        "threshold": run.threshold and run.threshold.model_dump(mode="json"),
        "calibration": run.calibration and run.calibration.model_dump(mode="json"),
        "compared_on": split,
        **{k: v for k, v in asdict(result).items() if k != "path"},
        "model_sha256": run.info.model_sha256,
        "versions": training_versions(),
    }


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep what TFLite says of itself off the screen: its C++ knows no log level."""
    verbosity = absl.logging.get_verbosity()
    absl.logging.set_verbosity(absl.logging.ERROR)
    try:
        with silence_stderr(), warnings.catch_warnings(action="ignore"):
            yield
    finally:
        absl.logging.set_verbosity(verbosity)
