"""Uploaded tables as rows: parquet files. The one home of pyarrow, imported when a file comes.

CSV and JSON need no library: bench.parse_rows reads them.
"""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Iterator, Mapping
from datetime import date, datetime
from decimal import Decimal

from services import rows
from services.domain import Json
from services.errors import SignatureMismatch, one_line

MAGIC = b"PAR1"
"""What every parquet file begins with."""
_BATCH_ROWS = 256
"""Small: one value repeated is small in the file, and full-sized in every row of a batch."""
_FEWER = "Send fewer rows at a time."
_INDEX_COLUMN = "__index_level_"
"""pandas keeps an unnamed index under this name: no column of the model's."""


def rows_from_parquet(content: bytes) -> rows.Rows:
    """Read a parquet file as rows, unchecked: hold them against a signature by bench.check_rows.

    Missing values become null, bytes base64 text, times ISO 8601 text. SignatureMismatch when it is
    no parquet file or holds more than rows.MAX_CELLS values or rows.MAX_TEXT_BYTES bytes.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    if len(content) > rows.MAX_TEXT_BYTES:
        raise rows.refused(
            f"The file has {len(content):,} bytes; {rows.MAX_TEXT_BYTES:,} are the most.", _FEWER
        )
    try:
        file = pq.ParquetFile(io.BytesIO(content))
        columns = [name for name in file.schema_arrow.names if not name.startswith(_INDEX_COLUMN)]
        if file.metadata.num_rows * len(columns) > rows.MAX_CELLS:
            raise rows.refused(f"The file has more than {rows.MAX_CELLS:,} values.", _FEWER)
        data = tuple(_rows(file.iter_batches(_BATCH_ROWS, columns=columns)))
    except (pa.ArrowException, OSError) as error:
        raise SignatureMismatch(
            "The request was not sent.",
            why=f"The file is no parquet that can be read: {one_line(error).rstrip('.')}.",
            fix="Write it by pandas' to_parquet(), or send CSV.",
        ) from error
    return rows.Rows(tuple(columns), data)


def _rows(batches: Iterator[Json]) -> Iterator[tuple[Json, ...]]:
    size_bytes = 0
    for batch in batches:
        size_bytes += batch.nbytes
        if size_bytes > rows.MAX_TEXT_BYTES:
            raise rows.refused(f"The rows have more than {rows.MAX_TEXT_BYTES:,} bytes.", _FEWER)
        for row in zip(*(column.to_pylist() for column in batch.columns), strict=True):
            yield tuple(map(_plain, row))


def _plain(value: object) -> Json:
    """A value of pyarrow's as JSON has it."""
    if isinstance(value, float):
        return None if math.isnan(value) else value
    if isinstance(value, bytes):
        return base64.b64encode(value).decode()
    if isinstance(value, (datetime, date)):
        return value.isoformat()
    if isinstance(value, Decimal):
        return float(value)
    if isinstance(value, Mapping):
        return {str(key): _plain(one) for key, one in value.items()}
    if isinstance(value, list):
        # pyarrow gives a map as a list of pairs.
        if value and all(isinstance(one, tuple) and len(one) == 2 for one in value):
            return {str(key): _plain(one) for key, one in value}
        return [_plain(one) for one in value]
    return value
