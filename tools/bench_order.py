"""drtf bench order."""

from dataclasses import asdict
from pathlib import Path
from statistics import median, pstdev

import click

from .bench_options import batch_size_option, check_json, json_option, write_json
from .options import shards_option


@click.command()
@shards_option(
    "Dataset whose train split is ordered. Without it, one as large as EyePACS is "
    "simulated, with 500 photographs per shard.",
    required=False,
)
@click.option(
    "--window",
    "windows",
    type=click.IntRange(min=0),
    multiple=True,
    default=(0, 32, 16, 8, 4, 2, 1),
    show_default=True,
    help="Value of sampling.window_shards (repeatable); 0 shuffles the whole dataset.",
)
@batch_size_option
@json_option
def order(
    shards: Path | None, windows: tuple[int, ...], batch_size: int, json: Path | None
) -> None:
    """Measure how well an epoch is shuffled with sampling.window_shards."""
    from drtf.bench.order import bench_order, simulate_eyepacs
    from drtf.records.reader import ShardDataset

    from .tables import show_table

    check_json(json)
    if shards:
        with ShardDataset(shards) as dataset:
            rows = dataset.split_rows("train")
            classes = (dataset.grades[rows] > 0).astype("int8")
            shard_numbers = dataset.shard_numbers(rows)
    else:
        classes, shard_numbers = simulate_eyepacs()
    results = bench_order(
        classes, shard_numbers, windows=windows, batch_size=batch_size
    )
    show_table(
        f"The order of {len(classes):,} photographs in {len(set(shard_numbers)):,} "
        f"shards, balanced, in batches of {batch_size}",
        (
            "shards per window",
            "positive, % of a batch",
            "its standard deviation",
            "shards in a batch",
            "distance of neighbors",
            "planning, ms",
        ),
        [
            (
                str(result.window_shards or "whole dataset"),
                f"{sum(result.positive_percent) / len(result.positive_percent):.2f}",
                f"{pstdev(result.positive_percent):.2f}",
                f"{median(result.shards_per_batch):.0f}",
                f"{result.neighbor_distance:.3f}",
                f"{median(result.plan_ms):.0f}",
            )
            for result in results
        ],
    )
    write_json(json, [asdict(result) for result in results])
