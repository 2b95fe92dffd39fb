"""Sample datasets for the benchmarks, as large as EyePACS if needed."""

from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np

from drtf.building.build import build_shards
from drtf.config import BuildConfig, Config, ImagesConfig, SplitConfig
from drtf.labels.sources import Source
from drtf.synthetic import draw_photograph

# Photographs of each grade in the training set of Kaggle's Diabetic Retinopathy
# Detection.
EYEPACS_GRADES = (25_810, 2_443, 5_292, 873, 708)
NUM_DRAWN = 16


class Sample(NamedTuple):
    """The contents of a sample dataset.

    Attributes:
        num_records: Number of photographs.
        size: Height and width of the images, in px.
        encoding: `build.encoding` of the images.
        shard_size_mb: `build.shard_size_mb`.
    """

    num_records: int
    size: int
    encoding: str
    shard_size_mb: float = 96


SAMPLES = (
    Sample(sum(EYEPACS_GRADES), 96, "raw"),
    Sample(4096, 224, "jpeg"),
    Sample(2048, 512, "jpeg"),
)
# Few bytes, but as many records in a shard as at 96 px.
SMALL_SAMPLE = Sample(sum(EYEPACS_GRADES), 32, "raw", 96 * (32 / 96) ** 2)


def build_sample_dataset(folder: Path, sample: Sample) -> Path:
    """Build a dataset with the grades of EyePACS, all in the train split.

    Only a few photographs are drawn. They are repeated, with different bytes at the end
    that no decoder reads: the content of an image makes no difference to a reader.

    Args:
        folder: Folder for the photographs and the dataset.
        sample: What to build.

    Returns:
        Folder of the dataset.
    """
    num_records, size, encoding, shard_size_mb = sample
    images = folder / "images"
    images.mkdir(parents=True)
    drawn = [_draw_jpeg(number, size) for number in range(NUM_DRAWN)]
    fractions = np.cumsum(EYEPACS_GRADES) / sum(EYEPACS_GRADES)
    grades = np.searchsorted(fractions, (np.arange(num_records) + 0.5) / num_records)
    rows = ["image,level\n"]
    for number, grade in enumerate(grades.tolist()):
        name = f"{number // 2}_{'left' if number % 2 else 'right'}"
        data = drawn[number % NUM_DRAWN] + number.to_bytes(4, "little")
        (images / f"{name}.jpeg").write_bytes(data)
        rows.append(f"{name},{grade}\n")
    labels = folder / "labels.csv"
    labels.write_text("".join(rows))
    config = Config(
        split=SplitConfig(val_size=0, test_size=0),
        images=ImagesConfig(size=size, crop="none", contrast="none"),
        build=BuildConfig.model_validate(
            {"encoding": encoding, "shard_size_mb": shard_size_mb}
        ),
    )
    shards = folder / "shards"
    build_shards([Source(images, labels)], out=shards, config=config)
    return shards


def _draw_jpeg(number: int, size: int) -> bytes:
    image = draw_photograph(
        number % len(EYEPACS_GRADES), patient_seed=number, eye="left", seed=number
    ).image
    small = cv2.resize(image, (size, size), interpolation=cv2.INTER_AREA)
    _, data = cv2.imencode(".jpeg", small[..., ::-1])
    return data.tobytes()
