"""Events as arrays, and their keys (pure).

The key of an event is what makes it one event wherever and however often it arrives. 16 bytes:
- where the event has an id, BLAKE2b-128 (person `horae.event.id`) over (source, event id);
- else the milliseconds of its instant (6 bytes) and BLAKE2b-80 (person `horae.event.row`) over its canonical content.
  The instant comes first so that a log in order of time grows the index of keys at its right edge.
The definition must not change: stores hold keys of years.
"""

from __future__ import annotations

import hashlib
import struct
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

_BY_ID, _BY_CONTENT = b"horae.event.id", b"horae.event.row"


@dataclass(frozen=True)
class EventRows:
    """n events, checked: a type, an instant and a user or an item each.

    user, item, event_type: text (external ids, names; null: none) · occurred_at: datetime64[us], UTC ·
    value, quantity: float64, NaN: none · push_id: (uint8[n, 16], bool[n]) or None · attributes: JSON objects with
    sorted keys or None · event_id: text or None.
    """

    user: pa.StringArray
    item: pa.StringArray
    event_type: pa.StringArray
    occurred_at: np.ndarray
    value: np.ndarray
    quantity: np.ndarray
    push_id: tuple[np.ndarray, np.ndarray] | None = None
    attributes: pa.StringArray | None = None
    event_id: pa.StringArray | None = None

    def __len__(self) -> int:
        return len(self.occurred_at)

    def take(self, rows: np.ndarray) -> EventRows:
        """The events at `rows` (int64 positions), in that order."""
        return replace(self, **{column.name: _take(getattr(self, column.name), rows) for column in fields(self)})

    def keys(self, source: str) -> np.ndarray:
        """The events' keys, uint8[n, 16]."""
        keys = np.empty((len(self), 16), np.uint8)
        named = np.zeros(len(self), bool) if self.event_id is None else np.asarray(self.event_id.is_valid())
        if self.event_id is not None and named.any():
            prefix = struct.pack(">I", len(source.encode())) + source.encode()
            names = self.event_id.drop_null().cast(pa.binary()).to_pylist()
            digests = [hashlib.blake2b(prefix + name, digest_size=16, person=_BY_ID).digest() for name in names]
            keys[named] = np.frombuffer(b"".join(digests), np.uint8).reshape(-1, 16)
        if not named.all():
            nameless = self.take(np.flatnonzero(~named)) if named.any() else self
            contents = nameless._contents()
            digests = [hashlib.blake2b(text, digest_size=10, person=_BY_CONTENT).digest() for text in contents]
            keys[~named, :6] = _bytes(nameless.occurred_at.astype("datetime64[ms]").astype(">i8"))[:, 2:]
            keys[~named, 6:] = np.frombuffer(b"".join(digests), np.uint8).reshape(-1, 10)
        return keys

    def _contents(self) -> list[bytes]:
        """Canonical content: instant, value, quantity, push id and lengths of the texts at fixed width, then the texts.

        Big-endian; NaN and no push id are zeros with a flag of 0. Texts: user, item, type, attributes; none is empty.
        """
        flags = np.stack([~np.isnan(self.value), ~np.isnan(self.quantity)], axis=1).astype(np.uint8)
        parts = [_bytes(self.occurred_at.astype("datetime64[us]").astype(">i8")), flags]
        parts += [_bytes(np.nan_to_num(column, nan=0.0).astype(">f8")) for column in (self.value, self.quantity)]
        push, given = self.push_id or (np.zeros((len(self), 16), np.uint8), np.zeros(len(self), bool))
        parts += [given.astype(np.uint8)[:, None], push * given[:, None]]
        texts = [column.fill_null("") for column in (self.user, self.item, self.event_type)]
        attributes = pa.nulls(len(self), pa.string()) if self.attributes is None else self.attributes
        texts.append(attributes.fill_null(""))
        sizes = [_bytes(pc.binary_length(column).to_numpy(zero_copy_only=False).astype(">i4")) for column in texts]
        fixed = np.concatenate([*parts, *sizes], axis=1)
        width, flat = fixed.shape[1], fixed.tobytes()
        joined = pc.binary_join_element_wise(*texts, "").cast(pa.binary()).to_pylist()
        return [flat[width * row : width * row + width] + text for row, text in enumerate(joined)]


def _bytes(values: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(values).view(np.uint8).reshape(len(values), values.itemsize)


def _take(column: Any, rows: np.ndarray) -> Any:
    if column is None:
        return None
    if isinstance(column, tuple):
        return tuple(part[rows] for part in column)
    return column.take(pa.array(rows)) if isinstance(column, pa.Array) else column[rows]
