"""The way from photographs to scores in a store, compared with local folders.

Each command runs in a new process, as when a user types it.
"""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from drawing import draw_fundus, encode
from drtf.models.run import load_run
from stores_servers import connect, running_s3, without_store_variables

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:botocore")
MAIN = "from drtf.tools.main import main; main()"
BUCKET = "eyes"
# Two steps of seven photographs.
SETTINGS = {
    "images.size": 32,
    "build.num_workers": 1,
    "build.shard_size_mb": 0.04,
    "model.name": "eyenet",
    "model.weights": "none",
    "sampling.mode": "natural",
    "train.epochs": 1,
    "train.batch_size": 7,
}


def write_class_folders(folder: Path) -> None:
    """Write a folder of photographs for each of two grades."""
    for patient in range(12):
        grade = patient % 3
        (folder / str(grade)).mkdir(parents=True, exist_ok=True)
        for number, eye in enumerate(("left", "right")):
            image = draw_fundus(seed=2 * patient + number, diseased=grade > 0)
            path = folder / str(grade) / f"{patient}_{eye}.png"
            path.write_bytes(encode(image))


def files_of(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


def objects_of(client, prefix: str) -> dict[str, bytes]:
    """Return the objects of a folder, read by another client than drtf's."""
    found = client.list_objects_v2(Bucket=BUCKET, Prefix=f"{prefix}/")
    keys = [item["Key"] for item in found["Contents"]]
    return {
        key.removeprefix(f"{prefix}/"): client.get_object(Bucket=BUCKET, Key=key)[
            "Body"
        ].read()
        for key in keys
    }


def weights_of(run: Path) -> list[np.ndarray]:
    return load_run(run).network.get_weights()


@pytest.mark.slow
def test_a_store_gives_the_results_of_local_folders(tmp_path):
    write_class_folders(tmp_path / "photographs")
    settings = [
        word for item in SETTINGS.items() for word in ("--set", "{}={}".format(*item))
    ]
    with running_s3() as environment:
        environment |= {"DRTF_CACHE": str(tmp_path / "cache")}
        client = connect(environment)
        client.create_bucket(Bucket=BUCKET)
        for name, data in files_of(tmp_path / "photographs").items():
            client.put_object(Bucket=BUCKET, Key=f"photographs/{name}", Body=data)

        def drtf(*words: str) -> None:
            done = subprocess.run(
                [sys.executable, "-c", MAIN, *words],
                env=without_store_variables() | environment,
                capture_output=True,
                text=True,
            )
            print(f"drtf {' '.join(words)}\n{done.stdout}")
            assert done.returncode == 0, done.stderr

        store = f"s3://{BUCKET}"
        run = f"{store}/runs/drawn"
        for root in (str(tmp_path), store):
            images, shards = f"{root}/photographs", f"{root}/tfrecords/drawn"
            drtf("build-shards", "--images", images, "--out", shards, *settings)
            drtf("verify", shards)
            out = f"{root}/runs/drawn"
            drtf("train", "--shards", shards, "--out", out, *settings)
        drtf("evaluate", run, "--shards", f"{store}/tfrecords/drawn")
        for root in (str(tmp_path), store):
            images, out = f"{root}/photographs", f"{root}/scores.csv"
            drtf("score", run, "--images", images, "--out", out)
        dataset = files_of(tmp_path / "tfrecords" / "drawn")
        assert objects_of(client, "tfrecords/drawn") == dataset
        scores = client.get_object(Bucket=BUCKET, Key="scores.csv")["Body"].read()
        assert scores == (tmp_path / "scores.csv").read_bytes()
        for name, data in objects_of(client, "runs/drawn").items():
            path = tmp_path / "downloaded" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)
    weights = (weights_of(tmp_path / name) for name in ("downloaded", "runs/drawn"))
    for found, expected in zip(*weights, strict=True):
        np.testing.assert_array_equal(found, expected)
