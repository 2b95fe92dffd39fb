"""Train and evaluate many configs on the same photographs, and compare them."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from drtf.building.build import build_shards
from drtf.config import Config, EvaluateConfig
from drtf.data.examples import binary_labels
from drtf.errors import DrtfError, StoppedError
from drtf.evaluation.evaluation import evaluate
from drtf.evaluation.metrics import mean_roc_auc
from drtf.evaluation.predictions import PHOTOGRAPH_COLUMNS, load_predictions
from drtf.evaluation.result import find_differences
from drtf.figures import plot_estimates
from drtf.files import escape_formula, write_atomic
from drtf.intervals import Estimate, format_estimate
from drtf.labels.sources import Source
from drtf.models.backbones import check_model
from drtf.models.history import load_history
from drtf.models.run import RunInfo
from drtf.progress import announce
from drtf.records.reader import ShardDataset
from drtf.training.callbacks import monitor_name
from drtf.training.parent import adopt_network, load_parent
from drtf.training.run import train
from drtf.workers import run_in_process

# Each split that the configs are evaluated on has its own files.
TABLE_FILE = "results-{}.csv"
PAGE_FILE = "results-{}.md"
FIGURE_FILE = "results-{}.png"
DATASET_SECTIONS = ("labels", "split", "images", "build")  # which determine a dataset
IGNORED_SECTIONS = ("score", "gradcam")  # which have no effect on the results
# Lowest grades that count as positive.
POSITIVE_FROM = (1, 2)


@dataclass(frozen=True)
class Result:
    """The result of one config.

    Attributes:
        name: Name of the config.
        nearest: The most similar earlier config; empty for the first one.
        changes: Settings that differ from it, in the form that `--set` takes.
        task: Task of the training.
        seeds: Seeds of the training runs.
        validation: The best epoch's value of the monitored metric, for each run.
        roc_auc: Mean ROC AUC over the runs on the evaluated split, by the lowest
            grade that counts as positive, for every task. NaN if all or no photographs
            are positive.
        difference: Difference of the mean ROC AUC from the first config's. Empty for
            the first config itself, and if other photographs were evaluated.
        seconds: Median duration of the training steps.
        peak_memory_mb: Median peak memory of the training processes.
    """

    name: str
    nearest: str
    changes: list[str]
    task: str
    seeds: list[int]
    validation: list[float]
    roc_auc: dict[int, Estimate]
    difference: dict[int, Estimate]
    seconds: float
    peak_memory_mb: float


@dataclass(frozen=True)
class Predictions:
    """The predictions of all training runs of a config for the photographs of a split.

    Attributes:
        photographs: Ids, patients and grades, one row per photograph.
        scores: float [m, n], the score of each training for each photograph.
    """

    photographs: pd.DataFrame
    scores: np.ndarray


@dataclass(frozen=True)
class Trainings:
    """All training runs of a config.

    Attributes:
        infos: Information about each run.
        validation: The best epoch's value of the monitored metric, for each run.
        predictions: Their predictions for the evaluated split.
    """

    infos: list[RunInfo]
    validation: list[float]
    predictions: Predictions


def sweep(
    configs: Sequence[tuple[str, Config]],
    sources: Sequence[Source],
    *,
    out: Path,
    num_seeds: int,
    split: str = "test",
) -> list[Result]:
    """Train and evaluate each config with several seeds, and write a table.

    Work that an earlier call completed is reused, and work that it began is resumed.

    Args:
        configs: Names and configs, in the order of the table.
        sources: The photographs and their labels.
        out: Folder for datasets, runs, and `results-SPLIT.csv`, `.md` and `.png`.
        num_seeds: Number of training runs of each config. Their seeds count up from the
            config's own.
        split: Split to evaluate on. A search for the best config must not use `test`.

    Raises:
        DrtfError: If a config cannot be built, trained or evaluated, or if two configs
            have the same name.
        StoppedError: If the sweep was stopped; the same call resumes it.
    """
    names = [name for name, _ in configs]
    if len(set(names)) < len(names):
        raise DrtfError(f"config names must be unique (got {', '.join(names)})")
    for name, config in configs:  # before hours of training
        try:
            adopted = adopt_network(config, load_parent(config.model.weights))
            check_model(adopted.model, head_epochs=config.train.head_epochs)
        except DrtfError as error:
            raise DrtfError(f"config {name}: {error}") from error
    results: list[Result] = []
    earlier: dict[str, Config] = {}
    first: Predictions | None = None
    for position, (name, config) in enumerate(configs):
        seeds = [(config.train.seed + x) % 2**32 for x in range(num_seeds)]
        try:
            trainings = _train_and_evaluate(
                name,
                config,
                sources=sources,
                out=out,
                seeds=seeds,
                split=split,
                num_before=position * num_seeds,
                num_trainings=len(configs) * num_seeds,
            )
        except StoppedError as error:
            raise StoppedError(
                f"stopped in config {name}; run the same command again to resume",
                error.signal,
            ) from error
        except DrtfError as error:
            raise DrtfError(f"config {name}: {error}") from error
        nearest, changes = nearest_config(earlier, config)
        predictions = trainings.predictions
        is_comparable = first and first.photographs.equals(predictions.photographs)
        results.append(
            Result(
                name=name,
                nearest=nearest,
                changes=changes,
                task=config.train.task,
                seeds=seeds,
                validation=trainings.validation,
                roc_auc=_mean_roc_auc(predictions, config.evaluate),
                difference=(
                    _mean_roc_auc(predictions, config.evaluate, baseline=first)
                    if is_comparable
                    else {}
                ),
                seconds=float(np.median([x.seconds for x in trainings.infos])),
                peak_memory_mb=float(
                    np.median([x.peak_memory_mb for x in trainings.infos])
                ),
            )
        )
        earlier[name], first = config, first or predictions
        # After each config, so that the results so far can be read.
        save_results(results, out, split)
    return results


COLUMNS = (
    "config",
    "changes",
    "task",
    "seeds",
    "validation",
    *(f"ROC AUC, grade >= {grade}" for grade in POSITIVE_FROM),
    *(f"difference from the first, grade >= {grade}" for grade in POSITIVE_FROM),
    "minutes",
    "MB",
)


def list_rows(results: Sequence[Result]) -> list[tuple[str, ...]]:
    """Return one row of text per result, with the columns `COLUMNS`."""
    return [
        (
            result.name,
            describe_changes(result),
            result.task,
            str(len(result.seeds)),
            _format_validation(result),
            # Empty for grade 2 if the labels only distinguish healthy and diseased.
            *(format_estimate(result.roc_auc[grade]) for grade in POSITIVE_FROM),
            *(_format_difference(result, grade) for grade in POSITIVE_FROM),
            f"{result.seconds / 60:.1f}",
            f"{result.peak_memory_mb:,.0f}",
        )
        for result in results
    ]


def describe_changes(result: Result) -> str:
    """Return a config's changes and the config that it is compared with."""
    if not result.nearest:
        return ""
    return f"{result.nearest} with {', '.join(result.changes) or 'the same settings'}"


