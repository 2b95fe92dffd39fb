"""drtf ensemble."""

from pathlib import Path
from typing import Literal

import click

from drtf.terminal import show_line

from .options import LocalPath, out_option


@click.command()
@click.argument("runs", nargs=-1, required=True, type=LocalPath(), metavar="RUN RUN…")
@out_option("Run folder to write.")
@click.option(
    "--mean",
    type=click.Choice(["scores", "logits"]),
    default="scores",
    show_default=True,
    help="What to average: the scores of the runs, or their logits.",
)
def ensemble(
    runs: tuple[Path, ...], out: Path, mean: Literal["scores", "logits"]
) -> None:
    """Combine several RUNs with the same dataset and task into an ensemble.

    The ensemble is a run folder, which evaluate, score, gradcam and export accept. It
    has no threshold until you run evaluate on it.
    """
    from drtf.inference.ensemble import combine

    is_reused = out.exists()
    info = combine(runs, out=out, mean=mean)
    show_line(f"{out}: mean of the {mean} of {len(info.members)} runs")
    if is_reused:
        show_line("This command had already written it; nothing was changed.")
