"""Measure drtf serve under load, and drtf score on the same photographs.

    python benchmarks/serving.py RUN FOLDER --num-photographs 200 --clients 1 4 8

Each client sends one photograph per request, and the next one when it has the answer. A
refused request (status 429) is counted and sent again. Memory is that of the service
and its processes together, at most.
"""

import argparse
import itertools
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from drtf.photographs.listing import list_photographs

COMMAND = [sys.executable, "-c", "from drtf.tools.main import main; main()"]
BOUNDARY = "photograph-boundary"
SECONDS_BETWEEN_SAMPLES = 0.2
PERCENTILES = (50, 90, 99)


@dataclass(frozen=True)
class Load:
    """The answers to some requests.

    Attributes:
        seconds: Seconds until all were answered.
        latencies: Seconds of each request, float64 [n].
        num_refused: Number of refused requests.
    """

    seconds: float
    latencies: np.ndarray
    num_refused: int


class MemoryPeak:
    """The largest memory of a process and its children together, in MB."""

    def __init__(self, pid: int) -> None:
        self.megabytes = 0.0
        self._pid = pid
        self._is_over = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()

    def stop(self) -> float:
        """Stop watching and return the largest memory."""
        self._is_over.set()
        self._thread.join()
        return self.megabytes

    def _watch(self) -> None:
        while not self._is_over.wait(SECONDS_BETWEEN_SAMPLES):
            total = sum(map(_proportional_bytes, [self._pid, *_children(self._pid)]))
            self.megabytes = max(self.megabytes, total / 1e6)


def _children(pid: int) -> list[int]:
    path = Path(f"/proc/{pid}/task")
    found = []
    for task in path.glob("*/children"):
        with task.open() as file:
            found += [int(word) for word in file.read().split()]
    return found


def _proportional_bytes(pid: int) -> int:
    """Return the memory of a process, in which shared pages count in part."""
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except OSError:  # it has ended
        return 0
    return sum(int(line.split()[1]) * 1000 for line in lines if line.startswith("Pss:"))


@contextmanager
def running_service(run: str, settings: Sequence[str]) -> Iterator[tuple[str, int]]:
    """Start a service; yield its URL and the number of its process."""
    command = [*COMMAND, "serve", run, "--port", "0", *settings]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as process:
        assert process.stdout is not None
        try:
            yield process.stdout.readline().split()[0], process.pid
        finally:
            process.terminate()


def send_photograph(url: str, path: Path) -> tuple[float, int]:
    """Send a photograph; return the seconds until its answer, and refused attempts."""
    head = (
        f"--{BOUNDARY}\r\nContent-Disposition: form-data; name=photograph; "
        f'filename="{path.name}"\r\n\r\n'
    )
    body = head.encode() + path.read_bytes() + f"\r\n--{BOUNDARY}--\r\n".encode()
    kind = {"Content-Type": f"multipart/form-data; boundary={BOUNDARY}"}
    request = urllib.request.Request(f"{url}/score", body, kind)
    num_refused = 0
    while True:
        start = time.perf_counter()
        try:
            with urllib.request.urlopen(request) as answer:
                answer.read()
            return time.perf_counter() - start, num_refused
        except urllib.error.HTTPError as error:
            if error.code != 429:
                raise
            num_refused += 1
            time.sleep(float(error.headers["Retry-After"]))


def measure_load(url: str, paths: Sequence[Path], num_clients: int) -> Load:
    """Send photographs from several clients at once."""
    start = time.perf_counter()
    with ThreadPoolExecutor(num_clients) as pool:
        sent = list(pool.map(lambda path: send_photograph(url, path), paths))
    seconds = time.perf_counter() - start
    latencies, refused = zip(*sent, strict=True)
    return Load(seconds, np.array(latencies), sum(refused))


def measure_score(run: str, paths: Sequence[Path], settings: Sequence[str]) -> str:
    """Return what drtf score takes for the same photographs, as a row of the table."""
    with tempfile.TemporaryDirectory() as folder:
        listed = Path(folder) / "list.csv"
        lines = ["path", *dict.fromkeys(str(path.absolute()) for path in paths)]
        listed.write_text("\n".join(lines))
        out = ["--images", str(listed), "--out", str(Path(folder) / "scores.csv")]
        start = time.perf_counter()
        with subprocess.Popen(
            [*COMMAND, "score", run, *out, *settings],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        ) as process:
            peak = MemoryPeak(process.pid)
            process.wait()
        seconds = time.perf_counter() - start
        count = len(lines) - 1
        return (
            f"drtf score, {count} photographs, with its start: {count / seconds:.1f} "
            f"photographs/s, {peak.stop():.0f} MB"
        )


def main() -> None:
    """Measure each number of clients, then drtf score."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run")
    parser.add_argument("folder")
    parser.add_argument("--num-photographs", type=int, default=200)
    parser.add_argument("--clients", type=int, nargs="+", default=[1, 4, 8])
    parser.add_argument("--set", action="append", default=[], dest="settings")
    given = parser.parse_args()
    settings = [word for setting in given.settings for word in ("--set", setting)]
    files = [
        Path(given.folder, x.path) for x in list_photographs(given.folder).photographs
    ]
    paths = list(itertools.islice(itertools.cycle(files), given.num_photographs))
    with running_service(given.run, settings) as (url, pid):
        measure_load(url, paths[:8], 2)
        peak = MemoryPeak(pid)
        for num_clients in given.clients:
            load = measure_load(url, paths, num_clients)
            latencies = np.percentile(load.latencies * 1000, PERCENTILES)
            print(
                f"{num_clients} clients: {len(paths) / load.seconds:.1f} photographs/s,"
                f" p50 {latencies[0]:.0f} ms, p90 {latencies[1]:.0f} ms, "
                f"p99 {latencies[2]:.0f} ms, {load.num_refused} refused",
                flush=True,
            )
        print(f"memory of the service: {peak.stop():.0f} MB", flush=True)
    print(measure_score(given.run, paths, settings))


if __name__ == "__main__":
    main()
