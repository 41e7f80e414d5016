"""Complete lines of a text file, in blocks of bounded size: no line, however long, is held in memory whole."""

from __future__ import annotations

import itertools
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import BinaryIO

import numpy as np

from engine.ingest.block import Reject

LONGEST_LINE = 1 << 20
"""Bytes of the longest line that is read; longer ones are refused."""

BLOCK_BYTES = 8 << 20
BLOCK_LINES = 131_072

BOM = b"\xef\xbb\xbf"


class Cut(Exception):
    """The file ends, or cannot be read on, before its end."""


@dataclass(frozen=True)
class Lines:
    """Whole lines with their newlines (the last of a file may have none); `first` is the number of the first one."""

    data: bytes
    first: int
    count: int


@dataclass(frozen=True)
class TooLong:
    """A line that is longer than LONGEST_LINE: its number, its length and its beginning."""

    line: int
    length: int
    head: bytes


def refused_line(line: TooLong) -> Reject:
    """The refusal of a line that is too long."""
    detail = f"{line.length:,} bytes, of which {LONGEST_LINE:,} are read at most"
    return Reject(line.line, "line too long", detail, line.head.decode(errors="backslashreplace") + "…")


def read_lines(text: BinaryIO) -> Iterator[Lines | TooLong]:
    """The lines of `text` in order, in blocks of at most about BLOCK_BYTES and BLOCK_LINES; a BOM is dropped.

    Raises Cut where a gzip stream is truncated or broken, or the device fails; all complete lines before come first.
    """
    line, carry = 1, b""
    pieces = _pieces(text)
    for piece in pieces:
        data = carry + piece
        while True:
            end = data.rfind(b"\n") + 1
            if end:
                yield from _blocks(data[:end], line)
                line += data.count(b"\n", 0, end)
            carry = data[end:]
            if len(carry) <= LONGEST_LINE:
                break
            too_long, data = _skip(carry, pieces, line)
            yield too_long
            line += 1
    if carry:
        yield Lines(carry, line, 1)


def _pieces(text: BinaryIO) -> Iterator[bytes]:
    # read1 of a gzip stream returns what one step unzips, so that nothing is lost where a later step fails.
    read: Callable[[int], bytes] = getattr(text, "read1", text.read)
    first = True
    gathered: list[bytes] = []
    size = 0
    try:
        while piece := read(BLOCK_BYTES):
            if first:
                piece, first = piece.removeprefix(BOM), False
            gathered.append(piece)
            size += len(piece)
            if size >= BLOCK_BYTES:
                yield b"".join(gathered)
                gathered, size = [], 0
    except (EOFError, zlib.error, OSError) as error:
        # What lies after the last newline is half a line: dropped with the rest of the file.
        whole = b"".join(gathered)
        yield whole[: whole.rfind(b"\n") + 1]
        raise Cut(_reason(error)) from error
    yield b"".join(gathered)


def _reason(error: Exception) -> str:
    if isinstance(error, EOFError):
        return "its gzip stream is cut off"
    if isinstance(error, OSError) and error.strerror:
        return f"it cannot be read on: {error.strerror}"
    return f"its gzip stream is broken: {error}"


def _blocks(data: bytes, line: int) -> Iterator[Lines | TooLong]:
    """`data` (whole lines) cut at lines that are too long and into at most BLOCK_LINES lines."""
    ends = np.flatnonzero(np.frombuffer(data, np.uint8) == 10) + 1
    starts = np.concatenate([[0], ends[:-1]])
    long = np.flatnonzero(ends - starts > LONGEST_LINE + 1)
    cuts = sorted({*range(0, len(ends), BLOCK_LINES), *long.tolist(), *(long + 1).tolist(), len(ends)})
    too_long = set(long.tolist())
    for low, high in itertools.pairwise(cuts):
        start, end = int(starts[low]), int(ends[high - 1])
        if low in too_long:
            yield TooLong(line + low, end - start - 1, data[start : start + 200])
        else:
            yield Lines(data[start:end], line + low, high - low)


def _skip(head: bytes, pieces: Iterator[bytes], line: int) -> tuple[TooLong, bytes]:
    """Read past a line that is too long; and what follows it in the piece where it ends."""
    length = len(head)
    for piece in pieces:
        end = piece.find(b"\n")
        if end >= 0:
            return TooLong(line, length + end, head[:200]), piece[end + 1 :]
        length += len(piece)
    return TooLong(line, length, head[:200]), b""
