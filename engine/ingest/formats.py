"""Which format a file is in, and whether it is what its ending says. Nothing is read beyond its first bytes."""

from __future__ import annotations

import gzip
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Literal

from engine.errors import BadInput
from engine.ingest.lines import BOM

Format = Literal["csv", "jsonl", "parquet"]

ENDINGS: dict[str, Format] = {".csv": "csv", ".jsonl": "jsonl", ".ndjson": "jsonl", ".parquet": "parquet"}
"""Of the files that can be read; .csv, .jsonl and .ndjson may be followed by .gz."""

_HEAD = 65_536
_GZIP, _PARQUET, _ZIP = b"\x1f\x8b", b"PAR1", b"PK\x03\x04"
_UTF16 = (b"\xff\xfe", b"\xfe\xff")


@dataclass(frozen=True)
class Source:
    """A file to read."""

    path: Path
    format: Format
    gzipped: bool
    size: int
    """Bytes on disk."""

    def open(self) -> tuple[BinaryIO, BinaryIO]:
        """The file as stored (its position is the progress) and as text bytes; close the first."""
        raw = self.path.open("rb")
        return raw, (gzip.GzipFile(fileobj=raw) if self.gzipped else raw)  # type: ignore[return-value]


def recognise(path: Path) -> Source:
    """The format of a file, from its ending, checked against its first bytes.

    Raises BadInput for a file that is missing, a directory, empty, unreadable, of an unknown ending, or not what its
    ending says.
    """
    size = _size(path)
    suffixes = [suffix.lower() for suffix in path.suffixes]
    gzipped = bool(suffixes) and suffixes[-1] == ".gz"
    ending = suffixes[-2] if gzipped and len(suffixes) > 1 else suffixes[-1] if suffixes else ""
    if ending not in ENDINGS or (gzipped and ending == ".parquet"):
        hint = "Parquet is compressed inside: give the .parquet file" if ending == ".parquet" else None
        known = ".csv, .jsonl, .ndjson (also with .gz) or .parquet"
        raise BadInput(f"{path} does not end in {known}", hint=hint or "the ending says how a file is read")
    source = Source(path, ENDINGS[ending], gzipped, size)
    _check_content(source, _head(source))
    return source


def _size(path: Path) -> int:
    try:
        size = path.stat().st_size
        if path.is_dir():
            raise BadInput(f"{path} is a directory", hint="name its files, for example with a * of the shell")
        if not path.is_file():
            raise BadInput(f"{path} is not a regular file")
    except FileNotFoundError:
        raise BadInput(f"{path} does not exist") from None
    except OSError as error:
        raise BadInput(f"{path} cannot be read: {error.strerror}") from error
    if size == 0:
        raise BadInput(f"{path} is empty")
    return size


def _head(source: Source) -> bytes:
    """The first bytes, unzipped."""
    try:
        with source.path.open("rb") as file:
            head = file.read(_HEAD)
    except OSError as error:
        raise BadInput(f"{source.path} cannot be read: {error.strerror}") from error
    if not source.gzipped:
        return head
    if not head.startswith(_GZIP):
        raise BadInput(f"{source.path} is not gzipped, though its name ends in .gz")
    unzip = zlib.decompressobj(wbits=31)
    try:
        text = unzip.decompress(head, _HEAD)
    except zlib.error as error:
        raise BadInput(f"{source.path} is not a readable gzip file: {error}") from error
    if not text and not unzip.eof:
        raise BadInput(f"{source.path}: its gzip stream is cut off, before its first line ends")
    return text


def _check_content(source: Source, head: bytes) -> None:
    path = source.path
    if source.format == "parquet":
        if not head.startswith(_PARQUET):
            raise BadInput(f"{path} is not a Parquet file, though its name says so")
        return
    if head.startswith(_GZIP):
        raise BadInput(f"{path} is gzipped", hint=f"rename it to {path.name}.gz")
    if head.startswith(_PARQUET):
        raise BadInput(f"{path} is a Parquet file", hint=f"rename it to {path.stem}.parquet")
    if head.startswith(_ZIP):
        raise BadInput(f"{path} is a ZIP file (a spreadsheet?)", hint="export it as CSV")
    if head.startswith(_UTF16):
        raise BadInput(f"{path} is UTF-16", hint="save it as UTF-8")
    text = head.removeprefix(BOM).lstrip(b" \t\r\n")
    if not text and len(head) < _HEAD:
        raise BadInput(f"{path} is empty: it holds nothing but white space")
    _check_text(source, text)


def _check_text(source: Source, text: bytes) -> None:
    path, begins = source.path, text[:1]
    if source.format == "csv" and begins in (b"{", b"["):
        raise BadInput(f"{path} is not CSV: it begins like JSON", hint="JSON Lines files end in .jsonl")
    if source.format == "jsonl" and begins == b"[":
        raise BadInput(
            f"{path} is one JSON array; Horae reads JSON Lines, one object a line",
            hint=f"for example: jq -c '.[]' {path.name} > lines.jsonl",
        )
    if source.format == "jsonl" and text and begins != b"{":
        raise BadInput(f"{path} is not JSON Lines: it does not begin with {{", hint="CSV files end in .csv")
