"""Conversion: photographs in, a set of shards out, in one reading of each file."""

import functools
import hashlib
import os
import shutil
from collections import Counter
from collections.abc import Callable, Hashable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Any

import numpy as np
import pandas as pd

from drtf.config import Config
from drtf.data.build_plan import (
    BuildPlan,
    dataset_settings,
    dataset_versions,
    place_shards,
    plan_build,
)
from drtf.data.journal import JOURNAL_FILE, Journal
from drtf.data.photographs import PhotographRef, prefetch_photographs
from drtf.data.prepare import (
    Rejected,
    ShardImage,
    prepare_for_shard,
    reject_crashed,
)
from drtf.data.sources import Source
from drtf.errors import DrtfError, RecordError
from drtf.files import hash_file, partial_path, sync_folder
from drtf.images.preprocess import limit_threads
from drtf.progress import progress
from drtf.records.framing import FRAME_BYTES, find_frame_fault
from drtf.records.index import COLUMNS, count_records, save_index
from drtf.records.interop import save_interop
from drtf.records.manifest import (
    INDEX_FILE,
    MANIFEST_FILE,
    REJECTED_FILE,
    Manifest,
    ShardEntry,
    load_manifest,
    save_manifest,
)
from drtf.records.plan import SPLITS
from drtf.records.reader import ShardDataset
from drtf.records.rejected import Rejection, save_rejected
from drtf.records.remote import cache_folder, load_remote_manifest, upload_dataset
from drtf.records.schema import Record
from drtf.records.writer import ShardWriter
from drtf.storage import is_remote
from drtf.workers import count_workers, map_in_order

QUALITY_COLUMNS = ("brightness", "contrast", "sharpness", "field")
QUANTILES = (0.0, 0.05, 0.5, 0.95, 1.0)


@dataclass(frozen=True)
class BuildReport:
    """What a build did.

    Attributes:
        manifest: of the set that was made.
        plan: what was to be done.
        found_whole: whether the same call had made the set before.
    """

    manifest: Manifest
    plan: BuildPlan
    found_whole: bool


def build_shards(
    sources: Sequence[Source],
    out: Path | str,
    *,
    config: Config,
    max_rejected: float = 1.0,
) -> BuildReport:
    """Convert labelled photographs to a set of shards.

    The set is made in a hidden folder beside `out` and renamed when it is whole. Which
    bytes are written depends on the photographs, the label files and the config, not on
    the number of workers, nor on how often the build was killed: the same call goes on
    where the last one ended.

    Args:
        sources: folders of photographs and their label files.
        out: the folder to be made; for s3:// it is made in the cache, then sent there.
        config: its sections `labels`, `split`, `images` and `build` are used.
        max_rejected: the share of the photographs, in [0, 1], that may be set aside.

    Raises:
        LabelError: if labels and photographs don't go together.
        StorageError: if a store fails.
        DrtfError: if `out` exists and is not what this call makes, if too many
            photographs had to be set aside, or if the disk is full.
    """
    name = PurePath(out).name
    if not name or not name.isprintable():
        raise DrtfError(f"--out must end in a printable name; got {name!r}")
    plan = plan_build(sources, name=name, config=config)
    if is_remote(out):
        location = str(out).rstrip("/")
        whole = load_remote_manifest(location)
        if whole:
            _check_same(whole, plan, location)
    else:
        whole = _find_whole(Path(out), plan)
    if whole:
        _check_rejected(plan, whole.rejected, max_rejected)
        return BuildReport(whole, plan, found_whole=True)
    if is_remote(out):
        key = hashlib.sha256(location.encode()).hexdigest()[:32]
        local = cache_folder() / "builds" / key / name
        manifest = _find_whole(local, plan) or _build(
            plan, local, config=config, max_rejected=max_rejected
        )
        upload_dataset(local, location)
        shutil.rmtree(local.parent)
    else:
        manifest = _build(plan, Path(out), config=config, max_rejected=max_rejected)
    return BuildReport(manifest, plan, found_whole=False)


def _build(
    plan: BuildPlan, out: Path, *, config: Config, max_rejected: float
) -> Manifest:
    aside = partial_path(out)
    try:
        aside.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DrtfError(f"can't make {aside}: {error.strerror}; check --out") from error
    try:
        with Journal(aside / JOURNAL_FILE, plan_sha256=plan.resume_sha256) as journal:
            _write_shards(
                aside,
                plan,
                journal,
                name=out.name,
                config=config,
                max_rejected=max_rejected,
            )
            manifest = _write_rest(
                aside, plan, journal.entries, name=out.name, config=config
            )
            sync_folder(aside)
            aside.rename(out)
        sync_folder(out.parent)
        (out / JOURNAL_FILE).unlink()
    except OSError as error:
        raise DrtfError(
            f"can't write {aside}: {error.strerror or error}; what is done stays "
            "there: mend this, and the same command goes on"
        ) from error
    return manifest


