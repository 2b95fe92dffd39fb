"""drtf build-shards."""

import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from drtf.data.label_formats import LABEL_FORMATS
from drtf.records.plan import SPLITS

from .options import (
    SOME_REJECTED,
    AnyPath,
    LocalPath,
    config_options,
    images_option,
    labels_option,
    max_rejected_option,
    out_option,
    show_next,
)

if TYPE_CHECKING:
    from drtf.data.build_plan import BuildPlan
    from drtf.records.manifest import Manifest
    from drtf.tasks import TaskName

MAX_CONFLICTS_SHOWN = 3
FORMATS = "\n".join(f"      {known}" for known in LABEL_FORMATS)
NO_FILE = "-"


@click.command(
    help=f"""Convert photographs to TFRecord shards, split by patient.

    These label files are recognized by their columns:

    \b
{FORMATS}

    For any other label file, name its columns:

    \b
      --set labels.image_column=NAME --set labels.grade_column=NAME

    In a file without a header, the columns are named by their numbers, from 1. Grades
    are numbers from 0 to 4, or words such as `mild`. A label file may be text with any
    usual separator, an Excel workbook (.xlsx), or a zip file with one of these.

    Without a label file, the folders of the photographs are their labels, such as 0 to
    4, or No_DR, Mild, Moderate, Severe and Proliferate_DR. Folders above them that are
    named train, val and test are a published split.

    If a build is stopped, run the same command again to resume it. Photographs that
    cannot be used are rejected and listed with a reason in rejected.csv; the exit code
    is then {SOME_REJECTED}.
    """
)
@images_option(
    "Folder of photographs, local or in a store, a zip archive, or a CSV file with a "
    "`path` column.",
    required=False,
)
@labels_option
@click.option(
    "--source",
    "named",
    type=(str, AnyPath(), LocalPath()),
    metavar="NAME IMAGES LABELS",
    multiple=True,
    help="One of several collections to combine in one dataset, instead of --images "
    f"and --labels; its ids become NAME/id. LABELS is {NO_FILE} for class folders. May "
    "be repeated.",
)
@click.option(
    "--split",
    "parts",
    type=(click.Choice(SPLITS), AnyPath(), LocalPath()),
    metavar="SPLIT IMAGES LABELS",
    multiple=True,
    help="One part of a published split, instead of --images and --labels, such as "
    "--split train IMAGES LABELS --split test IMAGES LABELS. Like --source, with the "
    "split as the name.",
)
@out_option(
    "Folder to create, local or in a store, such as tfrecords/NAME.", kind=AnyPath()
)
@max_rejected_option(
    "Fail if more than this fraction of the photographs is rejected.", default="100%"
)
@config_options
def build_shards(
    images: Path | str | None,
    labels: Path | None,
    named: tuple[tuple[str, Path | str, Path], ...],
    parts: tuple[tuple[str, Path | str, Path], ...],
    out: Path | str,
    max_rejected: float,
    config_source: str,
    overrides: tuple[str, ...],
) -> None:
    """Build a dataset and print its counts."""
    if bool(named or parts) == bool(images) or ((named or parts) and labels):
        raise click.UsageError(
            "give either --images, with or without --labels, or --source once per "
            "collection and --split once per part of a published split"
        )
    from drtf.config import load_config
    from drtf.data.build import build_shards as build
    from drtf.data.sources import Source
    from drtf.models.weights import imagenet_problem
    from drtf.records.manifest import REJECTED_FILE

    from .tables import show_counts, show_notes

    if images:
        sources = [Source(images, labels)]
    else:
        sources = [
            Source(folder, None if str(file) == NO_FILE else file, name, split)
            for name, folder, file, split in (
                *((*collection, "") for collection in named),
                *((*part, part[0]) for part in parts),
            )
        ]
    config = load_config(config_source, overrides)
    if problem := imagenet_problem(config.model, image_size=config.images.size):
        click.echo(f"Warning: {problem}", err=True)
    report = build(sources, out, config=config, max_rejected=max_rejected)
    manifest, plan = report.manifest, report.plan
    show_notes(manifest)
    if manifest.patients_from == "none":
        click.echo(
            "If the label file has a column with the patient, name it with "
            "labels.patient_column. If the photographs' names contain the patient, set "
            "labels.patient_pattern."
        )
    show_counts(f"Photographs in {out}", manifest)
    num_shards = len(manifest.shards)
    shards = "1 shard" if num_shards == 1 else f"{num_shards} shards"
    click.echo(f"{shards}, {manifest.size_bytes / 1e6:.1f} MB")
    if report.is_reused:
        click.echo("This command had already built the dataset; nothing was changed.")
    for source in plan.catalog.provenance:
        for line in describe_labels(source):
            click.echo(line)
    for line in describe_split(plan, config.train.task):
        click.echo(line)
    show_skipped(manifest, plan, out)
    show_next(f"drtf train --shards {out} --out runs/{manifest.name}")
    if manifest.rejected:
        reasons = ", ".join(f"{n} {reason}" for reason, n in manifest.rejected.items())
        click.echo(
            f"{sum(manifest.rejected.values()):,} photographs were rejected "
            f"({reasons}); see {out}/{REJECTED_FILE}"
        )
        sys.exit(SOME_REJECTED)


