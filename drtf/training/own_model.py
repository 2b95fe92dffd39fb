"""Run folders for Keras models that users trained themselves on drtf's batches."""

from pathlib import Path
from typing import Any

import keras

from drtf.config import AugmentConfig, Config, ModelConfig, SamplingConfig, TrainConfig
from drtf.errors import RunError
from drtf.files import check_absent, hash_file, replacing
from drtf.models.backbones import OWN_MODEL
from drtf.models.device import training_versions
from drtf.models.head import LOGITS, add_score
from drtf.models.model_file import check_classes
from drtf.models.network import count_parameters
from drtf.models.run import (
    CONFIG_FILE,
    MODEL_FILE,
    RunInfo,
    save_config,
    save_info,
    save_model,
)
from drtf.models.training_photographs import (
    PHOTOGRAPHS_FILE,
    save_training_photographs,
)
from drtf.records.manifest import hash_manifest
from drtf.records.reader import ShardDataset
from drtf.tasks import TASKS, Task, TaskName
from drtf.training.train_plan import adopt_settings, positive_prior

PROBABILITY_ACTIVATIONS = {"sigmoid", "softmax"}


def save_run(
    model: keras.Model,
    shards: ShardDataset,
    out: Path,
    *,
    task: TaskName,
    takes_unit_range: bool,
    sampling: SamplingConfig,
) -> RunInfo:
    """Save a user's Keras model as a run folder.

    The saved network shares the model's layers. Nested models are flattened, and it
    takes RGB in [0, 1] and ends in the layers `logits` and `score`, like every network
    of drtf.

    Args:
        model: A Functional or Sequential model with one image input and one output:
            logits or probabilities, [B, 1] or, for task `grades`, [B, 5].
        shards: The dataset that it was trained on, open.
        out: The run folder to write.
        task: What the model predicts.
        takes_unit_range: True if it takes RGB in [0, 1], False for [0, 255].
        sampling: The sampling that it was trained with.

    Raises:
        DrtfError: If `out` exists.
        RunError: If the model does not fit the dataset or the task, or has layers that
            a run may not hold.
    """
    check_absent(out)
    config = adopt_settings(
        Config(
            sampling=sampling,
            model=ModelConfig(name=OWN_MODEL.name, weights="none"),
            train=TrainConfig(task=task),
        ),
        shards,
    )
    network = build_own_network(
        model,
        TASKS[task],
        image_size=shards.manifest.image_size,
        takes_unit_range=takes_unit_range,
    )
    check_classes(network)
    num_trained, num_frozen = count_parameters(network)
    with replacing(out) as folder:
        folder.mkdir()
        save_config(folder, config)
        save_model(folder, network)
        save_training_photographs(
            folder, shards, validation_split=config.train.validation_split
        )
        info = RunInfo(
            dataset_name=shards.manifest.name,
            dataset_sha256=hash_manifest(shards.folder),
            encoding=shards.manifest.encoding,
            jpeg_quality=config.build.jpeg_quality,
            image_size=shards.manifest.image_size,
            train_prior=positive_prior(
                shards, sampling=sampling, augment=AugmentConfig(), train=config.train
            ),
            model_sha256=hash_file(folder / MODEL_FILE),
            config_sha256=hash_file(folder / CONFIG_FILE),
            history_sha256="",
            photographs_sha256=hash_file(folder / PHOTOGRAPHS_FILE),
            best_epoch=0,
            num_epochs=0,
            num_trained=num_trained,
            num_frozen=num_frozen,
            num_damaged=0,
            num_skipped_steps=0,
            precision=model.dtype_policy.name,
            num_devices=1,
            num_hosts=1,
            seconds=0.0,
            peak_memory_mb=0.0,
            versions=training_versions(),
        )
        save_info(folder, info)
    return info


def build_own_network(
    model: keras.Model, task: Task, *, image_size: int, takes_unit_range: bool
) -> keras.Model:
    """Build a network in the form of drtf's own from the layers of a user's model.

    Args:
        model: As for `save_run`.
        task: What it predicts.
        image_size: Height and width of the dataset's images in px.
        takes_unit_range: As for `save_run`.

    Returns:
        A flat model from float32 [B, image_size, image_size, 3] in [0, 1] to
        probabilities, float32 [B, `task.num_logits`].

    Raises:
        RunError: If the model has another input or output.
    """
    _check_shapes(model, task, image_size)
    image = keras.Input((image_size, image_size, 3), name="image")
    x = image
    if not takes_unit_range:
        x = keras.layers.Rescaling(255.0, name="to_pixels")(x)
    logits = _flatten(model, to_logits=True).call(x)
    logits = keras.layers.Identity(dtype="float32", name=LOGITS)(logits)
    return keras.Model(image, add_score(logits, task), name=OWN_MODEL.name)


def _check_shapes(model: keras.Model, task: Task, image_size: int) -> None:
    inputs = [tuple(x.shape[1:]) for x in getattr(model, "inputs", None) or ()]
    outputs = [tuple(x.shape[1:]) for x in getattr(model, "outputs", None) or ()]
    expected = [(image_size, image_size, 3)], [(task.num_logits,)]
    # A fully convolutional model may leave height and width open.
    fits = len(inputs) == 1 and all(
        size in (None, wanted)
        for size, wanted in zip(inputs[0], expected[0][0], strict=False)
    )
    if not fits or outputs != expected[1]:
        raise RunError(
            f"the model takes {inputs} and returns {outputs}; for this dataset and "
            f"task {task.name!r} it must be a Functional or Sequential model that "
            f"takes {expected[0]} and returns {expected[1]}"
        )


def _flatten(model: keras.Model, *, to_logits: bool) -> keras.Model:
    """Return a model over the same layers in which no model is nested.

    Args:
        model: A Functional or Sequential model.
        to_logits: Whether to leave out a sigmoid or softmax at its end.
    """
    is_sequential = isinstance(model, keras.Sequential)
    last = (model.layers if is_sequential else model.operations)[-1]

    def call(layer: keras.Layer, *args: Any, **kwargs: Any) -> Any:
        ends_in_logits = to_logits and layer is last
        if isinstance(layer, keras.Model):
            return _flatten(layer, to_logits=ends_in_logits).call(*args)
        if ends_in_logits:
            return _call_for_logits(layer, *args)
        return layer(*args, **kwargs)

    if is_sequential:
        image = keras.Input(model.input_shape[1:])
        x = image
        for layer in model.layers:
            x = call(layer, x)
        return keras.Model(image, x)
    return keras.models.clone_model(
        model, clone_function=lambda layer: layer, call_function=call
    )


def _call_for_logits(layer: keras.Layer, x: keras.KerasTensor) -> keras.KerasTensor:
    """Call the last layer of a model without its sigmoid or softmax, if it has one."""
    activation = getattr(getattr(layer, "activation", None), "__name__", "")
    if isinstance(layer, keras.layers.Softmax):
        return x
    if activation not in PROBABILITY_ACTIVATIONS:
        return layer(x)
    if not isinstance(layer, keras.layers.Dense):
        return x
    linear = keras.layers.Dense(layer.units, use_bias=layer.use_bias, dtype="float32")
    logits = linear(x)
    linear.set_weights(layer.get_weights())
    return logits
