import gc
import json
import shutil
import subprocess
import sys
import threading
import time
import warnings
from dataclasses import asdict

import keras
import numpy as np
import pytest
import tensorflow as tf

from drtf.building.build import build_shards
from drtf.config import SamplingConfig
from drtf.data.loader import Loader, read_batch
from drtf.data.pipeline import StreamPosition, eval_dataset, train_dataset
from drtf.data.sampling import plan_epoch
from drtf.data.sampling_groups import group_photographs
from drtf.data.stream import translate_record_errors
from drtf.errors import RecordError
from drtf.labels.sources import Source
from drtf.records.reader import ShardDataset
from naming import assert_names, raises_naming

COMMON = {"split": "train", "task": "binary", "sampling": SamplingConfig()}


def batches(shard_dataset, **changes):
    settings = (
        COMMON | {"batch_size": 6, "epochs": 2, "start": StreamPosition(3)} | changes
    )
    return list(train_dataset(shard_dataset, **settings).as_numpy_iterator())


def test_batches_follow_the_planned_order(shard_dataset):
    rows = shard_dataset.split_rows("train")
    classes = (shard_dataset.load_index()["grade"][rows] > 0).astype(int).to_numpy()
    order = np.concatenate(
        [plan_epoch(classes, SamplingConfig(), seed=3, epoch=e) for e in (0, 1)]
    )
    streamed = np.concatenate([batch["row"] for batch in batches(shard_dataset)])
    assert (streamed == rows[order]).all()


def test_batches_have_each_group_equally_often_when_sampling_names_a_column(
    shard_dataset,
):
    sampling = SamplingConfig(by=("class", "eye"))
    is_left = shard_dataset.load_index(["id"])["id"].str.endswith("left").to_numpy()
    streamed = batches(shard_dataset, sampling=sampling, batch_size=4, epochs=1)
    for batch in streamed[:-1]:
        cells = 2 * batch["label"] + is_left[batch["row"]]
        assert sorted(cells.tolist()) == [0, 1, 2, 3]
    groups = group_photographs(shard_dataset, **COMMON | {"sampling": sampling})
    assert len(streamed) == groups.count_steps(4)


def test_a_stream_continues_within_a_window_of_shards(shard_dataset):
    sampling = SamplingConfig(window_shards=1)
    whole = batches(shard_dataset, sampling=sampling)
    rows = shard_dataset.split_rows("train")
    classes = (shard_dataset.grades[rows] > 0).astype(int)
    order = plan_epoch(
        classes,
        sampling,
        seed=3,
        epoch=0,
        shard_numbers=shard_dataset.shard_numbers(rows),
    )
    streamed = np.concatenate([batch["row"] for batch in whole])
    assert (streamed[: len(order)] == rows[order]).all()
    start = StreamPosition(3, epoch=1, step=2)
    assert same(whole[6 + 2 :], batches(shard_dataset, sampling=sampling, start=start))


def test_images_and_labels_belong_to_their_rows(shard_dataset):
    for batch in batches(shard_dataset):
        assert (batch["image"] == read_batch(shard_dataset, batch["row"])).all()
        grades = shard_dataset.load_index()["grade"].to_numpy()[batch["row"]]
        assert batch["label"].dtype == np.int64
        assert (batch["label"] == (grades > 0)).all()


def test_count_steps_includes_the_smaller_last_batch(shard_dataset):
    steps = group_photographs(shard_dataset, **COMMON).count_steps(6)
    streamed = batches(shard_dataset)
    assert len(streamed) == 2 * steps
    assert len(streamed[steps - 1]["row"]) < 6


def test_seeds_differ_when_a_photograph_is_repeated(shard_dataset):
    seeds = np.concatenate([batch["seed"] for batch in batches(shard_dataset)])
    assert len(np.unique(seeds, axis=0)) == len(seeds)


def test_seeds_do_not_depend_on_the_batch_size(shard_dataset):
    small = np.concatenate([b["seed"] for b in batches(shard_dataset, batch_size=2)])
    large = np.concatenate([b["seed"] for b in batches(shard_dataset, batch_size=9)])
    assert (small == large).all()


