"""Bulk transfer: PostgreSQL's binary COPY, packed and unpacked by numpy, on the transaction's own connection.

Written: about 1 M rows/s, where psycopg's `write_row` reaches 0.16 M. Where rows may conflict, COPY into a temporary
table and `INSERT … SELECT … ON CONFLICT DO NOTHING RETURNING` from it. `copy_out` sees the transaction's own changes,
which Arrow reads (`Snapshot.arrow`, other types and NULLs too) do not.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
from sqlalchemy import Connection, text

POSTGRES_EPOCH_US = 946_684_800_000_000
"""Microseconds from 1970 to PostgreSQL's epoch, 2000-01-01."""

_SIGNATURE = b"PGCOPY\n\xff\r\n\x00" + bytes(8)
_TRAILER = b"\xff\xff"
_CHUNK_ROWS = 131_072


def copy_rows(connection: Connection, table: str, columns: Mapping[str, Any]) -> int:
    """COPY equal-length `columns` into `table`; returns the number of rows.

    A column is, by the PostgreSQL type it fills:
    - smallint, integer, bigint, float8, bool: a numpy array of int16, int32, int64, float64, bool;
    - timestamptz: numpy datetime64 (any unit, UTC; NaT is NULL); date: numpy datetime64[D];
    - uuid: a numpy array of shape (n, 16), uint8;
    - text, bytea: a pyarrow string or binary array; jsonb: a pyarrow string array wrapped in `jsonb(…)`.
    NULLs: a pair (array, valid) with `valid` a boolean array, or nulls of the pyarrow array itself.

    Raises TypeError for any other column, ValueError for unequal lengths.
    """
    fields = [_field(values) for values in columns.values()]
    lengths = {field.rows for field in fields}
    if len(lengths) > 1:
        raise ValueError(f"columns of unequal length: {dict(zip(columns, (f.rows for f in fields), strict=True))}")
    rows = lengths.pop() if lengths else 0
    names = ", ".join(f'"{name}"' for name in columns)
    driver: Any = connection.connection.driver_connection
    with driver.cursor() as cursor, cursor.copy(f"COPY {table} ({names}) FROM STDIN (FORMAT BINARY)") as copy:
        copy.write(_SIGNATURE)
        for start in range(0, rows, _CHUNK_ROWS):
            copy.write(_pack(fields, start, min(start + _CHUNK_ROWS, rows)))
        copy.write(_TRAILER)
    return rows


def stage_rows(connection: Connection, table: str, definition: str, columns: Mapping[str, Any]) -> None:
    """Make `columns` (as for `copy_rows`) the rows of the temporary `table` until the transaction ends.

    definition: its columns in SQL, the same at every call; the table stays with the connection, empty.
    """
    connection.execute(text(f"CREATE TEMP TABLE IF NOT EXISTS {table} ({definition}) ON COMMIT DELETE ROWS"))
    connection.execute(text(f"DELETE FROM {table}"))
    copy_rows(connection, table, columns)


_OUT = {"smallint": ">i2", "integer": ">i4", "bigint": ">i8", "float8": ">f8", "timestamptz": ">i8", "uuid": "V16"}


def copy_out(connection: Connection, query: str, columns: Mapping[str, str]) -> dict[str, np.ndarray]:
    """The rows of `query` (complete SQL, may be an INSERT … RETURNING) as arrays.

    columns: name → type, in the query's order: smallint, integer, bigint, float8 give int16 … float64; timestamptz
    gives datetime64[us] (UTC); uuid gives uint8[n, 16]. Raises ValueError where a value is NULL.
    """
    driver: Any = connection.connection.driver_connection
    with driver.cursor() as cursor, cursor.copy(f"COPY ({query}) TO STDOUT (FORMAT BINARY)") as copy:
        data = b"".join(copy)
    layout = [("columns", ">i2")]
    for name, kind in columns.items():
        layout += [(f"size of {name}", ">i4"), (name, _OUT[kind])]
    body = data[len(_SIGNATURE) : -len(_TRAILER)]
    row = np.dtype(layout)
    if len(body) % row.itemsize:
        raise ValueError(f"a NULL, or another type than {dict(columns)}")
    rows = np.frombuffer(body, row)
    for name, kind in columns.items():
        if np.any(rows[f"size of {name}"] != np.dtype(_OUT[kind]).itemsize):
            raise ValueError(f"a NULL in {name}, or another type than {kind}")
    return {name: _native(rows[name], kind) for name, kind in columns.items()}


