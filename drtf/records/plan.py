"""Names and sizes of shards: pure arithmetic, made before a byte is written."""

import math
from dataclasses import dataclass

SPLITS = ("train", "val", "test")


@dataclass(frozen=True)
class ShardPlan:
    """One shard to be: records `start` to `stop` of its split's order."""

    split: str
    number: int
    num_shards: int
    start: int
    stop: int

    def file_name(self, name: str) -> str:
        """Name the shard's file in the set `name`."""
        number = f"{self.number:05d}-of-{self.num_shards:05d}"
        return f"{name}-{self.split}.tfrecord-{number}"


def plan_shards(
    num_records: dict[str, int], *, record_bytes: int, shard_bytes: int
) -> list[ShardPlan]:
    """Divide each split evenly into the fewest shards of at most `shard_bytes`.

    Args:
        num_records: records by split; a split with none gets no shard.
        record_bytes: expected size of a record.
        shard_bytes: the most that a shard should hold; one record always fits.
    """
    plans = []
    records_per_shard = max(shard_bytes // record_bytes, 1)
    for split, count in num_records.items():
        num_shards = math.ceil(count / records_per_shard)
        for number in range(num_shards):
            start = count * number // num_shards
            stop = count * (number + 1) // num_shards
            plans.append(ShardPlan(split, number, num_shards, start, stop))
    return plans
