"""Many configs on the same photographs: trained, judged, and put into one table."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from drtf.config import Config, EvaluateConfig
from drtf.data.build import build_shards
from drtf.data.pipeline import binary_labels
from drtf.data.sources import Source
from drtf.errors import ConfigError, DrtfError, StoppedError
from drtf.figures import plot_estimates
from drtf.files import escape_formula, write_atomic
from drtf.inference.comparison import PHOTOGRAPH_COLUMNS, load_predictions
from drtf.inference.evaluation import evaluate, is_evaluated
from drtf.inference.intervals import Estimate, format_estimate
from drtf.inference.metrics import measure_mean_roc_auc
from drtf.models.backbones import check_model
from drtf.models.run import RunInfo, load_history
from drtf.records.reader import ShardDataset
from drtf.training.callbacks import monitor_name
from drtf.training.run import train
from drtf.workers import run_in_process

# Each split that the configs are judged on has its own.
TABLE_FILE = "results-{}.csv"
PAGE_FILE = "results-{}.md"
FIGURE_FILE = "results-{}.png"
# The sections that make a set.
MADE_BY = ("labels", "split", "images", "build")
# Those that change nothing of what is measured.
UNMEASURED = ("score", "gradcam")
GRADES = (1, 2)


@dataclass(frozen=True)
class Result:
    """What a config came to.

    Attributes:
        name: of the config.
        nearest: the config above it that it is most like; empty for the first one.
        changes: what it says otherwise than that one, as `--set` takes it.
        task: what was trained.
        seeds: of the trainings.
        validation: of each of them, the best epoch's value of what is monitored.
        roc_auc: on the split judged, the mean over the trainings, by the grade from
            which on a photograph is positive, whatever was trained; NaN where all or
            none are.
        gain: what that is above the first config's; nothing for this one itself, and
            where other photographs were judged.
        seconds: of a training's steps, the median.
        peak_memory_mb: of a training's process, the median.
    """

    name: str
    nearest: str
    changes: list[str]
    task: str
    seeds: list[int]
    validation: list[float]
    roc_auc: dict[int, Estimate]
    gain: dict[int, Estimate]
    seconds: float
    peak_memory_mb: float


class Judged(NamedTuple):
    """What the trainings of a config say of the photographs of a split.

    `photographs` has their ids, patients and grades, `scores` is float [m, n].
    """

    photographs: pd.DataFrame
    scores: np.ndarray


def sweep(
    configs: Sequence[tuple[str, Config]],
    sources: Sequence[Source],
    *,
    out: Path,
    num_seeds: int,
    split: str = "test",
) -> list[Result]:
    """Build, train and judge each config, with several seeds, and write a table.

    What an earlier call did is taken as it is, and what it began is gone on with.

    Args:
        configs: names and configs, in the order of the table.
        sources: the photographs and their labels.
        out: the folder for sets, runs, and `results-SPLIT.csv`, `.md` and `.png`.
        num_seeds: trainings of each config, from its own seed on.
        split: to judge them on; a search for the best of them keeps off `test`.

    Raises:
        DrtfError: if a config can't be built, trained or judged, or two have one name.
    """
    names = [name for name, _ in configs]
    if len(set(names)) < len(names):
        raise DrtfError(f"each config needs a name of its own; got {', '.join(names)}")
    for name, config in configs:  # before hours of training
        try:
            check_model(config.model, head_epochs=config.train.head_epochs)
        except ConfigError as error:
            raise ConfigError(f"config {name}: {error}") from error
    results: list[Result] = []
    before: dict[str, Config] = {}
    first: Judged | None = None
    for name, config in configs:
        seeds = [(config.train.seed + x) % 2**32 for x in range(num_seeds)]
        try:
            infos, validation, judged = _run(name, config, sources, out, seeds, split)
        except StoppedError as error:
            raise StoppedError(
                f"stopped in config {name}; all is saved, and the same command goes on",
                error.signal,
            ) from error
        except DrtfError as error:
            raise DrtfError(f"config {name}: {error}") from error
        nearest, changes = nearest_config(before, config)
        alike = first and first.photographs.equals(judged.photographs)
        results.append(
            Result(
                name=name,
                nearest=nearest,
                changes=changes,
                task=config.train.task,
                seeds=seeds,
                validation=validation,
                roc_auc=_measure(judged, config.evaluate),
                gain=_measure(judged, config.evaluate, first) if alike else {},
                seconds=float(np.median([info.seconds for info in infos])),
                peak_memory_mb=float(np.median([x.peak_memory_mb for x in infos])),
            )
        )
        before[name], first = config, first or judged
        # A table of what there is so far.
        save_results(results, out, split)
    return results


def list_rows(results: Sequence[Result]) -> list[tuple[str, ...]]:
    """List results as text, a row each; `COLUMNS` says what stands in them."""
    return [
        (
            result.name,
            describe_changes(result),
            result.task,
            str(len(result.seeds)),
            _describe_validation(result),
            # Of labels that tell but healthy from diseased, there is none of grade 2.
            *(format_estimate(result.roc_auc[grade]) for grade in GRADES),
            *(_describe_gain(result, grade) for grade in GRADES),
            f"{result.seconds / 60:.1f}",
            f"{result.peak_memory_mb:,.0f}",
        )
        for result in results
    ]


def describe_changes(result: Result) -> str:
    """Tell what a config changes, and to which other one; nothing of the first one."""
    if not result.nearest:
        return ""
    return f"{result.nearest} with {', '.join(result.changes) or 'the same settings'}"


def _describe_validation(result: Result) -> str:
    """Tell the mean over the trainings, and the lowest and the highest of several."""
    values = result.validation
    spread = f" ({min(values):.3f} to {max(values):.3f})" if len(values) > 1 else ""
    return f"{np.mean(values):.3f}{spread}"


def _describe_gain(result: Result, grade: int) -> str:
    if result.gain:
        return format_estimate(result.gain[grade], sign="+")
    return "judged on others" if result.nearest else ""


COLUMNS = (
    "config",
    "what it changes",
    "task",
    "seeds",
    "validation",
    *(f"ROC AUC, grade >= {grade}" for grade in GRADES),
    *(f"above the first, grade >= {grade}" for grade in GRADES),
    "minutes",
    "MB",
)


def _run(
    name: str,
    config: Config,
    sources: Sequence[Source],
    out: Path,
    seeds: Sequence[int],
    split: str,
) -> tuple[list[RunInfo], list[float], Judged]:
    """Train and judge a config with each seed, but for what was done before."""
    shards = out / "sets" / _name_set(config)
    build_shards(sources, shards, config=config)
    with ShardDataset(shards) as shard_set:  # before hours of training
        binary_labels(shard_set, split, config.train.task)
    infos, validation, tables = [], [], []
    for seed in seeds:
        settings = config.train.model_copy(update={"seed": seed})
        seeded = config.model_copy(update={"train": settings})
        run = out / "runs" / f"{name}-seed-{seed}"
        run.parent.mkdir(parents=True, exist_ok=True)
        # Each in a process of its own: TensorFlow gives back no memory of a device.
        info = run_in_process(train, shards, out=run, config=seeded, resume=True)
        judged = run / f"evaluation-{split}"
        if not is_evaluated(judged, info, seeded.evaluate):
            run_in_process(
                evaluate,
                run,
                shards,
                split=split,
                out=judged,
                config=seeded,
                overwrite=True,
            )
        infos.append(info)
        best = load_history(run)[info.best_epoch - 1]
        validation.append(best[monitor_name(settings)])
        tables.append(load_predictions(judged))
    scores = np.stack([table["score"].to_numpy() for table in tables])
    return infos, validation, Judged(tables[0][PHOTOGRAPH_COLUMNS], scores)


def _measure(
    judged: Judged, config: EvaluateConfig, first: Judged | None = None
) -> dict[int, Estimate]:
    """Measure the mean ROC AUC by each grade, or what it is above the first one's."""
    photographs = judged.photographs
    return {
        grade: measure_mean_roc_auc(
            (photographs["grade"] >= grade).to_numpy().astype(int),
            judged.scores,
            patients=photographs["patient"].to_numpy(),
            num_resamples=config.num_resamples,
            seed=config.seed,
            baseline=first.scores if first else None,
        )
        for grade in GRADES
    }


