import keras
import numpy as np
import pytest
import tensorflow as tf
from sklearn.metrics import (
    accuracy_score,
    average_precision_score,
    balanced_accuracy_score,
    cohen_kappa_score,
    roc_auc_score,
)

from drtf.config import TrainConfig, load_config
from drtf.errors import ConfigError, DrtfError
from drtf.models.network import build_network
from drtf.tasks import TASKS
from drtf.training import validation_groups as module
from drtf.training.hosts import Hosts
from drtf.training.trainer import Trainer
from drtf.training.validation import Validation
from drtf.training.validation_groups import validation_groups
from naming import assert_names, raises_naming


def validate(task, num_padded=0, groups=None):
    """Return a validation of random images and its metrics."""
    keras.utils.set_random_seed(1)
    overrides = [f"train.task={task}", "model.name=eyenet", "model.weights=none"]
    config = load_config("", overrides)
    network = build_network(
        config.model, image_size=32, load_weights=False, task=TASKS[task]
    )
    trainer = Trainer(
        network,
        augment=config.augment,
        model=config.model,
        train=config.train,
        num_steps=1,
    )
    rng = np.random.default_rng(0)
    num = 12 + num_padded
    labels = np.arange(num) % (5 if task == "grades" else 2)
    batches = tf.data.Dataset.from_tensor_slices(
        {
            "image": rng.integers(0, 256, (num, 32, 32, 3), np.uint8),
            "label": labels,
            "row": 100 + np.arange(num),
            "mask": np.arange(num) < 12,
        }
    )
    validation = Validation(
        trainer, batches.batch(6), hosts=Hosts(None), groups=groups or {}
    )
    metrics = validation.measure(lambda: False)
    return validation, metrics


@pytest.mark.parametrize("task", ["binary", "grades"])
def test_metrics_are_those_of_scikit_learn(task):
    validation, metrics = validate(task)
    labels, probabilities = validation.classes, validation.probabilities
    if task == "grades":
        positive, scores = labels >= 2, probabilities[:, 2:].sum(axis=1)
        decisions = np.rint(probabilities @ np.arange(5))
        true_ones = probabilities[np.arange(12), labels]
        kappa = cohen_kappa_score(
            labels, decisions, labels=range(5), weights="quadratic"
        )
        assert metrics["kappa"] == pytest.approx(kappa)
        assert probabilities.sum(axis=1) == pytest.approx(1, abs=1e-6)
    else:
        positive, scores = labels == 1, probabilities[:, 0]
        decisions = scores >= 0.5
        true_ones = np.where(positive, scores, 1 - scores)
        assert "kappa" not in metrics
    assert metrics["loss"] == pytest.approx(-np.log(true_ones).mean(), abs=1e-5)
    assert metrics["roc_auc"] == pytest.approx(roc_auc_score(positive, scores))
    expected = average_precision_score(positive, scores)
    assert metrics["average_precision"] == pytest.approx(expected)
    assert metrics["accuracy"] == pytest.approx(accuracy_score(labels, decisions))
    expected = balanced_accuracy_score(labels, decisions)
    assert metrics["balanced_accuracy"] == pytest.approx(expected)


def test_each_group_is_measured_and_the_worst_one_named():
    groups = {"a": np.arange(100, 104), "b": np.arange(104, 112)}
    validation, metrics = validate("binary", num_padded=4, groups=groups)
    assert validation.rows.tolist() == list(range(100, 112))
    positive, scores = validation.labels_and_scores()
    expected = {
        "roc_auc[a]": roc_auc_score(positive[:4], scores[:4]),
        "roc_auc[b]": roc_auc_score(positive[4:], scores[4:]),
    }
    assert {name: metrics[name] for name in expected} == pytest.approx(expected)
    assert metrics["worst_roc_auc"] == pytest.approx(min(expected.values()))


def test_measure_returns_none_when_stopped():
    validation, _ = validate("binary")
    asked = iter([False, True])
    assert validation.measure(lambda: next(asked)) is None
    assert next(asked, None) is None


def test_padding_does_not_count():
    validation, metrics = validate("binary", num_padded=6)
    assert len(validation.classes) == len(validation.probabilities) == 12
    assert metrics == pytest.approx(validate("binary")[1], abs=1e-6)


def groups_of(shards, **changes):
    return validation_groups(shards, TrainConfig(validation_split="test", **changes))


def test_groups_are_those_with_enough_photographs_of_each_class(
    shard_dataset, monkeypatch, caplog
):
    monkeypatch.setattr(module, "MIN_PER_CLASS", 1)
    index = shard_dataset.load_index(["split", "id", "grade"])
    is_left = (index["split"] == "test") & index["id"].str.endswith("left")
    found = groups_of(shard_dataset, validate_by="eye")
    assert list(found) == ["left", "right"]
    assert found["left"].tolist() == np.flatnonzero(is_left).tolist()
    assert groups_of(shard_dataset) == {}  # there is one source
    assert groups_of(shard_dataset, validate_by="") == {}
    assert not caplog.records
    # Each grade is of one class of the task.
    assert groups_of(shard_dataset, validate_by="grade") == {}
    assert_names(caplog.text, "train.validate_by", "'grade'", "'0'", "'test'")


def test_the_worst_group_is_not_monitored_without_groups(shard_dataset):
    with raises_naming(ConfigError, "worst_roc_auc", "train.validate_by", "'source'"):
        groups_of(shard_dataset, monitor="worst_roc_auc")
    with raises_naming(DrtfError, "'camera'", "eye"):
        groups_of(shard_dataset, validate_by="camera")
    settings = "train.monitor=worst_roc_auc", "train.validate_by="
    with raises_naming(ConfigError, "train.monitor", "train.validate_by"):
        load_config("", settings)