def array_text(values: np.ndarray) -> str:
    """Integers as the text of a PostgreSQL array, for a parameter that is cast to one: psycopg writes members one by
    one."""
    return "{" + ",".join(map(str, values.tolist())) + "}"


def fetch(connection: Connection, query: str, parameters: Sequence[object] = ()) -> list[tuple[Any, ...]]:
    """The rows of `query`, whose places are %s, straight from the driver and in binary: a third of the time that
    SQLAlchemy takes, which is much where requests come all day; [] where it gives no rows."""
    driver: Any = connection.connection.driver_connection
    with driver.cursor(binary=True) as cursor:
        cursor.execute(query, parameters)
        rows: list[tuple[Any, ...]] = cursor.fetchall() if cursor.description else []
    return rows


def _native(values: np.ndarray, kind: str) -> np.ndarray:
    if kind == "uuid":
        return np.ascontiguousarray(values).view(np.uint8).reshape(len(values), 16)
    native = values.astype(values.dtype.newbyteorder("="))
    return (native + POSTGRES_EPOCH_US).astype("datetime64[us]") if kind == "timestamptz" else native


class _Fixed:
    """A column of fixed-width values, already in network byte order."""

    def __init__(self, data: np.ndarray, valid: np.ndarray | None) -> None:
        self.data, self.valid, self.rows, self.width = data, valid, len(data), data.shape[1]

    def sizes(self, start: int, stop: int) -> np.ndarray:
        sizes = np.full(stop - start, self.width, np.int64)
        return sizes if self.valid is None else np.where(self.valid[start:stop], sizes, 0)

    def nulls(self, start: int, stop: int) -> np.ndarray | None:
        return None if self.valid is None else ~self.valid[start:stop]

    def write(self, out: np.ndarray, at: np.ndarray, start: int, stop: int) -> None:
        data = self.data[start:stop]
        if self.valid is not None:
            keep = self.valid[start:stop]
            data, at = data[keep], at[keep]
        for byte in range(self.width):
            out[at + byte] = data[:, byte]


class _Variable:
    """A column of byte strings: one flat buffer and offsets, with an optional prefix byte (jsonb's version)."""

    def __init__(self, flat: np.ndarray, offsets: np.ndarray, valid: np.ndarray | None, prefix: bytes = b"") -> None:
        self.flat, self.offsets, self.valid, self.rows = flat, offsets, valid, len(offsets) - 1
        self.prefix = np.frombuffer(prefix, np.uint8)

    def sizes(self, start: int, stop: int) -> np.ndarray:
        sizes = np.diff(self.offsets[start : stop + 1]) + len(self.prefix)
        return sizes if self.valid is None else np.where(self.valid[start:stop], sizes, 0)

    def nulls(self, start: int, stop: int) -> np.ndarray | None:
        return None if self.valid is None else ~self.valid[start:stop]

    def write(self, out: np.ndarray, at: np.ndarray, start: int, stop: int) -> None:
        keep = slice(None) if self.valid is None else self.valid[start:stop]
        begin = self.offsets[start:stop][keep]
        sizes = np.diff(self.offsets[start : stop + 1])[keep]
        at = at[keep]
        for i, byte in enumerate(self.prefix):
            out[at + i] = byte
        within = np.arange(sizes.sum()) - np.repeat(np.cumsum(sizes) - sizes, sizes)
        out[np.repeat(at + len(self.prefix), sizes) + within] = self.flat[np.repeat(begin, sizes) + within]


