"""Stream whole epochs through drtf's pipeline, and record the memory after each."""

import json
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import tensorflow as tf
from measurement import anonymous_memory_mb, fill_page_cache

from drtf.data.pipeline import train_dataset
from drtf.data.sampling import BALANCED
from drtf.data.sampling_groups import group_photographs
from drtf.records.reader import ShardDataset


def main(arguments: SimpleNamespace) -> None:
    """Print the measurements as JSON."""
    fill_page_cache(Path(arguments.shards))
    tf.constant(0)  # starts TensorFlow's runtime
    anonymous = [anonymous_memory_mb()]
    start, num_images = time.perf_counter(), 0
    with ShardDataset(Path(arguments.shards)) as shards:
        num_records = len(shards.split_rows("train"))
        groups = group_photographs(shards, "train", task="binary", sampling=BALANCED)
        steps = groups.count_steps(arguments.batch_size)
        dataset = train_dataset(
            shards, batch_size=arguments.batch_size, epochs=arguments.epochs
        )
        for number, batch in enumerate(dataset, 1):
            num_images += len(batch["label"])
            if number % steps == 0:
                anonymous.append(anonymous_memory_mb())
    measurements = {
        "num_records": num_records,
        "rss_anon_mb": anonymous,
        "images_per_second": num_images / (time.perf_counter() - start),
    }
    print(json.dumps(measurements))


if __name__ == "__main__":
    main(SimpleNamespace(**json.loads(sys.argv[1])))
