import itertools
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.model_selection import train_test_split

from drtf.config import SplitConfig
from drtf.errors import DrtfError
from drtf.labels.splits import find_split_folders, plan_splits
from naming import raises_naming

TRAIN_LABELS = Path(__file__).parents[2] / "shared/data/eyepacs-sample/trainLabels.csv"
NOTEBOOK = SplitConfig(
    by="image", stratify="binary", val_size=0.0, test_size=0.2, seed=42
)


def table_of(grades, patients=None, contents=None) -> pd.DataFrame:
    ids = [f"i{number}" for number in range(len(grades))]
    return pd.DataFrame(
        {
            "id": ids,
            "patient": ids if patients is None else patients,
            "grade": np.asarray(grades, np.int8),
            "content": ids if contents is None else contents,
            "published": "",
        }
    )


def both_eyes(num_patients: int, seed: int = 0) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    grades = rng.choice(5, 2 * num_patients, p=(0.7, 0.1, 0.1, 0.05, 0.05))
    return table_of(grades, [f"p{number // 2}" for number in range(2 * num_patients)])


def test_notebook_split_of_eyepacs_has_its_counts():
    grades = np.repeat(np.arange(5), (25_810, 2_443, 5_292, 873, 708))
    grades = np.random.default_rng(0).permutation(grades)
    splits = plan_splits(table_of(grades), NOTEBOOK).astype(str)
    assert splits.value_counts().to_dict() == {"train": 28_100, "test": 7_026}
    held_out = grades[splits == "test"]
    assert ((held_out == 0).sum(), (held_out > 0).sum()) == (5_163, 1_863)


@pytest.mark.skipif(not TRAIN_LABELS.exists(), reason="needs Kaggle's trainLabels.csv")
def test_notebook_split_equals_that_of_scikit_learn():
    labels = pd.read_csv(TRAIN_LABELS)
    patients = labels["image"].str.rsplit("_", n=1).str[0]
    table = labels.assign(
        id=labels["image"],
        grade=labels["level"],
        patient=patients,
        content=patients.index,
        published="",
    )
    splits = plan_splits(table, NOTEBOOK)
    _, expected = train_test_split(
        labels["image"], test_size=0.2, stratify=labels["level"] > 0, random_state=42
    )
    assert set(labels["image"][splits == "test"]) == set(expected)
    per_patient = splits.groupby(patients).nunique()
    assert (per_patient > 1).sum() == 5_660


def test_photographs_of_a_patient_share_a_split():
    table = both_eyes(300)
    splits = plan_splits(table, SplitConfig())
    assert splits.groupby(table["patient"]).nunique().max() == 1


def test_split_sizes_are_fractions_of_all_photographs():
    splits = plan_splits(both_eyes(300), SplitConfig(val_size=0.1, test_size=0.2))
    counts = splits.value_counts()
    assert (counts["train"], counts["val"], counts["test"]) == (420, 60, 120)


def test_splits_are_stratified_by_grade():
    grades = [0] * 600 + [1] * 200 + [4] * 100
    splits = plan_splits(table_of(grades), SplitConfig(val_size=0.1, test_size=0.2))
    counts = pd.crosstab(splits, np.array(grades))
    assert counts.loc["test"].tolist() == [120, 40, 20]
    assert counts.loc["val"].tolist() == [60, 20, 10]


def test_patients_share_a_split_when_photographs_are_identical():
    table = both_eyes(60)
    table.loc[[0, 50, 90], "content"] = "same"
    for seed in range(10):
        splits = plan_splits(table, SplitConfig(seed=seed))
        assert splits[[0, 1, 50, 51, 90, 91]].nunique() == 1


def test_identical_photographs_share_a_split_when_split_by_image():
    table = table_of([0, 1] * 50)
    table.loc[[3, 70], "content"] = "same"
    for seed in range(10):
        splits = plan_splits(table, NOTEBOOK.model_copy(update={"seed": seed}))
        assert splits[3] == splits[70]


