"""Open a dataset, plan an epoch and read some records; print what that takes."""

import json
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
from measurement import anonymous_memory_mb

from drtf.config import SamplingConfig
from drtf.data.sampling import plan_epoch
from drtf.records.reader import ShardDataset

NUM_READ = 1000


def main(arguments: SimpleNamespace) -> None:
    """Print the measurements as JSON."""
    times = [time.perf_counter()]
    imported = anonymous_memory_mb()
    with ShardDataset(Path(arguments.shards)) as shards:
        times.append(time.perf_counter())
        opened, open_peak = anonymous_memory_mb(), _peak_memory_mb()
        classes = (shards.grades > 0).astype(np.int8)
        order = plan_epoch(classes, SamplingConfig(), seed=0, epoch=0)
        times.append(time.perf_counter())
        planned_peak = _peak_memory_mb()
        rows = order[:NUM_READ]
        shards.read_images(rows)
        times.append(time.perf_counter())
        shards.load_index(["id"], rows)
        times.append(time.perf_counter())
    seconds = np.diff(times).tolist()
    measurements = {
        "num_records": len(classes),
        "num_shards": len(shards.manifest.shards),
        "open_seconds": seconds[0],
        "open_mb": opened - imported,
        "open_peak_mb": open_peak,
        "plan_seconds": seconds[1],
        "plan_peak_mb": planned_peak,
        "read_seconds": seconds[2],
        "names_seconds": seconds[3],
        "final_peak_mb": _peak_memory_mb(),
    }
    print(json.dumps(measurements))


def _peak_memory_mb() -> float:
    # ru_maxrss would include the parent's memory from before this program started.
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) / 1024


if __name__ == "__main__":
    main(SimpleNamespace(**json.loads(sys.argv[1])))
