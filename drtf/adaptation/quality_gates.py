"""Quality gates, fitted on a run's features of assessed photographs."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
from scipy.special import expit
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedGroupKFold
from sklearn.preprocessing import StandardScaler

from drtf import page
from drtf.config import Config, ScoreConfig
from drtf.data.loader import read_batch
from drtf.errors import DrtfError, LabelError
from drtf.evaluation.metrics import mean_roc_auc
from drtf.evaluation.thresholds import choose_threshold
from drtf.files import is_writable
from drtf.intervals import Estimate, format_estimate
from drtf.labels.assessments import (
    Assessments,
    assessments_by_folder,
    choose_column,
    load_assessments,
    parse_values,
)
from drtf.labels.extra_columns import MATCHED_COLUMNS
from drtf.labels.grouping import load_column
from drtf.labels.patients import patients_by_name
from drtf.models.compatibility import check_preprocessing
from drtf.models.quality_gate import QualityGate, save_quality_gate
from drtf.models.run import Run, load_run
from drtf.models.stored_run import check_can_upload, upload_changes
from drtf.models.training_photographs import (
    count_known_photographs,
    load_training_photographs,
)
from drtf.photographs.listing import list_photographs
from drtf.photographs.prepare import NetworkInput
from drtf.photographs.references import PhotographRef, photograph_id
from drtf.progress import progress
from drtf.records.reader import ShardDataset
from drtf.scoring.photograph_scores import predict_photographs
from drtf.scoring.score_table import written_path

MAX_FLAGGED = 0.05
NUM_FOLDS = 5
# With fewer photographs of a class, a threshold cannot keep to 5 %.
MIN_PHOTOGRAPHS = 20
# The inverse strength of the L2 penalty, for standardized features: see
# docs/results/quality_gate.md.
INVERSE_PENALTY = 0.0003
MAX_ITERATIONS = 1000
# What flags photographs, by the key in `GateReport.num_flagged`.
FLAGGERS = {"gate": "the gate", "rules": "the rules", "either": "either"}
SEED = 0


@dataclass(frozen=True)
class AssessedPhotographs:
    """Photographs that a clinician assessed, and their features.

    Attributes:
        dataset_name: Where they are from, a dataset or a folder.
        splits: Their splits of this dataset; empty for a folder.
        assessments: Where the assessments are from.
        is_ungradable: Whether each was called ungradable, bool [n].
        patients: The patient of each, object [n]. Without one it is the photograph's
            own path.
        hashes: SHA-256 of each photograph's file.
        features: float32 [n, F].
        is_flagged: Whether the rules of drtf score, such as `too_dark`, flag each, bool
            [n]; None if only preprocessed images are known.
        num_skipped: Number of photographs that were not assessed or cannot be read.
    """

    dataset_name: str
    splits: tuple[str, ...]
    assessments: Assessments
    is_ungradable: np.ndarray
    patients: np.ndarray
    hashes: Sequence[str]
    features: np.ndarray
    is_flagged: np.ndarray | None
    num_skipped: int


class _Measured(NamedTuple):
    """The measurements of an original photograph.

    Attributes:
        sha256: Hash of its file.
        features: float32 [F].
        is_flagged: Whether the rules flag it.
    """

    sha256: str
    features: np.ndarray
    is_flagged: bool


@dataclass(frozen=True)
class GateReport:
    """A fitted quality gate, and how well it finds ungradable photographs.

    Attributes:
        gate: The gate, which is stored in the run.
        replaced: The gate that it replaces, or None.
        column: Where the assessments come from, such as the name of a column.
        meanings: What each value of the column means, in one line.
        roc_auc: ROC AUC of the out-of-fold probabilities, with its interval.
        num_flagged: By class (`gradable`, `ungradable`), the number of photographs that
            are flagged by the `gate`, out of fold, and, if the original photographs are
            known, by the `rules` and by `either` of them.
        num_skipped: Number of photographs that were not assessed or cannot be read.
        num_in_training: Number of photographs that the network was trained or chosen
            on.
        has_patients: Whether any two photographs are of one patient.
    """

    gate: QualityGate
    replaced: QualityGate | None
    column: str
    meanings: str
    roc_auc: Estimate
    num_flagged: dict[str, dict[str, int]]
    num_skipped: int
    num_in_training: int
    has_patients: bool

    @property
    def num_photographs(self) -> dict[str, int]:
        """Number of photographs by class."""
        return {
            "gradable": self.gate.num_gradable,
            "ungradable": self.gate.num_ungradable,
        }

    def notes(self) -> Iterator[str]:
        """Yield a sentence for each reason to be careful with the gate."""
        if self.num_skipped:
            yield (
                f"{self.num_skipped:,} photographs were not used, because they were "
                "not assessed or cannot be read"
            )
        if self.num_in_training:
            total = sum(self.num_photographs.values())
            yield (
                f"the network was trained or chosen on {self.num_in_training:,} of "
                f"these {total:,} photographs, so the gate may be less accurate on new "
                "photographs than these results show"
            )
        if not self.has_patients:
            yield (
                "no two photographs are of the same patient. If that is wrong, the "
                "folds are not divided by patient and the results are too good: name "
                "the patients in a column 'patient', or set labels.patient_pattern"
            )
        if "rules" not in self.num_flagged["gradable"]:
            yield (
                "the gate was not compared with the rules of drtf score (too_dark, "
                "blurred, ...), which require the original photographs: give --images "
                "in place of --shards"
            )

    def __repr__(self) -> str:
        """Return the ROC AUC, and the photographs that the gate was fitted on."""
        return (
            f"<GateReport ROC AUC {format_estimate(self.roc_auc)}, "
            f"{self.gate.describe()}>"
        )

    def _repr_html_(self) -> str:
        """Show the results in a notebook."""
        facts = {
            "Quality gate": self.gate.describe(),
            "Assessments": f"{self.column}: {self.meanings}",
            "ROC AUC": format_estimate(self.roc_auc),
            "Threshold": f"{self.gate.threshold:.4f}",
        }
        for name, counts in self.num_flagged.items():
            total = self.num_photographs[name]
            facts[f"Flagged of {total:,} {name}"] = ", ".join(
                f"by {FLAGGERS[flagger]} {count:,} ({count / total:.1%})"
                for flagger, count in counts.items()
            )
        facts |= {f"Note {n}": note for n, note in enumerate(self.notes(), start=1)}
        return page.format_facts("Quality gate", facts)


def fit_gate(
    run_folder: Path,
    *,
    config: Config,
    shards: Path | None = None,
    splits: Sequence[str] = (),
    images: Path | str | None = None,
    table: Path | None = None,
    column: str = "",
    ungradable: Sequence[str] = (),
    max_flagged: float = MAX_FLAGGED,
) -> GateReport:
    """Fit a quality gate on assessed photographs, and store it in the run.

    The gate is a logistic regression on the features of the run's network. Its results
    and its threshold are from out-of-fold probabilities, with folds by patient.

    Args:
        run_folder: The run folder, written by `train` or `ensemble`.
        config: Its sections `score`, `evaluate` (for the intervals) and
            `labels.patient_pattern` are used.
        shards: A dataset with the same preprocessing as in training; or
        images: The original photographs: a folder, local or in a store, or a CSV file.
        splits: The splits of the dataset to fit on; empty: all.
        table: A table with the assessments, one row per photograph or per patient.
            None: they are in a column of the dataset that was kept from its label file,
            or in the names of the folders of the photographs.
        column: The column of the assessments; empty: one with a usual name.
        ungradable: The values that mean ungradable; empty: those with a usual word.
        max_flagged: The largest fraction of gradable photographs that may be flagged.

    Raises:
        LabelError: If the assessments cannot be read or matched.
        DrtfError: If run and dataset do not fit together, the run is read-only, there
            are too few photographs of a class, or the features do not distinguish the
            classes.
    """
    run = load_run(run_folder)
    check_can_upload(run_folder)
    if not is_writable(run_folder):
        raise DrtfError(
            f"cannot store a quality gate in {run_folder}, which is read-only: copy "
            "the run folder, and fit the gate of the copy"
        )
    if shards is not None:
        with ShardDataset(shards) as dataset:
            known = _load_from_shards(
                run,
                dataset,
                splits,
                table,
                config.score,
                column=column,
                ungradable=ungradable,
            )
    elif images is not None:
        known = _load_from_images(
            run, images, table, config, column=column, ungradable=ungradable
        )
    else:
        raise DrtfError("fit-gate requires either --shards or --images")
    _check_counts(known.is_ungradable, known.patients, known.assessments)
    y_true = known.is_ungradable.astype(int)
    probabilities = out_of_fold_probabilities(
        known.features, known.is_ungradable, known.patients
    )
    roc_auc = mean_roc_auc(
        y_true,
        probabilities[None],
        patients=known.patients,
        num_resamples=config.evaluate.num_resamples,
        seed=config.evaluate.seed,
    )
    if not roc_auc.ci_low > 0.5:
        raise DrtfError(
            f"the features of {run_folder} do not distinguish ungradable photographs "
            f"from gradable ones: ROC AUC {format_estimate(roc_auc)} by folds of "
            "patients. No quality gate was stored. Assess more photographs, or check "
            f"the column {known.assessments.column!r}: {known.assessments.describe()}"
        )
    threshold = choose_threshold(
        y_true, probabilities, f"specificity>={1 - max_flagged}"
    )
    flagged = {"gate": probabilities >= threshold}
    if known.is_flagged is not None:
        flagged |= {
            "rules": known.is_flagged,
            "either": known.is_flagged | flagged["gate"],
        }
    by_class = {"gradable": ~known.is_ungradable, "ungradable": known.is_ungradable}
    num_flagged = {
        name: {x: int((y & members).sum()) for x, y in flagged.items()}
        for name, members in by_class.items()
    }
    num_ungradable = int(known.is_ungradable.sum())
    weights, bias = fit_logistic_regression(known.features, known.is_ungradable)
    gate = QualityGate(
        weights=tuple(weights.tolist()),
        bias=bias,
        threshold=threshold,
        max_flagged=max_flagged,
        dataset_name=known.dataset_name,
        splits=known.splits,
        num_gradable=len(y_true) - num_ungradable,
        num_ungradable=num_ungradable,
        roc_auc=roc_auc.value,
        fraction_caught=num_flagged["ungradable"]["gate"] / num_ungradable,
        model_sha256=run.info.model_sha256,
    )
    save_quality_gate(run.folder, gate)
    upload_changes(run.folder)
    trained_on = load_training_photographs(run.folder)
    return GateReport(
        gate=gate,
        replaced=run.quality_gate,
        column=known.assessments.column,
        meanings=known.assessments.describe(),
        roc_auc=roc_auc,
        num_flagged=num_flagged,
        num_skipped=known.num_skipped,
        num_in_training=count_known_photographs(known.hashes, trained_on),
        has_patients=len(np.unique(known.patients)) < len(known.patients),
    )


def out_of_fold_probabilities(
    features: np.ndarray, is_ungradable: np.ndarray, patients: np.ndarray
) -> np.ndarray:
    """Predict each photograph by a regression fitted on the patients of other folds.

    Args:
        features: float [n, F].
        is_ungradable: bool [n].
        patients: [n], names.

    Returns:
        float64 [n] in [0, 1].
    """
    probabilities = np.empty(len(features))
    folds = StratifiedGroupKFold(NUM_FOLDS, shuffle=True, random_state=SEED)
    for others, fold in folds.split(features, is_ungradable, patients):
        weights, bias = fit_logistic_regression(features[others], is_ungradable[others])
        probabilities[fold] = expit(features[fold] @ weights + bias)
    return probabilities


def fit_logistic_regression(
    features: np.ndarray, is_ungradable: np.ndarray
) -> tuple[np.ndarray, float]:
    """Fit a logistic regression with an L2 penalty on standardized features.

    Args:
        features: float [n, F].
        is_ungradable: bool [n]. Both classes must occur.

    Returns:
        The weights of the features as they are, float64 [F], and the bias.
    """
    scaler = StandardScaler()
    standardized = scaler.fit_transform(features.astype(np.float64))
    regression = LogisticRegression(C=INVERSE_PENALTY, max_iter=MAX_ITERATIONS)
    regression.fit(standardized, is_ungradable)
    weights = regression.coef_[0] / scaler.scale_
    return weights, float(regression.intercept_[0] - weights @ scaler.mean_)


def _load_from_shards(
    run: Run,
    shards: ShardDataset,
    splits: Sequence[str],
    table: Path | None,
    config: ScoreConfig,
    *,
    column: str,
    ungradable: Sequence[str],
) -> AssessedPhotographs:
    """Load the assessments of a dataset's photographs, and compute the features."""
    check_preprocessing(run, shards)
    splits = tuple(splits or shards.manifest.num_records)
    rows = np.concatenate([shards.split_rows(split) for split in splits])
    if table is not None:
        assessments = load_assessments(
            table,
            shards.load_index(MATCHED_COLUMNS, rows),
            column=column,
            ungradable=ungradable,
        )
    else:
        kept = shards.manifest.kept_columns
        where = str(shards.location)
        if not kept:
            raise LabelError(
                f"{where} kept no column of its label file: name a table of a "
                "clinician's assessments with --table, or build the dataset with "
                "labels.keep_columns"
            )
        chosen = choose_column(kept, column, where=where)
        values = load_column(shards, chosen, rows)
        meanings = parse_values(
            values,
            where=f"{where}: column {chosen!r}",
            column=chosen,
            ungradable=ungradable,
        )
        assessments = Assessments(chosen, values, meanings)
    is_assessed = assessments.is_assessed
    rows, is_ungradable = rows[is_assessed], assessments.is_ungradable[is_assessed]
    index = shards.load_index(["patient", "sha256"], rows)
    patients = index["patient"].to_numpy(object)
    _check_counts(is_ungradable, patients, assessments)
    return AssessedPhotographs(
        dataset_name=shards.manifest.name,
        splits=splits,
        assessments=assessments,
        is_ungradable=is_ungradable,
        patients=patients,
        hashes=index["sha256"].tolist(),
        features=_record_features(run, shards, rows, config),
        is_flagged=None,
        num_skipped=int((~is_assessed).sum()),
    )


