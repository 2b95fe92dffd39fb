"""The index: one row a record, in the order in which the records stand."""

import io
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from drtf.errors import RecordError
from drtf.files import write_atomic
from drtf.records.plan import SPLITS
from drtf.tasks import GRADES

COLUMNS = pa.schema(
    [
        ("split", pa.string()),
        ("shard", pa.int32()),  # number in the manifest's list of shards
        ("offset", pa.int64()),  # of the frame in the shard
        ("length", pa.int64()),  # of the record's data, without its frame
        ("image_offset", pa.int64()),  # of the image in the data
        ("image_length", pa.int64()),
        ("crc32c", pa.uint32()),  # of the data, masked as in the frame's footer
        ("id", pa.string()),
        ("patient", pa.string()),
        ("grade", pa.int8()),
        ("source", pa.string()),  # its name; empty where there is but one
        ("path", pa.string()),  # of the photograph, below the image folder
        ("sha256", pa.string()),  # of the photograph's file
        ("field_found", pa.bool_()),  # the retina's; where not, nothing was cut off
        # Measured before equalization; drtf.images.quality defines each.
        ("brightness", pa.float32()),
        ("contrast", pa.float32()),
        ("sharpness", pa.float32()),
        ("field", pa.float32()),
        ("black", pa.bool_()),
    ],
)


def save_index(path: Path, index: pd.DataFrame) -> None:
    """Write the index; equal tables give equal bytes."""
    table = pa.Table.from_pandas(index, schema=COLUMNS, preserve_index=False)
    data = io.BytesIO()
    pq.write_table(table.replace_schema_metadata(None), data)
    write_atomic(path, data.getvalue())


def count_records(index: pd.DataFrame) -> dict[str, dict[str, int]]:
    """Count an index's photographs by split and grade, as a manifest does."""
    counts = Counter(zip(index["split"], index["grade"], strict=True))
    return {
        split: {str(grade): counts[split, grade] for grade in GRADES}
        for split in SPLITS
        if (index["split"] == split).any()
    }


def load_index(path: Path, columns: Sequence[str] | None = None) -> pd.DataFrame:
    """Load an index, or only some columns of it.

    Raises:
        RecordError: if it can't be read or lacks a column of ours; others may be there.
    """
    try:
        with path.open("rb") as opened:
            file = pq.ParquetFile(opened)
            for field in COLUMNS:
                if field not in file.schema_arrow:
                    raise RecordError(
                        f"the index {path} has no {field.type} {field.name!r}: "
                        "another drtf made this set; build it again"
                    )
            index = file.read(columns).to_pandas()
    except (OSError, pa.ArrowException) as error:
        raise RecordError(f"can't read the index {path}: {error}") from error
    # Arrow would keep what reading took, as much again as a large set's columns.
    pa.default_memory_pool().release_unused()
    return index
