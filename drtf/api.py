"""The public API: each step of the work as one function, with results that show.

`import drtf` offers everything here without loading TensorFlow until it is needed.
Paths may be `str` or `Path`. A config may be a `Config`, the name of a preset, or the
path of a TOML file.
"""

from collections.abc import Sequence
from pathlib import Path

import keras

from drtf.adaptation.batch_norm import Adaptation
from drtf.adaptation.batch_norm import adapt as adapt_run
from drtf.adaptation.quality_gates import MAX_FLAGGED, GateReport
from drtf.adaptation.quality_gates import fit_gate as fit_run_gate
from drtf.adaptation.recalibration import Recalibration
from drtf.adaptation.recalibration import recalibrate as recalibrate_run
from drtf.building.build import BuildReport
from drtf.building.build import build_shards as build_from_sources
from drtf.config import Config, SamplingConfig, load_config
from drtf.data.pipeline import StreamPosition, eval_dataset, train_dataset
from drtf.errors import DrtfError
from drtf.evaluation.decision_rules import load_evaluation_config
from drtf.evaluation.evaluation import evaluate as evaluate_run
from drtf.evaluation.result import EvaluationResult
from drtf.heatmaps.gradcam import GradcamReport, gradcam
from drtf.labels.sources import Source
from drtf.locations import check_location, is_remote
from drtf.models.run import Run, load_run_config
from drtf.models.run import load_run as load_run_folder
from drtf.models.stored_run import local_run, writable_run
from drtf.records.reader import ShardDataset
from drtf.records.remote import fetch_dataset
from drtf.scoring.scoring import ScoreReport
from drtf.scoring.scoring import score as score_photographs
from drtf.storage import fetch_file
from drtf.tasks import TaskName
from drtf.training.own_model import save_run as save_own_model
from drtf.training.run import train as train_run

__all__ = [
    "Config",
    "DrtfError",
    "Run",
    "ShardDataset",
    "Source",
    "StreamPosition",
    "adapt",
    "build_shards",
    "eval_dataset",
    "evaluate",
    "explain",
    "fit_gate",
    "load_config",
    "load_run",
    "open_dataset",
    "recalibrate",
    "save_run",
    "score",
    "train",
    "train_dataset",
]

AnyPath = Path | str
AnyConfig = Config | AnyPath
BALANCED = SamplingConfig()


def build_shards(
    images: AnyPath,
    labels: AnyPath | None,
    out: AnyPath,
    *,
    config: AnyConfig = "",
    max_rejected: float = 1.0,
) -> BuildReport:
    """Convert a folder of labeled photographs to a dataset of shards.

    The same call resumes a build that was stopped, and returns at once if the dataset
    is complete.

    Args:
        images: Folder of photographs, local or in a store, or a CSV that lists them.
        labels: The label file, local or in a store. None: the folders of the
            photographs are their labels.
        out: Folder of the new dataset, local or in a store.
        config: Its sections `labels`, `split`, `images` and `build` are used.
        max_rejected: Fraction of the photographs, in [0, 1], that may be rejected.

    Returns:
        What was built. A notebook shows it as a table.

    Raises:
        DrtfError: If the labels do not fit the photographs, `out` is something else, or
            too many photographs are rejected.
    """
    source = Source(_any_path(images), None if labels is None else _local_file(labels))
    return build_from_sources(
        [source], _any_path(out), config=_config(config), max_rejected=max_rejected
    )


def open_dataset(folder: AnyPath) -> ShardDataset:
    """Open a dataset of shards, local or in an object store.

    Close it at the end, or use it in a `with` block.

    Args:
        folder: Folder of the dataset, local or in a store.

    Raises:
        DrtfError: If it is not a dataset, or damaged.
    """
    return ShardDataset(_local(folder))


