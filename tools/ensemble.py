"""drtf ensemble."""

from pathlib import Path
from typing import Literal

import click

from drtf.terminal import show_line

from .options import OutPath, out_option, runs_argument


@click.command()
@runs_argument
@out_option("Run folder to write, local or in a store.", kind=OutPath())
@click.option(
    "--mean",
    type=click.Choice(["scores", "logits"]),
    default="scores",
    show_default=True,
    help="What to average: the scores of the runs, or their logits.",
)
def ensemble(
    runs: tuple[Path, ...], out: Path | str, mean: Literal["scores", "logits"]
) -> None:
    """Combine several RUNs with the same dataset and task into an ensemble.

    The ensemble is a run folder, which evaluate, score, gradcam and export accept. It
    has no threshold until you run evaluate on it.
    """
    from drtf.inference.ensemble import combine
    from drtf.models.stored_run import writable_run

    with writable_run(out) as folder:
        is_reused = folder.exists()
        info = combine(runs, out=folder, mean=mean)
    show_line(f"{out}: mean of the {mean} of {len(info.members)} runs")
    if is_reused:
        show_line("This command had already written it; nothing was changed.")
