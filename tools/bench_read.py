"""drtf bench read."""

import tempfile
from dataclasses import asdict
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

import click

from .bench_options import (
    batch_size_option,
    check_json,
    json_option,
    repeats_option,
    seconds_option,
    write_json,
)
from .options import shards_option

if TYPE_CHECKING:
    from drtf.bench.read import ReadBench


@click.command()
@shards_option(
    "A set to read; without it sets are made: raw images of 96 px, as many as EyePACS "
    "has, and JPEG ones of 224 and 512 px.",
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
    help="The interpreter of an environment that has webdataset, mosaic, grain or "
    "ffcv, where it can't stand beside TensorFlow; may be repeated.",
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
    """Measure what reading shuffled, class-balanced batches costs.

    Each way runs in a process of its own, with its files in the page cache. A library
    that is not installed is a row that says so; the extra "bench" installs those that
    can stand beside TensorFlow. Made sets and the other ways' formats lie in the folder
    for temporary files ($TMPDIR), about 8 GB, until the command ends.
    """
    from drtf.bench.read import bench_read, parse_pythons
    from drtf.bench.sample_dataset import SAMPLES, build_sample_dataset

    interpreters = parse_pythons(pythons)
    check_json(json)
    rows = []
    with tempfile.TemporaryDirectory(prefix="drtf-bench-") as folder:
        made = (
            build_sample_dataset(Path(folder) / f"set-{number}", sample)
            for number, sample in enumerate(SAMPLES)
        )
        for number, chosen in enumerate([shards] if shards else made):
            found = bench_read(
                chosen,
                work=Path(folder) / f"formats-{number}",
                batch_size=batch_size,
                seconds=seconds,
                num_repeats=repeats,
                pythons=interpreters,
            )
            rows += _show_read(found, batch_size)
    write_json(json, rows)


def _show_read(found: "ReadBench", batch_size: int) -> list[dict[str, Any]]:
    from .tables import format_spread, show_table

    ours = median(found.ways[0].rates)
    show_table(
        f"{found.num_records:,} {found.encoding} images of {found.size} px in batches "
        f"of {batch_size}: images a second, median (lowest to highest)",
        (
            "way",
            "images/s",
            "/ drtf",
            "CPU s / 1,000",
            "RssAnon MB",
            "growth",
            "first batch s",
        ),
        [
            (f"{way.name}, not run: {way.missing}", *[""] * 6)
            if way.missing
            else (
                f"{way.name} {way.version}".strip(),
                format_spread(way.rates, digits=0),
                f"{median(way.rates) / ours:.2f}",
                f"{median(way.cpu_seconds):.4f}",
                f"{median(way.rss_anon_mb):,.0f}",
                f"{median(way.rss_anon_growth_mb):,.0f}",
                f"{median(way.first_batch_seconds):.2f}",
            )
            for way in found.ways
        ],
    )
    return [
        {
            "set": f"{found.encoding} {found.size} px",
            "images_per_second": median(way.rates) if way.rates else None,
            "ratio_to_ours": median(way.rates) / ours if way.rates else None,
            **asdict(way),
        }
        for way in found.ways
    ]