def train(
    shards: ShardDataset | AnyPath,
    out: AnyPath,
    *,
    config: AnyConfig = "",
    table: AnyPath | None = None,
    resume: bool = False,
) -> Run:
    """Train a network on a dataset.

    Args:
        shards: The dataset, or its folder.
        out: Run folder to write, local or in a store.
        config: Its sections `sampling`, `augment`, `model` and `train` are used.
        table: A table with the column `train.soft_labels`, if the dataset does not have
            it.
        resume: Continue a stopped training in `out`, if there is one.

    Returns:
        The run. A notebook shows its facts and its learning curves.

    Raises:
        DrtfError: If `out` exists, the dataset does not fit, or the loss becomes
            non-finite.
    """
    dataset = _dataset_folder(shards)
    with writable_run(_any_path(out)) as folder:
        train_run(
            dataset,
            out=folder,
            config=_config(config),
            table=None if table is None else _local_file(table),
            resume=resume,
        )
    return load_run_folder(folder)


def load_run(folder: AnyPath) -> Run:
    """Open a run folder, local or in a store.

    Raises:
        DrtfError: If a part is missing, damaged or changed.
    """
    return load_run_folder(local_run(folder))


def save_run(
    model: keras.Model,
    shards: ShardDataset | AnyPath,
    out: AnyPath,
    *,
    task: TaskName = "binary",
    takes_unit_range: bool = False,
    sampling: SamplingConfig = BALANCED,
) -> Run:
    """Save your own Keras model as a run folder, which all other functions accept.

    Args:
        model: A Functional or Sequential model from RGB images [B, S, S, 3] to one
            logit or probability per image, or to one per grade.
        shards: The dataset that it was trained on, or its folder.
        out: Run folder to write, local or in a store.
        task: What it predicts: `binary`, `referable` or `grades`.
        takes_unit_range: True if it takes floats in [0, 1], False if it takes pixels in
            [0, 255], as `train_dataset` yields them.
        sampling: The sampling that it was trained with.

    Returns:
        The run.

    Raises:
        DrtfError: If `out` exists, or the model does not fit the dataset or the task.
    """
    with _opened(shards) as opened, writable_run(_any_path(out)) as folder:
        save_own_model(
            model,
            opened,
            folder,
            task=task,
            takes_unit_range=takes_unit_range,
            sampling=sampling,
        )
    return load_run_folder(folder)


def evaluate(
    run: Run | AnyPath,
    shards: ShardDataset | AnyPath,
    out: AnyPath,
    *,
    split: str = "test",
    by: Sequence[str] = (),
    table: AnyPath | None = None,
    config: AnyConfig = "",
    overwrite: bool = False,
    store_threshold: bool = False,
) -> EvaluationResult:
    """Evaluate a run on a split, and write metrics, predictions, figures and a report.

    Args:
        run: The run, or its folder, local or in a store.
        shards: The dataset, or its folder.
        out: Folder to write.
        split: The split to evaluate.
        by: Columns by which results are reported for subgroups too, such as `source` or
            `age:40,60`, in place of `evaluate.by` of the config.
        table: A table with columns of `by` that the dataset does not have, one row per
            photograph or per patient.
        config: Its sections `evaluate` and `gradcam` are used; by default the run's,
            with the views and the threshold rule that are stored in the run.
        overwrite: Whether another evaluation in `out` may be replaced.
        store_threshold: Choose a new threshold and calibration on this dataset, and
            store them in the run in place of those that are there.

    Returns:
        The metrics with intervals. A notebook shows them as tables.

    Raises:
        DrtfError: If run and dataset do not fit, or `out` has another evaluation.
    """
    folder = _run_folder(run)
    settings = (
        config
        if isinstance(config, Config)
        else load_evaluation_config(folder, str(config))
    )
    evaluation = settings.evaluate
    if by:
        evaluation = evaluation.model_copy(update={"by": tuple(by)})
    return evaluate_run(
        folder,
        _dataset_folder(shards),
        split=split,
        out=Path(out),
        config=evaluation,
        table=None if table is None else _local_file(table),
        gradcam=settings.gradcam,
        overwrite=overwrite,
        store_threshold=store_threshold,
    )


