"""drtf build-shards."""

import sys
from pathlib import Path

import click

from .options import SOME_SET_ASIDE, config_options, out_option, path_option


@click.command()
@path_option("--images", "Folder of photographs, searched in depth.")
@path_option("--labels", "CSV of grades: EyePACS, APTOS, IDRiD, or any by --set.")
@out_option("Folder to make, such as tfrecords/NAME.")
@config_options
def build_shards(
    images: Path,
    labels: Path,
    out: Path,
    config_source: str,
    overrides: tuple[str, ...],
) -> None:
    """Convert photographs to TFRecord shards, split by patient.

    The label file's header tells its kind: EyePACS has image,level; APTOS has
    id_code,diagnosis; IDRiD is taken as published. For any other name the columns:

        --set labels.image_column=NAME --set labels.grade_column=NAME

    A photograph that can't be used is set aside with its reason in rejected.csv, and
    the exit code is then 3.
    """
    from drtf.config import load_config
    from drtf.data.build import build_shards as build
    from drtf.records.manifest import REJECTED_FILE

    from .tables import show_table

    config = load_config(config_source, overrides)
    report = build(images, labels, out=out, config=config)
    manifest = report.manifest
    show_table(
        f"Photographs in {out}",
        ("split", *(f"grade {grade}" for grade in range(5)), "all", "patients"),
        [
            (
                split,
                *counts.values(),
                sum(counts.values()),
                manifest.num_patients[split],
            )
            for split, counts in manifest.num_records.items()
        ],
    )
    size_mb = sum(shard.size_bytes for shard in manifest.shards) / 1e6
    click.echo(f"{len(manifest.shards)} shards, {size_mb:.1f} MB")
    for count, text in (
        (report.num_repeated, "repeated rows in the label file"),
        (len(report.missing), "rows without a photograph"),
        (len(report.unlabelled), "photographs without a row"),
        (report.num_uncropped, "photographs left uncropped: no retina found"),
    ):
        if count:
            click.echo(f"{count:,} {text}")
    if report.rejected:
        reasons = ", ".join(f"{n} {reason}" for reason, n in manifest.rejected.items())
        click.echo(
            f"{len(report.rejected):,} photographs set aside ({reasons}); see "
            f"{out / REJECTED_FILE}"
        )
        sys.exit(SOME_SET_ASIDE)