def _format_validation(result: Result) -> str:
    """Format the mean over the training runs, and the range if there are several."""
    values = result.validation
    spread = f" ({min(values):.3f} to {max(values):.3f})" if len(values) > 1 else ""
    return f"{np.mean(values):.3f}{spread}"


def _format_difference(result: Result, grade: int) -> str:
    if result.difference:
        return format_estimate(result.difference[grade], sign="+")
    return "other photographs" if result.nearest else ""


def _train_and_evaluate(
    name: str,
    config: Config,
    *,
    sources: Sequence[Source],
    out: Path,
    seeds: Sequence[int],
    split: str,
    num_before: int,
    num_trainings: int,
) -> Trainings:
    """Build, train and evaluate a config with each seed, except what is complete.

    Args:
        name: Name of the config.
        config: The config.
        sources: The photographs and their labels.
        out: Folder of the sweep.
        seeds: Seeds of the trainings.
        split: Split to evaluate on.
        num_before: Number of trainings of the configs before this one.
        num_trainings: Number of trainings of all configs.
    """
    shards = out / "datasets" / _dataset_name(config)
    build_shards(sources, shards, config=config)
    with ShardDataset(shards) as dataset:  # fails before hours of training
        binary_labels(dataset, split, config.train.task)
    infos, validation, tables = [], [], []
    for number, seed in enumerate(seeds, num_before + 1):
        announce(
            f"Training {number} of {num_trainings}: config {name}, seed {seed}; "
            f"{num_trainings - number} left after it"
        )
        settings = config.train.model_copy(update={"seed": seed})
        seeded = config.model_copy(update={"train": settings})
        run = out / "runs" / f"{name}-seed-{seed}"
        run.parent.mkdir(parents=True, exist_ok=True)
        # TensorFlow frees the memory of a device only when its process ends.
        info = run_in_process(train, shards, out=run, config=seeded, resume=True)
        evaluation = run / f"evaluation-{split}"
        if find_differences(
            evaluation,
            model_sha256=info.model_sha256,
            dataset_sha256=info.dataset_sha256,
            table_sha256="",
            split=split,
            config=seeded.evaluate,
        ):
            run_in_process(
                evaluate,
                run,
                shards,
                split=split,
                out=evaluation,
                config=seeded.evaluate,
                gradcam=seeded.gradcam,
                overwrite=True,
                store_threshold=True,
            )
        infos.append(info)
        best = load_history(run)[info.best_epoch - 1]
        validation.append(best[monitor_name(settings)])
        tables.append(load_predictions(evaluation))
    scores = np.stack([table["score"].to_numpy() for table in tables])
    predictions = Predictions(tables[0][PHOTOGRAPH_COLUMNS], scores)
    return Trainings(infos, validation, predictions)


