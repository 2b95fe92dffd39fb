"""drtf bench."""

import click

from .bench_augment import augment
from .bench_convert import convert
from .bench_gpu import gpu
from .bench_heatmaps import heatmaps
from .bench_memory import memory
from .bench_order import order
from .bench_quality import quality
from .bench_read import read
from .bench_scale import scale
from .bench_score import score
from .bench_train import train


@click.group()
def bench() -> None:
    """Benchmark drtf, in comparison with the usual alternatives."""


for command in (
    convert,
    read,
    order,
    memory,
    scale,
    augment,
    train,
    score,
    heatmaps,
    gpu,
    quality,
):
    bench.add_command(command)