def fit_gate(
    run: Run | AnyPath,
    *,
    images: AnyPath | None = None,
    shards: ShardDataset | AnyPath | None = None,
    splits: Sequence[str] = (),
    table: AnyPath | None = None,
    column: str = "",
    ungradable: Sequence[str] = (),
    max_flagged: float = MAX_FLAGGED,
    config: AnyConfig = "",
) -> GateReport:
    """Fit a quality gate, with which `score` flags photographs that are ungradable.

    It is stored in the run and replaces an earlier one.

    Args:
        run: The run, or its folder, local or in a store.
        images: Folder of photographs, or a CSV that lists them; or
        shards: The dataset, or its folder.
        splits: Splits of the dataset; empty: all.
        table: A table with a clinician's assessments, one row per photograph or per
            patient. None: they are in a column that the dataset kept from its label
            file, or in the names of the folders of the photographs.
        column: The column of the assessments; empty: one with a usual name.
        ungradable: The values that mean ungradable; empty: those with a usual word.
        max_flagged: The largest fraction of gradable photographs that may be flagged.
        config: Its sections `score`, `evaluate` and `labels` are used; by default the
            run's.

    Returns:
        How well the gate finds ungradable photographs. A notebook shows it.

    Raises:
        DrtfError: If neither or both of `images` and `shards` are given, there are too
            few assessed photographs, or the features do not distinguish the classes.
    """
    _check_one_source("fit_gate", images, shards)
    folder = _run_folder(run)
    return fit_run_gate(
        folder,
        config=_run_config(folder, config),
        images=None if images is None else _any_path(images),
        shards=None if shards is None else _dataset_folder(shards),
        splits=splits,
        table=None if table is None else _local_file(table),
        column=column,
        ungradable=ungradable,
        max_flagged=max_flagged,
    )


def recalibrate(
    run: Run | AnyPath,
    out: AnyPath,
    *,
    prevalence: float | None = None,
    scores: AnyPath | None = None,
    labels: AnyPath | None = None,
    config: AnyConfig = "",
    overwrite: bool = False,
) -> Recalibration:
    """Correct the probabilities of a run for photographs from elsewhere.

    The run stays as it is; the new decision rule is in `out`, for `score`.

    Args:
        run: The run, or its folder, local or in a store. It was evaluated.
        out: Folder to write the decision rule to.
        prevalence: The fraction of positive photographs elsewhere; or
        scores: A table that `score` wrote for the photographs, local or in a store. It
            shows the prevalence, unless there are labels.
        labels: A label file of some of these photographs, a few hundred if possible:
            the threshold and the calibration are chosen on them.
        config: Its section `labels` is used; by default the run's.
        overwrite: Whether a decision rule in `out` may be replaced.

    Returns:
        The decision rule, and what it was made from. A notebook shows it.

    Raises:
        DrtfError: If neither or both of `prevalence` and `scores` are given, the run
            was never evaluated, the scores are of another run or do not show the
            prevalence, or there are too few labels of a class.
    """
    folder = _run_folder(run)
    return recalibrate_run(
        folder,
        out=Path(out),
        config=_run_config(folder, config).labels,
        prevalence=prevalence,
        scores=None if scores is None else _any_path(scores),
        labels=None if labels is None else _local_file(labels),
        overwrite=overwrite,
    )


def adapt(
    run: Run | AnyPath, images: AnyPath, out: AnyPath, *, config: AnyConfig = ""
) -> Adaptation:
    """Adapt a run to photographs of another camera, without labels.

    Args:
        run: The run, or its folder, local or in a store.
        images: Folder of photographs, local or in a store, or a CSV that lists them.
        out: Run folder to write, local or in a store.
        config: Its section `score` is used; by default the run's.

    Returns:
        What the run was adapted with; `load_run(out)` opens it. A notebook shows it.

    Raises:
        DrtfError: If `out` exists, there are too few photographs, or the run is an
            ensemble or has no batch normalization.
    """
    folder = _run_folder(run)
    with writable_run(_any_path(out)) as local:
        return adapt_run(
            folder,
            _any_path(images),
            out=local,
            config=_run_config(folder, config).score,
        )


