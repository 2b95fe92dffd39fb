"""drtf bench heatmaps."""

from dataclasses import asdict
from pathlib import Path

import click

from .bench_options import check_json, json_option, write_json
from .options import LocalPath


@click.command()
@click.argument("run", type=LocalPath())
@click.option(
    "--photographs",
    "num_photographs",
    type=click.IntRange(min=1),
    default=200,
    show_default=True,
    help="Diseased eyes to draw.",
)
@click.option(
    "--seed",
    type=click.IntRange(min=0),
    default=1000,
    show_default=True,
    help="Of the drawing; not that of the photographs trained on.",
)
@json_option
def heatmaps(run: Path, num_photographs: int, seed: int, json: Path | None) -> None:
    """Measure whether heat maps point at lesions, by method and layer.

    RUN is one that was trained on drawn photographs, such as DEMO/run of drtf demo:
    where their lesions are is known.
    """
    from drtf.bench.heatmaps import bench_heatmaps

    from .tables import show_table

    check_json(json)
    found = bench_heatmaps(run, num_photographs=num_photographs, seed=seed)
    show_table(
        f"{num_photographs:,} drawn photographs of diseased eyes",
        (
            "method",
            "layer",
            "cells",
            "hottest at a lesion",
            "by chance",
            "heat on lesions",
            "by chance",
            "blank",
            "like random",
        ),
        [
            (
                result.method,
                result.layer,
                f"{result.cells} x {result.cells}",
                f"{result.pointing:.2f}",
                f"{result.pointing_chance:.2f}",
                f"{result.heat_share:.2f}",
                f"{result.heat_chance:.2f}",
                f"{result.blank:.2f}",
                f"{result.likeness:.2f}",
            )
            for result in found
        ],
    )
    write_json(json, [asdict(result) for result in found])
