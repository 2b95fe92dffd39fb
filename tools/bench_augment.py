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
    help="To compute in.",
)
@repeats_option(15)
@json_option
def augment(
    size: int, batch_size: int, dtype: "Dtype", repeats: int, json: Path | None
) -> None:
    """Measure what augmenting a batch costs beside Keras's own layers.

    All do flips, any rotation, zoom, contrast, saturation and brightness, on the GPU if
    there is one.
    """
    from drtf.bench.augment import bench_augment

    from .tables import format_spread, show_table

    check_json(json)
    found = bench_augment(
        image_size=size, batch_size=batch_size, dtype=dtype, num_repeats=repeats
    )
    ours = next(median(result.ms) for result in found if result.ms)
    show_table(
        f"{batch_size} images of {size} px in {dtype}: ms a batch, median (lowest to "
        "highest)",
        ("way", "ms", "/ drtf"),
        [
            (f"{result.name}, not run: {result.missing}", "", "")
            if result.missing
            else (
                result.name,
                format_spread(result.ms),
                f"{median(result.ms) / ours:.2f}",
            )
            for result in found
        ],
    )
    write_json(
        json,
        [
            {
                "images_per_second": 1000 * batch_size / median(result.ms)
                if result.ms
                else None,
                "ratio_to_ours": ours / median(result.ms) if result.ms else None,
                **asdict(result),
            }
            for result in found
        ],
    )