class Jsonb:
    """Marks a pyarrow string array as the text of a jsonb column."""

    def __init__(self, values: pa.Array) -> None:
        self.values = values


def jsonb(values: pa.Array) -> Jsonb:
    """`values` (pyarrow strings, each a JSON text) as a jsonb column of `copy_rows`."""
    return Jsonb(values)


def _field(values: Any) -> _Fixed | _Variable:
    valid = None
    if isinstance(values, tuple):
        values, valid = values
        valid = np.asarray(valid, bool)
    if isinstance(values, Jsonb):
        return _text(values.values, valid, b"\x01")
    if isinstance(values, pa.ChunkedArray):
        values = values.combine_chunks()
    if isinstance(values, pa.Array):
        return _text(values, valid, b"")
    return _fixed(np.asarray(values), valid)


def _fixed(array: np.ndarray, valid: np.ndarray | None) -> _Fixed:
    if array.dtype == np.uint8 and array.ndim == 2 and array.shape[1] == 16:
        return _Fixed(np.ascontiguousarray(array), valid)
    if array.dtype == bool:
        return _Fixed(array.astype(np.uint8)[:, None], valid)
    if array.dtype.kind == "M":
        known = ~np.isnat(array)
        valid = known if valid is None else valid & known
        if array.dtype == np.dtype("datetime64[D]"):
            days = array.astype(np.int64) - POSTGRES_EPOCH_US // 86_400_000_000
            big = days.astype(">i4")
        else:
            big = (array.astype("datetime64[us]").astype(np.int64) - POSTGRES_EPOCH_US).astype(">i8")
        return _Fixed(big.view(np.uint8).reshape(len(array), big.itemsize), None if valid.all() else valid)
    if array.dtype in (np.int16, np.int32, np.int64, np.float64, np.float32):
        big = np.ascontiguousarray(array.astype(array.dtype.newbyteorder(">")))
        return _Fixed(big.view(np.uint8).reshape(len(array), array.dtype.itemsize), valid)
    raise TypeError(f"no binary COPY for a column of dtype {array.dtype}, shape {array.shape}")


def _text(array: pa.Array, valid: np.ndarray | None, prefix: bytes) -> _Variable:
    kinds = (pa.types.is_string, pa.types.is_large_string, pa.types.is_binary, pa.types.is_large_binary)
    if not any(kind(array.type) for kind in kinds):
        raise TypeError(f"no binary COPY for a column of type {array.type}")
    if array.null_count:
        known = np.asarray(array.is_valid())
        valid = known if valid is None else valid & known
    wide = array.cast(pa.large_binary()) if not pa.types.is_large_binary(array.type) else array
    _, offsets_buffer, data_buffer = wide.buffers()
    offsets = np.frombuffer(offsets_buffer, np.int64, len(wide) + 1, wide.offset * 8)
    flat = np.frombuffer(data_buffer, np.uint8) if data_buffer is not None else np.zeros(0, np.uint8)
    return _Variable(flat, offsets, valid, prefix)


def _pack(fields: list[_Fixed | _Variable], start: int, stop: int) -> bytes:
    rows = stop - start
    sizes = [field.sizes(start, stop) for field in fields]
    row_sizes = 2 + 4 * len(fields) + sum(sizes)
    ends = np.cumsum(row_sizes)
    out = np.zeros(int(ends[-1]) if rows else 0, np.uint8)
    at = ends - row_sizes
    count = len(fields)
    out[at], out[at + 1] = count >> 8, count & 255
    at = at + 2
    for field, size in zip(fields, sizes, strict=True):
        nulls = field.nulls(start, stop)
        shown = size if nulls is None else np.where(nulls, -1, size)
        header = shown.astype(">i4").view(np.uint8).reshape(rows, 4)
        for byte in range(4):
            out[at + byte] = header[:, byte]
        field.write(out, at + 4, start, stop)
        at = at + 4 + size
    return out.tobytes()
