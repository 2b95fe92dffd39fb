"""Whether a run and a dataset fit together."""

from typing import Any

from drtf.errors import DrtfError
from drtf.models.run import Run
from drtf.records.reader import ShardDataset


def preprocessing_differences(
    run: Run, shards: ShardDataset
) -> list[tuple[str, Any, Any]]:
    """List the settings of `images` that a dataset was built with other values of.

    Returns:
        For each of them its name, the run's value and the dataset's.
    """
    expected = run.config.images.model_dump(mode="json")
    preprocessing = shards.manifest.preprocessing
    return [
        (name, value, preprocessing.get(name))
        for name, value in expected.items()
        if preprocessing.get(name) != value
    ]


def check_preprocessing(run: Run, shards: ShardDataset) -> None:
    """Refuse a dataset whose images were preprocessed differently than in training.

    Raises:
        DrtfError: Names the first setting that differs.
    """
    for name, expected, actual in preprocessing_differences(run, shards):
        raise DrtfError(
            f"{shards.folder} was built with images.{name}={actual!r}, but the run "
            f"{run.folder} was trained with images.{name}={expected!r}: build the "
            "dataset with the run's settings"
        )
