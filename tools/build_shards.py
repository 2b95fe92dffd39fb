"""drtf build-shards."""

import sys
from pathlib import Path

import click

from drtf.data.label_formats import FOLDER_FORMATS, LABEL_FORMATS

from .options import (
    SOME_REJECTED,
    AnyPath,
    LocalPath,
    config_options,
    images_option,
    labels_option,
    out_option,
    show_next,
)

MAX_CONFLICTS_SHOWN = 3
FORMATS = "\n".join(f"      {known}" for known in LABEL_FORMATS)
FOLDERS = "\n".join(f"      {known}" for known in FOLDER_FORMATS)


NO_FILE = "-"


class Percentage(click.ParamType):
    """A fraction, written as `5%` or `0.05`."""

    name = "percentage"

    def convert(
        self, value: str, param: click.Parameter | None, ctx: click.Context | None
    ) -> float:
        """Return the fraction, in [0, 1]."""
        try:
            fraction = float(value.removesuffix("%")) / (100 if "%" in value else 1)
        except ValueError:
            fraction = -1.0
        if not 0 <= fraction <= 1:
            self.fail(f"{value!r} is not a fraction such as 5% or 0.05", param, ctx)
        return fraction


@click.command(
    help=f"""Convert photographs to TFRecord shards, split by patient.

    These label files are recognized by their columns:

    \b
{FORMATS}

    For any other label file, name its columns:

    \b
      --set labels.image_column=NAME --set labels.grade_column=NAME

    Without a label file, the folders of the photographs are their labels. These names
    are recognized:

    \b
{FOLDERS}

    If a build is stopped, run the same command again to resume it. Photographs that
    cannot be used are rejected and listed with a reason in rejected.csv; the exit code
    is then {SOME_REJECTED}.
    """
)
@images_option(
    "Folder of photographs, local or s3://, a zip archive, or a CSV file with a `path` "
    "column.",
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
@out_option("Folder to create, local or s3://, such as tfrecords/NAME.", kind=AnyPath())
@click.option(
    "--max-rejected",
    type=Percentage(),
    default="100%",
    show_default=True,
    help="Fail if more than this fraction of the photographs is rejected.",
)
@config_options
def build_shards(
    images: Path | str | None,
    labels: Path | None,
    named: tuple[tuple[str, Path | str, Path], ...],
    out: Path | str,
    max_rejected: float,
    config_source: str,
    overrides: tuple[str, ...],
) -> None:
    """Build a dataset and print its counts."""
    if bool(named) == bool(images) or (named and labels):
        raise click.UsageError(
            "give either --images, with or without --labels, or --source once per "
            "collection"
        )
    from drtf.config import load_config
    from drtf.data.build import build_shards as build
    from drtf.data.listing import SKIPPED_FILE, describe_skipped
    from drtf.data.sources import Source
    from drtf.models.weights import imagenet_problem
    from drtf.records.manifest import REJECTED_FILE

    from .tables import show_counts

    if images:
        sources = [Source(images, labels)]
    else:
        sources = [
            Source(folder, None if str(file) == NO_FILE else file, name)
            for name, folder, file in named
        ]
    config = load_config(config_source, overrides)
    if problem := imagenet_problem(config.model, image_size=config.images.size):
        click.echo(f"Warning: {problem}", err=True)
    report = build(sources, out, config=config, max_rejected=max_rejected)
    manifest, plan = report.manifest, report.plan
    show_counts(f"Photographs in {out}", manifest)
    num_shards = len(manifest.shards)
    shards = "1 shard" if num_shards == 1 else f"{num_shards} shards"
    click.echo(f"{shards}, {manifest.size_bytes / 1e6:.1f} MB")
    if report.is_reused:
        click.echo("This command had already built the dataset; nothing was changed.")
    for source in plan.catalog.provenance:
        if folders := source.get("class_folders"):
            grades = ", ".join(f"{x} = grade {grade}" for x, grade in folders.items())
            click.echo(f"Labels from class folders: {grades}")
    num_without_field = manifest.provenance["num_without_field"]
    for count, text in (
        (plan.catalog.num_repeated, "repeated rows in the label file"),
        (len(plan.catalog.missing), "labels without a photograph"),
        (len(plan.catalog.unlabelled), "photographs without a label"),
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
            f"grades (labels.conflicts={config.labels.conflicts}):"
        )
        for conflict in plan.conflicts[:MAX_CONFLICTS_SHOWN]:
            click.echo(f"  {conflict}")
    show_next(f"drtf train --shards {out} --out runs/{manifest.name}")
    if manifest.rejected:
        reasons = ", ".join(f"{n} {reason}" for reason, n in manifest.rejected.items())
        click.echo(
            f"{sum(manifest.rejected.values()):,} photographs were rejected "
            f"({reasons}); see {out}/{REJECTED_FILE}"
        )
        sys.exit(SOME_REJECTED)
