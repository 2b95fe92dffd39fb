"""drtf demo."""

from pathlib import Path

import click

from .options import out_option


@click.command()
@out_option("Folder to create.")
@click.option(
    "--patients",
    type=click.IntRange(min=20),
    default=400,
    show_default=True,
    help="Number of patients to draw, with two eyes each.",
)
@click.option(
    "--seed",
    type=click.IntRange(min=0),
    default=0,
    show_default=True,
    help="Seed of the drawing.",
)
def demo(out: Path, patients: int, seed: int) -> None:
    """Run all steps on synthetic photographs, in a few minutes on two CPU cores.

    Draws photographs, builds shards, trains a model, evaluates it with test-time
    augmentation, scores the photographs, and makes Grad-CAM heat maps.
    """
    from drtf.config import load_config
    from drtf.data.build import build_shards
    from drtf.data.sources import Source
    from drtf.files import check_absent
    from drtf.inference.evaluation import evaluate
    from drtf.inference.evaluation_result import METRIC_COLUMNS, metric_rows
    from drtf.inference.gradcam import gradcam
    from drtf.inference.report import REPORT_FILE
    from drtf.inference.scoring import score
    from drtf.synthetic import write_photographs
    from drtf.training.run import train

    from .tables import show_table

    check_absent(out)
    config = load_config("demo")
    labels = write_photographs(out / "photographs", num_patients=patients, seed=seed)
    images = out / "photographs" / "images"
    shards, run = out / "tfrecords", out / "run"
    build_shards([Source(images, labels)], shards, config=config)
    train(shards, out=run, config=config)
    result = evaluate(
        run,
        shards,
        split="test",
        out=out / "evaluation",
        config=config.evaluate,
        gradcam=config.gradcam,
    )
    scores = score(run, images, out=out / "scores.csv", config=config.score)
    gradcam(
        run,
        shards=shards,
        out=out / "gradcam",
        config=config.gradcam,
        score=config.score,
    )
    show_table(
        f"Test split: {result.num_photographs:,} synthetic photographs of "
        f"{result.num_patients:,} patients",
        METRIC_COLUMNS,
        metric_rows(result),
    )
    click.echo(f"Scores of {scores.num_scored:,} photographs: {out / 'scores.csv'}")
    click.echo(f"Heat maps: {out / 'gradcam'}")
    click.echo(f"Report: {out / 'evaluation' / REPORT_FILE}")