def test_splits_differ_only_when_seeds_differ():
    table = both_eyes(100)
    first = plan_splits(table, SplitConfig(seed=1))
    assert first.equals(plan_splits(table, SplitConfig(seed=1)))
    assert not first.equals(plan_splits(table, SplitConfig(seed=2)))


@pytest.mark.parametrize("num_patients", [3, 4, 5, 8])
def test_every_split_has_photographs_when_patients_are_few(num_patients):
    splits = plan_splits(both_eyes(num_patients), SplitConfig())
    assert set(splits) == {"train", "val", "test"}


def test_setting_is_named_when_patients_are_too_few():
    with raises_naming(DrtfError, 2, "split.val_size=0"):
        plan_splits(both_eyes(2), SplitConfig())


def test_all_photographs_are_for_testing_when_test_size_is_one():
    splits = plan_splits(both_eyes(2), SplitConfig(test_size=1))
    assert set(splits) == {"test"}


def publish(table, splits):
    return table.assign(published=splits)


def test_published_splits_are_kept():
    table = publish(both_eyes(30), ["train"] * 20 + ["val"] * 20 + ["test"] * 20)
    assert (plan_splits(table, SplitConfig()) == table["published"]).all()
    only_test = publish(both_eyes(3), "test")
    assert set(plan_splits(only_test, SplitConfig())) == {"test"}


def test_validation_split_is_taken_from_the_published_training_split():
    table = publish(both_eyes(30), ["train"] * 40 + ["test"] * 20)
    splits = plan_splits(table, SplitConfig(val_size=0.1)).astype(str)
    assert (splits[40:] == "test").all()
    assert splits[:40].value_counts().to_dict() == {"train": 36, "val": 4}
    assert splits.groupby(table["patient"]).nunique().max() == 1
    without = plan_splits(table, SplitConfig(val_size=0))
    assert (without == table["published"]).all()


def test_only_photographs_without_a_published_split_are_drawn():
    table = publish(both_eyes(30), ["test"] * 10 + [""] * 50)
    table.loc[[0, 59], "content"] = "same"
    splits = plan_splits(table, SplitConfig())
    assert (splits[:10] == "test").all()
    assert set(splits[10:58]) == {"train", "val", "test"}
    # A photograph that is identical to one with a published split is in this split.
    assert splits[59] == splits[58] == "test"


def test_patients_with_identical_photographs_are_split_as_one():
    table = both_eyes(100, seed=1)
    joined = table.copy()
    # Of two chains of patients, the second begins at its last one.
    for chain in ([7, 50, 12, 93], [80, 40, 60, 20]):
        for number, (one, other) in enumerate(itertools.pairwise(chain)):
            table.loc[[2 * one, 2 * other + 1], "content"] = f"{chain}{number}"
        joined.loc[joined["patient"].isin([f"p{x}" for x in chain]), "patient"] = (
            f"p{min(chain)}"
        )
    assert plan_splits(table, SplitConfig()).equals(plan_splits(joined, SplitConfig()))


@given(
    st.lists(st.tuples(st.integers(0, 4), st.integers(0, 12)), min_size=1, max_size=60),
    st.integers(0, 2**32 - 1),
)
def test_every_photograph_has_a_split_unless_patients_are_too_few(rows, seed):
    grades, patients = zip(*rows, strict=True)
    table = table_of(grades, patients)
    try:
        splits = plan_splits(table, SplitConfig(seed=seed))
    except DrtfError:
        assert len(set(patients)) < 3
        return
    assert splits.notna().all()
    assert splits.groupby(table["patient"]).nunique().max() == 1


@pytest.mark.parametrize(
    ("paths", "folders"),
    [
        (["train/a.png", "train/b.png", "test/c.png"], ["test", "train"]),
        (["all/Training/a.png", "all/Testing/b.png"], ["Testing", "Training"]),
        (["train/a.png", "train/b.png"], []),
        (["train/a.png", "test/b.png", "c.png"], []),
        (["a.png", "b.png"], []),
    ],
)
def test_split_folders_are_those_that_all_photographs_are_in(paths, folders):
    assert find_split_folders(pd.Series(paths)) == folders
