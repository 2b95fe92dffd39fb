"""drtf score."""

import sys
from pathlib import Path

import click

from .options import (
    SOME_SET_ASIDE,
    LocalPath,
    config_options,
    images_option,
    out_option,
    overwrite_option,
)


@click.command()
@click.argument("run", type=LocalPath())
@images_option(
    "Folder of photographs, or s3://, searched in depth; or a .csv with a column path."
)
@out_option("CSV to write.")
@overwrite_option
@config_options
def score(
    run: Path,
    images: Path | str,
    out: Path,
    overwrite: bool,
    config_source: str,
    overrides: tuple[str, ...],
) -> None:
    """Score a folder of photographs with the model in RUN.

    They are preprocessed just as the shards were that the model was trained on;
    threshold and views are those of RUN's last evaluation. A row that could not be
    scored says why, and the exit code is then 3.
    """
    from drtf.config import load_config
    from drtf.models.run import find_config
    from drtf.models.scoring import score as run_scoring

    report = run_scoring(
        run,
        images,
        out=out,
        config=load_config(config_source or find_config(run), overrides),
        overwrite=overwrite,
    )
    click.echo(
        f"{out}: {report.num_scored:,} scored, {report.num_positive:,} at or above the "
        f"threshold of {report.threshold:.4f}, {report.num_failed:,} with an error"
    )
    if not report.threshold_chosen:
        click.echo("Note: no evaluation has chosen a threshold yet; 0.5 was taken.")
    if report.num_failed:
        sys.exit(SOME_SET_ASIDE)
