"""drtf gradcam."""

import sys
from pathlib import Path
from typing import Any

import click

from drtf.terminal import show_line

from .options import (
    SOME_REJECTED,
    config_options,
    images_option,
    out_option,
    overwrite_option,
    run_argument,
    shards_option,
)


@click.command()
@run_argument
@shards_option("Dataset written by build-shards; or give --images.", required=False)
@click.option(
    "--split", default="test", show_default=True, help="Split of the dataset."
)
@images_option(
    "Folder of photographs, local or in a store, a zip archive or a single photograph; "
    "or give --shards.",
    required=False,
)
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
    """Show which regions raise the disease score of the model in RUN (Grad-CAM).

    The opacity of an overlay follows the heat, and all maps have the same scale. The
    heat of a photograph below the threshold is gray. There is no heat outside the
    retina. If the command is killed, run it again; if it had finished, nothing changes.

    Writes images.png, heatmaps.png and overlays.png. For a dataset they show three
    healthy and three diseased photographs, and averages.png shows the mean map of each
    grade. For a folder they show the photographs with the three lowest and the three
    highest scores, and an overlay is written for every photograph.
    """
    if (shards is None) == (images is None):
        raise click.UsageError("give exactly one of --shards and --images")
    from drtf.heatmaps.gradcam_folder import OVERLAYS_FOLDER, find_complete
    from drtf.models.run import load_info, load_run_config
    from drtf.photographs.listing import check_exists, describe_skipped
    from drtf.records.manifest import load_manifest

    from .tables import show_notes

    load_info(run)
    if shards is not None:
        show_notes(load_manifest(shards))
    if images is not None:
        check_exists(images)
    config = load_run_config(
        run, config_source, overrides, sections=("gradcam", "score")
    )
    request: dict[str, Any] = {
        "out": out,
        "config": config.gradcam,
        "score": config.score,
        "shards": shards,
        "split": split,
        "images": images,
        "overwrite": overwrite,
    }
    report = find_complete(run, **request)
    if report is None:
        # Loads TensorFlow, which takes seconds.
        from drtf.heatmaps.gradcam import gradcam as run_gradcam

        report = run_gradcam(run, **request)
    if report.is_reused:
        show_line("This command had already drawn the heat maps; nothing was changed.")
    for name, height, width in report.layers:
        show_line(f"Layer {name}, {height} x {width} cells")
    for path in report.figures:
        show_line(str(path))
    if report.num_overlays:
        show_line(f"{report.num_overlays:,} overlays in {out / OVERLAYS_FOLDER}")
    if report.num_others:
        show_line(
            f"Note: {out / OVERLAYS_FOLDER} also has {report.num_others:,} older files."
        )
    if report.skipped:
        show_line(describe_skipped(report.skipped))
    for name in report.blank:
        show_line(
            f"Note: the heat map of {name} is empty: no region raises its score at "
            "this layer."
        )
    if report.outside:
        show_line(
            "Note: photographs with much heat outside the retina, which is not shown: "
            f"{len(report.outside):,} (first: {report.outside[0]}). The model may use "
            "the border of the photographs."
        )
    if report.failed:
        show_line(
            f"Photographs that could not be read: {len(report.failed):,} (first: "
            f"{report.failed[0]}). drtf score reports the reasons."
        )
        sys.exit(SOME_REJECTED)
