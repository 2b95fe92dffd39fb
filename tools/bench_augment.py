"""drtf bench augment."""

from dataclasses import asdict
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING

import click

from .bench_options import (
    batch_size_option,
    check_json,
    json_option,
    repeats_option,
    write_json,
)

if TYPE_CHECKING:
    from drtf.bench.augment import Dtype


@click.command()
@click.option(
    "--size",
    type=click.IntRange(min=8),
    default=96,
    show_default=True,
    help="Height and width of the images, in px.",
)
@batch_size_option
@click.option(
    "--dtype",
    type=click.Choice(["float32", "float16", "bfloat16"]),
    default="float32",
    show_default=True,
    help="Dtype to compute in.",
)
@repeats_option(15)
@json_option
def augment(
    size: int, batch_size: int, dtype: "Dtype", repeats: int, json: Path | None
) -> None:
    """Measure how long augmenting a batch takes, compared with Keras's own layers.

    Both do flips, any rotation, zoom, contrast, saturation and brightness, on the GPU
    if there is one.
    """
    from drtf.bench.augment import bench_augment

    from .tables import format_spread, show_table

    check_json(json)
    results = bench_augment(
        image_size=size, batch_size=batch_size, dtype=dtype, num_repeats=repeats
    )
    drtf_ms = next(median(result.ms) for result in results if result.ms)
    show_table(
        f"{batch_size} images of {size} px in {dtype}: ms per batch, median (lowest to "
        "highest)",
        ("method", "ms", "relative to drtf"),
        [
            (f"{result.name} failed: {result.failure}", "", "")
            if result.failure
            else (
                result.name,
                format_spread(result.ms),
                f"{median(result.ms) / drtf_ms:.2f}",
            )
            for result in results
        ],
    )
    write_json(
        json,
        [
            {
                "images_per_second": 1000 * batch_size / median(result.ms)
                if result.ms
                else None,
                "relative_to_drtf": drtf_ms / median(result.ms) if result.ms else None,
                **asdict(result),
            }
            for result in results
        ],
    )
