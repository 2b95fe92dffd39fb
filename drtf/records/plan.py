"""The plan of the shards: their names and sizes, from the number of records."""

import math
from dataclasses import dataclass

SPLITS = ("train", "val", "test")


@dataclass(frozen=True)
class ShardPlan:
    """One planned shard: the records `start` to `stop` in the order of its split."""

    split: str
    number: int
    num_shards: int
    start: int
    stop: int

    def file_name(self, name: str) -> str:
        """Return the name of the shard's file in the dataset `name`."""
        number = f"{self.number:05d}-of-{self.num_shards:05d}"
        return f"{name}-{self.split}.tfrecord-{number}"


def plan_shards(
    num_records: dict[str, int], *, record_bytes: int, shard_bytes: int
) -> list[ShardPlan]:
    """Divide each split evenly into the fewest shards of at most `shard_bytes`.

    Args:
        num_records: Number of records by split. A split with none gets no shard.
        record_bytes: Expected size of a record in bytes.
        shard_bytes: Maximum size of a shard in bytes; one record always fits.
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
