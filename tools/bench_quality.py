"""drtf bench quality."""

from dataclasses import asdict
from pathlib import Path
from typing import get_args

import click

from .bench_options import check_json, json_option, write_json
from .options import FILE, images_option, path_option


@click.command()
@images_option("Folder of photographs, or a CSV file with a `path` column.")
@path_option(
    "--gradable",
    "Table with a clinician's assessments, like --table of drtf fit-gate; local or in "
    "a store.",
    required=False,
    kind=FILE,
)
@json_option
def quality(images: Path | str, gradable: Path | None, json: Path | None) -> None:
    """Measure how well the flags of drtf score detect ungradable photographs.

    The table counts the flags of the original photographs and of blurred and darkened
    copies; with --gradable, also those of the gradable and the ungradable originals.
    """
    from drtf.bench.quality import bench_quality
    from drtf.images.gradability import Flag

    from .tables import show_table

    check_json(json)
    groups = bench_quality(images, gradable=gradable)
    flags = get_args(Flag)
    show_table(
        f"{images}: fraction of photographs with each flag",
        ("", "photographs", "any flag", *flags),
        [
            (
                group.group,
                f"{group.num_photographs:,}",
                f"{group.num_flagged / group.num_photographs:.3f}",
                *(
                    f"{group.num_by_flag[flag] / group.num_photographs:.3f}"
                    for flag in flags
                ),
            )
            for group in groups
        ],
    )
    write_json(json, [asdict(group) for group in groups])
