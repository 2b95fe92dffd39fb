"""drtf ensemble."""

from pathlib import Path
from typing import Literal

import click

from .options import LocalPath, out_option


@click.command()
@click.argument("runs", nargs=-1, required=True, type=LocalPath(), metavar="RUN RUN…")
@out_option("Run folder to write.")
@click.option(
    "--mean",
    type=click.Choice(["scores", "logits"]),
    default="scores",
    show_default=True,
    help="What the mean of the runs is taken of.",
)
def ensemble(
    runs: tuple[Path, ...], out: Path, mean: Literal["scores", "logits"]
) -> None:
    """Join several RUNs of one set and task into a run folder of its own.

    evaluate, score, gradcam and export take it as they take any other. It has no
    threshold until evaluate has chosen one.
    """
    from drtf.inference.ensemble import combine

    info = combine(runs, out=out, mean=mean)
    click.echo(f"{out}: mean of the {mean} of {len(info.members)} runs")
