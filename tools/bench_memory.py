"""drtf bench memory."""

from dataclasses import asdict
from pathlib import Path

import click

from drtf.temporary_folders import temporary_folder

from .bench_options import batch_size_option, check_json, json_option, write_json
from .options import shards_option


@click.command()
@shards_option(
    "Dataset to stream. Without it, one is built: raw images of 96 px, as many as "
    "EyePACS has.",
    required=False,
)
@batch_size_option
@click.option(
    "--epochs",
    type=click.IntRange(min=2),
    default=10,
    show_default=True,
    help="Number of epochs to stream.",
)
@click.option(
    "--copies",
    type=click.IntRange(min=2),
    default=8,
    show_default=True,
    help="Size of a second dataset, as a multiple of the first; its shards are links.",
)
@json_option
def memory(
    shards: Path | None, batch_size: int, epochs: int, copies: int, json: Path | None
) -> None:
    """Measure the memory of streaming, over epochs and by size of the dataset."""
    from drtf.bench.memory import bench_memory
    from drtf.bench.sample_dataset import SAMPLES, build_sample_dataset

    from .tables import show_table

    check_json(json)
    with temporary_folder() as work:
        results = bench_memory(
            shards or build_sample_dataset(work / "dataset", SAMPLES[0]),
            work=work,
            num_copies=copies,
            batch_size=batch_size,
            epochs=epochs,
        )
    show_table(
        "Anonymous memory (RssAnon) of the streaming process in MB, with batches of "
        f"{batch_size}",
        (
            "photographs",
            "TensorFlow only",
            "after epoch 1",
            f"after epoch {epochs}",
            "growth",
            "images/s",
        ),
        [
            (
                f"{result.num_records:,}",
                *(f"{result.rss_anon_mb[epoch]:,.0f}" for epoch in (0, 1, -1)),
                f"{result.rss_anon_mb[-1] - result.rss_anon_mb[1]:,.0f}",
                f"{result.images_per_second:,.0f}",
            )
            for result in results
        ],
    )
    write_json(
        json,
        [
            {
                "name": f"drtf, {result.num_records} photographs",
                "relative_to_first": result.images_per_second
                / results[0].images_per_second,
                **asdict(result),
            }
            for result in results
        ],
    )
