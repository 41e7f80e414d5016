"""Receipts: what a decision stored about itself, as compact bytes (pure).

A receipt is the feature row of the choice as `features.logged` packs it (or an empty one), then HEADER, then
`alternatives` records ALTERNATIVE; all little-endian. It holds what cannot be had again later; `horae explain`
recomputes the rest and says whether it agrees. A reader refuses a version it does not know.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from engine.errors import BadInput
from engine.features import logged
from engine.features.logged import REGIMES, ROW, VERSION

HEADER = np.dtype(
    [
        ("alternatives", "u1"),
        ("regime", "u1"),  # index into features.logged.REGIMES
        ("library", "u1", (3,)),  # major, minor, patch
        ("code", "u1"),  # what stood in the way of the nearest miss; FREE where something was chosen
        ("as_of", "<f8"),  # epoch seconds: the shard's snapshot
        ("model", "<i4"),  # 0: the baseline
        ("policy", "<i4"),
        ("campaign", "<i4"),  # version of the campaign
        ("options", "<u4"),  # |A|: feasible (offer, window), and nothing
        ("exploit_item", "<i8"),  # what exploiting would have chosen; −1: no item
        ("exploit_slot", "<f8"),  # NaN: nothing
    ]
)

ALTERNATIVE = np.dtype(
    [
        ("item", "<i8"),  # −1: no item
        ("slot", "<f8"),  # start of its window, epoch seconds
        ("send_at", "<f8"),
        ("end", "<f8"),  # of the stretch in which it may leave
        ("value", "<f4"),
        ("price", "<f4"),
        ("code", "u1"),
        ("score", "<f4"),
    ]
)

MOST_ALTERNATIVES = 5

FREE, EXPIRED, GAP, PRICE, BESIDE, WORTHLESS, BUDGET = range(7)
"""Codes: nothing in the way · the item or offer ends before · minimum gap · its capacity costs more than it is worth ·
another push of the same run stands in the way · value not positive · the campaign's budget or the item's stock costs
more than it is worth."""

FIRST_CAP = 16
"""Code FIRST_CAP + r: rule r of the run's caps (workspace rules by position, then the campaign's own)."""


WITHOUT_FEATURES = f"""CASE WHEN get_byte(d.receipt, 0) = {VERSION} THEN
    set_byte(set_byte(substring(d.receipt FROM 1 FOR {ROW.itemsize}), 1, 0), 2, 0)
    || substring(d.receipt FROM {ROW.itemsize + 1} + 4 * (get_byte(d.receipt, 1) + 256 * get_byte(d.receipt, 2)))
    END"""
"""SQL of the receipt of decision `d` for a revision that chose one of its alternatives: the feature row is another
choice's, and nothing must be learned from it."""


@dataclass(frozen=True)
class Receipt:
    """A decoded receipt: header fields, features float32[F], alternatives as a numpy array of ALTERNATIVE.

    regime: how the score came about, one of features.logged.REGIMES · schema: which features, see logged.schema_code.
    """

    library: str
    code: int
    as_of: float
    model: int
    policy: int
    campaign: int
    options: int
    exploit_item: int
    exploit_slot: float
    regime: str
    schema: int
    features: np.ndarray
    alternatives: np.ndarray


def headers(count: int, **fields: Any) -> np.ndarray:
    """`count` headers with `fields` set; each a scalar or an array of that length."""
    out = np.zeros(count, HEADER)
    for name, values in fields.items():
        out[name] = values
    return out


def encode(head: np.ndarray, features: np.ndarray, has: np.ndarray, alternatives: np.ndarray) -> pa.Array:
    """Receipts of n decisions as a pyarrow large_binary array.

    head HEADER[n]; features float32[n, F], written where has bool[n]; alternatives ALTERNATIVE[n, A], of which the
    first head["alternatives"] are written.
    """
    n, width = features.shape
    row = logged.heads(np.where(has, width, 0))
    parts = [
        row.view(np.uint8).reshape(n, ROW.itemsize),
        np.ascontiguousarray(features.astype("<f4")).view(np.uint8).reshape(n, width * 4),
        np.ascontiguousarray(head).view(np.uint8).reshape(n, HEADER.itemsize),
        np.ascontiguousarray(alternatives).view(np.uint8).reshape(n, -1),
    ]
    sizes = [
        np.full(n, ROW.itemsize),
        np.where(has, width * 4, 0),
        np.full(n, HEADER.itemsize),
        head["alternatives"] * ALTERNATIVE.itemsize,
    ]
    keep = np.concatenate([np.arange(p.shape[1]) < s[:, None] for p, s in zip(parts, sizes, strict=True)], axis=1)
    flat = np.concatenate(parts, axis=1)[keep]
    offsets = np.zeros(n + 1, np.int64)
    np.cumsum(sum(sizes), out=offsets[1:])
    return pa.Array.from_buffers(pa.large_binary(), n, [None, pa.py_buffer(offsets), pa.py_buffer(flat)])


def decode(stored: bytes) -> Receipt:
    """The receipt in `stored`. Raises BadInput for another version or broken bytes."""
    if len(stored) < ROW.itemsize + HEADER.itemsize or stored[0] != VERSION:
        raise BadInput("this receipt was written by another version of Horae and cannot be read")
    row = np.frombuffer(stored, ROW, 1)[0]
    begin = ROW.itemsize + 4 * int(row["features"])
    middle = begin + HEADER.itemsize
    if len(stored) < middle:
        raise BadInput("this receipt is broken: it is shorter than its header says")
    head = np.frombuffer(stored, HEADER, 1, begin)[0]
    if head["regime"] >= len(REGIMES) or len(stored) != middle + int(head["alternatives"]) * ALTERNATIVE.itemsize:
        raise BadInput("this receipt is broken: its length is not what its header says")
    return Receipt(
        library=".".join(str(part) for part in head["library"]),
        code=int(head["code"]),
        as_of=float(head["as_of"]),
        model=int(head["model"]),
        policy=int(head["policy"]),
        campaign=int(head["campaign"]),
        options=int(head["options"]),
        exploit_item=int(head["exploit_item"]),
        exploit_slot=float(head["exploit_slot"]),
        regime=REGIMES[int(head["regime"])],
        schema=int(row["schema"]),
        features=np.frombuffer(stored, "<f4", int(row["features"]), ROW.itemsize).copy(),
        alternatives=np.frombuffer(stored, ALTERNATIVE, int(head["alternatives"]), middle).copy(),
    )


def alternatives_of(stored: bytes | None) -> np.ndarray:
    """The alternatives in `stored` alone; none where there is no receipt, or one of another version."""
    if stored is None or len(stored) < ROW.itemsize + HEADER.itemsize or stored[0] != VERSION:
        return np.zeros(0, ALTERNATIVE)
    begin = ROW.itemsize + 4 * int(np.frombuffer(stored, ROW, 1)[0]["features"])
    count = int(np.frombuffer(stored, HEADER, 1, begin)[0]["alternatives"])
    return np.frombuffer(stored, ALTERNATIVE, count, begin + HEADER.itemsize)