def test_equal_seeds_stream_equal_batches(shard_dataset):
    for first, again in zip(
        batches(shard_dataset), batches(shard_dataset), strict=True
    ):
        assert all((first[key] == again[key]).all() for key in first)


@pytest.mark.parametrize("batch_size", [1, 4, 1000])
def test_eval_dataset_gives_each_photograph_once_and_masks_the_padding(
    shard_dataset, batch_size
):
    dataset = eval_dataset(
        shard_dataset, split="test", task="binary", batch_size=batch_size
    )
    rows = []
    for batch in dataset.as_numpy_iterator():
        assert batch["image"].shape == (batch_size, 32, 32, 3)
        assert (batch["row"][~batch["mask"]] == -1).all()
        assert not batch["image"][~batch["mask"]].any()
        rows.append(batch["row"][batch["mask"]])
    assert (np.concatenate(rows) == shard_dataset.split_rows("test")).all()


def test_encoded_images_are_decoded(photographs, shard_dataset, tmp_path, config):
    png = config.build.model_copy(update={"encoding": "png"})
    build_shards(
        [Source(photographs / "images", photographs / "labels.csv")],
        out=tmp_path / "png",
        config=config.model_copy(update={"build": png}),
    )
    rows = np.array([3, 1, 40])
    with ShardDataset(tmp_path / "png") as opened:
        assert (read_batch(opened, rows) == read_batch(shard_dataset, rows)).all()
        assert read_batch(opened, rows[:0]).shape == (0, 32, 32, 3)
        # With a batch of one, only one core has an image to decode.
        single = eval_dataset(opened, split="test", batch_size=1)
        assert [int(batch["row"][0]) for batch in single] == [
            *shard_dataset.split_rows("test")
        ]


@pytest.mark.parametrize("num_parts", [1, 2, 4, 8])
def test_the_parts_joined_are_the_whole_batch(shard_dataset, num_parts):
    parts = [
        batches(shard_dataset, batch_size=9, parts=[part], num_parts=num_parts)
        for part in range(num_parts)
    ]
    whole = batches(shard_dataset, batch_size=9)
    for key in whole[0]:
        joined = [part[key] for step in zip(*parts, strict=True) for part in step]
        expected = np.concatenate([batch[key] for batch in whole])
        assert (np.concatenate(joined) == expected).all()


def test_a_last_batch_too_small_for_all_parts_is_merged_into_the_one_before(
    shard_dataset,
):
    # 32 photographs are drawn: with batches of 31 one is left over.
    assert [len(x["row"]) for x in batches(shard_dataset, batch_size=31, epochs=1)] == [
        31,
        1,
    ]
    parts = batches(shard_dataset, batch_size=31, epochs=1, parts=range(2), num_parts=2)
    assert [len(x["row"]) for x in parts] == [16, 16]


