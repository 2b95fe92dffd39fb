"""The hashes of training photographs that a run folder keeps."""

from drtf.models.training_photographs import (
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
