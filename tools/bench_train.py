"""drtf bench train."""

from dataclasses import asdict
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

import click

from .bench_options import (
    check_json,
    json_option,
    repeats_option,
    seconds_option,
    write_json,
)
from .options import config_options, shards_option

if TYPE_CHECKING:
    from drtf.bench.train import StepResult

PRECISIONS = ("float32", "mixed_float16", "mixed_bfloat16")


@click.command()
@shards_option("Dataset to stream.")
@click.option(
    "--precision",
    "precisions",
    type=click.Choice(PRECISIONS),
    multiple=True,
    help="Precision to measure; may be repeated. Default: all on a GPU, only float32 "
    "on a CPU.",
)
@seconds_option(5.0)
@repeats_option(3)
@json_option
@config_options
def train(
    shards: Path,
    precisions: tuple[str, ...],
    seconds: float,
    repeats: int,
    json: Path | None,
    config_source: str,
    overrides: tuple[str, ...],
) -> None:
    """Measure the training step with streamed batches and with one resident batch.

    The resident batch stays on the device, so the difference is the cost of streaming.
    Each precision is measured without and with XLA. The first step, which compiles, is
    reported on its own; on a CPU it takes a minute.
    """
    from drtf.bench.train import bench_train
    from drtf.config import load_config
    from drtf.models.device import list_gpus
    from drtf.training.parent import adopt_network, load_parent

    from .tables import show_table

    check_json(json)
    config = load_config(config_source, overrides)
    config = adopt_network(config, load_parent(config.model.weights))
    gpus = list_gpus()
    results = bench_train(
        shards,
        sampling=config.sampling,
        augment=config.augment,
        model=config.model,
        train=config.train,
        precisions=precisions or (PRECISIONS if gpus else PRECISIONS[:1]),
        seconds=seconds,
        num_repeats=repeats,
    )
    show_table(
        f"Training steps of {config.train.batch_size} photographs on "
        f"{gpus[0][0] if gpus else 'the CPU'}: medians of {repeats}",
        (
            "precision",
            "XLA",
            "resident, steps/s",
            "streamed, steps/s",
            "images/s",
            "forward, images/s",
            "augmentation",
            "streamed / resident",
            "waiting for input",
            "first step, s",
        ),
        [_format_row(result, config.train.batch_size) for result in results],
    )
    write_json(
        json,
        [
            {
                "name": f"{result.precision}{', XLA' * result.jit_compile}, {kind}",
                "images_per_second": config.train.batch_size * median(rates)
                if rates
                else None,
                "relative_to_streamed": median(rates) / median(result.streamed)
                if rates
                else None,
                **asdict(result),
            }
            for result in results
            for kind, rates in (
                ("streamed", result.streamed),
                ("resident", result.resident),
            )
        ],
    )


def _format_row(result: "StepResult", batch_size: int) -> tuple[Any, ...]:
    compiled = "yes" if result.jit_compile else "no"
    if result.failure:
        return (f"{result.precision} failed: {result.failure}", compiled, *[""] * 8)
    pairs = zip(result.streamed, result.resident, strict=True)
    return (
        result.precision,
        compiled,
        f"{median(result.resident):.2f}",
        f"{median(result.streamed):.2f}",
        f"{batch_size * median(result.streamed):,.0f}",
        f"{batch_size * median(result.forward):,.0f}",
        f"{median(result.augment_fraction):.1%}",
        f"{median(x / y for x, y in pairs):.3f}",
        f"{median(result.input_wait_fraction):.2%}",
        f"{result.first_step_seconds:.1f}",
    )
