"""CSV (RFC 4180: commas, double quotes, a header) as blocks.

Where a block of lines is plain (UTF-8, no NUL, every line's quotes in pairs) pyarrow takes it apart at once. Any other
block goes record by record through the standard library's reader, which says of each refused line what is wrong with
it and joins the lines of quoted values that hold line breaks.
"""

from __future__ import annotations

import csv
import itertools
from collections.abc import Iterator, Sequence
from typing import BinaryIO

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import csv as arrow_csv

from engine.errors import BadInput
from engine.ingest.block import Block, Reject
from engine.ingest.json_text import csv_attributes
from engine.ingest.layout import Layout
from engine.ingest.lines import BOM, LONGEST_LINE, Cut, Lines, TooLong, read_lines, refused_line

LONGEST_RECORD_LINES = 1_000
"""Lines that one quoted value may span."""


class CsvReader:
    """A CSV file whose first line names the columns.

    Raises BadInput, naming the file, where that line cannot be read.
    """

    def __init__(self, text: BinaryIO, file: str) -> None:
        self._lines = read_lines(text)
        try:
            first = next(self._lines)
        except Cut as cut:
            raise BadInput(f"{file}: {cut}, before its first line ends") from cut
        if isinstance(first, TooLong):
            raise BadInput(f"{file}: its first line, which should name the columns, has {first.length:,} bytes")
        self.names = _header(first.data.partition(b"\n")[0], file)
        self._first = Lines(first.data.partition(b"\n")[2], first.first + 1, first.count - 1)

    def blocks(self, layout: Layout) -> Iterator[Block]:
        """The rows in order; raises lines.Cut where the file cannot be read to its end."""
        held: Lines | None = None
        for lines in itertools.chain([self._first], self._lines):
            if isinstance(lines, TooLong):
                if held is not None:
                    yield self._take(held, layout, last=True)[0]
                    held = None
                yield Block.of_rejects(refused_line(lines))
                continue
            whole = lines if held is None else Lines(held.data + lines.data, held.first, held.count + lines.count)
            block, held = self._take(whole, layout, last=False)
            yield block
        if held is not None:
            yield self._take(held, layout, last=True)[0]

    def _take(self, lines: Lines, layout: Layout, *, last: bool) -> tuple[Block, Lines | None]:
        """The block of `lines`, and the lines of a record that goes on after them (none at the `last`)."""
        plain = _plain(lines, self.names)
        if plain is not None:
            return _block(plain, layout), None
        careful = _Careful(lines, len(self.names), last)
        columns = zip(*careful.records, strict=True) if careful.records else ([] for _ in self.names)
        table = {name: pa.array(column, pa.string()) for name, column in zip(self.names, columns, strict=True)}
        return _block((table, np.array(careful.numbers, np.int64), careful.rejects), layout), careful.held


Parsed = tuple[dict[str, pa.Array], np.ndarray, list[Reject]]


def _header(line: bytes, file: str) -> list[str]:
    try:
        text = line.decode().rstrip("\r")
        if "\0" in text:
            raise BadInput(f"{file} is not a text file: its first line holds NUL bytes")
        names = [name.strip() for name in next(csv.reader([text], strict=True), [])]
    except UnicodeDecodeError as error:
        raise BadInput(f"{file}: its first line is not UTF-8", hint="save it as UTF-8") from error
    except csv.Error as error:
        raise BadInput(f"{file}: its first line, which should name the columns, cannot be read: {error}") from error
    if not names:
        raise BadInput(f"{file}: its first line, which should name the columns, is empty")
    return names


def _block(parsed: Parsed, layout: Layout) -> Block:
    table, numbers, rejects = parsed
    canonical = layout.of(table)
    columns = {}
    for theirs, ours in canonical.items():
        trimmed = pc.utf8_trim_whitespace(table[theirs])
        columns[ours] = pc.if_else(pc.equal(pc.binary_length(trimmed), 0), None, trimmed)
    return Block(
        columns,
        numbers,
        lambda row: {name: values[row].as_py() for name, values in table.items()},
        csv_attributes({name: values for name, values in table.items() if name not in canonical}),
        rejects=tuple(rejects),
    )


def _plain(lines: Lines, names: Sequence[str]) -> Parsed | None:
    """The rows as pyarrow takes them apart, or None where something about the lines needs care."""
    data = lines.data
    if not data:
        return {name: pa.array([], pa.string()) for name in names}, np.zeros(0, np.int64), []
    if not _is_plain(data):
        return None
    flat = np.frombuffer(data, np.uint8)
    ends = np.flatnonzero(flat == 10)
    if len(ends) < lines.count:
        ends = np.append(ends, len(data))
    starts = np.concatenate([[0], ends[:-1] + 1])
    filled = (ends > starts) & ~((ends == starts + 1) & (flat[np.minimum(starts, len(flat) - 1)] == 13))
    numbers = lines.first + np.flatnonzero(filled)
    if not len(numbers):
        return {name: pa.array([], pa.string()) for name in names}, numbers, []
    invalid: list[arrow_csv.InvalidRow] = []
    table = _arrow(data, names, invalid)
    if table.num_rows + len(invalid) != len(numbers):
        return None
    dropped = np.array([row.number - 1 for row in invalid], np.int64)
    rejects = [_wrong_width(int(numbers[row.number - 1]), row.actual_columns, len(names), row.text) for row in invalid]
    columns = {name: column.combine_chunks() for name, column in zip(names, table.columns, strict=True)}
    return columns, np.delete(numbers, dropped), rejects


