"""drtf bench scale."""

from dataclasses import asdict
from pathlib import Path

import click

from drtf.temporary_folders import temporary_folder

from .bench_options import check_json, json_option, write_json
from .options import shards_option


@click.command()
@shards_option(
    "Dataset to copy by links. Without it, one with 35,126 small images is built.",
    required=False,
)
@click.option(
    "--records",
    type=click.IntRange(min=1),
    multiple=True,
    default=(1_000_000, 5_000_000),
    show_default=True,
    help="Number of records (repeatable). 100 million take 3 GB of disk and of memory.",
)
@json_option
def scale(shards: Path | None, records: tuple[int, ...], json: Path | None) -> None:
    """Measure the time and memory of opening a dataset, by its number of records."""
    from drtf.bench.sample_dataset import SMALL_SAMPLE, build_sample_dataset
    from drtf.bench.scale import bench_scale

    from .tables import show_table

    check_json(json)
    with temporary_folder() as work:
        results = bench_scale(
            shards or build_sample_dataset(work / "dataset", SMALL_SAMPLE),
            work=work / "copies",
            num_records=records,
        )
    show_table(
        "Opening a dataset, in a process without TensorFlow",
        (
            "records",
            "shards",
            "open, s",
            "memory, MB",
            "peak, MB",
            "order of an epoch, s",
            "peak, MB",
            "1,000 records, s",
            "their names, s",
            "peak, MB",
        ),
        [
            (
                f"{result.num_records:,}",
                f"{result.num_shards:,}",
                f"{result.open_seconds:.2f}",
                f"{result.open_mb:,.0f}",
                f"{result.open_peak_mb:,.0f}",
                f"{result.plan_seconds:.2f}",
                f"{result.plan_peak_mb:,.0f}",
                f"{result.read_seconds:.2f}",
                f"{result.names_seconds:.2f}",
                f"{result.final_peak_mb:,.0f}",
            )
            for result in results
        ],
    )
    write_json(
        json,
        [
            {
                "name": f"drtf, {result.num_records} records",
                "relative_to_first": result.open_seconds / results[0].open_seconds,
                **asdict(result),
            }
            for result in results
        ],
    )
