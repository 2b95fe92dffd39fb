"""Compare drtf's access to an S3 store with boto3's, in one run.

    python benchmarks/stores.py s3://BUCKET/FOLDER

Endpoint and credentials come from the environment, as for drtf. The objects that it
writes below the folder, about 650 MB, are deleted at the end.
"""

import argparse
import os
import random
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

import boto3

from drtf.locations import join_location
from drtf.storage import (
    delete_object,
    download_object,
    list_objects,
    read_object,
    read_ranges,
    write_object,
)
from drtf.stores import S3_ENDPOINTS

NUM_LISTED = 5_000
NUM_PHOTOGRAPHS = 300
PHOTOGRAPH_BYTES = 50_000
NUM_RECORDS = 1_000
RECORD_BYTES = 3 * 96 * 96
OBJECTS_MB = (64, 256)
NUM_THREADS = 8  # drtf makes as many requests at a time
DRTF, CLIENT, TRANSFERS = "drtf", "boto3's client", "boto3's transfers"
# Calls by operation and method.
Operations = dict[str, dict[str, Callable[[], object]]]


class Times(NamedTuple):
    """How long one call took, and the CPU time of this process in it."""

    seconds: float
    cpu_seconds: float


def build_operations(location: str, work: Path) -> Operations:
    """Return the calls to measure, by operation and method.

    Args:
        location: Folder in the store, with the objects of `stored_objects`.
        work: Local folder, with a file `NUMBER.bin` for each size of `OBJECTS_MB`.
    """
    client = connect()
    bucket, _, prefix = location.removeprefix("s3://").partition("/")
    photographs = [f"photographs/{number}.jpg" for number in range(NUM_PHOTOGRAPHS)]
    download = work / "download"
    largest = f"{OBJECTS_MB[-1]}.bin"
    step = OBJECTS_MB[-1] * 1_000_000 // NUM_RECORDS
    starts = [number * step for number in range(NUM_RECORDS)]

    def read(name: str, **options: str) -> bytes:
        key = f"{prefix}/{name}"
        return client.get_object(Bucket=bucket, Key=key, **options)["Body"].read()

    def list_all() -> int:
        pages = client.get_paginator("list_objects_v2").paginate(
            Bucket=bucket, Prefix=f"{prefix}/list/"
        )
        return sum(len(page["Contents"]) for page in pages)

    def read_range(start: int) -> bytes:
        return read(largest, Range=f"bytes={start}-{start + RECORD_BYTES - 1}")

    def read_with_drtf(name: str) -> bytes:
        return read_object(join_location(location, name))

    def stream(name: str) -> None:
        body = client.get_object(Bucket=bucket, Key=f"{prefix}/{name}")["Body"]
        with download.open("wb") as file:
            for chunk in body.iter_chunks(1 << 20):
                file.write(chunk)

    def put(name: str, key: str) -> None:
        with (work / name).open("rb") as file:
            client.put_object(Bucket=bucket, Key=key, Body=file)

    operations: Operations = {
        f"list {NUM_LISTED:,} objects": {
            DRTF: partial(list_objects, join_location(location, "list")),
            CLIENT: list_all,
        },
        f"read {NUM_PHOTOGRAPHS} photographs, one at a time": {
            DRTF: lambda: [read_with_drtf(name) for name in photographs],
            CLIENT: lambda: [read(name) for name in photographs],
        },
        f"read {NUM_PHOTOGRAPHS} photographs, {NUM_THREADS} at a time": {
            DRTF: partial(in_threads, read_with_drtf, photographs),
            CLIENT: partial(in_threads, read, photographs),
        },
        f"read {NUM_RECORDS:,} records of one object": {
            DRTF: partial(
                read_ranges,
                join_location(location, largest),
                starts,
                [RECORD_BYTES] * NUM_RECORDS,
            ),
            CLIENT: partial(in_threads, read_range, starts),
        },
    }
    for size_mb in OBJECTS_MB:
        name = f"{size_mb}.bin"
        key, copied = f"{prefix}/{name}", f"copy-{name}"
        operations[f"download {size_mb} MB"] = {
            DRTF: partial(download_object, join_location(location, name), download),
            CLIENT: partial(stream, name),
            TRANSFERS: partial(client.download_file, bucket, key, str(download)),
        }
        operations[f"upload {size_mb} MB"] = {
            DRTF: partial(write_object, join_location(location, copied), work / name),
            CLIENT: partial(put, name, f"{prefix}/{copied}"),
            TRANSFERS: partial(
                client.upload_file, str(work / name), bucket, f"{prefix}/{copied}"
            ),
        }
    return operations


def connect() -> Any:
    """Return boto3's client of the store that the environment names."""
    endpoint = next(filter(None, map(os.environ.get, S3_ENDPOINTS)), None)
    region = os.environ.get("AWS_REGION", "us-east-1")
    return boto3.client("s3", endpoint_url=endpoint, region_name=region)


@contextmanager
def stored_objects(location: str, work: Path) -> Iterator[None]:
    """Write the objects that are read, and delete them and all others at the end."""
    contents: dict[str, bytes | Path] = {}
    contents |= {f"list/{number:05}.jpg": b"0" for number in range(NUM_LISTED)}
    contents |= {
        f"photographs/{number}.jpg": os.urandom(PHOTOGRAPH_BYTES)
        for number in range(NUM_PHOTOGRAPHS)
    }
    for size_mb in OBJECTS_MB:
        path = work / f"{size_mb}.bin"
        path.write_bytes(os.urandom(size_mb * 1_000_000))
        contents[path.name] = path
    locations = [join_location(location, name) for name in contents]
    try:
        in_threads(write_object, locations, contents.values())
        yield
    finally:
        names = [item.name for item in list_objects(location)]
        in_threads(delete_object, [join_location(location, name) for name in names])


def in_threads(function: Callable[..., object], *arguments: Any) -> list[object]:
    """Call a function for all arguments, several at a time."""
    with ThreadPoolExecutor(NUM_THREADS) as pool:
        return list(pool.map(function, *arguments))


def measure(operations: Operations, num_repeats: int) -> None:
    """Measure the methods of each operation in turn, and print a table in Markdown."""
    print("| operation | method | seconds | relative to drtf | CPU seconds |")
    print("|---|---|---|---|---|")
    for operation, calls in operations.items():
        times: dict[str, list[Times]] = {name: [] for name in calls}
        for repeat in range(num_repeats + 1):
            # In another order each time, so that none always follows the same one.
            names = random.Random(repeat).sample(list(calls), len(calls))
            for name in names:
                start, cpu_start = time.perf_counter(), time.process_time()
                calls[name]()
                end, cpu_end = time.perf_counter(), time.process_time()
                if repeat:  # the first one opens connections
                    times[name].append(Times(end - start, cpu_end - cpu_start))
        for name, own in times.items():
            seconds = [x.seconds for x in own]
            ratios = [x / y.seconds for x, y in zip(seconds, times[DRTF], strict=True)]
            print(
                f"| {operation} | {name} | {median(seconds):.2f} ({min(seconds):.2f} "
                f"to {max(seconds):.2f}) | {median(ratios):.2f} "
                f"| {median(x.cpu_seconds for x in own):.2f} |",
                flush=True,
            )


def main() -> None:
    """Parse the arguments, and measure."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("location", help="folder in a store: s3://BUCKET/FOLDER")
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        with stored_objects(options.location, work):
            measure(build_operations(options.location, work), options.repeats)


if __name__ == "__main__":
    main()