def _is_plain(data: bytes) -> bool:
    if b"\0" in data or data.count(b"\r") != data.count(b"\r\n"):
        return False
    if data.startswith(BOM):  # pyarrow would take it for the file's own and drop it
        return False
    try:
        data.decode()
    except UnicodeDecodeError:
        return False
    if b'"' not in data:
        return True
    flat = np.frombuffer(data, np.uint8)
    quotes = np.cumsum(flat == 34)
    return not bool(np.any(quotes[flat == 10] & 1)) and not quotes[-1] & 1


def _arrow(data: bytes, names: Sequence[str], invalid: list[arrow_csv.InvalidRow]) -> pa.Table:
    def skip(row: arrow_csv.InvalidRow) -> str:
        invalid.append(row)
        return "skip"

    return arrow_csv.read_csv(
        pa.py_buffer(data),
        # One block and no threads: rows keep their numbers.
        read_options=arrow_csv.ReadOptions(column_names=names, use_threads=False, block_size=len(data) + 1024),
        parse_options=arrow_csv.ParseOptions(invalid_row_handler=skip),
        convert_options=arrow_csv.ConvertOptions(
            column_types=dict.fromkeys(names, pa.string()), strings_can_be_null=False, check_utf8=False
        ),
    )


def _wrong_width(line: int, found: int, expected: int, text: str) -> Reject:
    return Reject(line, "wrong number of columns", f"{found} instead of {expected}", text[:2000])


class _Careful:
    """The records of some lines, one by one: `records` (values), `numbers` (first line of each), `rejects`, `held`."""

    def __init__(self, lines: Lines, width: int, last: bool) -> None:
        self.records: list[list[str]] = []
        self.numbers: list[int] = []
        self.rejects: list[Reject] = []
        self.held: Lines | None = None
        self._lines = _split(lines.data)
        self._first = lines.first
        self._width = width
        csv.field_size_limit(LONGEST_LINE)
        at = 0
        while at < len(self._lines):
            span = self._span(at, last)
            if span is None:
                rest = self._lines[at:]
                self.held = Lines(b"".join(rest), self._first + at, len(rest))
                return
            at += self._record(at, span)

    def _span(self, at: int, last: bool) -> int | None:
        """How many lines the record at line `at` has; None where it goes on after these lines."""
        if self._lines[at].count(b'"') % 2 == 0:
            return 1
        size = 0
        for end in range(at, min(len(self._lines), at + LONGEST_RECORD_LINES)):
            size += len(self._lines[end])
            if size > LONGEST_LINE:
                return 1
            if self._lines[end].count(b'"') % 2 and not _is_open(b"".join(self._lines[at : end + 1])):
                return end - at + 1
        went_on = not last and len(self._lines) - at < LONGEST_RECORD_LINES
        return None if went_on else 1

    def _record(self, at: int, span: int) -> int:
        """Take the record of `span` lines at line `at`, or refuse its first line; how many lines that settles."""
        raw, line = b"".join(self._lines[at : at + span]), self._first + at
        if not raw.strip(b"\r\n"):
            return 1
        try:
            values = _values(raw)
        except _BadRecord as bad:
            problem, detail = bad.args
            if span > 1:
                # A stray quote must not take the good lines with it that lie before the next one.
                raw, problem, detail = self._lines[at], "a quote is opened and not closed", ""
            self._refuse(line, problem, detail, raw)
            return 1
        if len(values) == self._width:
            self.records.append(values)
            self.numbers.append(line)
            return span
        self.rejects.append(_wrong_width(line, len(values), self._width, self._lines[at].decode().rstrip("\r\n")))
        return 1

    def _refuse(self, line: int, problem: str, detail: str, raw: bytes) -> None:
        self.rejects.append(Reject(line, problem, detail, raw[:2000].decode(errors="backslashreplace").rstrip("\r\n")))


class _BadRecord(Exception):
    """(problem, detail) of a record that cannot be taken apart."""


def _values(raw: bytes) -> list[str]:
    if b"\0" in raw:
        raise _BadRecord("NUL byte", f"at position {raw.index(0)} of the line")
    try:
        text = raw.decode()
    except UnicodeDecodeError as error:
        where = f"byte 0x{raw[error.start]:02x} at position {error.start} of the line"
        raise _BadRecord("not UTF-8", where) from error
    if raw.count(b'"') % 2 and _is_open(raw):
        raise _BadRecord("a quote is opened and not closed", "")
    lines = [line + "\n" for line in text.split("\n")]
    try:
        return next(csv.reader(lines, strict=len(lines) > 2))
    except csv.Error as error:
        raise _BadRecord("not CSV", str(error)) from error


def _split(data: bytes) -> list[bytes]:
    """Lines with their newlines, split at line feeds only: a lone carriage return is part of a (bad) line."""
    lines = [line + b"\n" for line in data.split(b"\n")]
    last = lines.pop()
    return [*lines, last[:-1]] if len(last) > 1 else lines


def _is_open(raw: bytes) -> bool:
    """Whether a quoted value goes on after these lines."""
    try:
        list(csv.reader(raw.decode("latin-1").split("\n"), strict=True))
    except csv.Error as error:
        return "unexpected end" in str(error)
    return False
