"""Users and items as arrays (pure)."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from engine.ingest.json_text import object_text


@dataclass(frozen=True)
class EntityRows:
    """n users or n items.

    ids: their external ids · columns: name → values as `bulk.copy_rows` takes them; a column the file does not have is
    absent · given: name → bool[n], the rows that mention the column (others leave it as it is); absent: all do ·
    attributes: JSON objects, null or None: nothing to add · origin: int64[n], the row's position in its block.
    """

    ids: pa.StringArray
    columns: Mapping[str, Any]
    given: Mapping[str, np.ndarray]
    attributes: pa.StringArray | None
    origin: np.ndarray

    def __len__(self) -> int:
        return len(self.origin)

    def take(self, rows: np.ndarray) -> EntityRows:
        """The rows at these positions (int64), in that order."""
        return EntityRows(
            self.ids.take(pa.array(rows)),
            {name: _take(column, rows) for name, column in self.columns.items()},
            {name: mask[rows] for name, mask in self.given.items()},
            None if self.attributes is None else self.attributes.take(pa.array(rows)),
            self.origin[rows],
        )

    def mentions(self, name: str) -> np.ndarray:
        """bool[n]: whether the row says something about this column."""
        if name not in self.columns:
            return np.zeros(len(self), bool)
        return self.given.get(name, np.ones(len(self), bool))


def collapse(rows: EntityRows) -> EntityRows:
    """One row per id, in order of id: as if the rows had been stored one after the other."""
    coded = rows.ids.dictionary_encode()
    names = np.array(coded.dictionary.to_pylist(), object)
    rank = np.empty(len(names), np.int64)
    order = np.argsort(names, kind="stable")
    rank[order] = np.arange(len(names))
    code = rank[coded.indices.to_numpy()]
    last = _last(code, np.arange(len(rows)), len(names))
    if len(names) == len(rows):
        return rows.take(last)
    columns, given = {}, {}
    for name, column in rows.columns.items():
        said = _last(code, np.flatnonzero(rows.mentions(name)), len(names))
        columns[name], given[name] = _take(column, np.maximum(said, 0)), said >= 0
    ids = rows.ids.take(pa.array(last))
    return EntityRows(ids, columns, given, _merged(rows.attributes, code, last), rows.origin[last])


def _last(code: np.ndarray, positions: np.ndarray, count: int) -> np.ndarray:
    """The last of `positions` for each code; −1 where there is none."""
    last = np.full(count, -1, np.int64)
    last[code[positions]] = positions  # of repeated indices numpy assigns the last
    return last


def _merged(attributes: pa.StringArray | None, code: np.ndarray, last: np.ndarray) -> pa.StringArray | None:
    if attributes is None:
        return None
    merged = attributes.take(pa.array(last)).to_pylist()
    repeated = np.flatnonzero(np.bincount(code, minlength=len(last)) > 1)
    together: dict[int, dict[str, object]] = {}
    for row in np.flatnonzero(np.isin(code, repeated)).tolist():
        text = attributes[row].as_py()
        if text is not None:
            together.setdefault(int(code[row]), {}).update(json.loads(text))
    for number, held in together.items():
        merged[number] = object_text(held)
    return pa.array(merged, pa.string())


def _take(column: Any, rows: np.ndarray) -> Any:
    if isinstance(column, tuple):
        return tuple(part[rows] for part in column)
    return column.take(pa.array(rows)) if isinstance(column, pa.Array) else column[rows]
