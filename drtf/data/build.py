"""Conversion: photographs in, a set of shards out, in one reading of each file."""

import csv
import functools
import hashlib
import io
import math
import shutil
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
import pandas as pd

from drtf import __version__
from drtf.config import Config
from drtf.data.labels import GRADES, find_photographs, load_labels, match_photographs
from drtf.data.splits import plan_splits
from drtf.errors import DrtfError, PhotographError
from drtf.files import check_absent, hash_file, write_atomic
from drtf.images.preprocess import (
    encode_image,
    limit_threads,
    preprocess_photograph,
)
from drtf.progress import progress
from drtf.records.index import COLUMNS, save_index
from drtf.records.manifest import (
    INDEX_FILE,
    REJECTED_FILE,
    Manifest,
    ShardEntry,
    save_manifest,
)
from drtf.records.plan import SPLITS, ShardPlan, plan_shards
from drtf.records.schema import Record
from drtf.records.writer import ShardWriter
from drtf.workers import count_workers, map_in_order

# Bytes a pixel that fundus photographs were seen to take; only shard sizes lean on it.
BYTES_PER_PIXEL = {"raw": 3.0, "png": 1.7, "jpeg": 0.5}


class Rejection(NamedTuple):
    """A photograph set aside, with a reason from the fixed vocabulary."""

    path: str
    reason: str
    detail: str


@dataclass(frozen=True)
class BuildReport:
    """What a build did.

    Attributes:
        manifest: of the set that was made.
        rejected: the photographs set aside.
        missing: ids of the label file that have no photograph.
        unlabelled: photographs that the label file doesn't name.
        num_repeated: rows of the label file that only repeat another.
        num_uncropped: photographs in which no retina could be found to crop to.
    """

    manifest: Manifest
    rejected: list[Rejection]
    missing: list[str]
    unlabelled: list[str]
    num_repeated: int
    num_uncropped: int


class _Converted(NamedTuple):
    image: bytes
    sha256: str
    field_found: bool
    rejection: Rejection | None


def build_shards(
    images: Path, labels: Path, out: Path, *, config: Config
) -> BuildReport:
    """Convert labelled photographs to a set of shards.

    The set is made in a hidden folder beside `out` and renamed when it is whole. Which
    bytes are written depends on the photographs, the label file and the config, not on
    the number of workers.

    Args:
        images: the folder of photographs, searched in depth.
        labels: the label file.
        out: the folder to be made.
        config: its sections `labels`, `split`, `images` and `build` are used.

    Raises:
        LabelError: if labels and photographs don't go together.
        DrtfError: if `out` exists, or every photograph had to be set aside.
    """
    check_absent(out)
    read = load_labels(labels, config.labels)
    matches = match_photographs(read.table, find_photographs(images))
    table = matches.table
    table["content"] = _find_contents(images, table["path"])
    table["split"] = plan_splits(table, config.split)
    table = _lay_out(table, config.build.seed)
    num_planned = {
        split: int(count)
        for split in SPLITS
        if (count := (table["split"] == split).sum())
    }
    pixel_bytes = config.images.size**2 * BYTES_PER_PIXEL[config.build.encoding]
    plans = plan_shards(
        num_planned,
        record_bytes=math.ceil(pixel_bytes),
        shard_bytes=int(config.build.shard_size_mb * 1e6),
    )
    aside = out.with_name(f".{out.name}.partial")
    out.parent.mkdir(parents=True, exist_ok=True)
    shutil.rmtree(aside, ignore_errors=True)
    aside.mkdir()
    shards, index, rejected, num_uncropped = _write_shards(
        aside, images, table, plans, name=out.name, config=config
    )
    if not len(index):
        raise DrtfError(
            f"none of the {len(table)} photographs could be used; the first: "
            f"{rejected[0].path}: {rejected[0].detail}"
        )
    _save_rejected(aside / REJECTED_FILE, rejected)
    save_index(aside / INDEX_FILE, index)
    manifest = Manifest(
        name=out.name,
        encoding=config.build.encoding,
        image_size=config.images.size,
        preprocessing=config.images.model_dump(mode="json"),
        settings={
            "labels": config.labels.model_dump(mode="json"),
            "split": config.split.model_dump(mode="json"),
            "build": config.build.model_dump(mode="json", exclude={"num_workers"}),
        },
        num_records=_count_records(index),
        num_patients=_count_patients(index),
        shards=tuple(shards),
        index_sha256=hash_file(aside / INDEX_FILE),
        rejected_sha256=hash_file(aside / REJECTED_FILE),
        rejected=dict(sorted(Counter(item.reason for item in rejected).items())),
        provenance={
            "labels_file": labels.name,
            "labels_sha256": hash_file(labels),
            "num_labels": len(read.table),
            "num_labels_repeated": read.num_repeated,
            "num_labels_without_photograph": len(matches.missing),
            "num_photographs_without_label": len(matches.unlabelled),
            "num_uncropped": num_uncropped,
            "drtf": __version__,
            "opencv": cv2.__version__,
        },
    )
    save_manifest(aside, manifest)
    aside.rename(out)
    return BuildReport(
        manifest,
        rejected,
        matches.missing,
        matches.unlabelled,
        read.num_repeated,
        num_uncropped,
    )


