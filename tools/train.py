"""drtf train."""

from pathlib import Path

import click

from .options import config_options, out_option, shards_option


@click.command()
@shards_option("Set made by build-shards, a folder or s3://.")
@out_option("Run folder to make, such as runs/NAME.")
@config_options
def train(
    shards: Path, out: Path, config_source: str, overrides: tuple[str, ...]
) -> None:
    """Train a network on a set of shards, and leave a run folder.

    The folder holds the model of the best epoch, the resolved config, the history and
    TensorBoard logs (tensorboard --logdir RUN/logs). evaluate, score and gradcam take
    it. Without internet access, name a weights file:

        --set model.weights=FILE.weights.h5   (or none)
    """
    from drtf.config import load_config
    from drtf.models.training import train as run_training

    report = run_training(shards, out=out, config=load_config(config_source, overrides))
    click.echo(
        f"{out}: best epoch {report.best_epoch} of {report.epochs}, validation ROC AUC "
        f"{report.best_roc_auc:.3f}; {report.num_trained:,} parameters trained, "
        f"{report.num_frozen:,} frozen, in {report.precision}"
    )
    if report.num_damaged:
        click.echo(
            f"{report.num_damaged:,} damaged records were skipped; run drtf verify "
            f"{shards}"
        )