def _name_set(config: Config) -> str:
    """Name a set by its size and the hash of the settings that make it."""
    settings = config.model_dump(mode="json", include=set(MADE_BY))
    text = json.dumps(settings, sort_keys=True)
    return f"{config.images.size}-{hashlib.sha256(text.encode()).hexdigest()[:8]}"


def nearest_config(before: dict[str, Config], config: Config) -> tuple[str, list[str]]:
    """Return the earlier config that differs least, and the settings that differ.

    Args:
        before: Earlier configs by name, in the order of the table.
        config: The config to compare with them.

    Returns:
        The name, the latest of several that differ equally little, and the changes as
        `section.key=value`. An empty name and no changes if `before` is empty.
    """
    new = _flatten(config)
    found = []
    for name, other in before.items():
        old = _flatten(other)
        changed = [key for key in new if new[key] != old[key]]
        found.append((name, [f"{key}={json.dumps(new[key])}" for key in changed]))
    return min(reversed(found), key=lambda x: len(x[1]), default=("", []))


def _flatten(config: Config) -> dict[str, Any]:
    return {
        f"{section}.{key}": value
        for section, settings in config.model_dump(
            mode="json", exclude=set(UNMEASURED)
        ).items()
        for key, value in settings.items()
    }


def _list_values(result: Result) -> dict[str, str | float]:
    """List a result for the CSV, by column; empty where there is none."""
    none = Estimate(np.nan, np.nan, np.nan)
    values: dict[str, str | float] = {
        "config": escape_formula(result.name),
        "nearest": escape_formula(result.nearest),
        "changes": escape_formula("; ".join(result.changes)),
        "task": result.task,
        "seeds": " ".join(map(str, result.seeds)),
        "validation": float(np.mean(result.validation)),
        "validation_lowest": min(result.validation),
        "validation_highest": max(result.validation),
    }
    for grade in GRADES:
        found = {"roc_auc": result.roc_auc[grade], "gain": result.gain.get(grade, none)}
        for name, estimate in found.items():
            for key, value in asdict(estimate).items():
                suffix = "" if key == "value" else f"_{key}"
                values[f"{name}_grade_{grade}{suffix}"] = value
    return values | {
        "minutes": result.seconds / 60,
        "peak_memory_mb": result.peak_memory_mb,
    }


def save_results(results: Sequence[Result], out: Path, split: str) -> None:
    """Save results as a CSV file, a Markdown page and a figure in the folder `out`."""
    table = pd.DataFrame([_list_values(result) for result in results])
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
            for grade in GRADES
        },
        title=f"ROC AUC on split {split}, mean over seeds, 95 % interval",
    )
