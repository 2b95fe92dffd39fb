"""Files that let DALI, torch's tfrecord and TFDS read the shards."""

from pathlib import Path
from typing import Any

from drtf.files import encode_json, sync_folder, write_atomic
from drtf.records.framing import FRAME_BYTES
from drtf.records.index import load_index
from drtf.records.manifest import INDEX_FILE, Manifest

IDX_FOLDER = "idx"
INFO_FILE = "dataset_info.json"
FEATURES_FILE = "features.json"

_FEATURES = "tensorflow_datasets.core.features"
_INT64 = {
    "pythonClassName": f"{_FEATURES}.tensor_feature.Tensor",
    "tensor": {"shape": {}, "dtype": "int64", "encoding": "none"},
}
_TEXT = {"pythonClassName": f"{_FEATURES}.text_feature.Text", "text": {}}


def save_interop(folder: Path, manifest: Manifest) -> list[str]:
    """Write the files that other libraries need to read a dataset.

    Each shard gets an index file in the format of DALI's tfrecord2idx: one line
    `offset length` per record, for the whole frame. The dataset gets the two JSON files
    of `tensorflow_datasets.builder_from_directory`.

    Args:
        folder: Folder of the shards and their index.
        manifest: Its `name`, `encoding`, `image_size` and `shards` are used.

    Returns:
        Paths of the files, relative to the folder.
    """
    (folder / IDX_FOLDER).mkdir(exist_ok=True)
    write_atomic(folder / INFO_FILE, encode_json(_dataset_info(manifest)))
    write_atomic(folder / FEATURES_FILE, encode_json(_feature_specs(manifest)))
    files = [INFO_FILE, FEATURES_FILE]
    index = load_index(folder / INDEX_FILE, ["offset", "length"])
    start = 0
    for shard in manifest.shards:
        rows = index[start : start + shard.num_records]
        start += shard.num_records
        lines = [
            f"{offset} {length + FRAME_BYTES}\n"
            for offset, length in zip(rows["offset"], rows["length"], strict=True)
        ]
        files.append(f"{IDX_FOLDER}/{shard.file}.idx")
        write_atomic(folder / files[-1], "".join(lines))
    sync_folder(folder / IDX_FOLDER)
    return files


def _dataset_info(manifest: Manifest) -> dict[str, Any]:
    splits = []
    for split in manifest.num_records:  # TFDS refuses a split without records
        shards = [shard for shard in manifest.shards if shard.split == split]
        num_records = sum(shard.num_records for shard in shards)
        num_bytes = sum(x.size_bytes for x in shards) - num_records * FRAME_BYTES
        splits.append(
            {
                "name": split,
                "shardLengths": [str(shard.num_records) for shard in shards],
                "numBytes": str(num_bytes),
            }
        )
    return {
        "name": manifest.name,
        "version": "1.0.0",
        "fileFormat": "tfrecord",
        "supervisedKeys": {"input": "image/encoded", "output": "image/class/label"},
        "splits": splits,
    }


def _feature_specs(manifest: Manifest) -> dict[str, Any]:
    side = str(manifest.image_size)
    shape = {"dimensions": [side, side, "3"]}
    if manifest.encoding == "raw":
        image: dict[str, Any] = {
            "pythonClassName": f"{_FEATURES}.tensor_feature.Tensor",
            "tensor": {"shape": shape, "dtype": "uint8", "encoding": "bytes"},
        }
    else:
        image = {
            "pythonClassName": f"{_FEATURES}.image_feature.Image",
            "image": {
                "shape": shape,
                "dtype": "uint8",
                "encodingFormat": manifest.encoding,
            },
        }
    return {
        "pythonClassName": f"{_FEATURES}.features_dict.FeaturesDict",
        "featuresDict": {
            "features": {
                "image/encoded": image,
                "image/format": _TEXT,
                "image/height": _INT64,
                "image/width": _INT64,
                "image/class/label": {
                    "pythonClassName": (f"{_FEATURES}.class_label_feature.ClassLabel"),
                    "classLabel": {"numClasses": "5"},
                },
                "image/id": _TEXT,
                "patient/id": _TEXT,
            }
        },
    }
