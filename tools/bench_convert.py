"""drtf bench convert."""

from pathlib import Path
from statistics import median

import click

from .bench_options import check_json, json_option, repeats_option, write_json
from .options import config_options, images_option

# OpenCV gives identical images about 361 dB.
IDENTICAL_DB = 300


def format_psnr(decibels: float | None) -> str:
    """Format a PSNR; None is one of a method that does not make the image."""
    if decibels is None:
        return ""
    return "identical" if decibels > IDENTICAL_DB else f"{decibels:.1f}"


@click.command()
@images_option("Folder of photographs; JPEG files are measured.")
@click.option(
    "--limit",
    type=click.IntRange(min=1),
    default=12,
    show_default=True,
    help="Maximum number of photographs, sampled evenly.",
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
    """Measure how long converting a photograph takes, and how accurate the image is.

    CPU time includes everything that a build does with the bytes of a photograph: hash,
    decode, crop, quality, CLAHE, resize. PSNR compares the image with CLAHE at full
    size followed by an area resize.
    """
    from drtf.bench.convert import bench_convert
    from drtf.config import load_config

    from .tables import format_spread, show_table

    check_json(json)
    images_config = load_config(config_source, overrides).images
    bench = bench_convert(
        images, config=images_config, limit=limit, num_repeats=repeats
    )
    decode_ms, drtf_ms = (median(method.cpu_ms) for method in bench.methods[:2])
    show_table(
        f"{bench.num_photographs} photographs to {images_config.size} px, crop "
        f"{images_config.crop}: CPU time, median of {repeats} (lowest to highest), "
        "and PSNR",
        (
            "method",
            "CPU ms per photograph",
            "relative to decoding only",
            "relative to drtf",
            "lowest PSNR, dB",
            "median",
        ),
        [
            (
                method.name,
                format_spread(method.cpu_ms),
                f"{median(method.cpu_ms) / decode_ms:.2f}",
                f"{median(method.cpu_ms) / drtf_ms:.2f}",
                format_psnr(min(method.psnr_db, default=None)),
                format_psnr(median(method.psnr_db) if method.psnr_db else None),
            )
            for method in bench.methods
        ],
    )
    one = median(bench.pools[0].images_per_second)
    show_table(
        "Photographs per second, by number of worker processes",
        ("workers", "photographs/s", "relative to one", "peak MB per worker"),
        [
            (
                str(pool.num_workers),
                format_spread(pool.images_per_second),
                f"{median(pool.images_per_second) / one:.2f}",
                f"{pool.peak_worker_mb:.0f}" if pool.peak_worker_mb else "",
            )
            for pool in bench.pools
        ],
    )
    write_json(
        json,
        [
            {
                "name": method.name,
                "images_per_second": 1000 / median(method.cpu_ms),
                "relative_to_drtf": drtf_ms / median(method.cpu_ms),
                "cpu_ms": method.cpu_ms,
                "psnr_db": method.psnr_db,
            }
            for method in bench.methods
        ]
        + [
            {
                "name": f"drtf, {pool.num_workers} workers",
                "images_per_second": median(pool.images_per_second),
                "relative_to_one_worker": median(pool.images_per_second) / one,
                "rates": pool.images_per_second,
                "peak_worker_mb": pool.peak_worker_mb,
            }
            for pool in bench.pools
        ],
    )
