"""drtf bench."""

import tempfile
from collections.abc import Iterable
from dataclasses import asdict
from json import dumps as dump_json
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

import click

from .options import (
    config_options,
    images_option,
    path_option,
    shards_option,
)

if TYPE_CHECKING:
    from drtf.bench.read import ReadBench

json_option = path_option(
    "--json",
    "Write every single figure to this file too: a list, one object a row.",
    required=False,
)


def repeats_option(default: int) -> Any:
    """Add --repeats."""
    return click.option(
        "--repeats",
        type=click.IntRange(min=1),
        default=default,
        show_default=True,
        help="Repetitions, each of all ways in turn.",
    )


@click.group()
def bench() -> None:
    """Measure drtf beside what else you might use, all in one run."""


@bench.command()
@images_option("Folder of photographs; JPEG ones are measured.")
@click.option(
    "--limit",
    type=click.IntRange(min=1),
    default=12,
    show_default=True,
    help="Photographs to measure, spread evenly over all.",
)
@repeats_option(5)
@json_option
@config_options
def convert(
    images: Path | str,
    limit: int,
    repeats: int,
    json: Path | None,
    config_source: str,
    overrides: tuple[str, ...],
) -> None:
    """Measure what converting a photograph costs, and how close the picture is.

    CPU time includes all that a build does with a photograph's bytes: hash, decode,
    crop, quality, CLAHE, resize. PSNR is against CLAHE at full size and area resize.
    """
    from drtf.bench.convert import bench_convert
    from drtf.config import load_config

    from .tables import format_spread, show_table

    _check_json(json)
    images_config = load_config(config_source, overrides).images
    found = bench_convert(
        images, config=images_config, limit=limit, num_repeats=repeats
    )
    bare, ours = (median(method.cpu_ms) for method in found.methods[:2])
    show_table(
        f"{found.num_photographs} photographs to {images_config.size} px, crop "
        f"{images_config.crop}: CPU time, median of {repeats} (lowest to highest), "
        "and PSNR",
        ("way", "ms", "/ decode", "/ drtf", "least dB", "median"),
        [
            (
                method.name,
                format_spread(method.cpu_ms),
                f"{median(method.cpu_ms) / bare:.2f}",
                f"{median(method.cpu_ms) / ours:.2f}",
                f"{min(method.psnr_db):.1f}" if method.psnr_db else "",
                f"{median(method.psnr_db):.1f}" if method.psnr_db else "",
            )
            for method in found.methods
        ],
    )
    one = median(found.pools[0].per_second)
    show_table(
        "Photographs a second, by worker processes",
        ("workers", "per second", "of one", "peak MB of a worker"),
        [
            (
                str(pool.num_workers),
                format_spread(pool.per_second),
                f"{median(pool.per_second) / one:.2f}",
                f"{pool.worker_peak_mb:.0f}" if pool.worker_peak_mb else "",
            )
            for pool in found.pools
        ],
    )
    _write_json(
        json,
        [
            {
                "name": method.name,
                "images_per_second": 1000 / median(method.cpu_ms),
                "ratio_to_ours": ours / median(method.cpu_ms),
                "cpu_ms": method.cpu_ms,
                "psnr_db": method.psnr_db,
            }
            for method in found.methods
        ]
        + [
            {
                "name": f"drtf, {pool.num_workers} workers",
                "images_per_second": median(pool.per_second),
                "ratio_to_ours": median(pool.per_second) / one,
                "per_second": pool.per_second,
                "worker_peak_mb": pool.worker_peak_mb,
            }
            for pool in found.pools
        ],
    )


@bench.command()
@shards_option(
    "A set to read; without it sets are made: raw images of 96 px, as many as EyePACS "
    "has, and JPEG ones of 224 and 512 px.",
    required=False,
)
@click.option(
    "--batch-size",
    type=click.IntRange(min=2),
    default=256,
    show_default=True,
    help="Images in a batch.",
)
@click.option(
    "--seconds",
    type=click.FloatRange(min=0.1),
    default=5.0,
    show_default=True,
    help="To read for, each way in each repetition.",
)
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
    from drtf.bench.sample_set import SAMPLES, build_sample_set

    interpreters = parse_pythons(pythons)
    _check_json(json)
    rows = []
    with tempfile.TemporaryDirectory(prefix="drtf-bench-") as folder:
        made = (
            build_sample_set(Path(folder) / f"set-{number}", sample)
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
    _write_json(json, rows)


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


def _check_json(path: Path | None) -> None:
    """Find out now, and not after the measuring, that a file can't be written."""
    from drtf.files import check_absent

    if path:
        check_absent(path)
        path.parent.mkdir(parents=True, exist_ok=True)


def _write_json(path: Path | None, rows: Iterable[dict[str, Any]]) -> None:
    from drtf.files import write_atomic

    if path:
        write_atomic(path, dump_json(list(rows), indent=2) + "\n")
        click.echo(f"Every figure: {path}")
