"""drtf export."""

from pathlib import Path

import click

from drtf.export.formats import FORMATS
from drtf.terminal import show_line

from .options import out_option, run_argument, shards_option


@click.command()
@run_argument
@click.option(
    "--format",
    "target",
    type=click.Choice(list(FORMATS)),
    required=True,
    help="Format to write. "
    + "; ".join(f"{name}: {x.description}" for name, x in FORMATS.items())
    + ".",
)
@click.option(
    "--whole",
    is_flag=True,
    help="Put test-time augmentation, calibration, threshold and cut points into the "
    "graph too.",
)
@shards_option("Dataset to quantize and compare on, preprocessed as in training.")
@click.option("--split", default="test", show_default=True, help="Split to compare on.")
@out_option("Folder (savedmodel, coreml) or file to write.")
def export(
    run: Path, target: str, whole: bool, shards: Path, split: str, out: Path
) -> None:
    """Export the network in RUN to another runtime and compare it with Keras.

    The exported network takes uint8 RGB images of any size, cropped and equalized as in
    RUN's config, and returns the score without test-time augmentation; with --whole,
    the score with it, the probability and the predicted label. A JSON file next to it
    describes preprocessing, views, threshold and calibration, and contains the
    comparison.
    """
    from drtf.export.export import export as run_export
    from drtf.models.run_files import QUALITY_GATE_FILE

    from .tables import show_table

    exported = run_export(run, shards, out=out, target=target, split=split, whole=whole)
    if exported.is_reused:
        show_line("This command had already written it; nothing was changed.")
    if (run / QUALITY_GATE_FILE).exists():
        show_line(
            f"Note: the quality gate of {run} is not exported; only drtf score uses it"
        )
    measured = exported.measured
    result = measured.comparison
    networks = {
        "Keras": (result.keras_roc_auc, result.keras_images_per_second),
        target: (result.roc_auc, result.images_per_second),
    }
    show_table(
        f"{exported.path}, {measured.size_bytes / 1e6:,.2f} MB, on "
        f"{result.num_photographs:,} photographs of split {split}",
        ("", "ROC AUC", "photographs/s, one at a time"),
        [
            (name, f"{auc:.4f}", f"{rate:,.0f}")
            for name, (auc, rate) in networks.items()
        ],
    )
    show_line(f"Run by: {measured.runtime}")
    show_line(
        f"Largest difference between two scores: {result.max_difference:.2g}, "
        f"between two probabilities: {result.max_probability_difference:.2g}"
    )
    if exported.rounds_views:
        show_line(
            "Some of these differences are because the brighter view was rounded to "
            "uint8, as callers must do; with --whole, the graph builds the views"
        )
    if exported.has_own_threshold:
        show_line(
            f"Threshold: {exported.threshold:.4f}, chosen for this network and stored "
            "in the JSON file; the run's threshold does not apply"
        )
    show_line(
        f"Predicted labels that differ from Keras: {result.num_changed_predictions:,} "
        f"of {result.num_photographs:,}"
    )
    if result.num_changed_grades:
        show_line(
            f"Predicted grades that differ from Keras: {result.num_changed_grades:,} "
            f"of {result.num_photographs:,}"
        )