def score(
    run: Run | AnyPath,
    images: AnyPath,
    out: AnyPath,
    *,
    config: AnyConfig = "",
    overwrite: bool = False,
    decision_rule: AnyPath | None = None,
) -> ScoreReport:
    """Score every photograph of a folder, one row each.

    The same call resumes if scoring was stopped.

    Args:
        run: The run, or its folder, local or in a store.
        images: Folder of photographs, local or in a store, or a CSV that lists them.
        out: The .csv or .parquet file to write, local or in a store.
        config: Its section `score` is used; by default the run's.
        overwrite: Whether `out` may be replaced.
        decision_rule: Folder of an evaluation of the run, or one that `recalibrate`
            wrote, whose threshold and calibration are used in place of the run's.

    Returns:
        Counts and the path of the table; `load_table()` returns it as a DataFrame.

    Raises:
        DrtfError: If there are no photographs, or `out` exists.
    """
    folder = _run_folder(run)
    return score_photographs(
        folder,
        _any_path(images),
        out=_any_path(out),
        config=_run_config(folder, config).score,
        overwrite=overwrite,
        decision_rule=None if decision_rule is None else local_run(decision_rule),
    )


def explain(
    run: Run | AnyPath,
    out: AnyPath,
    *,
    images: AnyPath | None = None,
    shards: ShardDataset | AnyPath | None = None,
    split: str = "test",
    config: AnyConfig = "",
    overwrite: bool = False,
) -> GradcamReport:
    """Draw heat maps: the regions that raise a run's score for disease.

    Args:
        run: The run, or its folder, local or in a store.
        out: Folder to write.
        images: Folder of photographs, or a CSV that lists them; or
        shards: The dataset, or its folder.
        split: Split of the dataset.
        config: Its sections `gradcam` and `score` are used; by default the run's.
        overwrite: Whether earlier figures in `out` may be replaced.

    Returns:
        The figures. A notebook shows them.

    Raises:
        DrtfError: If neither or both of `images` and `shards` are given, or nothing
            can be drawn.
    """
    _check_one_source("explain", images, shards)
    folder = _run_folder(run)
    settings = _run_config(folder, config)
    return gradcam(
        folder,
        out=Path(out),
        config=settings.gradcam,
        score=settings.score,
        shards=None if shards is None else _dataset_folder(shards),
        split=split,
        images=None if images is None else _any_path(images),
        overwrite=overwrite,
    )


def _check_one_source(
    name: str, images: AnyPath | None, shards: ShardDataset | AnyPath | None
) -> None:
    """Refuse neither or both of photographs and a dataset."""
    if (images is None) == (shards is None):
        given = "neither" if images is None else "both"
        raise DrtfError(f"{name} requires either images or shards; got {given}")


def _any_path(path: AnyPath) -> AnyPath:
    check_location(path)
    return path if is_remote(path) else Path(path)


def _local(folder: AnyPath) -> Path:
    check_location(folder)
    return fetch_dataset(str(folder)) if is_remote(folder) else Path(folder)


def _local_file(path: AnyPath) -> Path:
    check_location(path)
    return fetch_file(str(path)) if is_remote(path) else Path(path)


def _dataset_folder(shards: ShardDataset | AnyPath) -> Path:
    return shards.folder if isinstance(shards, ShardDataset) else _local(shards)


def _opened(shards: ShardDataset | AnyPath) -> ShardDataset:
    return ShardDataset(_dataset_folder(shards))


def _run_folder(run: Run | AnyPath) -> Path:
    return run.folder if isinstance(run, Run) else local_run(run)


def _config(config: AnyConfig) -> Config:
    return config if isinstance(config, Config) else load_config(str(config))


def _run_config(folder: Path, config: AnyConfig) -> Config:
    if isinstance(config, Config):
        return config
    return load_run_config(folder, str(config))
