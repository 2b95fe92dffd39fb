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
    help="Number of diseased eyes to draw.",
)
@click.option(
    "--seed",
    type=click.IntRange(min=0),
    default=1000,
    show_default=True,
    help="Seed of the drawing; it should differ from the training photographs'.",
)
@json_option
def heatmaps(run: Path, num_photographs: int, seed: int, json: Path | None) -> None:
    """Measure whether heat maps point at lesions, by method and layer.

    RUN must be a run that was trained on synthetic photographs, such as demo/run of
    drtf demo. The place of the lesions in such photographs is known.
    """
    from drtf.bench.heatmaps import bench_heatmaps

    from .tables import show_table

    check_json(json)
    results = bench_heatmaps(run, num_photographs=num_photographs, seed=seed)
    show_table(
        f"{num_photographs:,} synthetic photographs of diseased eyes",
        (
            "method",
            "layer",
            "cells",
            "hottest at a lesion",
            "by chance",
            "heat on lesions",
            "by chance",
            "blank",
            "correlation with random",
        ),
        [
            (
                result.method,
                result.layer,
                f"{result.cells} x {result.cells}",
                f"{result.measures.pointing_fraction:.2f}",
                f"{result.measures.pointing_by_chance:.2f}",
                f"{result.measures.heat_fraction:.2f}",
                f"{result.measures.heat_by_chance:.2f}",
                f"{result.measures.blank_fraction:.2f}",
                f"{result.measures.correlation_with_random:.2f}",
            )
            for result in results
        ],
    )
    write_json(
        json,
        [
            {
                "method": result.method,
                "layer": result.layer,
                "cells": result.cells,
                **asdict(result.measures),
            }
            for result in results
        ],
    )
