"""Export of a run's network to other runtimes, compared with Keras."""

import json
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Literal, TypeAlias

import absl.logging
import numpy as np
import tensorflow as tf
from sklearn.metrics import roc_auc_score

from drtf.data.loader import read_batch
from drtf.data.pipeline import binary_labels
from drtf.errors import DrtfError
from drtf.files import (
    check_absent,
    parse_json,
    read_regular,
    replacing,
    write_atomic,
)
from drtf.models.compatibility import check_preprocessing
from drtf.models.device import silence_stderr, training_versions
from drtf.models.network import scale_images
from drtf.models.run import Run, load_run
from drtf.models.views import VIEWS
from drtf.progress import progress
from drtf.records.manifest import hash_manifest
from drtf.records.reader import ShardDataset

Format = Literal["savedmodel", "tflite", "tflite-int8"]
# From uint8 RGB [B, H, W, 3] to float32 scores [B].
Score = Callable[[np.ndarray], np.ndarray]
# From a tensor of images to all outputs by name, as a compiled function.
Serve: TypeAlias = "tf.types.experimental.PolymorphicFunction"

NUM_REPRESENTATIVE = 256


@dataclass(frozen=True)
class Exported:
    """An exported network compared with the Keras network.

    Attributes:
        path: The written folder or file.
        size_bytes: Its size.
        num_photographs: Number of photographs that both networks scored, one at a time.
        max_difference: Largest absolute difference between the scores of a photograph.
        num_changed_predictions: Number of photographs whose predicted label differs.
        roc_auc: ROC AUC of the exported network.
        keras_roc_auc: ROC AUC of the Keras network.
        images_per_second: Speed of the exported network.
        keras_images_per_second: Speed of the Keras network, compiled.
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
    """Write a run's network as SavedModel or TFLite and compare it with Keras.

    The exported network takes uint8 RGB [B, H, W, 3] of any size, preprocessed (cropped
    and equalized) as in the run's config, and returns the float32 `score` [B] of one
    view and, if the run predicts grades, the `expected_grade` [B]. The caller must
    apply test-time augmentation, cut points and calibration. Everything that a caller
    must know is written to a JSON file next to it.

    Args:
        run_folder: The run folder, written by `train` or `ensemble`.
        shards: A dataset with the same preprocessing as in training.
        out: The folder (SavedModel) or file (TFLite) to write. If the same call has
            written it already, it is left as it is.
        target: The format; `tflite-int8` is quantized on validation photographs.
        split: The split to compare on.

    Raises:
        DrtfError: If `out` is something else, or run and dataset do not fit together.
    """
    description = out.with_name(f"{out.name}.json")
    run = load_run(run_folder)
    identity = _identity(run, shards, target, split)
    contents = _load_description(description)
    if out.exists():
        if identity.items() <= contents.items():
            return Exported(out, **{x: contents[x] for x in _measured_fields()})
        raise DrtfError(
            f"{out} already exists and is not this export of {run_folder}: move it "
            "away or choose another name"
        )
    if "model_sha256" not in contents:  # otherwise a killed export left it
        check_absent(description)
    serve = build_serving(run)
    with ShardDataset(shards) as dataset, replacing(out) as partial:
        check_preprocessing(run, dataset)
        y_true = binary_labels(dataset, split, run.task.name)
        if target == "savedmodel":
            module = tf.Module()
            module.network, module.serve = run.network, serve
            tf.saved_model.save(module, str(partial), signatures=serve)
            exported = _load_saved_model(partial)
        else:
            samples = None
            if target == "tflite-int8":
                rows = dataset.split_rows(run.config.train.validation_split)
                samples = read_batch(dataset, rows[:NUM_REPRESENTATIVE])
            partial.write_bytes(convert_to_tflite(serve, samples))
            exported = _load_tflite(partial)
        rows = dataset.split_rows(split)
        scores, seconds = _score_with_both(dataset, rows, serve, exported)
        files = [partial] if partial.is_file() else partial.rglob("*")
        result = Exported(
            path=out,
            size_bytes=sum(path.stat().st_size for path in files if path.is_file()),
            num_photographs=len(rows),
            max_difference=float(np.abs(scores[0] - scores[1]).max()),
            num_changed_predictions=int(
                np.logical_xor(*(scores >= run.effective_threshold)).sum()
            ),
            roc_auc=float(roc_auc_score(y_true, scores[1])),
            keras_roc_auc=float(roc_auc_score(y_true, scores[0])),
            images_per_second=len(rows) / seconds[1],
            keras_images_per_second=len(rows) / seconds[0],
        )
        contents = identity | _describe(run, result)
        write_atomic(description, json.dumps(contents, indent=2) + "\n")
    return result


def build_serving(run: Run) -> Serve:
    """Return a compiled function from uint8 images of any size to named outputs."""
    size, task = run.info.image_size, run.task
    classes = tf.range(task.num_logits, dtype=tf.float32)

    def serve(image: tf.Tensor) -> dict[str, tf.Tensor]:
        pixels = tf.image.resize(scale_images(image), (size, size))
        probabilities = run.network(pixels, training=False)
        diseased = probabilities[:, task.disease_outputs]
        outputs = {"score": tf.reduce_sum(diseased, axis=-1)}
        if task.predicts_grades:
            outputs["expected_grade"] = tf.reduce_sum(probabilities * classes, axis=-1)
        return outputs

    spec = tf.TensorSpec([None, None, None, 3], tf.uint8, name="image")
    return tf.function(serve, autograph=False, input_signature=[spec])


def convert_to_tflite(serve: Serve, samples: np.ndarray | None) -> bytes:
    """Convert to TFLite: float32, or int8 if there are samples.

    Args:
        serve: From `build_serving`.
        samples: uint8 RGB [N, H, W, 3], to measure the ranges of activations on; None
            converts to float32.
    """
    # TFLite knows outputs only by their number.
    numbered = tf.function(
        lambda image: tuple(serve(image).values()),
        autograph=False,
        input_signature=serve.input_signature,
    )
    # Given the whole module, the converter aborts the process on TensorFlow 2.16 and
    # 2.17: github.com/tensorflow/tensorflow/issues/63987. Given only the function, it
    # freezes the variables first.
    with _quiet():
        converter = tf.lite.TFLiteConverter.from_concrete_functions(
            [numbered.get_concrete_function()]
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


def _score_with_both(
    shards: ShardDataset, rows: np.ndarray, serve: Serve, exported: Score
) -> tuple[np.ndarray, np.ndarray]:
    """Score photographs one at a time, as users of exported networks do.

    Returns:
        Scores of Keras and of the exported network, float32 [2, N], and the seconds
        that each took, [2].
    """

    def score_with_keras(images: np.ndarray) -> np.ndarray:
        return serve(tf.constant(images))["score"].numpy()

    size = shards.manifest.image_size
    scores = np.empty((2, len(rows)), np.float32)
    seconds = np.zeros(2)
    for predict in (score_with_keras, exported):
        predict(np.zeros((1, size, size, 3), np.uint8))  # compile and allocate memory
    with progress("Comparing scores", len(rows)) as advance:
        for number, row in enumerate(rows):
            image = read_batch(shards, row[None])
            for which, predict in enumerate((score_with_keras, exported)):
                start = time.perf_counter()
                scores[which, number] = predict(image)[0]
                seconds[which] += time.perf_counter() - start
            advance()
    return scores, seconds


def _identity(run: Run, shards: Path, target: Format, split: str) -> dict[str, Any]:
    """Return what determines an export."""
    return {
        "format": target,
        "model_sha256": run.info.model_sha256,
        "fellow_eye": run.fellow_eye and run.fellow_eye.model_dump(mode="json"),
        "threshold": run.threshold and run.threshold.model_dump(mode="json"),
        "calibration": run.calibration and run.calibration.model_dump(mode="json"),
        "cut_points": list(run.cut_points) if run.task.predicts_grades else None,
        "compared_on": split,
        "dataset_sha256": hash_manifest(shards),
    }


def _measured_fields() -> list[str]:
    return [field.name for field in fields(Exported) if field.name != "path"]


def _load_description(path: Path) -> dict[str, Any]:
    """Load the JSON file of an export; empty if there is none."""
    try:
        contents = parse_json(read_regular(path))
    except (OSError, ValueError):
        return {}
    return contents if isinstance(contents, dict) else {}


def _describe(run: Run, result: Exported) -> dict[str, Any]:
    grades = {
        "expected_grade": "the second output, float32 [B] from 0 to 4, for one view",
        "predicted_grade": "the number of cut_points that are not above the mean "
        "expected grade of all views of a photograph",
    }
    return {
        "input": "image: uint8 RGB [B, H, W, 3], preprocessed as described below; "
        "images that do not have preprocessing.size are resized bilinearly",
        "output": "score: float32 [B] in [0, 1], that the grade is positive, for one "
        "view",
        "views": VIEWS[run.tta],
        "both_eyes": "the network scores single photographs. If fellow_eye is not null "
        "and the patient's other eye was scored too, the mean score is replaced by "
        "sigmoid(fellow_eye.offset + fellow_eye.own * logit(mean score) + "
        "fellow_eye.fellow * mean logit of the other eye's photographs)",
        "predicted_label": "1 if the mean score of all views of a photograph is at "
        "least threshold.value (0.5 if there is no threshold), otherwise 0",
        "probability": "sigmoid((logit(mean score) + calibration.prior_shift) / "
        "calibration.temperature + calibration.offset + calibration.prevalence_shift). "
        "With method isotonic: sigmoid(logit(p) + calibration.prevalence_shift), where "
        "p is interpolated linearly between calibration.scores and "
        "calibration.probabilities at sigmoid(logit(mean score) + "
        "calibration.prior_shift)",
        **(grades if run.task.predicts_grades else {}),
        "task": run.task.name,
        "positive_from_grade": run.task.positive_from,
        "preprocessing": run.config.images.model_dump(mode="json"),
        "encoding": {"of": run.info.encoding, "jpeg_quality": run.info.jpeg_quality},
        **{name: getattr(result, name) for name in _measured_fields()},
        "versions": training_versions(),
    }


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence TFLite, whose C++ code has no log level."""
    verbosity = absl.logging.get_verbosity()
    absl.logging.set_verbosity(absl.logging.ERROR)
    try:
        with silence_stderr(), warnings.catch_warnings(action="ignore"):
            yield
    finally:
        absl.logging.set_verbosity(verbosity)