def test_several_parts_of_a_batch_alternate(shard_dataset):
    each = [batches(shard_dataset, parts=[part], num_parts=4) for part in (2, 3)]
    both = batches(shard_dataset, parts=[2, 3], num_parts=4)
    assert len(both) == 2 * len(each[0])
    for number, part in enumerate(both):
        expected = each[number % 2][number // 2]
        assert all((part[key] == expected[key]).all() for key in expected)


def same(first, again):
    """Whether two lists of batches are equal in all their parts."""
    return len(first) == len(again) and all(
        (one[key] == other[key]).all()
        for one, other in zip(first, again, strict=True)
        for key in one
    )


@pytest.mark.parametrize("step", [0, 2, 6])
@pytest.mark.parametrize("epochs", [None, 3])
def test_each_pass_continues_with_the_next_epochs(shard_dataset, step, epochs):
    start = StreamPosition(3, 1, step)
    dataset = train_dataset(shard_dataset, batch_size=6, epochs=epochs, start=start)
    passes = [list(dataset.as_numpy_iterator()) for _ in range(3)]
    length = 18 - (6 + step) if epochs else 6
    assert [len(x) for x in passes] == [length] * 3
    whole = batches(shard_dataset, epochs=9)[6 + step :]
    assert same([batch for x in passes for batch in x], whole[: 3 * length])


def test_iterators_at_the_same_time_read_different_epochs(shard_dataset):
    dataset = train_dataset(shard_dataset, batch_size=6, start=StreamPosition(3))
    unused = iter(dataset)  # begins no pass
    pairs = list(zip(*[dataset.as_numpy_iterator() for _ in range(2)], strict=True))
    del unused
    whole = batches(shard_dataset)
    assert same([first for first, _ in pairs], whole[:6])
    assert same([second for _, second in pairs], whole[6:])


def planned_seeds(shard_dataset, epochs):
    """Return the seeds of each batch, as Keras's layers get them."""
    whole = batches(shard_dataset, epochs=epochs)
    return [batch["seed"].astype(np.float32).tolist() for batch in whole]


class SeedRecorder(keras.layers.Layer):
    """Remembers the seeds of each batch."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def call(self, seeds):
        def remember(values):
            self.seen.append(values.copy())
            return np.float32(0)

        tf.numpy_function(remember, [seeds], tf.float32)
        return tf.cast(seeds[:, :1], tf.float32)


def fit_and_record(dataset, **arguments):
    """Train a model that only remembers the batches' seeds; return them."""
    layer = SeedRecorder()
    model = keras.Sequential([layer, keras.layers.Dense(1)])
    model.compile("sgd", "mse", run_eagerly=True)
    pairs = dataset.map(lambda x: (x["seed"], tf.cast(x["label"], tf.float32)))
    with warnings.catch_warnings(action="ignore"):
        model.fit(pairs.prefetch(2), verbose=0, shuffle=False, **arguments)
    return layer.seen


@pytest.mark.parametrize(
    ("start", "epochs", "arguments", "num_batches"),
    [
        (StreamPosition(3), None, {"epochs": 3}, 18),
        (StreamPosition(3), 2, {"epochs": 2}, 24),
        # Keras ends an epoch early where its steps do not divide the pass.
        (StreamPosition(3), None, {"epochs": 4, "steps_per_epoch": 4}, 12),
        (StreamPosition(3, 1, 2), None, {"epochs": 3}, 18),
        (StreamPosition(3, 1), None, {"epochs": 3, "initial_epoch": 1}, 12),
    ],
    ids=["epochs", "passes of two", "steps_per_epoch", "resumed", "initial_epoch"],
)
def test_keras_fit_trains_the_epochs_in_turn(
    shard_dataset, start, epochs, arguments, num_batches
):
    dataset = train_dataset(shard_dataset, batch_size=6, epochs=epochs, start=start)
    val = eval_dataset(shard_dataset, split="val", batch_size=6).map(
        lambda x: (tf.zeros([6, 2], tf.int32), tf.cast(x["label"], tf.float32))
    )
    seen = fit_and_record(dataset, **arguments, validation_data=val)
    trained = [seeds for seeds in seen if seeds.any()]
    first = 6 * start.epoch + start.step
    expected = planned_seeds(shard_dataset, 6)[first : first + num_batches]
    assert [x.tolist() for x in trained] == expected


def test_keras_fit_trains_any_number_of_steps_when_the_dataset_repeats(shard_dataset):
    dataset = train_dataset(shard_dataset, batch_size=6, start=StreamPosition(3))
    seen = fit_and_record(dataset.repeat(), epochs=3, steps_per_epoch=4)
    assert [x.tolist() for x in seen] == planned_seeds(shard_dataset, 2)


@pytest.mark.parametrize("num_taken", [0, 1, 5, 6])
def test_a_stream_continues_from_its_position(shard_dataset, num_taken):
    num_steps = group_photographs(shard_dataset, **COMMON).count_steps(6)
    whole = batches(shard_dataset, epochs=4, start=StreamPosition(3, epoch=1))
    saved = json.dumps(asdict(StreamPosition(3, epoch=1).advance(num_taken)))
    rest = batches(shard_dataset, epochs=4, start=StreamPosition(**json.loads(saved)))
    assert num_steps == 6
    assert len(rest) == 3 * num_steps - num_taken
    for first, again in zip(whole[num_taken:], rest, strict=True):
        assert all((first[key] == again[key]).all() for key in first)


@pytest.mark.parametrize("window_shards", [0, 1])
def test_partners_are_a_stream_of_their_own(shard_dataset, window_shards):
    sampling = SamplingConfig(mode="natural", window_shards=window_shards)
    partners = sampling.model_copy(update={"mode": "balanced"})
    common = {"sampling": sampling, "epochs": 40}
    plain = batches(shard_dataset, **common)
    mixed = batches(shard_dataset, **common, partners=partners)
    fractions = {"label": [], "partner_label": []}
    for unmixed, batch in zip(plain, mixed, strict=True):
        assert all((unmixed[name] == batch[name]).all() for name in unmixed)
        assert len(batch["partner_label"]) == len(batch["label"])
        images = read_batch(shard_dataset, batch["partner_row"])
        assert (images == batch["partner_image"]).all()
        positive = shard_dataset.grades[batch["partner_row"]] > 0
        assert (positive == batch["partner_label"]).all()
        assert (batch["partner_seed"] != batch["seed"])[:, 0].all()
        for name, labels in fractions.items():
            labels.extend(batch[name])
    rows = shard_dataset.split_rows("train")
    natural = (shard_dataset.grades[rows] > 0).mean()
    assert np.mean(fractions["label"]) == pytest.approx(natural)
    assert np.mean(fractions["partner_label"]) == pytest.approx(0.5, abs=0.02)
    # Both streams have their classes at fixed places, but pairs are of any classes.
    pairs = np.stack(list(fractions.values()), axis=1)
    _, counts = np.unique(pairs, axis=0, return_counts=True)
    assert counts.min() > 0.3 * len(pairs) * 0.5 * min(natural, 1 - natural)
    if window_shards:
        shards = [
            shard_dataset.shard_numbers(np.concatenate([x[name] for x in mixed[:2]]))
            for name in ("row", "partner_row")
        ]
        assert set(shards[1]) <= set(shards[0])


def test_partners_are_the_same_for_any_parts_and_after_a_resume(shard_dataset):
    rows = shard_dataset.split_rows("train")
    targets = np.random.default_rng(0).random(len(rows), np.float32)
    groups = SamplingConfig(by=("class", "eye"))
    common = {"partners": SamplingConfig(), "targets": targets, "sampling": groups}
    whole = batches(shard_dataset, **common)
    for batch in whole:
        for prefix in ("", "partner_"):
            places = np.searchsorted(rows, batch[f"{prefix}row"])
            assert (batch[f"{prefix}target"] == targets[places]).all()
    parts = batches(shard_dataset, **common, parts=range(2), num_parts=2)
    for number, batch in enumerate(whole):
        joined = parts[2 * number : 2 * number + 2]
        for name, values in batch.items():
            assert (values == np.concatenate([part[name] for part in joined])).all()
    rest = batches(shard_dataset, **common, start=StreamPosition(3, 1, 2))
    for batch, again in zip(whole[-len(rest) :], rest, strict=True):
        assert all((batch[name] == again[name]).all() for name in batch)


@pytest.mark.parametrize(
    ("changes", "facts"),
    [
        ({"batch_size": 0}, ["batch_size=0"]),
        ({"parts": [2], "num_parts": 2}, ["parts=[2]", "num_parts=2"]),
        ({"parts": [-1]}, ["parts=[-1]", "num_parts=1"]),
        ({"parts": []}, ["parts=[]"]),
        ({"num_parts": 0}, ["num_parts=0"]),
        ({"start": StreamPosition(3, 0, 7)}, ["step=7", "6 steps"]),
    ],
)
def test_train_dataset_is_refused_when_the_step_or_part_does_not_exist(
    shard_dataset, changes, facts
):
    with raises_naming(ValueError, *facts):
        batches(shard_dataset, **changes)


def test_a_position_is_refused_when_negative():
    with raises_naming(ValueError, "epoch=-1"):
        StreamPosition(3, -1)


def test_the_error_names_the_dataset_when_it_was_closed(shards):
    with ShardDataset(shards) as shard_dataset:
        dataset = train_dataset(shard_dataset, batch_size=6)
        next(iter(dataset))
    with raises_naming(RecordError, shards) as error, translate_record_errors():
        list(dataset)
    assert type(error.value) is RecordError  # nothing is damaged
    with raises_naming(tf.errors.UnknownError, "RecordError", shards, "with") as error:
        list(dataset)
    # The sentence comes first, and none of drtf's calls below the pipeline follow.
    first, *others = str(error.value).splitlines()
    assert_names(first, "RecordError", shards)
    assert not any("loader.py" in line or "reader.py" in line for line in others)


def test_loaders_and_threads_end_with_their_dataset(shard_dataset):
    def count_loaders() -> int:
        gc.collect()
        return sum(isinstance(x, Loader) for x in gc.get_objects())

    def count_threads() -> int:  # ours; TensorFlow keeps its own
        names = [thread.name for thread in threading.enumerate()]
        return sum(name.startswith("ThreadPoolExecutor") for name in names)

    num_loaders, num_threads = count_loaders(), count_threads()
    for _ in range(3):
        list(train_dataset(shard_dataset, batch_size=6))
        next(iter(train_dataset(shard_dataset, batch_size=6, epochs=99)))
        list(eval_dataset(shard_dataset))
    assert count_loaders() <= num_loaders
    end = time.monotonic() + 10
    while count_threads() > num_threads and time.monotonic() < end:
        time.sleep(0.1)  # they end when nothing refers to them
    assert count_threads() <= num_threads


def test_batches_are_not_overwritten_while_they_are_held(shard_dataset):
    kept = list(train_dataset(shard_dataset, batch_size=6, epochs=10))
    for batch in kept:
        expected = read_batch(shard_dataset, batch["row"].numpy())
        assert (batch["image"].numpy() == expected).all()


def test_memory_is_reused_after_a_batch_is_released(shard_dataset):
    addresses = set()
    for batch in train_dataset(
        shard_dataset, batch_size=6, epochs=30
    ).as_numpy_iterator():
        addresses.add(batch["image"].ctypes.data)
    assert len(addresses) < 20


@pytest.fixture
def damaged_dataset(shards, tmp_path):
    """A dataset whose third record is damaged."""
    folder = shutil.copytree(shards, tmp_path / "damaged")
    with ShardDataset(folder) as whole:
        row = whole.load_index().iloc[2]
        path = folder / whole.manifest.shards[0].file
    data = bytearray(path.read_bytes())
    data[row.offset + row.length // 2] ^= 4
    path.write_bytes(data)
    with ShardDataset(folder) as opened:
        yield opened


def test_the_error_names_the_record_when_it_is_damaged(damaged_dataset):
    folder = damaged_dataset.folder
    shard = folder / damaged_dataset.manifest.shards[0].file
    facts = (shard, "record 2", f"drtf verify {folder}")
    with raises_naming(RecordError, *facts), translate_record_errors():
        batches(damaged_dataset)


def test_skip_replaces_a_damaged_record_by_one_of_its_class(
    damaged_dataset, shard_dataset, caplog
):
    sampling = SamplingConfig(on_damaged="skip")
    skipping = batches(damaged_dataset, sampling=sampling)
    rows, classes = shard_dataset.split_rows("train"), shard_dataset.grades > 0
    same_class = rows[classes[rows] == classes[2]]
    replacement = same_class[np.searchsorted(same_class, 2) + 1]
    for batch, whole in zip(skipping, batches(shard_dataset), strict=True):
        expected = np.where(whole["row"] == 2, replacement, whole["row"])
        assert (batch["row"] == expected).all()
        assert (batch["label"] == whole["label"]).all()
        assert (batch["image"] == read_batch(shard_dataset, expected)).all()
    assert list(damaged_dataset.damaged) == [2]
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    shard = damaged_dataset.folder / damaged_dataset.manifest.shards[0].file
    assert_names(caplog.messages[0], shard, "record 2")


def test_eval_dataset_masks_damaged_records_when_skipping(damaged_dataset):
    dataset = eval_dataset(
        damaged_dataset, split="train", batch_size=8, on_damaged="skip"
    )
    masked = np.concatenate([batch["mask"] for batch in dataset.as_numpy_iterator()])
    rows = np.concatenate([batch["row"] for batch in dataset.as_numpy_iterator()])
    assert (masked == ((rows != 2) & (rows >= 0))).all()


def test_eval_dataset_skips_when_no_record_of_the_class_is_intact(damaged_dataset):
    positive = np.flatnonzero(damaged_dataset.grades > 0)
    damaged_dataset.damaged |= dict.fromkeys(positive.tolist(), "")
    dataset = eval_dataset(damaged_dataset, split="test", on_damaged="skip")
    (batch,) = dataset
    assert (batch["label"].numpy()[batch["mask"]] == 0).all()
    assert 0 < batch["mask"].numpy().sum() < len(damaged_dataset.split_rows("test"))


def test_a_record_skipped_before_is_an_error_in_a_stream_that_does_not_skip(
    damaged_dataset,
):
    batches(damaged_dataset, sampling=SamplingConfig(on_damaged="skip"))
    with raises_naming(RecordError, "record 2"), translate_record_errors():
        batches(damaged_dataset)


def test_the_error_names_the_dataset_when_all_records_of_a_class_are_damaged(
    damaged_dataset,
):
    damaged_dataset.damaged |= dict.fromkeys(
        np.flatnonzero(damaged_dataset.grades == 0), ""
    )
    folder = damaged_dataset.folder
    with (
        raises_naming(RecordError, f"drtf verify {folder}") as error,
        translate_record_errors(),
    ):
        batches(damaged_dataset, sampling=SamplingConfig(on_damaged="skip"))
    assert damaged_dataset.manifest.shards[0].file not in str(error.value)


TEN_EPOCHS = """
import re, sys
from pathlib import Path
from drtf.data.pipeline import train_dataset
from drtf.records.reader import ShardDataset

def anonymous():
    status = Path("/proc/self/status").read_text()
    return int(re.search(r"RssAnon:\\s+(\\d+)", status)[1])

with ShardDataset(Path(sys.argv[1])) as shards:
    sizes = []
    for number, _ in enumerate(train_dataset(shards, batch_size=8, epochs=600)):
        if number % 600 == 599:
            sizes.append(anonymous())
print(*sizes)
"""


def test_memory_does_not_grow_with_the_epochs(shards):
    done = subprocess.run(
        [sys.executable, "-c", TEN_EPOCHS, shards],
        capture_output=True,
        text=True,
        check=True,
    )
    first, *_, last = map(int, done.stdout.split())
    # A batch has 25 kB; the epochs in between have more than 50 MB.
    assert last - first < 5_000


UNFINISHED = """
import sys
from pathlib import Path
from drtf.data.pipeline import train_dataset
from drtf.records.reader import ShardDataset

shards = ShardDataset(Path(sys.argv[1]))
batches = iter(train_dataset(shards, batch_size=40, epochs=10_000))
for _ in range(200):
    next(batches)
print("read")
"""


def test_python_exits_while_batches_are_being_read(shards, tmp_path):
    script = tmp_path / "unfinished.py"
    script.write_text(UNFINISHED)
    done = subprocess.run(
        [sys.executable, script, shards], capture_output=True, text=True
    )
    assert (done.returncode, done.stdout) == (0, "read\n"), done.stderr
