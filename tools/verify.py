"""drtf verify."""

import sys
from pathlib import Path

import click

from .options import AnyPath


@click.command()
@click.argument("shards", type=AnyPath())
@click.option("--deep", is_flag=True, help="Also decode every image.")
def verify(shards: Path | str, deep: bool) -> None:
    """Check every byte of the dataset SHARDS against its manifest and index.

    If there are faults, each is listed with its file, record and offset, and the exit
    code is 1.
    """
    from drtf.images.preprocess import find_image_fault
    from drtf.records.verify import find_faults, load_any_manifest

    from .tables import show_table

    manifest = load_any_manifest(shards)
    faults = find_faults(shards, find_image_fault=find_image_fault if deep else None)
    if faults:
        show_table(
            f"Faults in {shards}",
            ("file", "record", "offset", "problem"),
            [
                (
                    fault.file,
                    fault.record if fault.record >= 0 else "",
                    fault.offset if fault.offset >= 0 else "",
                    fault.problem,
                )
                for fault in faults
            ],
        )
        sys.exit(1)
    show_table(
        f"No faults in {shards}",
        ("split", "shards", "records", "bytes"),
        [
            (
                split,
                len(own := [x for x in manifest.shards if x.split == split]),
                sum(shard.num_records for shard in own),
                sum(shard.size_bytes for shard in own),
            )
            for split in manifest.num_records
        ],
    )
