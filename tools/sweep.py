"""drtf sweep."""

from pathlib import Path

import click

from drtf.terminal import show_line

from .options import images_option, labels_option, out_option


@click.command()
@click.argument("configs", nargs=-1, required=True, metavar="CONFIG...")
@images_option(
    "Folder of photographs, local or in a store, or a CSV file with a `path` column."
)
@labels_option
@out_option("Folder for datasets, runs and the table.")
@click.option(
    "--seeds",
    "num_seeds",
    type=click.IntRange(min=1),
    default=3,
    show_default=True,
    help="Number of training runs per config, with consecutive seeds from train.seed.",
)
@click.option(
    "--split", default="test", show_default=True, help="Split to evaluate on."
)
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
    labels: Path | None,
    out: Path,
    num_seeds: int,
    split: str,
    overrides: tuple[str, ...],
) -> None:
    """Train and evaluate several configs on the same photographs, and compare them.

    A CONFIG is a preset or a TOML file. Each config is trained with several seeds and
    evaluated on one split; use val to search for the best of many. The files
    results-SPLIT.csv, .md and .png in --out list how each config differs from the most
    similar earlier one, its ROC AUC, its training time and its memory. Run the same
    command again to resume a sweep that was stopped.
    """
    from drtf.bench.sweep import COLUMNS, FIGURE_FILE, PAGE_FILE, list_rows
    from drtf.bench.sweep import sweep as run_sweep
    from drtf.config import load_config
    from drtf.labels.sources import Source

    from .tables import show_table

    named = [(Path(name).stem, load_config(name, overrides)) for name in configs]
    results = run_sweep(
        named, [Source(images, labels)], out=out, num_seeds=num_seeds, split=split
    )
    # Changes may be long, so they are printed below the table, one line each.
    rows = list_rows(results)
    name, _, *columns = COLUMNS
    show_table(
        f"Configs on split {split} of {images}",
        (name, *columns),
        [(x[0], *x[2:]) for x in rows],
    )
    for name, changes, *_ in rows[1:]:
        show_line(f"{name}: {changes}")
    page, figure = (out / name.format(split) for name in (PAGE_FILE, FIGURE_FILE))
    show_line(f"Table: {page}; figure: {figure}")
