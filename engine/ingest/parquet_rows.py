"""Parquet as blocks: columns keep their types; the `line` of a row is its number."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import parquet

from engine.errors import BadInput
from engine.ingest.block import Block, Reject
from engine.ingest.json_text import object_text
from engine.ingest.layout import Layout
from engine.ingest.lines import BLOCK_LINES, Cut


class ParquetReader:
    """A Parquet file. Raises BadInput, naming it, where its schema cannot be read."""

    def __init__(self, path: Path) -> None:
        try:
            self._file = parquet.ParquetFile(path)
        except (pa.ArrowException, OSError) as error:
            raise BadInput(f"{path} is not a readable Parquet file: {_first_line(error)}") from error
        self.names = list(self._file.schema_arrow.names)
        self.rows = int(self._file.metadata.num_rows)

    def blocks(self, layout: Layout) -> Iterator[Block]:
        """The rows in order; raises lines.Cut where the file cannot be read to its end."""
        first = 1
        batches = self._file.iter_batches(batch_size=BLOCK_LINES)
        while True:
            try:
                batch = next(batches, None)
            except (pa.ArrowException, OSError) as error:
                raise Cut(f"it cannot be read on: {_first_line(error)}") from error
            if batch is None:
                return
            yield _block(batch, first, layout)
            first += batch.num_rows

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def _block(batch: pa.RecordBatch, first: int, layout: Layout) -> Block:
    table, unreadable = {}, np.zeros(batch.num_rows, bool)
    for name, column in zip(batch.schema.names, batch.columns, strict=True):
        table[name], invalid = _decoded(column)
        unreadable |= invalid
    attributes, bad = _attributes({name: column for name, column in table.items() if name not in layout.canonical})

    def row(at: int) -> object:
        return {name: column[at].as_py() for name, column in table.items()}

    rejects = [Reject(first + at, "not UTF-8", "", row(at)) for at in np.flatnonzero(unreadable).tolist()]
    rejects += [
        Reject(first + at, "attributes: not storable as JSON", detail, row(at))
        for at, detail in bad.items()
        if not unreadable[at]
    ]
    keep = ~unreadable
    keep[list(bad)] = False
    kept, mask = np.flatnonzero(keep), pa.array(keep)
    return Block(
        {ours: table[theirs].filter(mask) for theirs, ours in layout.canonical.items()},
        first + kept,
        lambda at: row(int(kept[at])),
        None if attributes is None else attributes.filter(mask),
        rejects=tuple(rejects),
    )


def _decoded(column: pa.Array) -> tuple[pa.Array, np.ndarray]:
    """The column without dictionaries and wide offsets, and where its text is not UTF-8 (shown escaped)."""
    invalid = np.zeros(len(column), bool)
    if pa.types.is_dictionary(column.type):
        column = column.dictionary_decode()
    if pa.types.is_large_string(column.type) or pa.types.is_string_view(column.type):
        column = column.cast(pa.string())
    if not pa.types.is_string(column.type):
        return column, invalid
    try:
        column.validate(full=True)
    except pa.ArrowInvalid:
        raw = column.cast(pa.binary()).to_pylist()
        texts = [value if value is None else value.decode(errors="backslashreplace") for value in raw]
        invalid = np.array(
            [text is not None and text.encode() != value for text, value in zip(texts, raw, strict=True)]
        )
        column = pa.array(texts, pa.string())
    return column, invalid


def _attributes(columns: Mapping[str, pa.Array]) -> tuple[pa.StringArray | None, dict[int, str]]:
    """One JSON object a row, nulls and NaN left out, and what is wrong with rows that cannot be one."""
    if not columns:
        return None, {}
    names = sorted(columns)
    texts: list[str | None] = []
    bad: dict[int, str] = {}
    for at, values in enumerate(zip(*(_objects(columns[name]) for name in names), strict=True)):
        try:
            held = {name: value for name, value in zip(names, values, strict=True) if value is not None}
            texts.append(object_text(held))
        except ValueError as error:
            texts.append(None)
            bad[at] = str(error)
    return pa.array(texts, pa.string()), bad


def _objects(column: pa.Array) -> list[object]:
    if pa.types.is_floating(column.type):
        column = pc.if_else(pc.is_nan(column), None, column)
    values: list[object] = column.to_pylist()
    return values


def _first_line(error: Exception) -> str:
    return next(iter(str(error).splitlines()), type(error).__name__)
