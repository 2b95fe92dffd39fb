"""drtf demo."""

from pathlib import Path

import click

from drtf.terminal import show_line

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
    from drtf.building.build import build_shards
    from drtf.config import load_config
    from drtf.evaluation.evaluation import evaluate
    from drtf.evaluation.folder import REPORT_FILE
    from drtf.files import check_absent
    from drtf.heatmaps.gradcam import gradcam
    from drtf.intervals import format_estimate
    from drtf.labels.sources import Source
    from drtf.scoring.scoring import score
    from drtf.synthetic import write_photographs
    from drtf.training.run import train

    check_absent(out)
    config = load_config("demo")
    labels = write_photographs(out / "photographs", num_patients=patients, seed=seed)
    images = out / "photographs" / "images"
    shards, run = out / "tfrecords" / "synthetic", out / "runs" / "synthetic"
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
    roc_auc = format_estimate(result.metrics["roc_auc"])
    show_line(
        f"Done. ROC AUC {roc_auc} on {result.num_photographs:,} synthetic photographs "
        "of the test split. Open:"
    )
    show_line(f"  {out / 'evaluation' / REPORT_FILE}: the report, in a browser")
    show_line(f"  {out / 'gradcam'}: heat maps, as PNG files")
    show_line(
        f"  {scores.table}: the scores of {scores.summary.num_scored:,} photographs"
    )
    show_line(
        "Next, with your own photographs: drtf build-shards --images FOLDER --labels "
        "FILE.csv --out tfrecords/mine (see docs/quickstart.md)"
    )
