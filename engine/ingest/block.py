"""Blocks of rows as read from a file, and rows that are refused (pure)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TypeAlias

import numpy as np
import pyarrow as pa

Strings: TypeAlias = pa.StringArray


@dataclass(frozen=True)
class Reject:
    """A row that is not taken: `problem` is one of few and is counted, `detail` is about this row."""

    line: int
    problem: str
    detail: str
    row: object
    """The row as read: a dictionary, or the text where it could not be taken apart."""


@dataclass(frozen=True)
class Block:
    """Some rows of a file.

    columns: canonical name → values, text or as the file types them; only those that the file has · given: canonical
    name → bool[n], the rows that mention it; a name without an entry is mentioned by all · attributes: JSON objects
    with sorted keys, null where a row has none; None where no row has any · lines: int64[n], where each row begins ·
    row: the row at a position, as read, for the rejects file · rejects: rows that could not be taken apart.
    """

    columns: Mapping[str, pa.Array]
    lines: np.ndarray
    row: Callable[[int], object]
    attributes: Strings | None = None
    given: Mapping[str, np.ndarray] = field(default_factory=dict)
    rejects: tuple[Reject, ...] = ()

    @classmethod
    def of_rejects(cls, *rejects: Reject) -> Block:
        """A block of refused rows only."""
        return cls({}, np.zeros(0, np.int64), lambda _row: None, rejects=rejects)

    def __len__(self) -> int:
        return len(self.lines)

    def column(self, name: str) -> pa.Array:
        """The values of a canonical column; nulls where the file does not have it."""
        found = self.columns.get(name)
        return pa.nulls(len(self), pa.string()) if found is None else found


class Refusals:
    """The rows of a block that checks refuse, each with the first problem found."""

    def __init__(self, block: Block) -> None:
        self.bad = np.zeros(len(block), bool)
        self._block = block
        self._found: dict[int, tuple[str, str]] = {}

    def refuse(self, rows: np.ndarray, problem: str, detail: Callable[[int], object] | None = None) -> None:
        """Refuse `rows` (bool[n]) that are not refused yet; `detail` says more of the row at a position."""
        for row in np.flatnonzero(rows & ~self.bad).tolist():
            self._found[row] = (problem, "" if detail is None else _short(detail(row)))
        self.bad |= rows

    def rejects(self) -> list[Reject]:
        """The refused rows, in file order."""
        block = self._block
        return [
            Reject(int(block.lines[row]), problem, detail, block.row(row))
            for row, (problem, detail) in sorted(self._found.items())
        ]


def _short(value: object) -> str:
    text = str(value)
    return text if len(text) <= 120 else f"{text[:117]}…"
