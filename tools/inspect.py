"""drtf inspect."""

from pathlib import Path, PurePath

import click

from .options import AnyPath, config_options, overwrite_option, path_option

CONFLICTS_SHOWN = 10
SETTINGS_SHOWN = ("decode", "crop", "contrast")


@click.command()
@click.argument("shards", type=AnyPath())
@path_option(
    "--out",
    "Folder for the pictures; without it SHARDS-inspection, here for s3://.",
    required=False,
)
@click.option(
    "--per-grade",
    type=click.IntRange(1, 64),
    default=8,
    show_default=True,
    help="Photographs shown of each grade.",
)
@click.option(
    "--augment",
    is_flag=True,
    help="Draw augmented.png too: a photograph of each grade as training would see it, "
    "by the section augment of --config and --set.",
)
@config_options
@overwrite_option
def inspect(
    shards: Path | str,
    out: Path | None,
    per_grade: int,
    augment: bool,
    config_source: str,
    overrides: tuple[str, ...],
    overwrite: bool,
) -> None:
    """Show what is in the set SHARDS, in figures and on a contact sheet."""
    from drtf.config import load_config
    from drtf.data.inspection import inspect_set
    from drtf.records.remote import fetch_dataset
    from drtf.storage import is_remote

    from .tables import show_counts, show_table

    if is_remote(shards):
        folder, beside = fetch_dataset(str(shards)), Path(PurePath(shards).name)
    else:
        folder, beside = Path(shards), Path(shards).resolve()
    out = out or beside.with_name(f"{beside.name}-inspection")
    config = load_config(config_source, overrides)
    found = inspect_set(
        folder,
        out=out,
        num_per_grade=per_grade,
        augment=config.augment if augment else None,
        task=config.train.task,
        overwrite=overwrite,
    )
    manifest = found.manifest
    show_counts(f"Photographs in {shards}", manifest)
    click.echo(
        f"{len(manifest.shards)} shards, {manifest.size_bytes / 1e6:.1f} MB; "
        f"{manifest.image_size} px, "
        + ", ".join(f"{key} {manifest.preprocessing[key]}" for key in SETTINGS_SHOWN)
    )
    show_table(
        "Quality before equalization",
        ("figure", "least", "5 %", "median", "95 %", "most"),
        [
            (name, *(f"{value:.3f}" for value in values))
            for name, values in manifest.quality.items()
        ],
    )
    if manifest.rejected:
        show_table("Set aside", ("reason", "photographs"), manifest.rejected.items())
    if found.num_identical:
        click.echo(f"{found.num_identical:,} photographs are identical to another one")
    for conflict in found.conflicts[:CONFLICTS_SHOWN]:
        click.echo(f"Identical, with different grades: {conflict}")
    if len(found.conflicts) > CONFLICTS_SHOWN:
        click.echo(f"and {len(found.conflicts) - CONFLICTS_SHOWN:,} more such groups")
    for path in found.figures:
        click.echo(str(path))
