"""drtf build-shards."""

import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from drtf.labels.formats import LABEL_FORMATS
from drtf.records.plan import SPLITS
from drtf.terminal import show_line

from .options import (
    FILE,
    SOME_REJECTED,
    AnyPath,
    BeamCommand,
    OutPath,
    Part,
    beam_runner_option,
    config_options,
    images_option,
    labels_option,
    max_rejected_option,
    out_option,
    show_next,
)

if TYPE_CHECKING:
    from drtf.building.plan import BuildPlan
    from drtf.records.manifest import Manifest
    from drtf.tasks import TaskName

MAX_CONFLICTS_SHOWN = 3
FORMATS = "\n".join(f"      {known}" for known in LABEL_FORMATS)
NO_FILE = "-"


@click.command(
    cls=BeamCommand,
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
    4, or No_DR, Mild, Moderate, Severe and Proliferate_DR. Folders above or below them
    that are named train, val and test are a published split.

    If a build is stopped, run the same command again to resume it. Photographs that
    cannot be used are rejected and listed with a reason in rejected.csv; the exit code
    is then {SOME_REJECTED}.

    On several hosts, add --plan to the command. Then run --task 1/N to --task N/N on
    any hosts, and --merge when all are done, each only with the same --out.
    """,
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
    type=(str, AnyPath(), FILE),
    metavar="NAME IMAGES LABELS",
    multiple=True,
    help="One of several collections to combine in one dataset, instead of --images "
    f"and --labels; its ids become NAME/id. LABELS is {NO_FILE} for class folders. May "
    "be repeated.",
)
@click.option(
    "--split",
    "parts",
    type=(click.Choice(SPLITS), AnyPath(), FILE),
    metavar="SPLIT IMAGES LABELS",
    multiple=True,
    help="One part of a published split, instead of --images and --labels, such as "
    "--split train IMAGES LABELS --split test IMAGES LABELS. Like --source, with the "
    "split as the name.",
)
@out_option(
    "Folder to create, local or in a store, such as tfrecords/NAME.", kind=OutPath()
)
@click.option(
    "--plan",
    is_flag=True,
    help="Only save the plan of a build on several hosts, which share --out.",
)
@click.option(
    "--task",
    type=Part(),
    metavar="I/N",
    help="Convert part I of N of a saved plan. Requires only --out; --set "
    "build.num_workers=NUMBER may be added.",
)
@click.option(
    "--merge",
    is_flag=True,
    help="Complete a dataset after all its tasks. Requires only --out; --max-rejected "
    "may be added.",
)
@beam_runner_option
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
    plan: bool,
    task: tuple[int, int] | None,
    merge: bool,
    beam_runner: str | None,
    beam_options: tuple[str, ...],
    max_rejected: float,
    config_source: str,
    overrides: tuple[str, ...],
) -> None:
    """Build a dataset and print its counts, or run one step of a build."""
    if plan + (task is not None) + merge + (beam_runner is not None) > 1:
        raise click.UsageError(
            "give only one of --plan, --task, --merge and --beam-runner"
        )
    given = click.get_current_context().get_parameter_source("max_rejected")
    if (plan or task) and given == ParameterSource.COMMANDLINE:
        raise click.UsageError("--max-rejected applies to --merge, not to its tasks")
    if task or merge:
        if images or labels or named or parts or config_source:
            raise click.UsageError(
                "--task and --merge take photographs, labels and settings from the "
                "plan: give only --out"
            )
        if task:
            run_task(out, task, overrides)
        else:
            run_merge(out, max_rejected, overrides)
        return
    if bool(named or parts) == bool(images) or ((named or parts) and labels):
        raise click.UsageError(
            "give either --images, with or without --labels, or --source once per "
            "collection and --split once per part of a published split"
        )
    from drtf.building.build import build_shards as build
    from drtf.building.tasks import plan_tasks
    from drtf.config import load_config
    from drtf.labels.sources import Source
    from drtf.models.weights import imagenet_problem

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
        show_line(f"Warning: {problem}", err=True)
    if plan:
        show_plan(plan_tasks(sources, out, config=config), config.train.task, out)
        return
    common: dict[str, Any] = {"config": config, "max_rejected": max_rejected}
    if beam_runner is None:
        report = build(sources, out, **common)
    else:
        from drtf.beam import build_with_beam

        report = build_with_beam(
            sources, out, runner=beam_runner, options=beam_options, **common
        )
    show_dataset(report.manifest, out, is_reused=report.is_reused)
    for line in describe_plan(report.plan, config.train.task):
        show_line(line)
    show_skipped(report.manifest, report.plan, out)
    finish(report.manifest, out, config_source)


def run_task(
    out: Path | str, task: tuple[int, int], overrides: tuple[str, ...]
) -> None:
    """Convert a part of a saved plan, and print how much that was."""
    from drtf.building.tasks import run_task as run
    from drtf.config import load_config

    config = load_config("", overrides, sections=["build.num_workers"])
    report = run(out, task, num_workers=config.build.num_workers)
    number, num_tasks = task
    show_line(
        f"Task {number}/{num_tasks}: {report.num_converted} of {report.num_shards} "
        f"shards converted, {report.num_shards - report.num_converted} were complete; "
        f"{report.num_photographs:,} photographs, {report.num_rejected:,} rejected"
    )


def run_merge(out: Path | str, max_rejected: float, overrides: tuple[str, ...]) -> None:
    """Complete a dataset, and print its counts."""
    if overrides:
        raise click.UsageError("--merge takes all settings from the plan: omit --set")
    from drtf.building.merge import merge_tasks

    report = merge_tasks(out, max_rejected=max_rejected)
    show_dataset(report.manifest, out, is_reused=report.plan is None)
    if report.plan:
        show_skipped(report.manifest, report.plan, out)
    finish(report.manifest, out)


def show_plan(plan: "BuildPlan", task: "TaskName", out: Path | str) -> None:
    """Print a saved plan, and the commands that follow."""
    counts = plan.table["split"].value_counts()
    splits = ", ".join(f"{count:,} {split}" for split, count in counts.items())
    show_line(
        f"Planned {len(plan.shards)} shards of {len(plan.table):,} photographs: "
        f"{splits}"
    )
    for line in describe_plan(plan, task):
        show_line(line)
    note = ", for each I from 1 to any N"
    show_next("build-shards", "--task", "I/N", "--out", out, note=note)
    show_next("build-shards", "--merge", "--out", out)


def show_dataset(manifest: "Manifest", out: Path | str, *, is_reused: bool) -> None:
    """Print the contents of a dataset."""
    from .tables import show_counts, show_notes

    show_notes(manifest)
    sources = manifest.provenance["sources"]
    if any(source.get("num_without_patient") for source in sources):
        show_line(
            "If the label file has a column with the patient, name it with "
            "labels.patient_column. If the photographs' names contain the patient, set "
            "labels.patient_pattern."
        )
    show_counts(f"Photographs in {out}", manifest)
    num_shards = len(manifest.shards)
    shards = "1 shard" if num_shards == 1 else f"{num_shards} shards"
    show_line(f"{shards}, {manifest.size_bytes / 1e6:.1f} MB")
    if is_reused:
        show_line("The dataset was already built; nothing was changed.")


def finish(
    manifest: "Manifest", out: Path | str, config_source: str | None = None
) -> None:
    """Print the next command, and exit with 3 if photographs were rejected."""
    from drtf.records.manifest import REJECTED_FILE

    if "train" in manifest.num_records:
        config = ["--config", config_source] if config_source else []
        show_next("train", "--shards", out, "--out", f"runs/{manifest.name}", *config)
    else:
        split = next(iter(manifest.num_records))
        show_next("evaluate", "RUN", "--shards", out, "--split", split)
    if manifest.rejected:
        reasons = ", ".join(f"{n} {reason}" for reason, n in manifest.rejected.items())
        show_line(
            f"Rejected photographs: {sum(manifest.rejected.values()):,} ({reasons}); "
            f"see {out}/{REJECTED_FILE}"
        )
        sys.exit(SOME_REJECTED)


def describe_plan(plan: "BuildPlan", task: "TaskName") -> Iterator[str]:
    """Describe how a plan uses the labels, and the limits of its splits."""
    for source in plan.catalog.provenance:
        yield from describe_labels(source)
    yield from describe_patients(plan)
    yield from describe_split(plan, task)


def describe_labels(source: dict[str, Any]) -> Iterator[str]:
    """Describe the use of a source's label file or class folders.

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
    if not_kept := source["columns_not_kept"]:
        names = ", ".join(map(repr, not_kept))
        yield f"{prefix}Missing columns of labels.keep_columns: {names}"
    if column := source.get("unread_split_column"):
        yield (
            f"{prefix}Column {column!r} seems to have a published split, which was not "
            f"used. To use it: --set labels.split_column={column!r}"
        )
    if folders := source.get("unread_split_folders"):
        yield (
            f"{prefix}The photographs are in folders of a published split, "
            f"{', '.join(folders)}, which was not used. To use it, give one --split "
            "for each folder"
        )
    if note := source.get("note"):
        yield f"{prefix}Note: {note}"
    if ungraded := source["num_ungraded"]:
        counts = ", ".join(f"{value!r}: {n:,}" for value, n in ungraded.items())
        yield f"{prefix}Ungraded photographs by label: {counts}"


def describe_patients(plan: "BuildPlan") -> Iterator[str]:
    """Yield how the patients were found in the photographs' names, for a check."""
    import numpy as np

    from drtf.texts import number_texts

    if plan.catalog.patients_from != "name":
        return
    table = plan.table[["id", "patient"]]
    patients = number_texts(table["patient"])
    sizes = np.bincount(patients)
    rows = np.flatnonzero(table["patient"] != table["id"])  # others are unknown
    if len(rows):
        found = patients[rows]
        name, patient = table.iloc[rows[sizes[found].argmax()]]
        yield (
            f"Patients from the names of the photographs: {len(np.unique(found)):,}. "
            f"The most photographs, {sizes[found].max():,}, are of the patient "
            f"{patient!r}, such as {name!r}"
        )
    if sizes.max() == 1:
        yield (
            "Warning: no two photographs are of one patient. If the names contain the "
            "patient elsewhere, set labels.patient_pattern"
        )


def describe_split(plan: "BuildPlan", task: "TaskName") -> Iterator[str]:
    """Describe the limits of a dataset's splits and grades.

    Args:
        plan: The plan of the build.
        task: The setting `train.task`.
    """
    from drtf.tasks import TASKS

    table = plan.table
    is_published = table["published"] != ""
    if is_published.any():
        yield f"Photographs in published splits: {is_published.sum():,}"
        drawn = (table["published"] == "train") & (table["split"] == "val")
        if drawn.any():
            yield (
                "There is no published split 'val'. Photographs taken for it from the "
                f"published split 'train' (split.val_size): {drawn.sum():,}"
            )
        divided = table.groupby("patient")["split"].nunique().gt(1).sum()
        if divided:
            yield (
                f"Patients with photographs in several published splits: {divided:,}. "
                "Metrics on such patients are too good"
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
    from drtf.photographs.listing import SKIPPED_FILE, describe_skipped
    from drtf.records.manifest import UNMATCHED_FILE

    kinds = Counter(row.kind for row in plan.catalog.unmatched)
    num_without_field = manifest.provenance["num_without_field"]
    see_unmatched = f"; see {out}/{UNMATCHED_FILE}"
    for what, count, where in (
        ("Repeated rows in the label file", plan.catalog.num_repeated, ""),
        ("Labels without a photograph", kinds["label"], see_unmatched),
        ("Photographs without a label", kinds["photograph"], see_unmatched),
        ("Photographs not cropped, because no field was found", num_without_field, ""),
    ):
        if count:
            show_line(f"{what}: {count:,}{where}")
    if plan.catalog.skipped:
        counts = describe_skipped(plan.catalog.skipped)
        show_line(f"{counts}; see {out}/{SKIPPED_FILE}")
    if plan.conflicts:
        show_line(
            "Groups of identical photographs with different grades: "
            f"{len(plan.conflicts):,} (labels.conflicts={plan.labels.conflicts})"
        )
        for conflict in plan.conflicts[:MAX_CONFLICTS_SHOWN]:
            show_line(f"  {conflict}")
