"""drtf adapt."""

from pathlib import Path

import click

from drtf.terminal import show_line

from .options import (
    OutPath,
    config_options,
    images_option,
    out_option,
    run_argument,
    show_next,
)


@click.command()
@run_argument
@images_option(
    "Photographs of the other camera, 30 or more, without labels: a folder, local or "
    "in a store, searched recursively; a zip archive; or a .csv file with a column "
    "path."
)
@out_option("Run folder to write, local or in a store.", kind=OutPath())
@config_options
def adapt(
    run: Path,
    images: Path | str,
    out: Path | str,
    config_source: str,
    overrides: tuple[str, ...],
) -> None:
    """Adapt RUN to photographs of another camera, without labels.

    Writes a copy of RUN whose batch normalization uses the mean of RUN's statistics and
    those of these photographs. Threshold and calibration are copied. Choose new ones
    with drtf recalibrate if some of the photographs have labels.
    """
    from drtf.adaptation.batch_norm import adapt as run_adaptation
    from drtf.models.run import load_run_config
    from drtf.models.stored_run import writable_run

    config = load_run_config(run, config_source, overrides, sections=("score",))
    with writable_run(out) as folder:
        adapted = run_adaptation(run, images, out=folder, config=config.score)
    show_line(f"{out}: adapted to {adapted.num_photographs:,} photographs")
    for note in adapted.notes():
        show_line(f"Note: {note}")
    show_next("score", out, "--images", images, "--out", "scores.csv")
