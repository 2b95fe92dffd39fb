"""Linked datasets: as large as needed, made of links to the shards of a small one."""

from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from drtf.files import hash_file
from drtf.records.manifest import INDEX_FILE, load_manifest, save_manifest

MIN_ROWS_PER_GROUP = 1 << 20


def link_copies(shards: Path, out: Path, *, num_copies: int) -> None:
    """Build a dataset that contains each record of another one several times.

    Its shards are links to the shards of the other one. In its index, the hashes of the
    photographs begin with the number of the copy, so all are different.
    """
    manifest, index = load_manifest(shards), pq.read_table(shards / INDEX_FILE)
    out.mkdir(parents=True)
    entries = []
    with pq.ParquetWriter(out / INDEX_FILE, index.schema) as writer:
        group: list[pa.Table] = []
        for copy in range(num_copies):
            for entry in manifest.shards:
                name = f"{copy}-{entry.file}"
                (out / name).symlink_to((shards / entry.file).resolve())
                entries.append(entry.model_copy(update={"file": name}))
            group.append(_copied_rows(index, copy, num_shards=len(manifest.shards)))
            is_last = copy == num_copies - 1
            if is_last or len(group) * len(index) >= MIN_ROWS_PER_GROUP:
                writer.write_table(pa.concat_tables(group))
                group = []
    update = {
        "shards": tuple(entries),
        "num_records": {
            split: {grade: num_copies * count for grade, count in counts.items()}
            for split, counts in manifest.num_records.items()
        },
        "files": {INDEX_FILE: hash_file(out / INDEX_FILE)},
    }
    save_manifest(out, manifest.model_copy(update=update))


def _copied_rows(index: pa.Table, copy: int, *, num_shards: int) -> pa.Table:
    columns = {name: index[name] for name in index.column_names}
    columns["shard"] = pc.add(
        index["shard"], pa.scalar(copy * num_shards, index["shard"].type)
    )
    columns["sha256"] = pc.utf8_replace_slice(index["sha256"], 0, 8, f"{copy:08x}")
    return pa.table(columns, schema=index.schema)
