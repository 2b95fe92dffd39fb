"""drtf bench read."""

from dataclasses import asdict
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

import click

from drtf.temporary_folders import temporary_folder
from drtf.terminal import show_line

from .bench_options import (
    batch_size_option,
    check_json,
    json_option,
    repeats_option,
    seconds_option,
    write_json,
)
from .options import path_option

if TYPE_CHECKING:
    from drtf.bench.read import ReadBench


@click.command()
@path_option(
    "--shards",
    "Local dataset to read. Without it, datasets are built: raw images of 96 px, as "
    "many as EyePACS has, and JPEG images of 224 and 512 px.",
    required=False,
)
@batch_size_option
@seconds_option(5.0)
@repeats_option(3)
@click.option(
    "--python",
    "pythons",
    metavar="NAME=FILE",
    multiple=True,
    help="Python interpreter of an environment that has the library NAME (tfds, "
    "webdataset, mosaic, grain or ffcv) installed; may be repeated.",
)
@json_option
def read(
    shards: Path | None,
    batch_size: int,
    seconds: float,
    repeats: int,
    pythons: tuple[str, ...],
    json: Path | None,
) -> None:
    """Measure how fast drtf and other readers yield shuffled, balanced batches.

    Each reader runs in a separate process, with its files in the page cache. The
    readers of other libraries are in benchmarks/readers of the source checkout; a
    library that is not installed is reported in its row. The extra "bench" installs
    those that work with TensorFlow in one environment. The built datasets and the other
    formats take about 8 GB in the folder for temporary files ($TMPDIR) until the
    command ends.
    """
    from drtf.bench.read import bench_read, parse_pythons
    from drtf.bench.sample_dataset import SAMPLES, build_sample_dataset

    interpreters = parse_pythons(pythons)
    check_json(json)
    rows = []
    with temporary_folder() as folder:
        built = (
            build_sample_dataset(folder / f"dataset-{number}", sample)
            for number, sample in enumerate(SAMPLES)
        )
        for number, dataset in enumerate([shards] if shards else built):
            bench = bench_read(
                dataset,
                work=folder / f"formats-{number}",
                batch_size=batch_size,
                seconds=seconds,
                num_repeats=repeats,
                pythons=interpreters,
            )
            rows += _show_read(bench, batch_size)
    write_json(json, rows)


def _show_read(bench: "ReadBench", batch_size: int) -> list[dict[str, Any]]:
    """Print the results of one dataset, and return them as rows for JSON."""
    from .tables import format_spread, show_table

    reference = median(bench.results[0].rates)
    show_table(
        f"{bench.num_records:,} {bench.encoding} images of {bench.size} px in batches "
        f"of {batch_size}: images per second, median (lowest to highest)",
        (
            "reader",
            "images/s",
            "relative to drtf",
            "CPU us per image",
            "RssAnon MB",
            "growth MB",
            "first batch s",
        ),
        [
            (f"{result.name} failed: {result.failure}", *[""] * 6)
            if result.failure
            else (
                f"{result.name} {result.version}".strip(),
                format_spread(result.rates, digits=0),
                f"{median(result.rates) / reference:.2f}",
                f"{median(result.cpu_us_per_image):.1f}",
                f"{median(result.rss_anon_mb):,.0f}",
                f"{median(result.rss_anon_growth_mb):,.0f}",
                f"{median(result.first_batch_seconds):.2f}",
            )
            for result in bench.results
        ],
    )
    if bench.left_out:
        show_line(
            f"Not measured: {'; '.join(bench.left_out)}. Their readers are in "
            "benchmarks/readers of a source checkout."
        )
    return [
        {
            "dataset": f"{bench.encoding} {bench.size} px",
            "images_per_second": median(result.rates) if result.rates else None,
            "relative_to_drtf": median(result.rates) / reference
            if result.rates
            else None,
            **asdict(result),
        }
        for result in bench.results
    ]
