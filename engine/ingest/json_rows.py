"""JSON Lines (one object a line) as blocks."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, BinaryIO, NoReturn

import numpy as np
import pyarrow as pa

from engine.errors import BadInput
from engine.ingest.block import Block, Reject
from engine.ingest.json_text import object_text
from engine.ingest.layout import Layout
from engine.ingest.lines import Cut, Lines, TooLong, read_lines, refused_line

PROBED_LINES = 1_000
"""Lines whose keys count as the file's columns when its layout is checked."""

IDENTIFIERS = {"user_id", "item_id", "event_id", "event_type", "push_id"}
"""Columns whose numbers must be whole: 12.0 and 12 would be two users."""


class JsonReader:
    """A JSON Lines file. `names` are the keys of its first lines.

    Raises BadInput, naming the file, where it cannot be read or none of those lines is an object.
    """

    def __init__(self, text: BinaryIO, file: str) -> None:
        self._lines = read_lines(text)
        self._first: list[Lines | TooLong] = []
        names: dict[str, None] = {}
        try:
            for lines in self._lines:
                self._first.append(lines)
                if isinstance(lines, Lines):
                    for _line, row in _objects(lines, [], PROBED_LINES):
                        names.update(dict.fromkeys(row))
                    break
        except Cut as cut:
            raise BadInput(f"{file}: {cut}, before its first line ends") from cut
        if not names:
            raise BadInput(f"{file} is not JSON Lines: none of its first lines is an object with a key")
        self.names = list(names)

    def blocks(self, layout: Layout) -> Iterator[Block]:
        """The rows in order; raises lines.Cut where the file cannot be read to its end."""
        for lines in itertools.chain(self._first, self._lines):
            yield Block.of_rejects(refused_line(lines)) if isinstance(lines, TooLong) else _block(lines, layout)


def _block(lines: Lines, layout: Layout) -> Block:
    rejects: list[Reject] = []
    return objects_block(_objects(lines, rejects), rejects, layout)


def objects_block(objects: Iterable[tuple[int, dict[str, Any]]], rejects: list[Reject], layout: Layout) -> Block:
    """JSON objects with their line numbers as a block. What a store cannot hold joins `rejects`, which are the
    block's."""
    numbers: list[int] = []
    rows: list[dict[str, Any]] = []
    attributes: list[str | None] = []
    for number, row in objects:
        try:
            _check(row, layout.canonical)
            text = object_text({key: value for key, value in row.items() if key not in layout.canonical})
        except ValueError as error:
            rejects.append(Reject(number, *_split(str(error)), row))
            continue
        numbers.append(number)
        rows.append(row)
        attributes.append(text)
    return Block(
        {ours: _strings([row.get(theirs) for row in rows]) for theirs, ours in layout.canonical.items()},
        np.array(numbers, np.int64),
        rows.__getitem__,
        pa.array(attributes, pa.string()) if any(attributes) else None,
        {ours: np.array([theirs in row for row in rows], bool) for theirs, ours in layout.canonical.items()},
        tuple(rejects),
    )


def _objects(lines: Lines, rejects: list[Reject], limit: int | None = None) -> Iterator[tuple[int, dict[str, Any]]]:
    """The objects of `lines` with their line numbers; what is not one is added to `rejects`."""
    for offset, raw in enumerate(lines.data.split(b"\n", limit or -1)[:limit]):
        if not raw.strip():
            continue
        number = lines.first + offset
        try:
            text = raw.decode()
            row = _DECODER.decode(text)
            if "\\ud" in text or "\\uD" in text:
                json.dumps(row, ensure_ascii=False).encode()  # half a surrogate pair is no character
        except UnicodeEncodeError:
            rejects.append(Reject(number, "not JSON", "half a surrogate pair", _shown(raw)))
        except UnicodeDecodeError as error:
            where = f"byte 0x{raw[error.start]:02x} at position {error.start} of the line"
            rejects.append(Reject(number, "not UTF-8", where, _shown(raw)))
        except (ValueError, RecursionError) as error:
            rejects.append(Reject(number, "NUL byte" if b"\0" in raw else "not JSON", str(error), _shown(raw)))
        else:
            if isinstance(row, dict):
                yield number, row
            else:
                rejects.append(Reject(number, "not a JSON object", type(row).__name__, _shown(raw)))


def _check(row: Mapping[str, Any], canonical: Mapping[str, str]) -> None:
    """Raise ValueError (`problem | detail`) for a canonical value that is neither text, number, truth nor null."""
    for theirs, ours in canonical.items():
        value = row.get(theirs)
        if value is None or type(value) is str or (ours == "preferences" and type(value) is dict):
            continue
        if not isinstance(value, str | int | float):
            raise ValueError(f"{ours}: neither text nor number | {type(value).__name__}")  # noqa: TRY004 - told as one
        if ours in IDENTIFIERS and not (isinstance(value, int) and not isinstance(value, bool)):
            raise ValueError(f"{ours}: neither text nor a whole number | {value}")


def _split(message: str) -> tuple[str, str]:
    problem, _, detail = message.partition(" | ")
    if problem.startswith("attributes: "):
        return "attributes: not storable as JSON", problem.removeprefix("attributes: ")
    return problem, detail


def _strings(values: list[Any]) -> pa.StringArray:
    """Text of JSON scalars; a blank one is none."""
    return pa.array([value if value is None else _text(value) for value in values], pa.string())


def _text(value: str | float | dict[str, Any]) -> str | None:
    if type(value) is str:
        return value.strip() or None
    return json.dumps(value)


def _shown(raw: bytes) -> str:
    return raw[:2000].decode(errors="backslashreplace")


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


_DECODER = json.JSONDecoder(parse_constant=_refuse_constant)