def describe_labels(source: dict[str, Any]) -> Iterator[str]:
    """Yield what was taken from a source's label file or class folders.

    Args:
        source: The source's entry in the manifest's provenance.
    """
    prefix = f"{source['name']}: " if source["name"] else ""
    if folders := source.get("class_folders"):
        grades = ", ".join(f"{x} = grade {grade}" for x, grade in folders.items())
        yield f"{prefix}Labels from class folders: {grades}"
    if columns := source.get("columns"):
        read = ", ".join(f"{role} = {name!r}" for role, name in columns.items())
        unread = ", ".join(map(repr, source["unread_columns"])) or "none"
        yield f"{prefix}Columns read: {read}; not read: {unread}"
    if column := source.get("unread_split_column"):
        yield (
            f"{prefix}Column {column!r} seems to have a published split, which was not "
            f"used. To use it: --set labels.split_column={column!r}"
        )
    if note := source.get("note"):
        yield f"{prefix}Note: {note}"
    if ungraded := source["num_ungraded"]:
        counts = ", ".join(f"{value!r}: {n:,}" for value, n in ungraded.items())
        yield f"{prefix}Ungraded photographs by label: {counts}"


def describe_split(plan: "BuildPlan", task: "TaskName") -> Iterator[str]:
    """Yield what the splits and grades of a dataset do not allow, or mix.

    Args:
        plan: The plan of the build.
        task: The setting `train.task`.
    """
    from drtf.tasks import TASKS

    table = plan.table
    is_published = table["published"] != ""
    if is_published.any():
        yield f"Published splits were kept for {is_published.sum():,} photographs"
        drawn = (table["published"] == "train") & (table["split"] == "val")
        if drawn.any():
            yield (
                f"There is no published split 'val': {drawn.sum():,} photographs were "
                "taken from the published split 'train' (split.val_size)"
            )
        divided = table.groupby("patient")["split"].nunique().gt(1).sum()
        if divided:
            yield (
                f"{divided:,} patients have photographs in several published splits: "
                "metrics on such patients are too good"
            )
    if set(table["grade"]) <= {0, 1}:
        yield (
            "The labels are only 0 and 1: they suit train.task='binary', but not "
            "'referable' or 'grades'"
        )
    classes = TASKS[task].classes(table["grade"].to_numpy())
    if len(set(classes.tolist())) == 1:
        yield (
            f"All photographs are of one class for train.task={task!r}: a network "
            "cannot be trained on them"
        )


def show_skipped(manifest: "Manifest", plan: "BuildPlan", out: Path | str) -> None:
    """Print counts of labels and photographs that were skipped, and of conflicts."""
    from drtf.data.listing import SKIPPED_FILE, describe_skipped
    from drtf.records.manifest import UNMATCHED_FILE

    kinds = Counter(row.kind for row in plan.catalog.unmatched)
    num_without_field = manifest.provenance["num_without_field"]
    for count, text in (
        (plan.catalog.num_repeated, "repeated rows in the label file"),
        (kinds["label"], f"labels without a photograph; see {out}/{UNMATCHED_FILE}"),
        (
            kinds["photograph"],
            f"photographs without a label; see {out}/{UNMATCHED_FILE}",
        ),
        (num_without_field, "photographs not cropped, because no field was found"),
    ):
        if count:
            click.echo(f"{count:,} {text}")
    if plan.catalog.skipped:
        counts = describe_skipped(plan.catalog.skipped)
        click.echo(f"{counts}; see {out}/{SKIPPED_FILE}")
    if plan.conflicts:
        click.echo(
            f"{len(plan.conflicts):,} groups of identical photographs with different "
            f"grades (labels.conflicts={plan.labels.conflicts}):"
        )
        for conflict in plan.conflicts[:MAX_CONFLICTS_SHOWN]:
            click.echo(f"  {conflict}")