def _find_whole(out: Path, plan: BuildPlan) -> Manifest | None:
    """Return the manifest of a set that the same call has made, None if there is none.

    Raises:
        DrtfError: if something else is there.
    """
    if not os.path.lexists(out):  # a link that leads nowhere is there too
        return None
    try:
        manifest = load_manifest(out)
    except RecordError:
        manifest = None
    _check_same(manifest, plan, str(out))
    _check_unchanged(out, plan)
    # A kill may have struck between the last rename and this.
    if (out / JOURNAL_FILE).exists():
        (out / JOURNAL_FILE).unlink()
    return manifest


def _check_unchanged(out: Path, plan: BuildPlan) -> None:
    """Refuse a set that lost something, or whose photographs are others by now."""
    advice = "move it away, or choose another --out"
    try:
        with ShardDataset(out) as shards:
            index = shards.index
    except RecordError as error:
        raise DrtfError(
            f"{out} was made by this call, but is damaged: {error}; {advice}"
        ) from error
    made = (out / MANIFEST_FILE).stat().st_mtime
    columns = ["source", "path"]
    table = plan.table.merge(index[[*columns, "sha256"]], "left", on=columns)
    touched = [
        (photograph, sha256)
        for photograph, sha256 in zip(table["photograph"], table["sha256"], strict=True)
        if photograph.change_time() >= made
    ]
    with progress("Comparing photographs", len(touched)) as advance:
        for photograph, sha256 in touched:
            if photograph.sha256() != sha256:
                raise DrtfError(
                    f"{out} was made by this call, but {photograph.path} has changed "
                    f"since: {advice}"
                )
            advance(photograph.path)


def _check_same(manifest: Manifest | None, plan: BuildPlan, out: str) -> None:
    if manifest is None or manifest.plan_sha256 != plan.sha256:
        raise DrtfError(
            f"{out} exists already and is not overwritten, since it is not what these "
            "photographs, labels, settings and versions make: move it away or choose "
            "another --out"
        )


def _write_shards(
    aside: Path,
    plan: BuildPlan,
    journal: Journal,
    *,
    name: str,
    config: Config,
    max_rejected: float,
) -> None:
    """Write each shard that isn't there yet, and a journal entry a photograph."""
    convert = functools.partial(
        prepare_for_shard, images=config.images, build=config.build
    )
    journal.keep(_count_intact(aside, plan, journal, convert, name=name))
    if not journal.entries:
        _clear(aside)
    total, num_done = len(plan.table), len(journal.entries)
    todo = plan.table[num_done:]
    results = map_in_order(
        convert,
        prefetch_photographs(todo["photograph"]),
        num_workers=count_workers(config.build.num_workers),
        initializer=limit_threads,
        on_crash=reject_crashed,
    )
    reasons = Counter(entry["reason"] for entry in journal.entries if "reason" in entry)
    reasons.update(item.reason for item in plan.rejected)
    _check_rejected(plan, reasons, max_rejected)
    with (
        closing(results),
        progress("Converting photographs", total, done=num_done) as advance,
    ):
        for number, shard, start, stop in place_shards(plan):
            path = aside / shard.file_name(name)
            kept = journal.entries[start:stop]
            if path.exists():
                if len(kept) == stop - start:
                    continue
                path.rename(partial_path(path))
            with ShardWriter(path, keep_bytes=_count_bytes(kept)) as writer:
                photographs = plan.table[start + len(kept) : stop].to_dict("records")
                for photograph, result in zip(photographs, results, strict=False):
                    entry = _append(writer, photograph, result, config=config)
                    journal.append({"shard": number} | entry)
                    if "reason" in entry:
                        reasons[entry["reason"]] += 1
                        _check_rejected(plan, reasons, max_rejected)
                    advance(f"{reasons.total()} set aside")
                journal.sync()
    if all("reason" in entry for entry in journal.entries):
        first = journal.entries[0]
        raise DrtfError(
            f"none of the {total} photographs could be used; the first: "
            f"{plan.table['path'][0]}: {first['reason']}: {first['detail']}"
        )


def _clear(aside: Path) -> None:
    """Remove what a build left whose journal is lost."""
    for path in aside.iterdir():
        if path.is_dir():
            shutil.rmtree(path)
        elif path.name != JOURNAL_FILE:
            path.unlink()


