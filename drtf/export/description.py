"""The JSON file next to an exported network: how to use it, and how it compares."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from drtf.export.comparison import Comparison
from drtf.export.graph import OUTPUTS, Graph
from drtf.files import encode_json, parse_json, read_regular, with_nan, write_atomic
from drtf.models.device import training_versions
from drtf.models.run import Run
from drtf.models.views import VIEWS

IDENTITY = "made_from"
COMPARISON = "comparison"


@dataclass(frozen=True)
class Measured:
    """The measurements of an exported network.

    Attributes:
        size_bytes: Size of the folder or file.
        runtime: What ran it.
        comparison: Its predictions compared with those of Keras.
    """

    size_bytes: int
    runtime: str
    comparison: Comparison


def save_description(
    path: Path,
    identity: dict[str, Any],
    *,
    run: Run,
    graph: Graph,
    whole: bool,
    measured: Measured,
) -> None:
    """Write the JSON file.

    Args:
        path: The file.
        identity: What determines the export.
        run: The run, with the decision rule that applies to the exported network.
        graph: What was exported.
        whole: Whether the graph contains the decision rule.
        measured: What is known about it.
    """
    contents = {
        "input": "image: uint8 RGB [B, H, W, 3], preprocessed as described below; "
        "images that do not have preprocessing.size are resized bilinearly",
        "outputs": {name: OUTPUTS[name] for name in graph.names},
        **(_describe_whole(run) if whole else _describe_rest(run)),
        "both_eyes": "the network scores single photographs. If fellow_eye is not null "
        "and the patient's other eye was scored too, the score is replaced by "
        "sigmoid(fellow_eye.offset + fellow_eye.own * logit(score) + "
        "fellow_eye.fellow * mean logit of the other eye's photographs), to which "
        "threshold and calibration apply",
        **_describe_rule(run),
        "task": run.task.name,
        "positive_from_grade": run.task.positive_from,
        "preprocessing": run.config.images.model_dump(mode="json"),
        "encoding": {"of": run.info.encoding, "jpeg_quality": run.info.jpeg_quality},
        "size_bytes": measured.size_bytes,
        "runtime": measured.runtime,
        COMPARISON: asdict(measured.comparison),
        "versions": training_versions(),
        IDENTITY: identity,
    }
    write_atomic(path, encode_json(contents))


def load_description(path: Path) -> dict[str, Any]:
    """Load the JSON file of an export; empty if drtf did not write it."""
    try:
        contents = parse_json(read_regular(path))
    except (OSError, ValueError):
        return {}
    if isinstance(contents, dict) and {IDENTITY, COMPARISON} <= contents.keys():
        return contents
    return {}


def parse_measured(contents: dict[str, Any]) -> Measured:
    """Parse the measurements of an exported network from its JSON file."""
    return Measured(
        contents["size_bytes"],
        contents["runtime"],
        Comparison(**with_nan(contents[COMPARISON])),
    )


def _describe_whole(run: Run) -> dict[str, Any]:
    return {
        "views": [VIEWS["none"][0]],
        "inside": f"the mean of {len(VIEWS[run.tta])} views ({run.tta}), calibration, "
        "threshold and cut points, of single photographs",
    }


def _describe_rest(run: Run) -> dict[str, Any]:
    """Describe the steps that a graph without the decision rule leaves to callers."""
    grades = {
        "predicted_grade": "the number of cut_points that are not above the mean "
        "expected grade of all views of a photograph",
    }
    return {
        "views": VIEWS[run.tta],
        "score": "the mean output of all views of a photograph",
        "predicted_label": "1 if the score is at least threshold.value (0.5 if there "
        "is no threshold), otherwise 0",
        "probability": "sigmoid((logit(score) + calibration.prior_shift) / "
        "calibration.temperature + calibration.offset + calibration.prevalence_shift). "
        "With method isotonic: sigmoid(logit(p) + calibration.prevalence_shift), where "
        "p is interpolated linearly between calibration.scores and "
        "calibration.probabilities at sigmoid(logit(score) + calibration.prior_shift). "
        "It is rounded to probability_decimals and limited to lowest_probability and 1 "
        "minus it",
        **(grades if run.task.predicts_grades else {}),
    }


def _describe_rule(run: Run) -> dict[str, Any]:
    """Return the decision rule, and how its probabilities are rounded."""
    rule, calibration = run.decision_rule, run.calibration
    return {
        "fellow_eye": rule and rule.fellow_eye and rule.fellow_eye.model_dump(),
        "threshold": rule and rule.threshold.model_dump(mode="json"),
        "calibration": calibration and calibration.model_dump(mode="json"),
        "probability_decimals": calibration and calibration.num_decimals,
        "lowest_probability": calibration and calibration.lowest_probability,
        "cut_points": list(run.cut_points) if run.task.predicts_grades else None,
    }
