"""drtf sweep."""

from pathlib import Path

import click

from .options import images_option, out_option, path_option


@click.command()
@click.argument("configs", nargs=-1, required=True, metavar="CONFIG...")
@images_option("Folder of photographs, or s3://, or a .csv with a column path.")
@path_option("--labels", "CSV of grades.")
@out_option("Folder for sets, runs and the table.")
@click.option(
    "--seeds",
    "num_seeds",
    type=click.IntRange(min=1),
    default=3,
    show_default=True,
    help="Trainings of each config, with seeds from its own on.",
)
@click.option("--split", default="test", show_default=True, help="Split to judge on.")
@click.option(
    "--set",
    "overrides",
    metavar="KEY=VALUE",
    multiple=True,
    help="Override one setting in all configs; may be repeated.",
)
def sweep(
    configs: tuple[str, ...],
    images: Path | str,
    labels: Path,
    out: Path,
    num_seeds: int,
    split: str,
    overrides: tuple[str, ...],
) -> None:
    """Train and judge several configs on the same photographs, and compare them.

    A CONFIG is a preset or a TOML file. Each is built, trained with several seeds, and
    judged on one split, val for a search among many; results-SPLIT.csv, .md and .png
    in --out tell what each one changes of the one above that it is most like, its ROC
    AUC, and what it took. A sweep that was stopped goes on where it was when the same
    command is given again.
    """
    from drtf.bench.sweep import COLUMNS, FIGURE_FILE, PAGE_FILE, list_rows
    from drtf.bench.sweep import sweep as run_sweep
    from drtf.config import load_config
    from drtf.data.sources import Source

    from .tables import show_table

    named = [(Path(name).stem, load_config(name, overrides)) for name in configs]
    results = run_sweep(
        named, [Source(images, labels)], out=out, num_seeds=num_seeds, split=split
    )
    # What a config changes may be long: a line each beneath.
    rows = list_rows(results)
    name, _, *columns = COLUMNS
    show_table(
        f"Configs on split {split} of {images}",
        (name, *columns),
        [(x[0], *x[2:]) for x in rows],
    )
    for name, changes, *_ in rows[1:]:
        click.echo(f"{name} is {changes}")
    page, figure = (out / name.format(split) for name in (PAGE_FILE, FIGURE_FILE))
    click.echo(f"Table: {page}; picture: {figure}")
