"""drtf bench quality."""

from dataclasses import asdict
from pathlib import Path
from typing import get_args

import click

from .bench_options import check_json, json_option, write_json
from .options import images_option, path_option


@click.command()
@images_option("Folder of photographs, or a .csv with a column path.")
@path_option(
    "--judged",
    "CSV with columns image and gradable, 0 or 1, as a clinician judged them.",
    required=False,
)
@json_option
def quality(images: Path | str, judged: Path | None, json: Path | None) -> None:
    """Measure which photographs the flags of drtf score find hardly gradable.

    The photographs are flagged as they are, blurred, darkened, and, with --judged,
    apart by a clinician's verdict.
    """
    from drtf.bench.quality import bench_quality
    from drtf.images.gradability import Flag

    from .tables import show_table

    check_json(json)
    found = bench_quality(images, judged=judged)
    flags = get_args(Flag)
    show_table(
        f"{images}: share of photographs with each flag",
        ("", "photographs", "any flag", *flags),
        [
            (
                kind.name,
                f"{kind.num_photographs:,}",
                f"{kind.num_flagged / kind.num_photographs:.3f}",
                *(
                    f"{kind.num_by_flag[flag] / kind.num_photographs:.3f}"
                    for flag in flags
                ),
            )
            for kind in found
        ],
    )
    write_json(json, [asdict(kind) for kind in found])
