"""Adaptation: batch normalization is moved to photographs of another camera."""

import keras
import numpy as np
import pytest

import drtf
from drtf.adaptation.batch_norm import adapt
from drtf.errors import DrtfError, RunError
from drtf.models.run import load_run
from drtf.photographs.listing import list_photographs
from drtf.records.reader import ShardDataset
from drtf.scoring.photograph_scores import prepare_photographs
from drtf.training.own_model import save_run
from naming import assert_names, raises_naming


@pytest.fixture(scope="module")
def run(shards, config, save_rule, tmp_path_factory):
    """A run that normalizes its input, with a decision rule."""
    keras.utils.set_random_seed(3)
    norm = keras.layers.BatchNormalization(name="norm", trainable=False)
    model = keras.Sequential(
        [
            keras.Input((32, 32, 3)),
            norm,
            keras.layers.GlobalAveragePooling2D(),
            keras.layers.Dropout(0.9, name="dropout"),
            keras.layers.Dense(1),
        ]
    )
    norm.moving_mean.assign([0.1, 0.2, 0.3])
    norm.moving_variance.assign([1.0, 2.0, 3.0])
    out = tmp_path_factory.mktemp("runs") / "own"
    with ShardDataset(shards) as dataset:
        save_run(
            model,
            dataset,
            out,
            task="binary",
            takes_unit_range=True,
            sampling=config.sampling,
        )
    save_rule(out, 0.25)
    return out


def test_statistics_are_mixed_with_those_of_the_photographs(
    run, photographs, config, tmp_path
):
    before = load_run(run)
    images = photographs / "images"
    found = drtf.adapt(run, images, tmp_path / "new", config=config)
    refs = list_photographs(images).photographs
    prepared = prepare_photographs(before, refs, num_workers=1)
    pixels = np.stack([item.image for item in prepared]) / 255
    assert (found.num_photographs, found.num_rejected) == (len(refs), 0)
    assert (found.keeps_rule, found.drops_gate) == (True, False)
    assert_names(found._repr_html_(), len(refs), "drtf recalibrate")
    after = load_run(tmp_path / "new")
    norm, old = (x.network.get_layer("norm") for x in (after, before))
    mean, variance = pixels.mean(axis=(0, 1, 2)), pixels.var(axis=(0, 1, 2))
    expected = (np.array([0.1, 0.2, 0.3]) + mean) / 2
    assert norm.moving_mean.numpy() == pytest.approx(expected, abs=1e-3)
    expected = (np.array([1.0, 2.0, 3.0]) + variance) / 2
    assert norm.moving_variance.numpy() == pytest.approx(expected, abs=0.01)
    assert (norm.momentum, norm.trainable) == (old.momentum, old.trainable)
    assert after.network.get_layer("dropout").rate == 0.9
    for new, kept in zip(
        after.network.trainable_variables,
        before.network.trainable_variables,
        strict=True,
    ):
        assert (new.numpy() == kept.numpy()).all()
    rule = before.decision_rule.model_copy(
        update={"model_sha256": after.info.model_sha256}
    )
    assert after.decision_rule == rule
    assert after.info.num_adapted == len(refs)
    assert after.info.ancestors[0].model_sha256 == before.info.model_sha256
    assert f"{len(refs)} photographs" in after.describe()
    with raises_naming(DrtfError, tmp_path / "new"):
        adapt(run, images, out=tmp_path / "new", config=config.score)


def test_photographs_that_may_be_ungradable_are_not_used(
    run, photographs, config, tmp_path
):
    """The drawn photographs look like no fundus."""
    config = config.score.model_copy(update={"on_ungradable": "flag"})
    with raises_naming(DrtfError, photographs / "images", "30", "drtf score"):
        adapt(run, photographs / "images", out=tmp_path / "new", config=config)
    assert not (tmp_path / "new").exists()


def test_a_network_without_batch_normalization_is_refused(
    run_folder, photographs, config, tmp_path
):
    with raises_naming(RunError, run_folder, "batch normalization"):
        adapt(
            run_folder,
            photographs / "images",
            out=tmp_path / "new",
            config=config.score,
        )