def _mean_roc_auc(
    predictions: Predictions,
    config: EvaluateConfig,
    *,
    baseline: Predictions | None = None,
) -> dict[int, Estimate]:
    """Return the mean ROC AUC, or its difference from a baseline.

    Args:
        predictions: The predictions to measure.
        config: The number of resamples and their seed.
        baseline: Predictions for the same photographs; None for no difference.

    Returns:
        The estimate for each lowest grade that counts as positive.
    """
    photographs = predictions.photographs
    return {
        grade: mean_roc_auc(
            (photographs["grade"] >= grade).to_numpy().astype(int),
            predictions.scores,
            patients=photographs["patient"].to_numpy(),
            num_resamples=config.num_resamples,
            seed=config.seed,
            baseline=baseline.scores if baseline else None,
        )
        for grade in POSITIVE_FROM
    }


def _dataset_name(config: Config) -> str:
    """Return a name made of the image size and a hash of the dataset's settings."""
    settings = config.model_dump(mode="json", include=set(DATASET_SECTIONS))
    text = json.dumps(settings, sort_keys=True)
    return f"{config.images.size}-{hashlib.sha256(text.encode()).hexdigest()[:8]}"


def nearest_config(earlier: dict[str, Config], config: Config) -> tuple[str, list[str]]:
    """Return the earlier config that differs least, and the settings that differ.

    Args:
        earlier: Earlier configs by name, in the order of the table.
        config: The config to compare with them.

    Returns:
        The name, the latest of several that differ equally little, and the changes as
        `section.key=value`. An empty name and no changes if `earlier` is empty.
    """
    new = _flatten(config)
    candidates = []
    for name, other in earlier.items():
        old = _flatten(other)
        changed = [key for key in new if new[key] != old[key]]
        candidates.append((name, [f"{key}={json.dumps(new[key])}" for key in changed]))
    return min(reversed(candidates), key=lambda x: len(x[1]), default=("", []))


def _flatten(config: Config) -> dict[str, Any]:
    """Return all settings with an effect on the results, by dotted key."""
    return {
        f"{section}.{key}": value
        for section, settings in config.model_dump(
            mode="json", exclude=set(IGNORED_SECTIONS)
        ).items()
        for key, value in settings.items()
    }


def _csv_values(result: Result) -> dict[str, str | float]:
    """Return the row of a result in the CSV, by column; NaN where there is no value."""
    unknown = Estimate(np.nan, np.nan, np.nan)
    values: dict[str, str | float] = {
        "config": escape_formula(result.name),
        "nearest": escape_formula(result.nearest),
        "changes": escape_formula("; ".join(result.changes)),
        "task": result.task,
        "seeds": " ".join(map(str, result.seeds)),
        "validation": float(np.mean(result.validation)),
        "validation_min": min(result.validation),
        "validation_max": max(result.validation),
    }
    for grade in POSITIVE_FROM:
        estimates = {
            "roc_auc": result.roc_auc[grade],
            "difference": result.difference.get(grade, unknown),
        }
        for name, estimate in estimates.items():
            for key, value in asdict(estimate).items():
                suffix = "" if key == "value" else f"_{key}"
                values[f"{name}_grade_{grade}{suffix}"] = value
    return values | {
        "minutes": result.seconds / 60,
        "peak_memory_mb": result.peak_memory_mb,
    }


def save_results(results: Sequence[Result], out: Path, split: str) -> None:
    """Save results as a CSV file, a Markdown page and a figure in the folder `out`."""
    table = pd.DataFrame([_csv_values(result) for result in results])
    write_atomic(out / TABLE_FILE.format(split), table.to_csv(index=False))
    rows = [[cell.replace("|", r"\|") for cell in row] for row in list_rows(results)]
    lines = [COLUMNS, ["---"] * len(COLUMNS), *rows]
    page = "".join(f"| {' | '.join(line)} |\n" for line in lines)
    write_atomic(out / PAGE_FILE.format(split), page)
    plot_estimates(
        out / FIGURE_FILE.format(split),
        [result.name for result in results],
        {
            f"grade >= {grade}": [
                (x.value, x.ci_low, x.ci_high)
                for x in (result.roc_auc[grade] for result in results)
            ]
            for grade in POSITIVE_FROM
        },
        title=f"Mean ROC AUC over seeds on split {split}, 95 % interval",
    )
