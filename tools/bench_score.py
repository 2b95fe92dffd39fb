"""drtf bench score."""

from pathlib import Path
from statistics import median

import click

from drtf.terminal import show_line

from .bench_options import check_json, json_option, repeats_option, write_json
from .options import config_options, images_option, run_argument


@click.command()
@run_argument
@images_option("Folder of photographs, or a CSV file with a `path` column.")
@click.option(
    "--photographs",
    "num_photographs",
    type=click.IntRange(min=2),
    default=1024,
    show_default=True,
    help="Number of photographs in each measurement; fewer files are repeated.",
)
@click.option(
    "--apart",
    is_flag=True,
    help="Predict on half of the cores and do everything else on the others, as on a "
    "machine with a GPU.",
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
    """Measure scoring with the model in RUN, and its two halves on their own.

    The halves are preparing photographs and predicting. On a machine with a GPU,
    scoring should be as fast as the slower half. If both run on the same CPU cores,
    scoring cannot be faster than both in turn; --apart gives each half its own cores.
    """
    from drtf.bench.score import bench_score
    from drtf.models.run import load_run_config

    from .tables import format_spread, show_table

    check_json(json)
    config = load_run_config(run, config_source, overrides, sections=("score",))
    bench = bench_score(
        run,
        images,
        config=config.score,
        num_photographs=num_photographs,
        num_repeats=repeats,
        apart=apart,
    )
    preparing, predicting, scoring = (
        median(rates) for rates in (bench.preparing, bench.predicting, bench.scoring)
    )
    bounds = {
        "slower half": min(preparing, predicting),
        "both in turn": 1 / (1 / preparing + 1 / predicting),
    }
    rows = [
        ("only preparing", bench.preparing),
        ("only predicting", bench.predicting),
        ("scoring", bench.scoring),
    ]
    show_table(
        f"{bench.num_photographs:,} photographs, views {bench.views}: photographs "
        f"per second, median of {repeats} (lowest to highest)",
        ("", "photographs/s"),
        [(name, format_spread(rates)) for name, rates in rows],
    )
    for name, bound in bounds.items():
        show_line(f"Scoring / {name}: {scoring / bound:.2f}")
    write_json(
        json,
        [
            {
                "name": name,
                "images_per_second": median(rates),
                "relative_to_scoring": median(rates) / scoring,
                "rates": rates,
            }
            for name, rates in rows
        ],
    )
