"""The index: one row a record, in the order in which the records stand."""

from collections.abc import Sequence
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from drtf.errors import RecordError

COLUMNS = pa.schema(
    [
        ("split", pa.string()),
        ("shard", pa.int32()),  # number in the manifest's list of shards
        ("offset", pa.int64()),  # of the frame in the shard
        ("length", pa.int64()),  # of the record's data, without its frame
        ("image_offset", pa.int64()),  # of the image in the data
        ("image_length", pa.int64()),
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
    pq.write_table(table.replace_schema_metadata(None), path)


def load_index(path: Path, columns: Sequence[str] | None = None) -> pd.DataFrame:
    """Load an index, or only some columns of it.

    Raises:
        RecordError: if it can't be read or lacks a column of ours; others may be there.
    """
    try:
        # A map of the file's pages, and not a copy of them.
        file = pq.ParquetFile(path, memory_map=True)
        schema = file.schema_arrow
        for field in COLUMNS:
            if field not in schema:
                raise RecordError(
                    f"the index {path} has no {field.type} {field.name!r}"
                )
        return file.read(columns).to_pandas()
    except (OSError, pa.ArrowException) as error:
        raise RecordError(f"can't read the index {path}: {error}") from error
