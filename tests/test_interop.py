"""The libraries that read a set's shards without drtf, and get the same bytes."""

import json
import shutil
import struct
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from drawing import write_photographs
from drtf.building.build import build_shards
from drtf.config import load_config
from drtf.images.preprocess import decode_image
from drtf.labels.sources import Source
from drtf.records.reader import ShardDataset

# It has its own protocol buffers, which clash with TensorFlow's.
READ_BY_TFRECORD = """
import json, sys
from tfrecord.reader import tfrecord_loader
kinds = {"image/encoded": "byte", "image/class/label": "int", "image/id": "byte"}
for shard, index in json.loads(sys.argv[1]):
    part = (0, 1) if index else None
    for example in tfrecord_loader(shard, index, kinds, shard=part):
        image = example["image/encoded"].hex()
        grade = int(example["image/class/label"][0])
        print(json.dumps([example["image/id"].decode(), grade, image]))
"""


@pytest.fixture(scope="module", params=["raw", "png", "jpeg"])
def encoded(request, tmp_path_factory):
    """A set of several shards a split, with an awkward name."""
    folder = tmp_path_factory.mktemp(request.param)
    labels = write_photographs(folder / "photographs")
    settings = (
        "images.size=32",
        f"build.encoding={request.param}",
        "build.shard_size_mb=0.04",
        "build.num_workers=1",
    )
    out = folder / "My set-1.0 {é}"
    source = Source(folder / "photographs" / "images", labels)
    build_shards([source], out, config=load_config("", settings))
    with ShardDataset(out) as opened:
        yield opened


def records_of(shards: ShardDataset, split: str) -> list[tuple[str, int, bytes]]:
    rows = shards.split_rows(split)
    images = [image.tobytes() for image in shards.read_images(rows)]
    index = shards.load_index().iloc[rows]
    return list(zip(index["id"], index["grade"], images, strict=True))


def paths_of(shards: ShardDataset, split: str) -> list[str]:
    return [
        str(shards.folder / shard.file)
        for shard in shards.manifest.shards
        if shard.split == split
    ]


def idx_of(path: str) -> str:
    return str(Path(path).parent / "idx" / f"{Path(path).name}.idx")


def test_plain_tensorflow_gets_the_same_bytes(encoded):
    features = {
        "image/encoded": tf.io.FixedLenFeature([], tf.string),
        "image/class/label": tf.io.FixedLenFeature([], tf.int64),
        "image/id": tf.io.FixedLenFeature([], tf.string),
    }
    for split in encoded.manifest.num_records:
        found = []
        for record in tf.data.TFRecordDataset(paths_of(encoded, split)):
            example = tf.io.parse_single_example(record, features)
            id_, grade, image = (
                example[key].numpy()
                for key in ("image/id", "image/class/label", "image/encoded")
            )
            found.append((id_.decode(), int(grade), image))
        assert found == records_of(encoded, split)


def test_tensorflow_datasets_gets_the_same_bytes_and_pixels(encoded):
    import tensorflow_datasets as tfds

    builder = tfds.builder_from_directory(str(encoded.folder))
    in_order = tfds.ReadConfig(interleave_cycle_length=1)
    assert set(builder.info.splits) == set(encoded.manifest.num_records)
    for split in builder.info.splits:
        expected = records_of(encoded, split)
        assert builder.info.splits[split].num_examples == len(expected)
        if encoded.manifest.encoding == "raw":
            stored = None
        else:
            stored = {"image/encoded": tfds.decode.SkipDecoding()}
        dataset = builder.as_dataset(split=split, read_config=in_order, decoders=stored)
        for example, (id_, grade, image) in zip(
            tfds.as_numpy(dataset), expected, strict=True
        ):
            assert example["image/id"].decode() == id_
            assert example["image/class/label"] == grade
            pixels = example["image/encoded"]
            assert (pixels.tobytes() if stored is None else pixels) == image


