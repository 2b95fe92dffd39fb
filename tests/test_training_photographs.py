"""The hashes of training photographs that a run folder keeps."""

from drtf.models.training_photographs import (
    count_shared_photographs,
    is_training_photograph,
    load_training_photographs,
    save_training_photographs,
)
from drtf.records import index


def test_training_and_validation_photographs_are_recognized(
    shard_dataset, tmp_path, monkeypatch
):
    monkeypatch.setattr(index, "ROWS_PER_BATCH", 5)
    save_training_photographs(tmp_path, shard_dataset, validation_split="val")
    prefixes = load_training_photographs(tmp_path)
    table = shard_dataset.load_index(["split", "sha256"])
    assert len(prefixes) == table["split"].isin(["train", "val"]).sum()
    for split, sha256 in table.itertuples(index=False):
        assert is_training_photograph(sha256, prefixes) == (split != "test")


def test_photographs_that_two_runs_used_differently_are_counted(
    shard_dataset, tmp_path
):
    folders = tmp_path / "val", tmp_path / "test"
    for folder in folders:
        folder.mkdir()
        save_training_photographs(folder, shard_dataset, validation_split=folder.name)
    splits = shard_dataset.load_index(["split"])["split"]
    counts = len(splits), int((splits != "train").sum())
    assert count_shared_photographs(*folders) == counts
    child = tmp_path / "child"
    child.mkdir()
    save_training_photographs(
        child, shard_dataset, validation_split="val", parent=folders[1]
    )
    # The parent was chosen on the test photographs, so the child has seen them too.
    assert count_shared_photographs(folders[0], child) == (
        len(splits),
        int((splits == "test").sum()),
    )
