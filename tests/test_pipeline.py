import numpy as np
import pytest

from drtf.config import SamplingConfig
from drtf.data.build import build_shards
from drtf.data.pipeline import (
    count_steps,
    eval_dataset,
    read_batch,
    record_errors,
    train_dataset,
)
from drtf.data.sampling import plan_epoch
from drtf.data.sources import Source
from drtf.errors import RecordError
from drtf.records.reader import ShardSet

COMMON = {"split": "train", "task": "binary", "sampling": SamplingConfig()}


def batches(shard_set, **changes):
    settings = COMMON | {"batch_size": 6, "epochs": 2, "seed": 3} | changes
    return list(train_dataset(shard_set, **settings).as_numpy_iterator())


def test_batches_follow_the_planned_order(shard_set):
    rows = shard_set.find_rows("train")
    classes = (shard_set.index["grade"][rows] > 0).astype(int).to_numpy()
    order = np.concatenate(
        [plan_epoch(classes, SamplingConfig(), seed=3, epoch=e) for e in (0, 1)]
    )
    streamed = np.concatenate([batch["row"] for batch in batches(shard_set)])
    assert (streamed == rows[order]).all()


def test_images_and_labels_belong_to_their_rows(shard_set):
    for batch in batches(shard_set):
        assert (batch["image"] == read_batch(shard_set, batch["row"])).all()
        grades = shard_set.index["grade"].to_numpy()[batch["row"]]
        assert (batch["label"] == (grades > 0)).all()


def test_steps_are_counted_with_the_last_smaller_batch(shard_set):
    steps = count_steps(shard_set, batch_size=6, **COMMON)
    streamed = batches(shard_set)
    assert len(streamed) == 2 * steps
    assert len(streamed[steps - 1]["row"]) < 6


def test_a_photograph_that_comes_again_has_another_seed(shard_set):
    seeds = np.concatenate([batch["seed"] for batch in batches(shard_set)])
    assert len(np.unique(seeds, axis=0)) == len(seeds)


def test_seeds_do_not_depend_on_the_batch_size(shard_set):
    small = np.concatenate([b["seed"] for b in batches(shard_set, batch_size=2)])
    large = np.concatenate([b["seed"] for b in batches(shard_set, batch_size=9)])
    assert (small == large).all()


def test_equal_seeds_stream_equal_batches(shard_set):
    for first, again in zip(batches(shard_set), batches(shard_set), strict=True):
        assert all((first[key] == again[key]).all() for key in first)


@pytest.mark.parametrize("batch_size", [1, 4, 1000])
def test_evaluation_gives_each_photograph_once_and_masks_the_padding(
    shard_set, batch_size
):
    dataset = eval_dataset(
        shard_set, split="test", task="binary", batch_size=batch_size
    )
    rows = []
    for batch in dataset.as_numpy_iterator():
        assert batch["image"].shape == (batch_size, 32, 32, 3)
        assert (batch["row"][~batch["mask"]] == -1).all()
        assert not batch["image"][~batch["mask"]].any()
        rows.append(batch["row"][batch["mask"]])
    assert (np.concatenate(rows) == shard_set.find_rows("test")).all()


def test_encoded_images_are_decoded(photographs, shard_set, tmp_path, config):
    png = config.build.model_copy(update={"encoding": "png"})
    build_shards(
        [Source(photographs / "images", photographs / "labels.csv")],
        out=tmp_path / "png",
        config=config.model_copy(update={"build": png}),
    )
    rows = np.array([3, 1, 40])
    with ShardSet(tmp_path / "png") as opened:
        assert (read_batch(opened, rows) == read_batch(shard_set, rows)).all()


def test_a_damaged_record_stops_the_stream_and_is_named(shard_set, monkeypatch):
    def cut(file, buffers, offset):
        return 5

    monkeypatch.setattr("drtf.records.reader.os.preadv", cut)
    with (
        pytest.raises(
            RecordError, match=r"^shard .*train\.tfrecord-.*drtf verify \S+$"
        ),
        record_errors(),
    ):
        batches(shard_set)
