"""drtf bench score."""

from pathlib import Path
from statistics import median

import click

from .bench_options import check_json, json_option, repeats_option, write_json
from .options import LocalPath, config_options, images_option


@click.command()
@click.argument("run", type=LocalPath())
@images_option("Folder of photographs, or a .csv with a column path.")
@click.option(
    "--photographs",
    "num_photographs",
    type=click.IntRange(min=2),
    default=1024,
    show_default=True,
    help="To handle in each measurement; fewer are taken again and again.",
)
@click.option(
    "--apart",
    is_flag=True,
    help="Predict on half of the cores and do all else on the others, as beside a GPU.",
)
@repeats_option(3)
@json_option
@config_options
def score(
    run: Path,
    images: Path | str,
    num_photographs: int,
    apart: bool,
    repeats: int,
    json: Path | None,
    config_source: str,
    overrides: tuple[str, ...],
) -> None:
    """Measure scoring with the model in RUN beside each of its halves alone.

    On a GPU the slower half should be all that is waited for. Where both run on the
    same CPUs they share these, and can't be faster than one after the other; --apart
    gives each its own.
    """
    from drtf.bench.score import bench_score
    from drtf.models.run import load_run_config

    from .tables import format_spread, show_table

    check_json(json)
    found = bench_score(
        run,
        images,
        config=load_run_config(run, config_source, overrides, sections=("score",)),
        num_photographs=num_photographs,
        num_repeats=repeats,
        apart=apart,
    )
    preparing, predicting, scoring = (
        median(rates) for rates in (found.preparing, found.predicting, found.scoring)
    )
    bounds = {
        "slower half": min(preparing, predicting),
        "both in turn": 1 / (1 / preparing + 1 / predicting),
    }
    rows = [
        ("preparing alone", found.preparing),
        ("predicting alone", found.predicting),
        ("scoring", found.scoring),
    ]
    show_table(
        f"{found.num_photographs:,} photographs, views {found.views}: photographs a "
        f"second, median of {repeats} (lowest to highest)",
        ("what", "per second"),
        [(name, format_spread(rates)) for name, rates in rows],
    )
    for name, bound in bounds.items():
        click.echo(f"Scoring / {name}: {scoring / bound:.2f}")
    write_json(
        json,
        [
            {
                "name": name,
                "images_per_second": median(rates),
                "ratio_to_ours": median(rates) / scoring,
                "per_second": rates,
            }
            for name, rates in rows
        ],
    )