def test_tensorflow_datasets_decodes_pairs_of_image_and_grade(encoded):
    import tensorflow_datasets as tfds

    builder = tfds.builder_from_directory(str(encoded.folder))
    dataset = builder.as_dataset(
        split="test",
        as_supervised=True,
        read_config=tfds.ReadConfig(interleave_cycle_length=1),
    )
    expected = records_of(encoded, "test")
    for (image, label), (_, grade, data) in zip(
        tfds.as_numpy(dataset), expected, strict=True
    ):
        pixels = decode_image(
            np.frombuffer(data, np.uint8), encoded.manifest.encoding, size=32
        )
        assert image.shape == (32, 32, 3)
        assert label == grade
        # libjpeg's fast and exact inverse DCT differ by a few gray levels.
        tolerance = 16 if encoded.manifest.encoding == "jpeg" else 0
        assert abs(image.astype(int) - pixels).max() <= tolerance


@pytest.mark.parametrize("indexed", [False, True])
def test_torchs_tfrecord_gets_the_same_bytes(encoded, indexed):
    for split in encoded.manifest.num_records:
        shards = [
            (path, idx_of(path) if indexed else None)
            for path in paths_of(encoded, split)
        ]
        command = [sys.executable, "-c", READ_BY_TFRECORD, json.dumps(shards)]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        found = [json.loads(line) for line in done.stdout.splitlines()]
        assert [(id_, grade, bytes.fromhex(image)) for id_, grade, image in found] == (
            records_of(encoded, split)
        )


def test_dalis_index_points_at_the_frames(encoded):
    """As its tfrecord2idx finds them: by walking from one length to the next."""
    for shard in encoded.manifest.shards:
        data = (encoded.folder / shard.file).read_bytes()
        lines, offset = [], 0
        while offset < len(data):
            (length,) = struct.unpack_from("<Q", data, offset)
            lines.append(f"{offset} {length + 16}\n")
            offset += length + 16
        index = encoded.folder / "idx" / f"{shard.file}.idx"
        assert index.read_text() == "".join(lines)


def test_dali_gets_the_same_bytes(encoded):
    dali = pytest.importorskip("nvidia.dali", reason="DALI is not installed")
    from nvidia.dali import fn, tfrecord

    paths = paths_of(encoded, "train")

    @dali.pipeline_def(batch_size=1, num_threads=1, device_id=None)
    def read():
        example = fn.readers.tfrecord(
            path=paths,
            index_path=[idx_of(path) for path in paths],
            features={
                "image/encoded": tfrecord.FixedLenFeature((), tfrecord.string, ""),
                "image/class/label": tfrecord.FixedLenFeature([1], tfrecord.int64, -1),
            },
        )
        return example["image/encoded"], example["image/class/label"]

    pipeline = read()
    pipeline.build()
    for _, grade, image in records_of(encoded, "train"):
        found, label = pipeline.run()
        assert found.as_array()[0].tobytes() == image
        assert label.as_array()[0, 0] == grade


def test_a_shard_whose_photographs_were_all_rejected_disturbs_no_reader(
    tmp_path, photographs
):
    import tensorflow_datasets as tfds

    folder = shutil.copytree(photographs, tmp_path / "p")
    settings = ("images.size=32", "build.shard_size_mb=0.004", "build.num_workers=1")
    source = Source(folder / "images", folder / "labels.csv")
    config = load_config("", settings)
    build_shards([source], tmp_path / "one", config=config)
    with ShardDataset(tmp_path / "one") as opened:
        (folder / "images" / opened.load_index()["path"][1]).write_bytes(b"")
    build_shards([source], tmp_path / "two", config=config)
    with ShardDataset(tmp_path / "two") as opened:
        assert opened.manifest.shards[1].num_records == 0
        expected = {id_ for id_, _, _ in records_of(opened, "train")}
    builder = tfds.builder_from_directory(str(tmp_path / "two"))
    found = tfds.as_numpy(builder.as_dataset(split="train"))
    assert {example["image/id"].decode() for example in found} == expected
