"""Compare the time to the first batch of a remote dataset with downloading it first.

    python benchmarks/first_batch.py s3://BUCKET/DATASET

Each measurement runs in a new process with an empty cache. The time starts after the
import of TensorFlow.
"""

import argparse
import multiprocessing
import os
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from statistics import median

METHODS = ("read in place", "read in place, windows of 2 shards", "download first")
NUM_THREADS = 8


def measure(method: str, location: str, batch_size: int) -> float:
    """Return the seconds until the first batch."""
    import tensorflow as tf

    from drtf.config import SamplingConfig
    from drtf.data.pipeline import StreamPosition, train_dataset
    from drtf.records.reader import ShardDataset

    tf.constant(0)
    window_shards = 2 if "windows" in method else 0
    with tempfile.TemporaryDirectory() as folder:
        os.environ["DRTF_CACHE"] = f"{folder}/cache"
        start = time.perf_counter()
        shards: Path | str = location
        if method == "download first":
            shards = Path(folder) / "dataset"
            download(location, shards)
        dataset = train_dataset(
            ShardDataset(shards),
            batch_size=batch_size,
            epochs=1,
            start=StreamPosition(0),
            sampling=SamplingConfig(mode="balanced", window_shards=window_shards),
        )
        next(iter(dataset))
        return time.perf_counter() - start


def download(location: str, folder: Path) -> None:
    """Download a dataset, several files at a time."""
    from drtf.locations import join_location
    from drtf.storage import download_object, list_objects

    def copy(name: str) -> None:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        download_object(join_location(location, name), path)

    with ThreadPoolExecutor(NUM_THREADS) as pool:
        list(pool.map(copy, [item.name for item in list_objects(location)]))


def main() -> None:
    """Parse the arguments, and measure the methods in turn."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("location", help="dataset in a store: s3://BUCKET/DATASET")
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    seconds: dict[str, list[float]] = {method: [] for method in METHODS}
    for _ in range(options.repeats):
        for method in METHODS:
            context = multiprocessing.get_context("spawn")
            with context.Pool(1) as pool:
                arguments = (method, options.location, options.batch_size)
                seconds[method].append(pool.apply(measure, arguments))
    print("| method | seconds | relative to reading in place |")
    print("|---|---|---|")
    for method, own in seconds.items():
        ratios = [x / y for x, y in zip(own, seconds[METHODS[0]], strict=True)]
        print(
            f"| {method} | {median(own):.2f} ({min(own):.2f} to {max(own):.2f}) "
            f"| {median(ratios):.2f} |"
        )


if __name__ == "__main__":
    main()