def _count_intact(
    aside: Path,
    plan: BuildPlan,
    journal: Journal,
    convert: Callable[[PhotographRef], ShardImage | Rejected],
    *,
    name: str,
) -> int:
    """Count the journal's entries, from the first, that are still true.

    Their records stand whole on the disk, and their photographs are the same; of those
    that were set aside it is enough that nothing has touched them since.
    """
    entries = journal.entries
    photographs = plan.table["photograph"].tolist()
    sizes = plan.table["size_bytes"].tolist()
    for _, shard, start, stop in place_shards(plan):
        path = aside / shard.file_name(name)
        path = path if path.exists() else partial_path(path)
        data = np.fromfile(path, np.uint8) if path.exists() else np.empty(0, np.uint8)
        for position, entry in enumerate(entries[start:stop], start):
            photograph = photographs[position]
            touched = photograph.change_time() >= journal.last_written
            if "reason" in entry:
                mended = photograph.is_remote and not isinstance(
                    convert(photograph), Rejected
                )
                if touched or mended:
                    return position
                continue
            if entry["file_bytes"] != sizes[position]:
                return position
            if touched and photograph.sha256() != entry["sha256"]:
                return position
            length = entry["length"]
            frame = data[entry["offset"] :][: length + FRAME_BYTES]
            if find_frame_fault(frame, length=length):
                return position
        if stop >= len(entries):
            break
    return len(entries)


def _count_bytes(entries: list[dict[str, Any]]) -> int:
    ends = [x["offset"] + x["length"] + FRAME_BYTES for x in entries if "offset" in x]
    return max(ends, default=0)


def _append(
    writer: ShardWriter,
    photograph: dict[Hashable, Any],
    result: ShardImage | Rejected,
    *,
    config: Config,
) -> dict[str, Any]:
    if isinstance(result, Rejected):
        return {"reason": result.reason, "detail": result.detail}
    location = writer.append(
        Record(
            image=result.data,
            format=config.build.encoding,
            height=config.images.size,
            width=config.images.size,
            grade=photograph["grade"],
            id=photograph["id"],
            patient=photograph["patient"],
        )
    )
    return {
        **location._asdict(),
        "file_bytes": photograph["size_bytes"],
        "sha256": result.sha256,
        "field_found": result.has_field,
        **result.quality._asdict(),
    }


def _check_rejected(
    plan: BuildPlan, reasons: Mapping[str, int], max_rejected: float
) -> None:
    total = len(plan.table) + len(plan.rejected)
    count = sum(reasons.values())
    if count > max_rejected * total + 1e-6:  # 0.29 * 100 is 28.999999999999996
        counts = ", ".join(f"{n} {reason}" for reason, n in sorted(reasons.items()))
        raise DrtfError(
            f"{count} of {total} photographs set aside ({counts}), more than "
            f"--max-rejected {max_rejected:.3%}: mend them, or allow more"
        )


def _write_rest(
    aside: Path,
    plan: BuildPlan,
    entries: list[dict[str, Any]],
    *,
    name: str,
    config: Config,
) -> Manifest:
    """Write all that stands beside the shards, the manifest last."""
    done = pd.DataFrame(entries, index=plan.table.index)
    usable = done["offset"].notna()
    index = pd.concat([plan.table, done], axis=1)[usable]
    index = index.reset_index(drop=True)[COLUMNS.names]
    rejected = plan.rejected + [
        Rejection(row["path"], entry["reason"], entry["detail"], row["source"])
        for row, entry in zip(
            plan.table[~usable].to_dict("records"),
            [entry for entry in entries if "reason" in entry],
            strict=True,
        )
    ]
    save_index(aside / INDEX_FILE, index)
    save_rejected(aside / REJECTED_FILE, rejected)
    manifest = Manifest(
        name=name,
        encoding=config.build.encoding,
        image_size=config.images.size,
        preprocessing=config.images.model_dump(mode="json"),
        settings=dataset_settings(config),
        num_records=count_records(index),
        num_patients=_count_patients(index),
        shards=tuple(
            ShardEntry(
                file=shard.file_name(name),
                split=shard.split,
                num_records=int((index["shard"] == number).sum()),
                size_bytes=(aside / shard.file_name(name)).stat().st_size,
                sha256=hash_file(aside / shard.file_name(name)),
            )
            for number, shard in enumerate(plan.shards)
        ),
        files={},
        rejected=dict(sorted(Counter(item.reason for item in rejected).items())),
        quality={
            column: tuple(
                round(float(value), 4) for value in index[column].quantile(QUANTILES)
            )
            for column in QUALITY_COLUMNS
        },
        provenance={
            "sources": plan.catalog.provenance,
            "num_conflicting": sum(len(conflict.ids) for conflict in plan.conflicts),
            "num_without_field": int((~index["field_found"].astype(bool)).sum()),
            "num_black": int(index["black"].astype(bool).sum()),
            "versions": dataset_versions(),
        },
        plan_sha256=plan.sha256,
    )
    files = [INDEX_FILE, REJECTED_FILE, *save_interop(aside, manifest, index)]
    hashes = {file: hash_file(aside / file) for file in files}
    manifest = manifest.model_copy(update={"files": hashes})
    save_manifest(aside, manifest)
    return manifest


def _count_patients(index: pd.DataFrame) -> dict[str, int]:
    counts = index.groupby("split")["patient"].nunique()
    return {split: int(counts[split]) for split in SPLITS if split in counts}
