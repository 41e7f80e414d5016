"""A file opened as blocks, with how far it has been read."""

from __future__ import annotations

from collections.abc import Generator, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

from engine.ingest.block import Block
from engine.ingest.csv_rows import CsvReader
from engine.ingest.formats import Source, recognise
from engine.ingest.json_rows import JsonReader
from engine.ingest.layout import Kind, Layout, lay_out
from engine.ingest.parquet_rows import ParquetReader


class Reader(Protocol):
    """One open file; `names` are its columns."""

    names: list[str]

    def blocks(self, layout: Layout) -> Iterator[Block]:
        """The rows in order, in blocks of bounded size; raises lines.Cut where the file cannot be read to its end."""
        ...


def look_at(kind: Kind, path: Path, mapping: Mapping[str, str]) -> tuple[Source, Layout]:
    """What a file is and how its columns are named after ours, from its beginning alone.

    Raises BadInput, naming the file, where it cannot be ingested at all.
    """
    source = recognise(path)
    with _opened(source) as (reader, _position):
        return source, lay_out(kind, reader.names, mapping, str(path))


def read_blocks(source: Source, layout: Layout) -> Generator[tuple[Block, int], None, None]:
    """The blocks of a file, each with the bytes of the stored file that have been read."""
    with _opened(source) as (reader, position):
        rows = 0
        for block in reader.blocks(layout):
            rows += len(block) + len(block.rejects)
            yield block, position(rows)


class _Position(Protocol):
    def __call__(self, rows: int) -> int: ...


@contextmanager
def _opened(source: Source) -> Iterator[tuple[Reader, _Position]]:
    if source.format == "parquet":
        table = ParquetReader(source.path)
        try:
            yield table, lambda rows: source.size * rows // max(table.rows, 1)
        finally:
            table.close()
        return
    raw, text = source.open()
    with raw:
        reader = (CsvReader if source.format == "csv" else JsonReader)(text, str(source.path))
        yield reader, lambda rows: raw.tell()  # noqa: ARG005 - text is counted in bytes
