"""Measure what each capability of a training adds to the time and memory of a step.

    python benchmarks/costs.py SHARDS OUT.csv

SHARDS is a dataset whose images are streamed; the weights of the networks are random.
Each capability changes a few settings of a base config, and is trained for some steps
in a new process. All are repeated in turn. OUT.csv has a row per capability:
- the CPU time of a step, as the median of the repetitions; other work on the machine
  changes it less than the duration of the step,
- its ratio to the base: the median, lowest and highest of the repetitions,
- the peak memory of the process.
"""

import json
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from resource import RUSAGE_SELF, getrusage

import numpy as np
import pandas as pd

from drtf.config import load_config
from drtf.workers import run_in_process

BASE = ("model.alpha=0.35", "model.weights=none", "model.upsampling=1.0")
CAPABILITIES = {
    "base": (),
    "five grades": ("train.task=grades", "sampling.mode=natural"),
    "five grades, CORAL": (
        "train.task=grades",
        "sampling.mode=natural",
        "train.loss=coral",
    ),
    "soft labels": ("train.soft_labels=score",),  # made up here
    "MixUp": ("augment.mixup=0.2",),
    "Balanced-MixUp": ("augment.balanced_mixup=0.2", "sampling.mode=natural"),
    "CutMix": ("augment.cutmix=1.0",),
    "without the moving average": ("train.ema_momentum=0",),
    "only the head trained": ("train.head_epochs=1",),
    "enlarged by 1.5": ("model.upsampling=1.5",),
    "alpha 1.0": ("model.alpha=1.0",),
    "mobilenetv3-large": ("model.name=mobilenetv3-large", "model.alpha=1.0"),
    "efficientnetv2-b0": ("model.name=efficientnetv2-b0", "model.alpha=1.0"),
}
NUM_WARMUP_STEPS = 3
NUM_STEPS = 10
NUM_REPEATS = 2


def main() -> None:
    """Write the table and print it."""
    shards, out = sys.argv[1:]
    measured: dict[str, list[Mapping[str, float]]] = {name: [] for name in CAPABILITIES}
    for _ in range(NUM_REPEATS):
        for name, settings in CAPABILITIES.items():
            measured[name].append(measure_apart(shards, (*BASE, *settings)))
    base = np.array([x["cpu_seconds"] for x in measured["base"]])
    rows = []
    for name, repeats in measured.items():
        seconds = np.array([x["cpu_seconds"] for x in repeats])
        rows.append(
            {
                "capability": name,
                "cpu_seconds": np.median(seconds),
                "ratio": np.median(seconds / base),
                "ratio_low": (seconds / base).min(),
                "ratio_high": (seconds / base).max(),
                "peak_mb": np.median([x["peak_mb"] for x in repeats]),
            }
        )
    table = pd.DataFrame(rows).round({"peak_mb": 0}).round(2)
    table.to_csv(out, index=False)
    print(table.to_string(index=False))


def measure_apart(shards: str, settings: tuple[str, ...]) -> Mapping[str, float]:
    """Measure some settings in a new process."""
    found = run_in_process(measure, Path(shards), settings)
    print(json.dumps({"settings": settings, **found}), file=sys.stderr, flush=True)
    return found


def measure(shards: Path, settings: tuple[str, ...]) -> dict[str, float]:
    """Train for some steps; return the CPU time of each and the peak memory."""
    # Imported here, because the parent process needs no TensorFlow.
    import tensorflow as tf

    from drtf.data.pipeline import train_dataset
    from drtf.data.sampling import partner_sampling
    from drtf.models.device import device_batches
    from drtf.models.network import build_network
    from drtf.records.reader import ShardDataset
    from drtf.tasks import TASKS
    from drtf.training.trainer import Trainer

    config = load_config("mobilenetv2-96", list(settings))
    task = TASKS[config.train.task]
    with ShardDataset(shards) as dataset:
        network = build_network(
            config.model,
            task=task,
            loss=config.train.loss,
            image_size=dataset.manifest.image_size,
            load_weights=False,
        )
        trainer = Trainer(
            network,
            augment=config.augment,
            model=config.model,
            train=config.train,
            num_steps=NUM_WARMUP_STEPS + NUM_STEPS,
        )
        targets = None
        if config.train.soft_labels:
            targets = np.full(len(dataset.split_rows("train")), 0.5, np.float32)
        batches = iter(
            device_batches(
                lambda: train_dataset(
                    dataset,
                    task=config.train.task,
                    sampling=config.sampling,
                    batch_size=config.train.batch_size,
                    epochs=NUM_WARMUP_STEPS + NUM_STEPS,
                    partners=partner_sampling(config.sampling, config.augment),
                    targets=targets,
                    timed=True,
                )
            )
        )
        trainer.execute_steps(batches, tf.constant(NUM_WARMUP_STEPS))
        start = time.process_time()
        trainer.execute_steps(batches, tf.constant(NUM_STEPS))
        seconds = time.process_time() - start
    return {
        "cpu_seconds": seconds / NUM_STEPS,
        "peak_mb": getrusage(RUSAGE_SELF).ru_maxrss / 1e3,
    }


if __name__ == "__main__":
    main()
