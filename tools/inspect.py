"""drtf inspect."""

from pathlib import Path, PurePath

import click

from drtf.terminal import show_line

from .options import AnyPath, config_options, overwrite_option, path_option

MAX_CONFLICTS_SHOWN = 10
MAX_VALUES_SHOWN = 4
SHOWN_SETTINGS = ("decode", "crop", "contrast")


@click.command()
@click.argument("shards", type=AnyPath())
@path_option(
    "--out",
    "Folder for the pictures. The default is SHARDS-inspection; for a store, it is in "
    "the current folder.",
    required=False,
)
@click.option(
    "--per-grade",
    type=click.IntRange(1, 64),
    default=8,
    show_default=True,
    help="Photographs to show per grade.",
)
@click.option(
    "--augment",
    is_flag=True,
    help="Also plot augmented.png: a photograph of each grade as training would see "
    "it, with the augment section of --config and --set.",
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
    """Show statistics and a contact sheet of the dataset SHARDS."""
    from drtf.config import load_config
    from drtf.data.inspection import inspect_dataset
    from drtf.locations import is_remote
    from drtf.records.remote import fetch_dataset

    from .tables import show_counts, show_notes, show_table

    if is_remote(shards):
        folder, base = fetch_dataset(str(shards)), Path(PurePath(shards).name)
    else:
        folder, base = Path(shards), Path(shards).resolve()
    out = out or base.with_name(f"{base.name}-inspection")
    config = load_config(config_source, overrides)
    inspection = inspect_dataset(
        folder,
        out=out,
        num_per_grade=per_grade,
        augment=config.augment if augment else None,
        sampling=config.sampling,
        task=config.train.task,
        overwrite=overwrite,
    )
    manifest = inspection.manifest
    show_notes(manifest)
    show_counts(f"Photographs in {shards}", manifest)
    show_line(
        f"{len(manifest.shards)} shards, {manifest.size_bytes / 1e6:.1f} MB; "
        f"{manifest.image_size} px, "
        + ", ".join(f"{key} {manifest.preprocessing[key]}" for key in SHOWN_SETTINGS)
    )
    show_table(
        "Quality before equalization",
        ("measure", "minimum", "5 %", "median", "95 %", "maximum"),
        [
            (name, *(f"{value:.3f}" for value in values))
            for name, values in manifest.quality.items()
        ],
    )
    if inspection.kept_columns:
        show_table(
            "Columns kept from the label file",
            ("column", "different values", "most frequent"),
            [
                (name, len(counts), _describe_counts(counts))
                for name, counts in inspection.kept_columns.items()
            ],
        )
    if manifest.rejected:
        show_table("Rejected", ("reason", "photographs"), manifest.rejected.items())
    if inspection.num_identical:
        show_line(
            f"{inspection.num_identical:,} photographs are identical to another one"
        )
    for conflict in inspection.conflicts[:MAX_CONFLICTS_SHOWN]:
        show_line(f"Identical photographs with different grades: {conflict}")
    if len(inspection.conflicts) > MAX_CONFLICTS_SHOWN:
        more = len(inspection.conflicts) - MAX_CONFLICTS_SHOWN
        show_line(f"and {more:,} more groups of identical photographs")
    for path in inspection.figures:
        show_line(str(path))


def _describe_counts(counts: dict[str, int]) -> str:
    most = list(counts.items())[:MAX_VALUES_SHOWN]
    more = ", ..." if len(counts) > MAX_VALUES_SHOWN else ""
    return ", ".join(f"{value or 'missing'}: {n:,}" for value, n in most) + more
