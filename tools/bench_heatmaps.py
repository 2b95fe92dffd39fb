"""drtf bench heatmaps."""

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click

from drtf.terminal import show_line

from .bench_options import check_json, json_option, write_json
from .options import AnyPath, images_option, path_option, runs_argument

if TYPE_CHECKING:
    from drtf.bench.heatmaps import MapResult


@click.command()
@runs_argument
@images_option("Folder of photographs, local or in a store.")
@path_option(
    "--masks", "Folder of their lesion masks, local or in a store.", kind=AnyPath()
)
@json_option
def heatmaps(
    runs: tuple[Path, ...],
    images: Path | str,
    masks: Path | str,
    json: Path | None,
) -> None:
    """Measure whether heat maps point at lesions, by method and layer.

    The lesions are those of masks that experts drew, such as part A of IDRiD. A mask
    has the size of its photograph, is not black on lesions, and is named
    <photograph>_<type>: IDRiD_012_MA.png has the microaneurysms of IDRiD_012.jpg.
    Masks of the optic disc (OD) are ignored. Photographs without a mask are not used.

    Give several RUNs of one config, trained with several seeds, to see how much the
    results depend on the seed.
    """
    from drtf.bench.heatmaps import ANY_LESION, bench_heatmaps
    from drtf.intervals import format_estimate

    from .tables import show_table

    check_json(json)
    report = bench_heatmaps(runs, images=images, masks=masks)
    results = report.results
    show_table(
        f"Photographs with lesions: {report.num_photographs:,}, runs: {len(runs)}. "
        "* is the default of drtf gradcam.",
        (
            "method",
            "layer",
            "cells",
            "hottest at a lesion",
            "by chance",
            "heat on lesions",
            "by chance",
            "blank",
            "correlation with random",
        ),
        [
            (
                *_describe_maps(result),
                format_estimate(result.lesions[ANY_LESION].pointing),
                f"{result.lesions[ANY_LESION].pointing_by_chance:.2f}",
                format_estimate(result.lesions[ANY_LESION].heat),
                f"{result.lesions[ANY_LESION].heat_by_chance:.2f}",
                f"{result.blank_fraction:.2f}",
                f"{result.correlation_with_random:.2f}",
            )
            for result in results
        ],
    )
    by_type = results[0].lesions
    types = [f"{kind} ({x.num_photographs})" for kind, x in by_type.items()]
    show_table(
        "Hottest at a lesion, by type of lesion (number of photographs)",
        ("method", "layer", "cells", *types),
        [
            (
                "chance",
                "",
                "",
                *(f"{x.pointing_by_chance:.2f}" for x in by_type.values()),
            ),
            *(
                (
                    *_describe_maps(result),
                    *(f"{x.pointing.value:.2f}" for x in result.lesions.values()),
                )
                for result in results
            ),
        ],
    )
    show_table(
        "Heat on lesions, by type of lesion (number of photographs)",
        ("method", "layer", "cells", *types),
        [
            ("chance", "", "", *(f"{x.heat_by_chance:.3f}" for x in by_type.values())),
            *(
                (
                    *_describe_maps(result),
                    *(f"{x.heat.value:.3f}" for x in result.lesions.values()),
                )
                for result in results
            ),
        ],
    )
    if len(runs) > 1:
        show_table(
            "Hottest at a lesion / heat on lesions, by run",
            ("method", "layer", "cells", *map(str, runs)),
            [
                (
                    *_describe_maps(result),
                    *(
                        f"{pointing:.2f} / {heat:.2f}"
                        for pointing, heat in zip(
                            result.lesions[ANY_LESION].pointing_by_run.values(),
                            result.lesions[ANY_LESION].heat_by_run.values(),
                            strict=True,
                        )
                    ),
                )
                for result in results
            ],
        )
    if report.unmatched:
        show_line(
            f"Note: {len(report.unmatched):,} masks have no photograph in {images} "
            f"(first: {report.unmatched[0]})."
        )
    write_json(json, map(asdict, results))


def _describe_maps(result: "MapResult") -> tuple[str, str, str]:
    """Return method, layer and number of cells; the default is marked."""
    mark = " *" if result.is_default else ""
    return f"{result.method}{mark}", result.layer, f"{result.cells} x {result.cells}"
