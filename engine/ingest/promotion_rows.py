"""Promotions as arrays (pure)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow as pa


@dataclass(frozen=True)
class PromotionRows:
    """n promotions, checked.

    item, kind: text · starts_at, ends_at, announced_at: datetime64[us], UTC · weight: float64[n] · origin: int64[n],
    the row's position in its block.
    """

    item: pa.StringArray
    kind: pa.StringArray
    starts_at: np.ndarray
    ends_at: np.ndarray
    weight: np.ndarray
    announced_at: np.ndarray
    origin: np.ndarray

    def __len__(self) -> int:
        return len(self.origin)

    def take(self, rows: np.ndarray) -> PromotionRows:
        """The promotions at these positions (int64), in that order."""
        at = pa.array(rows)
        return PromotionRows(
            self.item.take(at),
            self.kind.take(at),
            self.starts_at[rows],
            self.ends_at[rows],
            self.weight[rows],
            self.announced_at[rows],
            self.origin[rows],
        )
