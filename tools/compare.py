"""drtf compare."""

from pathlib import Path

import click

from .options import LocalPath


@click.command()
@click.argument("runs", nargs=-1, required=True, type=LocalPath(), metavar="RUN RUN…")
@click.option(
    "--split", default="test", show_default=True, help="Split that was judged."
)
@click.option(
    "--grade",
    "least_grade",
    type=click.IntRange(1, 4),
    default=1,
    show_default=True,
    help="Grade from which on a photograph is positive, whatever was trained.",
)
@click.option(
    "--resamples",
    "num_resamples",
    type=click.IntRange(min=100),
    default=2000,
    show_default=True,
    help="Bootstrap resamples of the patients.",
)
def compare(
    runs: tuple[Path, ...], split: str, least_grade: int, num_resamples: int
) -> None:
    """Compare runs that were judged on the same photographs, each with the first.

    Each RUN needs its evaluation (drtf evaluate RUN). The interval of a difference is
    by bootstrap over patients, the same ones for both runs. A second table has the runs
    side by side as each was evaluated, with its own views and threshold.
    """
    if len(runs) < 2:
        raise click.UsageError("two runs or more are compared; got one")
    from drtf.inference.comparison import METRICS
    from drtf.inference.comparison import compare as run_comparison
    from drtf.inference.intervals import format_estimate

    from .tables import show_table

    found = run_comparison(
        [run / f"evaluation-{split}" for run in runs],
        least_grade=least_grade,
        num_resamples=num_resamples,
        seed=42,
    )
    show_table(
        f"ROC AUC for grade >= {least_grade} on split {split}",
        ("run", "ROC AUC (95 %)", "difference (95 %)", "p"),
        [
            (
                item.name,
                format_estimate(item.roc_auc),
                format_estimate(item.difference, sign="+"),
                f"{item.p_value:.3f}",
            )
            for item in found
        ],
    )
    summaries = [item.summary for item in found]
    rows = [
        ("positive", *(f"grade >= {x.positive_from}" for x in summaries)),
        ("views", *(x.tta for x in summaries)),
        ("threshold", *(f"{x.threshold:.4f}" for x in summaries)),
    ]
    for name in METRICS:
        values = [x.metrics.get(name) for x in summaries]
        if any(values):
            rows.append((name, *(format_estimate(x) if x else "" for x in values)))
    names = [item.name for item in found]
    show_table("Each as it was evaluated", ("", *names), rows)
