"""drtf score."""

import re
import sys
from pathlib import Path
from typing import Any

import click

from .options import (
    SOME_REJECTED,
    LocalPath,
    config_options,
    images_option,
    out_option,
    overwrite_option,
)


class Part(click.ParamType):
    """One of several parts, written as `2/8`."""

    name = "part"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[int, int]:
        """Return number, from 1, and count."""
        if isinstance(value, tuple):  # click converts a default twice
            return value
        found = re.fullmatch(r"(\d+)/(\d+)", value)
        number, count = (int(found[1]), int(found[2])) if found else (0, 0)
        if not 1 <= number <= count:
            self.fail(f"{value!r} is no part such as 2/8", param, ctx)
        return number, count


@click.command()
@click.argument("run", type=LocalPath())
@images_option(
    "Folder of photographs, or s3://, searched in depth; or a .csv with a column path."
)
@out_option("Table to write: a .csv or .parquet.")
@click.option(
    "--shard",
    "part",
    type=Part(),
    default="1/1",
    help="Score the I-th of N parts of the photographs, into a file of its own.",
)
@click.option(
    "--merge",
    type=click.IntRange(min=2),
    metavar="N",
    help="Join the files that --shard 1/N to N/N wrote, and check that no row lacks.",
)
@click.option(
    "--format",
    "form",
    type=click.Choice(["table", "kaggle"]),
    default="table",
    show_default=True,
    help="All columns; or a submission, image,level: the grade, or else the decision, "
    "and 0 for what has no score.",
)
@click.option(
    "--on-ungradable",
    type=click.Choice(["flag", "reject"]),
    help="What becomes of photographs that are dark, blurred or no fundus: flag them, "
    "or give them no score either; without it the config's score.on_ungradable.",
)
@overwrite_option
@config_options
def score(
    run: Path,
    images: Path | str,
    out: Path,
    part: tuple[int, int],
    merge: int | None,
    form: str,
    on_ungradable: str | None,
    overwrite: bool,
    config_source: str,
    overrides: tuple[str, ...],
) -> None:
    """Score a folder of photographs with the model in RUN.

    They are preprocessed just as the shards were that the model was trained on;
    threshold, views and calibration are those that an evaluation kept in RUN. A row
    that could not be scored says why, and the exit code is then 3. A scoring that was
    stopped, by whatever, goes on where it was when the same command is given again.
    """
    if merge and part != (1, 1):
        raise click.UsageError("give --shard or --merge, not both")
    from drtf.inference.scoring import score as run_scoring
    from drtf.models.run import load_run_config

    if on_ungradable:
        overrides = (*overrides, f"score.on_ungradable={on_ungradable}")
    report = run_scoring(
        run,
        images,
        out=out,
        config=load_run_config(run, config_source, overrides, sections=("score",)),
        overwrite=overwrite,
        part=part,
        merge=merge or 0,
        kaggle=form == "kaggle",
    )
    click.echo(
        f"{report.table}: {report.num_scored:,} scored, {report.num_positive:,} at or "
        f"above the threshold of {report.threshold:.4f}, {report.num_failed:,} with an "
        f"error, {report.num_flagged:,} flagged as hardly gradable"
    )
    if not report.threshold_chosen:
        click.echo(
            "Note: no evaluation has chosen a threshold and views yet; 0.5 and one "
            "view were taken."
        )
    if report.num_failed:
        sys.exit(SOME_REJECTED)
