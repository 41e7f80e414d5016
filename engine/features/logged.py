"""Feature rows as a decision stored them: the first part of every receipt (pure).

A model learns later from exactly the row that was scored, not from one computed again. A row is ROW, then `features`
float32 values, little-endian; whatever follows belongs to the receipt. Rows of another schema are not read.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from engine.features import schema

VERSION = 2

ROW = np.dtype(
    [
        ("version", "u1"),  # of the receipt
        ("features", "<u2"),
        ("schema", "<u4"),  # schema_code() of the features
    ]
)

REGIMES = ("baseline", "goal", "click")
"""baseline: no model yet · goal: P(goal | user, item) × the window's rate · click: P(click | user, item, window)."""


def schema_code() -> int:
    """32 bits of the schema's fingerprint."""
    return int(schema.fingerprint()[:8], 16)


def heads(widths: np.ndarray) -> np.ndarray:
    """ROW[n] of rows with so many features (int[n]; 0: none was scored)."""
    out = np.zeros(len(widths), ROW)
    out["version"], out["schema"] = VERSION, schema_code()
    out["features"] = widths
    return out


def rows_of(stored: Sequence[bytes]) -> tuple[np.ndarray, np.ndarray]:
    """The rows float32[n, F] in receipts, NaN where a receipt holds none of this schema; and which do, bool[n]."""
    code, size = schema_code(), ROW.itemsize + 4 * schema.COUNT
    rows = np.full((len(stored), schema.COUNT), np.nan, np.float32)
    known = np.zeros(len(stored), bool)
    for at, receipt in enumerate(stored):
        if len(receipt) < size:
            continue
        head = np.frombuffer(receipt, ROW, 1)[0]
        if head["version"] == VERSION and head["schema"] == code and head["features"] == schema.COUNT:
            rows[at] = np.frombuffer(receipt, "<f4", schema.COUNT, ROW.itemsize)
            known[at] = True
    return rows, known
