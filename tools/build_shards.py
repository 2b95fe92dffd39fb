"""drtf build-shards."""

import sys
from pathlib import Path

import click

from .options import (
    SOME_REJECTED,
    AnyPath,
    LocalPath,
    config_options,
    images_option,
    out_option,
    path_option,
)

CONFLICTS_SHOWN = 3


class Percentage(click.ParamType):
    """A share, written as `5%` or `0.05`."""

    name = "percentage"

    def convert(
        self, value: str, param: click.Parameter | None, ctx: click.Context | None
    ) -> float:
        """Return the share, in [0, 1]."""
        try:
            share = float(value.removesuffix("%")) / (100 if "%" in value else 1)
        except ValueError:
            share = -1.0
        if not 0 <= share <= 1:
            self.fail(f"{value!r} is no share such as 5% or 0.05", param, ctx)
        return share


@click.command()
@images_option(
    "Folder of photographs, or s3://, or a .csv with a column path.", required=False
)
@path_option(
    "--labels",
    "CSV of grades: EyePACS, APTOS, IDRiD, or any by --set.",
    required=False,
)
@click.option(
    "--source",
    "named",
    type=(str, AnyPath(), LocalPath()),
    metavar="NAME IMAGES LABELS",
    multiple=True,
    help="One of several collections for one set, in place of --images and --labels; "
    "its ids become NAME/id.",
)
@out_option("Folder to make, such as tfrecords/NAME, or s3://.", kind=AnyPath())
@click.option(
    "--max-rejected",
    type=Percentage(),
    default="100%",
    show_default=True,
    help="Fail if more of the photographs had to be set aside.",
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
    """Convert photographs to TFRecord shards, split by patient.

    The label file's header tells its kind: EyePACS has image,level; APTOS has
    id_code,diagnosis; IDRiD is taken as published. For any other name the columns:

        --set labels.image_column=NAME --set labels.grade_column=NAME

    A build that was stopped, by whatever, goes on where it was when the same command is
    given again. A photograph that can't be used is set aside with its reason in
    rejected.csv, and the exit code is then 3.
    """
    if bool(named) == bool(images or labels) or bool(images) != bool(labels):
        raise click.UsageError("give --images and --labels, or --source for each")
    from drtf.config import load_config
    from drtf.data.build import build_shards as build
    from drtf.data.sources import Source
    from drtf.records.manifest import REJECTED_FILE

    from .tables import show_counts

    if images and labels:
        sources = [Source(images, labels)]
    else:
        sources = [Source(folder, file, name) for name, folder, file in named]
    config = load_config(config_source, overrides)
    report = build(sources, out, config=config, max_rejected=max_rejected)
    manifest, plan = report.manifest, report.plan
    show_counts(f"Photographs in {out}", manifest)
    click.echo(f"{len(manifest.shards)} shards, {manifest.size_bytes / 1e6:.1f} MB")
    if report.found_whole:
        click.echo("The set was there already, made by this same command.")
    num_without_field = manifest.provenance["num_without_field"]
    for count, text in (
        (plan.catalog.num_repeated, "repeated rows in the label file"),
        (len(plan.catalog.missing), "rows without a photograph"),
        (len(plan.catalog.unlabelled), "photographs without a row"),
        (num_without_field, "photographs without a field found, kept whole"),
    ):
        if count:
            click.echo(f"{count:,} {text}")
    if plan.conflicts:
        click.echo(
            f"{len(plan.conflicts):,} groups of identical photographs with different "
            f"grades (labels.conflicts={config.labels.conflicts}):"
        )
        for conflict in plan.conflicts[:CONFLICTS_SHOWN]:
            click.echo(f"  {conflict}")
    if manifest.rejected:
        reasons = ", ".join(f"{n} {reason}" for reason, n in manifest.rejected.items())
        click.echo(
            f"{sum(manifest.rejected.values()):,} photographs set aside ({reasons}); "
            f"see {out}/{REJECTED_FILE}"
        )
        sys.exit(SOME_REJECTED)