def _record_features(
    run: Run, shards: ShardDataset, rows: np.ndarray, config: ScoreConfig
) -> np.ndarray:
    """Compute the features of some records, float32 [n, F]."""
    from drtf.models.prediction import build_feature_predictor

    predict = build_feature_predictor(run.network, "none")
    size = shards.manifest.image_size
    parts = []
    with progress("Computing features", len(rows)) as advance:
        for start in range(0, len(rows), config.batch_size):
            batch = rows[start : start + config.batch_size]
            # All batches have one shape, because each new shape is compiled again.
            images = np.zeros((config.batch_size, size, size, 3), np.uint8)
            read_batch(shards, batch, images[: len(batch)])
            parts.append(predict(images)[1].numpy()[: len(batch)])
            advance(num_done=len(batch))
    return np.concatenate(parts)


def _load_from_images(
    run: Run,
    images: Path | str,
    table: Path | None,
    config: Config,
    *,
    column: str,
    ungradable: Sequence[str],
) -> AssessedPhotographs:
    """Load the assessments of original photographs, and compute the features."""
    photographs = list_photographs(images).photographs
    # As objects: pandas 3 stores text as UTF-8, which not every name is.
    paths = pd.Series([x.path for x in photographs], dtype=object)
    names = paths.map(lambda path: written_path(photograph_id(path)))
    patients = patients_by_name(names, config.labels.patient_pattern)
    stated = pd.Series([x.patient for x in photographs], dtype=object)
    patients = stated.where(stated != "", patients)
    if table is None:
        assessments = assessments_by_folder(
            paths.tolist(), ungradable=ungradable, where=str(images)
        )
    else:
        columns = {"source": "", "path": paths, "patient": patients.fillna("")}
        assessments = load_assessments(
            table, pd.DataFrame(columns), column=column, ungradable=ungradable
        )
    if assessments.patients is not None:
        patients = assessments.patients.where(assessments.patients != "", patients)
    own_patients = patients.fillna(paths).to_numpy(object)
    is_ungradable = assessments.is_ungradable
    chosen = np.flatnonzero(assessments.is_assessed)
    _check_counts(is_ungradable[chosen], own_patients[chosen], assessments)
    measured = _measure_photographs(run, [photographs[x] for x in chosen], config.score)
    chosen = chosen[[x is not None for x in measured]]
    readable = [x for x in measured if x is not None]
    return AssessedPhotographs(
        dataset_name=str(images),
        splits=(),
        assessments=assessments,
        is_ungradable=is_ungradable[chosen],
        patients=own_patients[chosen],
        hashes=[x.sha256 for x in readable],
        features=np.array([x.features for x in readable]),
        is_flagged=np.array([x.is_flagged for x in readable]),
        num_skipped=len(photographs) - len(chosen),
    )


