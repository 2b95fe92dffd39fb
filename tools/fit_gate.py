"""drtf fit-gate."""

from pathlib import Path

import click

from drtf.terminal import show_line

from .options import (
    FILE,
    Percentage,
    config_options,
    images_option,
    path_option,
    run_argument,
    shards_option,
    show_next,
)


@click.command()
@run_argument
@images_option(
    "The original photographs: a folder, local or in a store, searched recursively; a "
    "zip archive; or a .csv file with a column path. The gate is then also compared "
    "with the rules of drtf score (too_dark, blurred, ...).",
    required=False,
)
@shards_option(
    "In place of --images: a dataset, preprocessed as in training.", required=False
)
@click.option(
    "--split",
    "splits",
    multiple=True,
    metavar="NAME",
    help="Split of --shards to fit on (repeatable). Default: all.",
)
@path_option(
    "--table",
    "Table with a clinician's assessments: a CSV file with one row per photograph "
    "(column image) or per patient (column patient), local or in a store. Default: a "
    "column that --shards kept from its label file (labels.keep_columns), or the "
    "folders below --images, such as good and bad.",
    required=False,
    kind=FILE,
)
@click.option(
    "--column",
    default="",
    metavar="NAME",
    help="Column of the assessments. Default: one with a usual name, such as gradable, "
    "ungradable, quality, Overall quality or usable.",
)
@click.option(
    "--ungradable",
    multiple=True,
    metavar="VALUE",
    help="A value of the column that means ungradable (repeatable); all others then "
    "mean gradable. Default: words such as reject, bad and poor; in a column such as "
    "gradable also 0 and no, in a column such as ungradable also 1 and yes.",
)
@click.option(
    "--max-flagged",
    type=Percentage(),
    default="5%",
    show_default=True,
    help="Choose the threshold so that at most this fraction of the gradable "
    "photographs is flagged.",
)
@config_options
def fit_gate(
    run: Path,
    images: Path | str | None,
    shards: Path | None,
    splits: tuple[str, ...],
    table: Path | None,
    column: str,
    ungradable: tuple[str, ...],
    max_flagged: float,
    config_source: str,
    overrides: tuple[str, ...],
) -> None:
    """Fit a quality gate: let RUN find photographs that are ungradable.

    A clinician's assessments of some photographs are required. From then on, drtf score
    also flags the photographs that this clinician would probably call ungradable. The
    gate takes the features of RUN's network, so scoring takes no longer.

    The results that are printed are by folds of patients: each photograph is predicted
    by a gate that was fitted without its patient. RUN keeps one gate; fitting again
    replaces it.
    """
    if (images is None) == (shards is None):
        raise click.UsageError("give either --images or --shards")
    if splits and shards is None:
        raise click.UsageError("--split requires --shards")
    from drtf.adaptation.quality_gates import FLAGGERS
    from drtf.adaptation.quality_gates import fit_gate as run_fit
    from drtf.intervals import format_estimate
    from drtf.models.run import load_run_config

    from .tables import show_table

    config = load_run_config(
        run,
        config_source,
        overrides,
        sections=("score", "evaluate", "labels.patient_pattern"),
    )
    report = run_fit(
        run,
        config=config,
        shards=shards,
        splits=splits,
        images=images,
        table=table,
        column=column,
        ungradable=ungradable,
        max_flagged=max_flagged,
    )
    show_line(f"Assessments: {report.column} ({report.meanings})")
    for note in report.notes():
        show_line(f"Note: {note}")
    show_line(f"ROC AUC by folds of patients: {format_estimate(report.roc_auc)}")
    flaggers = list(report.num_flagged["gradable"])
    show_table(
        "Photographs that are flagged",
        ("", "photographs", *(f"flagged by {FLAGGERS[x]}" for x in flaggers)),
        [
            (
                name,
                report.num_photographs[name],
                *(
                    f"{count:,} ({count / report.num_photographs[name]:.1%})"
                    for count in counts.values()
                ),
            )
            for name, counts in report.num_flagged.items()
        ],
    )
    gate = report.gate
    show_line(
        f"Threshold: {gate.threshold:.4f}, which flags at most {max_flagged:.1%} of "
        "the gradable photographs"
    )
    if report.replaced:
        show_line(f"This gate replaces the one {report.replaced.describe()}.")
    show_line(f"{run}: quality gate {gate.describe()}")
    show_next("score", run, "--images", "FOLDER", "--out", "scores.csv")
