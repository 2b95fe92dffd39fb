"""Export of a run's network to other runtimes, compared with Keras."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from drtf.data.examples import binary_labels
from drtf.data.loader import read_batch
from drtf.errors import DrtfError
from drtf.export.comparison import (
    PredictOne,
    add_predictions,
    compare,
    exported_predictor,
    keras_predictor,
    predict_each,
)
from drtf.export.description import (
    IDENTITY,
    Measured,
    load_description,
    parse_measured,
    save_description,
)
from drtf.export.formats import FORMATS
from drtf.export.graph import build_graph
from drtf.files import check_absent, replacing
from drtf.models.compatibility import check_preprocessing
from drtf.models.decision_rule import DecisionRule
from drtf.models.run import Run, load_run
from drtf.records.manifest import hash_manifest
from drtf.records.reader import ShardDataset

# Photographs that ranges are measured on, as many positive as negative.
NUM_REPRESENTATIVE = 500


@dataclass(frozen=True)
class Exported:
    """An exported network.

    Attributes:
        path: The written folder or file.
        threshold: The score from which a photograph is positive.
        has_own_threshold: Whether it is another threshold than the run's.
        rounds_views: Whether the caller builds views that uint8 rounds.
        is_reused: Whether an earlier call had written it.
        measured: How it compares with Keras.
    """

    path: Path
    threshold: float
    has_own_threshold: bool
    rounds_views: bool
    is_reused: bool
    measured: Measured


def export(
    run_folder: Path,
    shards: Path,
    *,
    out: Path,
    target: str,
    split: str = "test",
    whole: bool = False,
) -> Exported:
    """Write a run's network in the format of another runtime, and compare it.

    The exported network takes uint8 RGB [B, H, W, 3] of any size, preprocessed (cropped
    and equalized) as in the run's config. It returns the `score` of one view and, if
    the run predicts grades, the `expected_grade`; the caller must apply test-time
    augmentation, threshold, calibration and cut points. The whole graph also applies
    these. Everything that a caller must know is written to a JSON file next to it.

    Args:
        run_folder: The run folder, written by `train` or `ensemble`.
        shards: A dataset with the same preprocessing as in training.
        out: The folder or file to write. If the same call has written it already, it
            is left as it is.
        target: The format, a key of `FORMATS`.
        split: The split to compare on.
        whole: Whether the graph contains the whole decision rule.

    Raises:
        DrtfError: If `out` is something else, run and dataset do not fit together, or
            a package is missing.
    """
    chosen = FORMATS[target]
    if not out.name.endswith(chosen.suffix):
        raise DrtfError(
            f"--out must end with {chosen.suffix} for --format {target}; got {out}"
        )
    if whole and chosen.is_quantized:
        raise DrtfError(
            f"--whole does not apply to --format {target}: 8-bit integers are too "
            "coarse for calibration and threshold, which the JSON file describes"
        )
    description = out.with_name(f"{out.name}.json")
    run = load_run(run_folder)
    identity = _identity(run, shards, target=target, split=split, whole=whole)
    contents = load_description(description)
    if out.exists():
        if contents.get(IDENTITY) != identity:
            raise DrtfError(
                f"{out} already exists and is not this export of {run_folder}: move it "
                "away or choose another name"
            )
        return _describe(out, run, contents, is_reused=True)
    if not contents:  # otherwise a killed export left it
        check_absent(description)
    graph = build_graph(run, whole=whole)
    with ShardDataset(shards) as dataset, replacing(out) as partial:
        check_preprocessing(run, dataset)
        y_true = binary_labels(dataset, split, run.task.name)
        rows = dataset.split_rows(split)
        samples = np.empty(0)
        if chosen.is_quantized:
            samples = representative_photographs(run, dataset)
        chosen.write(graph, partial, samples)
        loaded = chosen.load(partial, graph)
        with_keras = keras_predictor(run)
        with_export = exported_predictor(loaded.predict, "none" if whole else run.tta)
        exported_run = run
        if chosen.is_quantized and run.decision_rule:
            rule = _matching_rule(
                run, run.decision_rule, dataset, with_keras, with_export
            )
            exported_run = replace(run, decision_rule=rule)
        keras, keras_rate = predict_each(
            with_keras, dataset, rows, title="Predicting with Keras"
        )
        outputs, rate = predict_each(
            with_export, dataset, rows, title="Predicting with the export"
        )
        files = [partial] if partial.is_file() else partial.rglob("*")
        measured = Measured(
            sum(path.stat().st_size for path in files if path.is_file()),
            loaded.runtime,
            compare(
                y_true,
                (add_predictions(outputs, exported_run), rate),
                (add_predictions(keras, run), keras_rate),
            ),
        )
        save_description(
            description,
            identity,
            run=exported_run,
            graph=graph,
            whole=whole,
            measured=measured,
        )
    return _describe(out, run, load_description(description), is_reused=False)


def representative_photographs(run: Run, shards: ShardDataset) -> np.ndarray:
    """Read validation photographs to quantize on, half of them positive.

    Returns:
        uint8 [N, H, W, 3]. A class with few photographs has fewer.
    """
    split = run.config.train.validation_split
    labels = binary_labels(shards, split, run.task.name)
    # Records of a split are in random order.
    places = [np.flatnonzero(labels == x)[: NUM_REPRESENTATIVE // 2] for x in (0, 1)]
    return read_batch(shards, shards.split_rows(split)[np.concatenate(places)])


def matching_cut(cut: float, values: np.ndarray, others: np.ndarray) -> float:
    """Return the cut-off that as many other values reach as values reach a cut-off.

    Args:
        cut: The cut-off for `values`.
        values: float [n].
        others: float [n], of the same photographs.
    """
    ordered = np.sort(np.asarray(others, np.float64))
    num_below = int((np.asarray(values) < cut).sum())
    if num_below in (0, len(ordered)):
        return cut
    return float(ordered[num_below - 1 : num_below + 1].mean())


def _matching_rule(
    run: Run,
    rule: DecisionRule,
    shards: ShardDataset,
    with_keras: PredictOne,
    with_export: PredictOne,
) -> DecisionRule:
    """Move a decision rule's threshold and cut points to another network's scores.

    As many validation photographs are at or above each of them as with Keras.
    """
    split = run.config.train.validation_split
    rows = shards.split_rows(split)
    keras, exported = (
        predict_each(predict, shards, rows, title=f"Matching thresholds on {split}")[0]
        for predict in (with_keras, with_export)
    )
    columns = {x: (keras[x].to_numpy(), exported[x].to_numpy()) for x in keras}
    threshold = rule.threshold.model_copy(
        update={
            "value": matching_cut(rule.threshold.value, *columns["score"]),
            "source": f"split {split}, as many positive as with Keras",
            "num_photographs": len(rows),
        }
    )
    cut_points = tuple(
        matching_cut(cut, *columns["expected_grade"]) for cut in rule.cut_points
    )
    return rule.model_copy(update={"threshold": threshold, "cut_points": cut_points})


def _identity(
    run: Run, shards: Path, *, target: str, split: str, whole: bool
) -> dict[str, Any]:
    """Return everything that determines an export, as JSON values."""
    rule = run.decision_rule
    return {
        "format": target,
        "whole": whole,
        "model_sha256": run.info.model_sha256,
        "decision_rule": rule and rule.model_dump(mode="json"),
        "compared_on": split,
        "dataset_sha256": hash_manifest(shards),
    }


def _describe(
    out: Path, run: Run, contents: dict[str, Any], *, is_reused: bool
) -> Exported:
    """Return the contents of an export's JSON file."""
    stored = contents["threshold"]
    threshold = stored["value"] if stored else run.effective_threshold
    return Exported(
        path=out,
        threshold=threshold,
        has_own_threshold=threshold != run.effective_threshold,
        rounds_views=not contents[IDENTITY]["whole"] and run.tta == "flips5",
        is_reused=is_reused,
        measured=parse_measured(contents),
    )
