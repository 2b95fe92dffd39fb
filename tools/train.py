"""drtf train."""

import os
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING

import click

from drtf.terminal import show_line

from .options import (
    FILE,
    OutPath,
    config_options,
    out_option,
    path_option,
    shards_option,
    show_next,
)

if TYPE_CHECKING:
    from drtf.cluster import Cluster
    from drtf.config import Config

CHANCE = 0.5  # the ROC AUC of a network that gives every photograph the same score


@click.command()
@shards_option("Dataset written by build-shards: local or in a store.")
@out_option(
    "Run folder to write, such as runs/NAME, local or in a store.", kind=OutPath()
)
@path_option(
    "--table",
    "Table with the column of train.soft_labels, if the dataset does not have it: one "
    "row per photograph, such as a table of drtf score, local or in a store.",
    required=False,
    kind=FILE,
)
@click.option(
    "--dry-run",
    is_flag=True,
    help="Print the steps, parameters and memory of the training, and stop.",
)
@click.option(
    "--resume",
    is_flag=True,
    help="Resume from the newest checkpoint in --out, if there is one.",
)
@config_options
def train(
    shards: Path,
    out: Path | str,
    table: Path | None,
    dry_run: bool,
    resume: bool,
    config_source: str,
    overrides: tuple[str, ...],
) -> None:
    """Train a network on a dataset and write a run folder.

    The folder has the model of the best epoch, the resolved config, the history and
    TensorBoard logs (tensorboard --logdir RUN/logs). evaluate, score and gradcam use
    it. Without internet access, give a file of pretrained weights:

        --set model.weights=FILE   (or none)

    A run folder, --set model.weights=RUN, is trained further (fine-tuning). With
    --table TABLE --set train.soft_labels=score it also learns from the scores of
    another run (distillation).
    """
    from drtf.cluster import load_cluster
    from drtf.config import load_config

    config = load_config(config_source, overrides)
    cluster = load_cluster(os.environ)
    if dry_run:
        _show_plan(shards, config, table, cluster)
        return
    from drtf.models.history import load_history
    from drtf.models.run_files import INFO_FILE
    from drtf.models.stored_run import writable_run
    from drtf.records.manifest import load_manifest
    from drtf.training.identity import check_out

    load_manifest(shards)
    is_first = cluster is None or cluster.index == 0
    # Only host 0 uses the run folder.
    with writable_run(out) if is_first else nullcontext(Path(out)) as folder:
        if is_first:
            check_out(folder, resume=resume)
        is_finished = is_first and (folder / INFO_FILE).exists()
        # Loads TensorFlow, which takes seconds.
        from drtf.training.callbacks import monitor_name
        from drtf.training.run import train as run_training

        info = run_training(
            shards,
            out=folder,
            config=config,
            table=table,
            resume=resume,
            cluster=cluster,
        )
    if not is_first:
        show_line("The training has finished. The run folder is on host 0.")
        return
    monitor = monitor_name(config.train)
    best = load_history(folder)[info.best_epoch - 1]
    if is_finished:
        show_line(f"{out} was finished already; nothing was trained.")
    show_line(
        f"{out}: best epoch {info.best_epoch} of {info.num_epochs}, {monitor} "
        f"{best[monitor]:.3f}; {info.num_trained:,} trained and {info.num_frozen:,} "
        f"frozen parameters, in {info.precision}"
    )
    if best["val_roc_auc"] == CHANCE:
        show_line(
            "The ROC AUC on validation is exactly 0.5, as if every photograph had the "
            "same score: the network has learnt nothing. Train for more epochs, start "
            "from pretrained weights (model.weights) or change train.learning_rate"
        )
    if info.num_damaged:
        show_line(
            f"{info.num_damaged:,} damaged records were skipped: run drtf verify "
            f"{shards}"
        )
    if info.num_skipped_steps:
        show_line(
            f"{info.num_skipped_steps:,} steps were skipped because their loss or "
            f"gradients were non-finite in {info.precision}"
        )

    show_next("evaluate", out, "--shards", shards)


def _show_plan(
    shards: Path, config: "Config", table: Path | None, cluster: "Cluster | None"
) -> None:
    from drtf.config import SamplingConfig
    from drtf.models.weights import imagenet_problem
    from drtf.records.manifest import load_manifest
    from drtf.training.train_plan import plan_training

    from .tables import show_notes, show_table

    plan = plan_training(shards, config=config, table=table, cluster=cluster)
    show_notes(load_manifest(shards))
    settings = config.train
    show_table(
        f"Photographs in {shards}, by class of train.task={settings.task}",
        ("split", *(f"class {number}" for number in range(len(plan.num_drawn)))),
        [
            *((split, *counts) for split, counts in plan.num_photographs.items()),
            ("drawn per epoch", *plan.num_drawn),
        ],
    )
    if config.sampling.by != SamplingConfig().by:
        show_table(
            f"Photographs by group of sampling.by={list(config.sampling.by)}",
            ("group", "train", "drawn per epoch"),
            [(name, *counts) for name, counts in plan.groups.items()],
        )
    show_line(
        f"{settings.epochs * plan.num_steps:,} steps of {settings.batch_size} "
        f"photographs: {settings.epochs} epochs of {plan.num_steps:,} steps"
    )
    show_line(
        f"{plan.backbone} at {plan.image_size} px: {plan.num_trained:,} trained "
        f"and {plan.num_frozen:,} frozen parameters, in {plan.precision}"
    )
    for line in filter(None, (plan.start, plan.soft_labels)):
        show_line(line)
    show_line(
        f"Memory: {plan.batches_mb:,.0f} MB for batches in addition to TensorFlow's "
        f"own; on the device {plan.variables_mb:,.0f} MB for variables and about "
        f"{plan.activations_mb:,.0f} MB for activations"
    )
    if problem := imagenet_problem(config.model, image_size=plan.image_size):
        show_line(f"Warning: {problem}", err=True)
    if config.train.class_weights and config.sampling.mode != "natural":
        show_line(
            f"train.class_weights={list(config.train.class_weights)} apply in addition "
            f"to sampling.mode={config.sampling.mode!r}, which already changes how "
            "often each class is drawn"
        )
