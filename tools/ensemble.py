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
    """Combine several RUNs with the same task into an ensemble.

    Their backbones and image sizes may differ. Their datasets must have the same
    photographs in each split, preprocessed in the same way except for the size.

    The ensemble is a run folder, which evaluate, score, gradcam and export accept. It
    takes photographs at the size of the largest member, and shrinks them for the
    others. It has no threshold until you run evaluate on it, with the dataset of the
    largest member.
    """
    from drtf.models.ensemble import combine
    from drtf.models.stored_run import writable_run

    with writable_run(out) as folder:
        is_reused = folder.exists()
        info = combine(runs, out=folder, mean=mean)
    show_line(f"{out}: mean of the {mean} of {len(info.members)} runs")
    show_line(
        f"It takes images of {info.image_size} px. Evaluate it on the dataset "
        f"{info.dataset_name} of this size."
    )
    if is_reused:
        show_line("This command had already written it; nothing was changed.")
