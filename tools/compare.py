"""drtf compare."""

from pathlib import Path

import click

from .options import runs_argument


@click.command()
@runs_argument
@click.option(
    "--split",
    default="test",
    show_default=True,
    help="Split that the runs were evaluated on.",
)
@click.option(
    "--grade",
    "min_grade",
    type=click.IntRange(1, 4),
    default=1,
    show_default=True,
    help="Lowest grade that counts as positive, regardless of train.task.",
)
@click.option(
    "--resamples",
    "num_resamples",
    type=click.IntRange(min=100),
    default=2000,
    show_default=True,
    help="Number of bootstrap resamples of the patients.",
)
def compare(
    runs: tuple[Path, ...], split: str, min_grade: int, num_resamples: int
) -> None:
    """Compare each RUN with the first one on the same photographs.

    Evaluate each RUN with drtf evaluate first. A RUN is a run folder or the folder of
    an evaluation, for example on another dataset. The interval of a difference comes
    from a bootstrap over patients, with the same resamples for both runs. A second
    table lists the evaluation of each run, with its own test-time augmentation and
    threshold.
    """
    if len(runs) < 2:
        raise click.UsageError("give at least two runs; got one")
    from drtf.evaluation.comparison import METRICS, evaluation_folder
    from drtf.evaluation.comparison import compare as run_comparison
    from drtf.evaluation.result import metric_title
    from drtf.intervals import format_estimate

    from .tables import show_table

    comparisons = run_comparison(
        [evaluation_folder(run, split) for run in runs],
        min_grade=min_grade,
        num_resamples=num_resamples,
        seed=42,
    )
    show_table(
        f"ROC AUC for grade >= {min_grade} on split {split}",
        ("run", "ROC AUC (95 % CI)", "difference (95 % CI)", "p"),
        [
            (
                item.name,
                format_estimate(item.roc_auc),
                format_estimate(item.difference, sign="+"),
                f"{item.p_value:.3f}",
            )
            for item in comparisons
        ],
    )
    summaries = [item.summary for item in comparisons]
    rows = [
        ("positive", *(f"grade >= {x.positive_from}" for x in summaries)),
        ("TTA", *(x.tta for x in summaries)),
        ("threshold", *(f"{x.threshold:.4f}" for x in summaries)),
    ]
    for name in METRICS:
        values = [x.metrics.get(name) for x in summaries]
        if any(values):
            cells = (format_estimate(x) if x else "" for x in values)
            rows.append((metric_title(name), *cells))
    names = [item.name for item in comparisons]
    show_table("Evaluation of each run", ("", *names), rows)
