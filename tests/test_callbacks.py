import io
from types import SimpleNamespace

import keras
import numpy as np
import pytest
import tensorflow as tf
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from drtf.config import TrainConfig
from drtf.training.callbacks import BestModel, build_callbacks, monitor_name


def list_tags(folder, kind):
    events = EventAccumulator(str(folder), {"images": 0, "tensors": 0})
    events.Reload()
    return events, events.Tags()[kind]


def test_the_best_epoch_has_the_highest_monitored_metric():
    saved = []
    best_model = BestModel(lambda: saved.append(None), monitor="val_kappa")
    for epoch, (kappa, loss) in enumerate(
        [(0.1, 0.9), (0.3, 0.8), (0.2, 0.1), (0.3, 0.9), (0.3, 0.7)]
    ):
        best_model.on_epoch_end(epoch, {"val_kappa": kappa, "val_loss": loss})
    assert best_model.best_epoch == 5  # equal to the second, at a lower loss
    assert len(saved) == 3


def test_the_best_epoch_has_the_lowest_loss_when_loss_is_monitored():
    best_model = BestModel(lambda: None, monitor="val_loss")
    for epoch, loss in enumerate([0.9, 0.5, 0.7]):
        best_model.on_epoch_end(epoch, {"val_loss": loss})
    assert best_model.best_epoch == 2


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({}, "val_roc_auc"),
        ({"task": "grades"}, "val_kappa"),
        ({"task": "grades", "monitor": "accuracy"}, "val_accuracy"),
    ],
)
def test_the_monitor_follows_the_task(settings, expected):
    assert monitor_name(TrainConfig(**settings)) == expected


@pytest.mark.parametrize(
    ("monitor", "expected"),
    [("loss", ("val_loss", 0.1)), ("accuracy", ("val_accuracy", 1))],
)
def test_the_learning_rate_may_follow_any_metric(tmp_path, monitor, expected):
    config = TrainConfig(
        schedule="plateau", plateau_monitor=monitor, plateau_patience=1
    )
    *_, plateau = build_callbacks(
        config,
        best_model=BestModel(lambda: None, monitor="val_roc_auc"),
        validation=None,
        trainer=None,
        load_batch=dict,
        logs=tmp_path,
    )
    name, good = expected
    optimizer = keras.optimizers.SGD(1.0)
    plateau.set_model(SimpleNamespace(optimizer=optimizer))
    plateau.on_train_begin()
    for epoch, value in enumerate((0.5, good)):
        plateau.on_epoch_end(epoch, {name: value})
    assert float(optimizer.learning_rate) == 1
    plateau.on_epoch_end(2, {name: 0.5})
    assert float(optimizer.learning_rate) == 0.5


def test_tensorboard_has_scalars_and_images(run_folder):
    logs = run_folder / "logs"
    _, tags = list_tags(logs / "train", "tensors")
    assert {
        "epoch_loss",
        "epoch_learning_rate",
        "epoch_input_wait_fraction",
        "augmented",
    } <= set(tags)
    events, tags = list_tags(logs / "validation", "tensors")
    assert {"epoch_loss", "epoch_roc_auc", "roc", "confusion_matrix"} <= set(tags)
    png = tf.make_ndarray(events.Tensors("roc")[0].tensor_proto)[2]
    assert np.asarray(Image.open(io.BytesIO(png))).std() > 0
