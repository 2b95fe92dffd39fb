"""drtf bench gpu."""

from pathlib import Path

import click

from drtf.temporary_folders import temporary_folder
from drtf.terminal import show_line

from .options import out_option, overwrite_option


@click.command()
@out_option("Folder for the results: gpu.json, gpu.md and gpu.log.")
@click.option(
    "--minutes",
    type=click.FloatRange(min=0, min_open=True),
    default=8.0,
    show_default=True,
    help="Limit for everything; the limits of the parts are in proportion to it.",
)
@click.option(
    "--part",
    "names",
    multiple=True,
    help="Part to measure, such as `precisions` (repeatable). Default: all.",
)
@click.option(
    "--quick", is_flag=True, help="Measure tiny networks, to try the command itself."
)
@overwrite_option
def gpu(
    out: Path, minutes: float, names: tuple[str, ...], quick: bool, overwrite: bool
) -> None:
    """Measure everything that depends on the GPU, in one command.

    Measures training and the forward pass by precision and with XLA, streaming, the
    augmentation, a whole training, scoring, and the cost of deterministic operations.
    Each part runs in its own process with its own time limit. The results are written
    after each part. Without a GPU, the CPU is measured.
    """
    from drtf.bench.gpu import MARKDOWN_FILE, bench_gpu

    with temporary_folder() as work:
        results = bench_gpu(
            out,
            work=work,
            minutes=minutes,
            quick=quick,
            names=names,
            overwrite=overwrite,
        )
    for line in (out / MARKDOWN_FILE).read_text().splitlines():
        show_line(line)
    num_failed = sum(bool(result.failure) for result in results)
    show_line(
        f"{len(results) - num_failed} of {len(results)} parts are complete: {out}"
    )
