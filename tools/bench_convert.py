"""drtf bench convert."""

from pathlib import Path
from statistics import median

import click

from .bench_options import check_json, json_option, repeats_option, write_json
from .options import config_options, images_option


@click.command()
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

    check_json(json)
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
    write_json(
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
