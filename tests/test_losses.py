import keras
import numpy as np
import pytest
import tensorflow as tf

from drtf.config import TrainConfig
from drtf.models.losses import FocalLoss, build_loss

LABELS = np.array([[0], [1], [1], [0], [1]], np.int32)
LOGITS = np.array([[-2.0], [0.3], [4.0], [1.5], [-6.0]], np.float32)


def notebook_focal_loss(labels, scores, gamma=1.5, alpha=0.5):
    correct = np.where(labels == 1, scores, 1 - scores)
    weight = np.where(labels == 1, alpha, 1 - alpha)
    return np.mean(-weight * (1 - correct) ** gamma * np.log(correct))


@pytest.mark.parametrize(("gamma", "alpha"), [(1.5, 0.5), (2.0, 0.25), (0.0, 0.5)])
def test_focal_loss_equals_the_formula_on_scores(gamma, alpha):
    scores = 1 / (1 + np.exp(-LOGITS.astype(np.float64)))
    expected = notebook_focal_loss(LABELS, scores, gamma, alpha)
    loss = FocalLoss(gamma=gamma, alpha=alpha)
    assert float(loss(LABELS, LOGITS)) == pytest.approx(expected, abs=1e-6)


def test_focal_loss_equals_keras():
    expected = keras.losses.BinaryFocalCrossentropy(
        apply_class_balancing=True, alpha=0.25, gamma=2.0, from_logits=True
    )(LABELS, LOGITS)
    value = FocalLoss(gamma=2.0, alpha=0.25)(LABELS, LOGITS)
    assert float(value) == pytest.approx(float(expected), abs=1e-6)


def test_focal_loss_stays_finite_for_extreme_logits():
    logits = tf.Variable([[-80.0], [80.0], [80.0]])
    labels = np.array([[0], [1], [0]], np.int32)
    with tf.GradientTape() as tape:
        loss = FocalLoss(gamma=0.5, alpha=0.5)(labels, logits)
    assert np.isfinite(float(loss))
    assert np.isfinite(tape.gradient(loss, logits).numpy()).all()


@pytest.mark.parametrize(
    "settings",
    [
        {"loss": "focal"},
        {"label_smoothing": 0.1},
        {"class_weights": (0.5, 3.0)},
        {"task": "grades"},
        {"task": "grades", "loss": "mse"},
        {"task": "grades", "loss": "coral"},
    ],
)
def test_integer_labels_give_the_loss_of_float_labels(settings):
    loss = build_loss(TrainConfig(**settings))
    logits = np.repeat(LOGITS, 5, axis=1) if "task" in settings else LOGITS
    expected = loss.call(LABELS, logits).numpy()
    assert (loss.call(LABELS.astype(np.int64), logits).numpy() == expected).all()


def test_the_loss_follows_the_config():
    assert isinstance(build_loss(TrainConfig(loss="focal")), FocalLoss)
    crossentropy = build_loss(TrainConfig())
    scores = 1 / (1 + np.exp(-LOGITS))
    expected = -np.mean(np.log(np.where(LABELS == 1, scores, 1 - scores)))
    assert float(crossentropy(LABELS, LOGITS)) == pytest.approx(expected, abs=1e-6)


def test_label_smoothing_moves_labels_to_the_middle():
    smoothed = build_loss(TrainConfig(label_smoothing=0.2))
    expected = build_loss(TrainConfig())(LABELS * 0.8 + 0.1, LOGITS)
    assert float(smoothed(LABELS, LOGITS)) == pytest.approx(float(expected), abs=1e-6)


@pytest.mark.parametrize("name", ["crossentropy", "focal"])
def test_class_weights_equal_sample_weights_of_keras(name):
    config = TrainConfig(loss=name, class_weights=(0.5, 3.0))
    plain = build_loss(TrainConfig(loss=name))
    each = np.where(LABELS[:, 0] == 1, 3.0, 0.5)
    expected = plain(LABELS, LOGITS, sample_weight=each)
    value = build_loss(config)(LABELS, LOGITS)
    assert float(value) == pytest.approx(float(expected), abs=1e-6)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_the_loss_of_grades_is_softmax_crossentropy(smoothing):
    logits = np.random.default_rng(0).normal(size=(5, 5)).astype(np.float32)
    grades = np.array([[0], [4], [2], [2], [1]], np.int32)
    probabilities = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    targets = np.eye(5)[grades[:, 0]] * (1 - smoothing) + smoothing / 5
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


def random_grades():
    """Return logits of grades, their probabilities, and labels."""
    logits = 3 * np.random.default_rng(0).normal(size=(5, 5)).astype(np.float32)
    probabilities = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    return logits, probabilities, np.array([[0], [4], [2], [3], [1]])


def test_the_mse_is_the_squared_error_of_the_expected_grade():
    logits, probabilities, grades = random_grades()
    expected = (probabilities @ np.arange(5) - grades[:, 0]) ** 2
    loss = build_loss(TrainConfig(task="grades", loss="mse"))
    assert loss.call(grades, logits).numpy() == pytest.approx(expected, abs=1e-5)


def test_coral_sums_the_crossentropy_of_reaching_each_grade():
    logits, probabilities, grades = random_grades()
    expected = np.zeros(5)
    for grade in range(1, 5):
        reached = probabilities[:, grade:].sum(axis=1)
        is_true = grades[:, 0] >= grade
        expected -= np.log(np.where(is_true, reached, 1 - reached))
    loss = build_loss(TrainConfig(task="grades", loss="coral"))
    assert loss.call(grades, logits).numpy() == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize("name", ["mse", "coral"])
def test_class_weights_multiply_the_losses_of_ordered_grades(name):
    logits, _, grades = random_grades()
    plain = build_loss(TrainConfig(task="grades", loss=name))
    weights = (1.0, 0.0, 2.0, 1.0, 3.0)
    weighted = build_loss(TrainConfig(task="grades", loss=name, class_weights=weights))
    assert weighted.call(grades, logits).numpy() == pytest.approx(
        plain.call(grades, logits).numpy() * np.array([1, 3, 2, 1, 0])
    )
