import keras
import numpy as np
import pytest

import drtf
from drtf.errors import DrtfError, RunError
from drtf.export.export import export
from drtf.tasks import TASKS
from drtf.training.own_model import build_own_network
from naming import raises_naming

SIZE = 32


def build_nested_model() -> keras.Model:
    """Build a model whose backbone is a nested model, as Keras's examples do."""
    inner = keras.Sequential(
        [
            keras.Input((SIZE, SIZE, 3)),
            keras.layers.Conv2D(8, 3, padding="same", activation="relu"),
            keras.layers.MaxPooling2D(),
            keras.layers.Conv2D(8, 3, padding="same"),
            keras.layers.BatchNormalization(),
            keras.layers.ReLU(),
        ]
    )
    image = keras.Input((SIZE, SIZE, 3))
    x = inner(keras.layers.Rescaling(1 / 255)(image))
    x = keras.layers.GlobalAveragePooling2D()(x)
    return keras.Model(image, keras.layers.Dense(1, activation="sigmoid")(x))


@pytest.fixture
def pixels() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (4, SIZE, SIZE, 3)).astype("f4")


def test_the_network_predicts_as_the_model_when_it_takes_pixels(pixels):
    model = build_nested_model()
    network = build_own_network(
        model, TASKS["binary"], image_size=SIZE, takes_unit_range=False
    )
    assert not [x for x in network.layers if isinstance(x, keras.Model)]
    assert np.asarray(network(pixels / 255)) == pytest.approx(
        np.asarray(model(pixels)), abs=1e-6
    )


@pytest.mark.parametrize("ending", ["logits", "activation", "softmax", "layer"])
def test_the_network_predicts_as_the_model_however_it_ends(ending, pixels):
    image = keras.Input((SIZE, SIZE, 3))
    x = keras.layers.GlobalAveragePooling2D()(keras.layers.Conv2D(8, 3)(image))
    if ending == "softmax":
        output = keras.layers.Dense(5, activation="softmax")(x)
    elif ending == "layer":
        output = keras.layers.Softmax()(keras.layers.Dense(5)(x))
    else:
        output = keras.layers.Dense(5)(x)
    if ending == "activation":
        output = keras.layers.Activation("softmax")(output)
    model = keras.Model(image, output)
    network = build_own_network(
        model, TASKS["grades"], image_size=SIZE, takes_unit_range=True
    )
    expected = model(pixels / 255)
    if ending == "logits":
        expected = keras.ops.softmax(expected)
    assert np.asarray(network(pixels / 255)) == pytest.approx(
        np.asarray(expected), abs=1e-6
    )
    logits = keras.Model(network.input, network.get_layer("logits").output)
    assert np.asarray(keras.ops.softmax(logits(pixels / 255))) == pytest.approx(
        np.asarray(expected), abs=1e-6
    )


@pytest.mark.parametrize(
    ("shape", "num_outputs", "task"),
    [
        ((64, 64, 3), 1, "binary"),
        ((SIZE, SIZE, 1), 1, "binary"),
        ((SIZE, SIZE, 3), 2, "binary"),
        ((SIZE, SIZE, 3), 1, "grades"),
    ],
)
def test_a_model_that_does_not_fit_is_refused(shape, num_outputs, task):
    image = keras.Input(shape)
    x = keras.layers.GlobalAveragePooling2D()(image)
    model = keras.Model(image, keras.layers.Dense(num_outputs)(x))
    with raises_naming(RunError, shape, (num_outputs,), repr(task)):
        build_own_network(model, TASKS[task], image_size=SIZE, takes_unit_range=True)


def test_a_saved_model_can_be_evaluated_scored_explained_and_exported(
    shards, photographs, tmp_path
):
    model = build_nested_model()
    with drtf.open_dataset(shards) as dataset:
        batches = drtf.train_dataset(dataset, batch_size=8, epochs=2)
        model.compile("adam", "binary_crossentropy")
        model.fit(
            batches.map(lambda x: (x["image"], x["label"])), shuffle=False, verbose=0
        )
        run = drtf.save_run(model, dataset, str(tmp_path / "run"))
    assert run.config.model.name == "own-model"
    config = drtf.load_config("", ["evaluate.num_resamples=200"])
    result = drtf.evaluate(run, shards, tmp_path / "evaluation", config=config)
    assert 0 <= result.metrics["roc_auc"].value <= 1
    assert "own-model" in (tmp_path / "evaluation" / "report.html").read_text()
    report = drtf.score(run, photographs / "images", tmp_path / "scores.csv")
    assert report.summary.num_scored == len(list((photographs / "images").iterdir()))
    explained = drtf.explain(run, tmp_path / "maps", shards=shards)
    assert all(path.exists() for path in explained.figures)
    target = tmp_path / "model.tflite"
    export(tmp_path / "run", shards, out=target, target="tflite")
    assert target.exists()


def test_a_saved_model_cannot_be_trained_again_by_name(shards, tmp_path):
    config = drtf.load_config("", ["model.name=own-model", "model.weights=none"])
    with raises_naming(DrtfError, "model.name", "'own-model'"):
        drtf.train(shards, tmp_path / "run", config=config)
