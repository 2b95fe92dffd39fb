"""drtf gradcam."""

import sys
from pathlib import Path

import click

from .options import (
    SOME_REJECTED,
    LocalPath,
    config_options,
    images_option,
    out_option,
    overwrite_option,
    shards_option,
)


@click.command()
@click.argument("run", type=LocalPath())
@shards_option("Set made by build-shards; or give --images.", required=False)
@click.option("--split", default="test", show_default=True, help="Split of the set.")
@images_option("Folder of photographs, or s3://.", required=False)
@out_option("Folder to write the figures to.")
@overwrite_option
@config_options
def gradcam(
    run: Path,
    shards: Path | None,
    split: str,
    images: Path | str | None,
    out: Path,
    overwrite: bool,
    config_source: str,
    overrides: tuple[str, ...],
) -> None:
    """Paint where the model in RUN sees disease, by Grad-CAM.

    Writes images.png, heatmaps.png and overlays.png: of shards, three healthy and three
    diseased photographs, and averages.png with the mean map of each grade; of a folder,
    the three lowest and the three highest scored, and an overlay of every photograph.
    """
    if (shards is None) == (images is None):
        raise click.UsageError("give either --shards or --images")
    from drtf.inference.gradcam import OVERLAYS_FOLDER
    from drtf.inference.gradcam import gradcam as run_gradcam
    from drtf.models.run import load_run_config

    report = run_gradcam(
        run,
        out=out,
        config=load_run_config(
            run, config_source, overrides, sections=("gradcam", "score")
        ),
        shards=shards,
        split=split,
        images=images,
        overwrite=overwrite,
    )
    if report.layer:
        height, width = report.grid
        click.echo(f"Layer {report.layer}, {height} x {width} cells")
    for path in report.figures:
        click.echo(str(path))
    if report.num_overlays:
        click.echo(f"{report.num_overlays:,} overlays in {out / OVERLAYS_FOLDER}")
    if report.num_others:
        click.echo(
            f"Note: {report.num_others:,} files that stood in {out / OVERLAYS_FOLDER} "
            "before are left."
        )
    for name in report.blank:
        click.echo(
            f"Note: the map of {name} is zero everywhere: nothing in it speaks "
            "for disease at this layer."
        )
    if report.failed:
        click.echo(
            f"{len(report.failed):,} photographs could not be read, the first of them "
            f"{report.failed[0]}; drtf score tells why."
        )
        sys.exit(SOME_REJECTED)
