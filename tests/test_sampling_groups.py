import numpy as np
import pytest

from drtf.config import SamplingConfig, load_config
from drtf.data.sampling import plan_epoch
from drtf.data.sampling_groups import group_photographs
from drtf.errors import ConfigError, DrtfError
from drtf.tasks import TASKS
from naming import raises_naming


def group(shards, *by, task="binary", **sampling):
    config = SamplingConfig(by=by, **sampling)
    return group_photographs(shards, "train", task=task, sampling=config)


def train_index(shards):
    return shards.load_index(rows=shards.split_rows("train"))


def test_groups_are_the_classes_by_default(shard_dataset):
    classes = TASKS["grades"].classes(train_index(shard_dataset)["grade"].to_numpy())
    groups = group_photographs(
        shard_dataset, "train", task="grades", sampling=SamplingConfig()
    )
    assert groups.numbers.tolist() == classes.tolist()
    counts = np.bincount(classes, minlength=5).tolist()
    assert groups.num_photographs == counts
    assert groups.num_drawn == [max(counts) if count else 0 for count in counts]
    assert groups.num_drawn_by_class == groups.num_drawn


def test_groups_are_the_values_of_a_column(shard_dataset):
    index = train_index(shard_dataset)
    groups = group(shard_dataset, "grade")
    counts = index["grade"].value_counts().sort_index()
    assert groups.names == [f"grade {grade}" for grade in counts.index]
    assert groups.num_photographs == counts.tolist()
    assert set(groups.num_drawn) == {counts.max()}
    # All grades but 0 are of class 1 of the task.
    largest, others = counts.max(), len(counts) - 1
    assert groups.num_drawn_by_class == [largest, largest * others]


def test_classes_are_drawn_as_they_are_mixed_in_a_group(shard_dataset):
    groups = group(shard_dataset, "source")
    classes = np.minimum(train_index(shard_dataset)["grade"], 1)
    assert groups.num_drawn == [len(classes)]
    assert groups.num_drawn_by_class == np.bincount(classes).tolist()


def test_each_combination_of_several_columns_is_drawn_equally_often(shard_dataset):
    index = train_index(shard_dataset)
    groups = group(shard_dataset, "class", "eye")
    names = [f"class {x}, eye {eye}" for x in (0, 1) for eye in ("left", "right")]
    assert groups.names == names
    config = SamplingConfig(by=("class", "eye"))
    order = plan_epoch(groups.numbers, config, seed=1, epoch=0)
    cells = (index["grade"] > 0).map(str) + index["id"].str.split("_").str[1]
    for stretch in (order, *np.array_split(order, 5)):
        counts = cells[stretch].value_counts()
        assert len(counts) == 4
        assert counts.max() - counts.min() <= 1
    assert set(order) == set(range(len(index)))


def test_groups_are_refused_when_a_column_is_missing_or_there_are_too_many(
    shard_dataset,
):
    with raises_naming(DrtfError, "'camera'", "labels.keep_columns", "eye"):
        group(shard_dataset, "camera")
    many = "brightness:each", "contrast:each", "sharpness:each"
    with raises_naming(DrtfError, "sampling.by", 256):
        group(shard_dataset, *many)


@pytest.mark.parametrize("mode", ["natural", "weights"])
def test_groups_require_balanced_sampling(mode):
    settings = f"sampling.mode={mode}", "sampling.by=source"
    with raises_naming(ConfigError, "sampling.by", "sampling.mode", "'balanced'"):
        load_config("", settings)
