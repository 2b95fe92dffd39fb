"""drtf's own pipeline over whole epochs, and the memory it has after each."""

import json
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import tensorflow as tf
from measuring import find_anonymous_mb, warm

from drtf.data.pipeline import BALANCED, count_steps, train_dataset
from drtf.records.reader import ShardDataset


def main(arguments: SimpleNamespace) -> None:
    """Print what was found as JSON."""
    warm(Path(arguments.shards))
    tf.constant(0)  # starts TensorFlow's runtime
    anonymous = [find_anonymous_mb()]
    start, num_images = time.perf_counter(), 0
    with ShardDataset(Path(arguments.shards)) as shards:
        num_records = len(shards.split_rows("train"))
        steps = count_steps(
            shards,
            split="train",
            task="binary",
            sampling=BALANCED,
            batch_size=arguments.batch_size,
        )
        dataset = train_dataset(
            shards, batch_size=arguments.batch_size, epochs=arguments.epochs
        )
        for number, batch in enumerate(dataset, 1):
            num_images += len(batch["label"])
            if number % steps == 0:
                anonymous.append(find_anonymous_mb())
    found = {
        "num_records": num_records,
        "rss_anon_mb": anonymous,
        "images_per_second": num_images / (time.perf_counter() - start),
    }
    print(json.dumps(found))


if __name__ == "__main__":
    main(SimpleNamespace(**json.loads(sys.argv[1])))
