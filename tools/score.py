"""drtf score."""

import re
import sys
from pathlib import Path
from typing import Any

import click

from .options import (
    SOME_REJECTED,
    LocalPath,
    config_options,
    images_option,
    out_option,
    overwrite_option,
    path_option,
)


class Part(click.ParamType):
    """One of several parts, such as `2/8`."""

    name = "part"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[int, int]:
        """Return the part's number, from 1, and the number of parts."""
        if isinstance(value, tuple):  # click converts a default twice
            return value
        match = re.fullmatch(r"(\d+)/(\d+)", value)
        number, count = (int(match[1]), int(match[2])) if match else (0, 0)
        if not 1 <= number <= count:
            self.fail(f"{value!r} is not a part such as 2/8", param, ctx)
        return number, count


@click.command()
@click.argument("run", type=LocalPath())
@images_option(
    "Folder of photographs, local or s3://, searched recursively; a zip archive; a "
    "single photograph; or a .csv file with a column path."
)
@out_option("Table to write: a .csv or .parquet file.")
@click.option(
    "--part",
    "part",
    type=Part(),
    default="1/1",
    metavar="I/N",
    help="Score part I of N of the photographs and write it to a separate file.",
)
@click.option(
    "--merge",
    type=click.IntRange(min=2),
    metavar="N",
    help="Merge the outputs of --part 1/N to N/N and check that no rows are missing.",
)
@click.option(
    "--format",
    "form",
    type=click.Choice(["table", "kaggle"]),
    default="table",
    show_default=True,
    help="table: all columns. kaggle: a submission, image,level, with the predicted "
    "grade or label, and 0 for photographs without a score.",
)
@click.option(
    "--on-ungradable",
    type=click.Choice(["flag", "reject"]),
    help="Flag photographs that are dark, blurred or not of a retina, or reject them, "
    "so that they get no score. Default: score.on_ungradable of the config.",
)
@path_option(
    "--decision-rule",
    "Folder of an evaluation of RUN, whose threshold and calibration are used instead "
    "of those stored in RUN.",
    required=False,
)
@overwrite_option
@config_options
def score(
    run: Path,
    images: Path | str,
    out: Path,
    part: tuple[int, int],
    merge: int | None,
    form: str,
    on_ungradable: str | None,
    decision_rule: Path | None,
    overwrite: bool,
    config_source: str,
    overrides: tuple[str, ...],
) -> None:
    """Score a folder of photographs with the model in RUN.

    The photographs are preprocessed as in training. Threshold, test-time augmentation
    and calibration are those that evaluate stored in RUN. If a photograph cannot be
    scored, its row gives the reason and the exit code is 3. Run the same command again
    to resume after an interruption.
    """
    if merge and part != (1, 1):
        raise click.UsageError("--part and --merge cannot be combined")
    from drtf.data.listing import SKIPPED_FILE, describe_skipped
    from drtf.inference.scoring import score as run_scoring
    from drtf.models.run import load_run_config

    if on_ungradable:
        overrides = (*overrides, f"score.on_ungradable={on_ungradable}")
    config = load_run_config(run, config_source, overrides, sections=("score",))
    report = run_scoring(
        run,
        images,
        out=out,
        config=config.score,
        overwrite=overwrite,
        decision_rule=decision_rule,
        part=part,
        merge=merge or 0,
        kaggle=form == "kaggle",
    )
    click.echo(
        f"{report.table}: {report.num_scored:,} photographs scored, "
        f"{report.num_positive:,} of them positive (threshold "
        f"{report.threshold:.4f}), {report.num_failed:,} without a score, "
        f"{report.num_flagged:,} may be ungradable"
    )
    if report.skipped:
        click.echo(
            f"{describe_skipped(report.skipped)}; see "
            f"{out.with_suffix(f'.{SKIPPED_FILE}')}"
        )
    if not report.threshold_chosen:
        click.echo(
            "Note: the run has no threshold yet, so 0.5 was used, without test-time "
            "augmentation. Choose a threshold with drtf evaluate."
        )
    if report.num_failed:
        sys.exit(SOME_REJECTED)
