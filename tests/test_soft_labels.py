"""Soft labels: the targets of distillation, from a column of a table or a dataset."""

import logging

import numpy as np
import pytest

from drtf.building.build import build_shards
from drtf.config import TrainConfig, load_config
from drtf.errors import LabelError
from drtf.labels.soft_labels import load_soft_labels
from drtf.labels.sources import Source
from drtf.records.reader import ShardDataset
from drtf.scoring.score_table import COLUMNS, encode_header, encode_row, write_csv
from naming import raises_naming

SOFT = TrainConfig(soft_labels="score", soft_weight=0.25)


@pytest.fixture
def scores(shard_dataset):
    """The scores of a teacher by photograph, in the order of the training split."""
    rows = shard_dataset.split_rows("train")
    ids = shard_dataset.load_index(["id"], rows)["id"]
    labels = (shard_dataset.grades[rows] >= 1).astype(float)
    return dict(zip(ids, (0.2 + 0.6 * labels).tolist(), strict=True))


def write_table(folder, scores, *, header="id,score"):
    path = folder / "teacher.csv"
    lines = [f"{name},{value}" for name, value in scores.items()]
    path.write_text("\n".join([header, *reversed(lines)]) + "\n")
    return path


def test_targets_mix_labels_and_scores(shard_dataset, scores, tmp_path):
    first, second, *_ = scores
    missing = scores | {first: "", second: "NA"}
    soft = load_soft_labels(shard_dataset, SOFT, write_table(tmp_path, missing))
    rows = shard_dataset.split_rows("train")
    labels = (shard_dataset.grades[rows] >= 1).astype(float)
    expected = 0.75 * labels + 0.25 * np.array(list(scores.values()))
    expected[:2] = labels[:2]
    assert soft.targets.dtype == np.float32
    assert soft.targets == pytest.approx(expected)
    assert soft.num_given == len(rows) - 2
    assert f"{len(rows) - 2} of {len(rows)}" in soft.describe(SOFT)
    assert load_soft_labels(shard_dataset, TrainConfig()) is None


def test_a_table_of_drtf_score_is_taken_as_it_is(shard_dataset, scores, tmp_path):
    empty = dict.fromkeys(COLUMNS, "")
    lines = [
        encode_row(empty | {"id": x, "path": f"a/{x}.png", "score": str(scores[x])})
        for x in scores
    ]
    write_csv(encode_header(), lines, tmp_path / "scores.csv")
    soft = load_soft_labels(shard_dataset, SOFT, tmp_path / "scores.csv")
    table = write_table(tmp_path, scores)
    assert soft.sha256 == load_soft_labels(shard_dataset, SOFT, table).sha256


def test_soft_labels_may_be_a_column_of_the_dataset(
    photographs, config, shard_dataset, scores, tmp_path
):
    lines = (photographs / "labels.csv").read_text().splitlines()
    labels = tmp_path / "labels.csv"
    rows = [f"{line},{scores.get(line.split(',')[0], '')}" for line in lines[1:]]
    labels.write_text("\n".join([f"{lines[0]},score", *rows]) + "\n")
    kept = load_config("", ['labels.keep_columns=["score"]']).labels
    build_shards(
        [Source(photographs / "images", labels)],
        out=tmp_path / "soft",
        config=config.model_copy(update={"labels": kept}),
    )
    table = write_table(tmp_path, scores)
    with ShardDataset(tmp_path / "soft") as dataset:
        own = load_soft_labels(dataset, SOFT)
        assert own.sha256 == load_soft_labels(dataset, SOFT, table).sha256
        with raises_naming(LabelError, table, "other"):
            load_soft_labels(dataset, TrainConfig(soft_labels="other"), table)


@pytest.mark.parametrize("value", ["1.01", "-0.1", "80 %", "high", "inf"])
def test_values_outside_0_to_1_are_refused(shard_dataset, scores, value, tmp_path):
    name = list(scores)[3]
    table = write_table(tmp_path, scores | {name: value})
    with raises_naming(LabelError, table, "score", name, value):
        load_soft_labels(shard_dataset, SOFT, table)


def test_a_column_without_values_is_refused(shard_dataset, scores, tmp_path):
    table = write_table(tmp_path, dict.fromkeys(scores, ""))
    with raises_naming(LabelError, table, "score", "train"):
        load_soft_labels(shard_dataset, SOFT, table)
    with raises_naming(LabelError, table, "train.soft_labels"):
        load_soft_labels(shard_dataset, TrainConfig(), table)


def test_a_teacher_that_was_trained_on_the_photographs_is_warned_of(
    shard_dataset, scores, tmp_path, caplog
):
    names = list(scores)
    seen = {x: f"{scores[x]},{int(x in names[:4])}" for x in names}
    table = write_table(tmp_path, seen, header="id,score,in_training")
    with caplog.at_level(logging.WARNING):
        load_soft_labels(shard_dataset, SOFT, table)
    assert f"4 of the {len(names)} " in caplog.text


def test_scores_that_are_the_wrong_way_round_are_warned_of(
    shard_dataset, scores, tmp_path, caplog
):
    inverted = {name: 1 - score for name, score in scores.items()}
    table = write_table(tmp_path, inverted)
    with caplog.at_level(logging.WARNING):
        load_soft_labels(shard_dataset, SOFT, table)
    assert str(table) in caplog.text


def test_train_takes_a_table_of_soft_labels(shards, scores, tmp_path, run):
    table = write_table(tmp_path, scores)
    words = ("train", "--shards", shards, "--out", tmp_path / "run", "--dry-run")
    small = ("--set", "model.name=eyenet", "--set", "model.weights=none")
    column = ("--set", "train.soft_labels=score")
    code, out, _ = run(*words, *small, "--table", table, *column)
    assert code == 0
    assert f"for {len(scores)} of {len(scores)} training photographs" in out
    code, _, error = run(*words, *small, "--table", table)
    assert (code, error.count("\n")) == (1, 1)
    assert str(table) in error
    code, _, error = run(*words, *small, *column)
    assert (code, error.count("\n")) == (1, 1)
    assert "'score'" in error