def _measure_photographs(
    run: Run, photographs: Sequence[PhotographRef], config: ScoreConfig
) -> list[_Measured | None]:
    """Return the features and flags of each photograph; None if it cannot be read."""
    measured: list[_Measured | None] = []
    batches = predict_photographs(run, photographs, tta="none", config=config)
    with progress("Computing features", len(photographs)) as advance:
        for batch in batches:
            for item, features in zip(batch.photographs, batch.features, strict=True):
                measured.append(
                    _Measured(item.sha256, features, bool(item.flags))
                    if isinstance(item, NetworkInput)
                    else None
                )
            advance(num_done=len(batch.photographs))
    return measured


def _check_counts(
    is_ungradable: np.ndarray, patients: np.ndarray, assessments: Assessments
) -> None:
    """Check that there are enough photographs and patients of each class.

    Raises:
        DrtfError: If there are not.
    """
    for name, members in (("gradable", ~is_ungradable), ("ungradable", is_ungradable)):
        num_photographs = int(members.sum())
        num_patients = len(np.unique(patients[members].astype(str)))
        if num_photographs < MIN_PHOTOGRAPHS or num_patients < NUM_FOLDS:
            raise DrtfError(
                f"a quality gate requires at least {MIN_PHOTOGRAPHS} {name} "
                f"photographs, of at least {NUM_FOLDS} patients; column "
                f"{assessments.column!r} has {num_photographs:,} of {num_patients:,} "
                f"patients ({assessments.describe()})"
            )
