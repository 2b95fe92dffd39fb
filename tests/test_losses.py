import keras
import numpy as np
import pytest
import tensorflow as tf

from drtf.config import TrainConfig
from drtf.models.losses import FocalLoss, build_loss

TRUTH = np.array([[0.0], [1.0], [1.0], [0.0], [1.0]], np.float32)
LOGITS = np.array([[-2.0], [0.3], [4.0], [1.5], [-6.0]], np.float32)


def notebooks_focal_loss(truth, scores, gamma=1.5, alpha=0.5):
    correct = np.where(truth == 1, scores, 1 - scores)
    weight = np.where(truth == 1, alpha, 1 - alpha)
    return np.mean(-weight * (1 - correct) ** gamma * np.log(correct))


@pytest.mark.parametrize(("gamma", "alpha"), [(1.5, 0.5), (2.0, 0.25), (0.0, 0.5)])
def test_focal_equals_the_formula_on_scores(gamma, alpha):
    scores = 1 / (1 + np.exp(-LOGITS.astype(np.float64)))
    expected = notebooks_focal_loss(TRUTH, scores, gamma, alpha)
    loss = FocalLoss(gamma=gamma, alpha=alpha)
    assert float(loss(TRUTH, LOGITS)) == pytest.approx(expected, abs=1e-6)


def test_focal_equals_kerass_binary_focal_crossentropy():
    expected = keras.losses.BinaryFocalCrossentropy(
        apply_class_balancing=True, alpha=0.25, gamma=2.0, from_logits=True
    )(TRUTH, LOGITS)
    found = FocalLoss(gamma=2.0, alpha=0.25)(TRUTH, LOGITS)
    assert float(found) == pytest.approx(float(expected), abs=1e-6)


def test_focal_stays_finite_where_the_network_is_sure():
    logits = tf.Variable([[-80.0], [80.0], [80.0]])
    truth = np.array([[0.0], [1.0], [0.0]], np.float32)
    with tf.GradientTape() as tape:
        loss = FocalLoss(gamma=0.5, alpha=0.5)(truth, logits)
    assert np.isfinite(float(loss))
    assert np.isfinite(tape.gradient(loss, logits).numpy()).all()


@pytest.mark.parametrize(
    "settings",
    [
        {"loss": "focal"},
        {"label_smoothing": 0.1},
        {"class_weights": (0.5, 3.0)},
        {"task": "grades"},
    ],
)
def test_integer_labels_give_the_loss_of_float_labels(settings):
    loss = build_loss(TrainConfig(**settings))
    logits = np.repeat(LOGITS, 5, axis=1) if "task" in settings else LOGITS
    expected = loss.call(TRUTH, logits).numpy()
    assert (loss.call(TRUTH.astype(np.int64), logits).numpy() == expected).all()


def test_the_config_names_the_loss():
    assert isinstance(build_loss(TrainConfig(loss="focal")), FocalLoss)
    crossentropy = build_loss(TrainConfig())
    scores = 1 / (1 + np.exp(-LOGITS))
    expected = -np.mean(np.log(np.where(TRUTH == 1, scores, 1 - scores)))
    assert float(crossentropy(TRUTH, LOGITS)) == pytest.approx(expected, abs=1e-6)


def test_label_smoothing_draws_the_labels_to_the_middle():
    smoothed = build_loss(TrainConfig(label_smoothing=0.2))
    expected = build_loss(TrainConfig())(TRUTH * 0.8 + 0.1, LOGITS)
    assert float(smoothed(TRUTH, LOGITS)) == pytest.approx(float(expected), abs=1e-6)


@pytest.mark.parametrize("name", ["crossentropy", "focal"])
def test_class_weights_are_those_of_keras(name):
    config = TrainConfig(loss=name, class_weights=(0.5, 3.0))
    plain = build_loss(TrainConfig(loss=name))
    each = np.where(TRUTH[:, 0] == 1, 3.0, 0.5)
    expected = plain(TRUTH, LOGITS, sample_weight=each)
    found = build_loss(config)(TRUTH, LOGITS)
    assert float(found) == pytest.approx(float(expected), abs=1e-6)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_the_loss_of_grades_is_a_softmaxs_crossentropy(smoothing):
    logits = np.random.default_rng(0).normal(size=(5, 5)).astype(np.float32)
    grades = np.array([[0.0], [4.0], [2.0], [2.0], [1.0]], np.float32)
    probabilities = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    targets = np.eye(5)[grades[:, 0].astype(int)] * (1 - smoothing) + smoothing / 5
    expected = -(targets * np.log(probabilities)).sum(axis=1)
    loss = build_loss(TrainConfig(task="grades", label_smoothing=smoothing))
    assert loss.call(grades, logits).numpy() == pytest.approx(expected, abs=1e-5)
    weights = (1.0, 0.0, 2.0, 1.0, 3.0)
    weighted = build_loss(
        TrainConfig(task="grades", label_smoothing=smoothing, class_weights=weights)
    )
    assert weighted.call(grades, logits).numpy() == pytest.approx(
        expected * np.array([1, 3, 2, 2, 0]), abs=1e-5
    )
