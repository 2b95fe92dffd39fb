"""Whether a run and a dataset fit together."""

from drtf.errors import DrtfError
from drtf.models.run import Run
from drtf.records.reader import ShardDataset


def check_preprocessing(run: Run, shards: ShardDataset) -> None:
    """Refuse a dataset whose images were preprocessed differently than in training.

    Raises:
        DrtfError: Names the first setting that differs.
    """
    expected = run.config.images.model_dump(mode="json")
    preprocessing = shards.manifest.preprocessing
    for key, value in expected.items():
        if preprocessing.get(key) != value:
            raise DrtfError(
                f"{shards.folder} was built with "
                f"images.{key}={preprocessing.get(key)!r}, but the run {run.folder} "
                f"was trained with images.{key}={value!r}: build the dataset with the "
                "run's settings"
            )