def _find_contents(images: Path, paths: pd.Series) -> pd.Series:
    """Number contents so that byte-identical photographs, and only they, share one.

    Only photographs of equal size can be identical, so only these are read here.
    """
    sizes = [_read_size(images / path) for path in paths]
    counts = Counter(sizes)
    numbers: dict[str, int] = {}
    contents = []
    for path, size in zip(paths, sizes, strict=True):
        name = (_read_hash(images / path) if counts[size] > 1 else None) or path
        contents.append(numbers.setdefault(name, len(numbers)))
    return pd.Series(contents, index=paths.index)


def _read_size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:  # the conversion says what is wrong with it
        return -1


def _read_hash(path: Path) -> str | None:
    try:
        return hash_file(path)
    except OSError:
        return None


def _lay_out(table: pd.DataFrame, seed: int) -> pd.DataFrame:
    """Put the splits one after the other, each in a seeded order of its own."""
    parts = []
    for number, split in enumerate(SPLITS):
        part = table[table["split"] == split]
        order = np.random.default_rng([seed, number]).permutation(len(part))
        parts.append(part.iloc[order])
    return pd.concat(parts, ignore_index=True)


def _convert(path: str, *, folder: Path, config: Config) -> _Converted:
    try:
        path.encode()
    except UnicodeEncodeError:
        shown = path.encode(errors="backslashreplace").decode()
        rejection = Rejection(shown, "unreadable", "its path is not UTF-8")
        return _Converted(b"", "", False, rejection)
    try:
        data = (folder / path).read_bytes()
        result = preprocess_photograph(data, config.images)
    except OSError as error:
        rejection = Rejection(path, "unreadable", str(error.strerror))
        return _Converted(b"", "", False, rejection)
    except PhotographError as error:
        rejection = Rejection(path, error.reason, error.detail)
        return _Converted(b"", "", False, rejection)
    image = encode_image(
        result.image, config.build.encoding, jpeg_quality=config.build.jpeg_quality
    )
    sha256 = hashlib.sha256(data).hexdigest()
    return _Converted(image, sha256, result.field_found, None)


def _write_shards(
    out: Path,
    images: Path,
    table: pd.DataFrame,
    plans: list[ShardPlan],
    *,
    name: str,
    config: Config,
) -> tuple[list[ShardEntry], pd.DataFrame, list[Rejection], int]:
    shards, rows, rejected = [], [], []
    num_uncropped = 0
    results = map_in_order(
        functools.partial(_convert, folder=images, config=config),
        table["path"],
        num_workers=count_workers(config.build.num_workers),
        initializer=limit_threads,
    )
    with progress("Converting photographs", len(table)) as advance:
        for number, plan in enumerate(plans):
            photographs = table[table["split"] == plan.split][plan.start : plan.stop]
            file = plan.file_name(name)
            with ShardWriter(out / file) as writer:
                for photograph, result in zip(
                    photographs.to_dict("records"), results, strict=False
                ):
                    if result.rejection is None:
                        record = Record(
                            image=result.image,
                            format=config.build.encoding,
                            height=config.images.size,
                            width=config.images.size,
                            grade=photograph["grade"],
                            id=photograph["id"],
                            patient=photograph["patient"],
                        )
                        location = writer.append(record)
                        num_uncropped += not result.field_found
                        rows.append(
                            photograph
                            | location._asdict()
                            | {"shard": number, "sha256": result.sha256}
                        )
                    else:
                        rejected.append(result.rejection)
                    advance(f"{len(rejected)} set aside")
            shards.append(
                ShardEntry(
                    file=file,
                    split=plan.split,
                    num_records=writer.num_records,
                    size_bytes=writer.size_bytes,
                    sha256=writer.sha256,
                )
            )
    return shards, pd.DataFrame(rows, columns=COLUMNS.names), rejected, num_uncropped


def _save_rejected(path: Path, rejected: list[Rejection]) -> None:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(Rejection._fields)
    writer.writerows(rejected)
    write_atomic(path, text.getvalue())


def _count_records(index: pd.DataFrame) -> dict[str, dict[str, int]]:
    counts = Counter(zip(index["split"], index["grade"], strict=True))
    return {
        split: {str(grade): counts[split, grade] for grade in GRADES}
        for split in SPLITS
        if (index["split"] == split).any()
    }


def _count_patients(index: pd.DataFrame) -> dict[str, int]:
    counts = index.groupby("split")["patient"].nunique()
    return {split: int(counts[split]) for split in SPLITS if split in counts}
