"""The k best of each group: exact, and independent of how groups are batched (pure)."""

from __future__ import annotations

import numpy as np

_SCORE_BITS = 32


def best_rows(group: np.ndarray, score: np.ndarray, k: int) -> np.ndarray:
    """The rows (int64 indices) of the k highest scores in each group: groups ascending, best first, ties in row order.

    group: int64[n] ≥ 0 · score: float32[n], no NaN. Group, score and row are packed into one uint64 that sorts as they
    do: no two are equal, and sorting plain integers is several times faster than `lexsort`.
    """
    rows = len(group)
    if not rows:
        return np.zeros(0, np.int64)
    row_bits = max(rows - 1, 1).bit_length()
    if int(group.max()).bit_length() + _SCORE_BITS + row_bits > 64:
        order = np.lexsort((_descending(score), group))
        return np.asarray(order[_first_of_each(group[order], k)], np.int64)
    packed = group.astype(np.uint64) << np.uint64(_SCORE_BITS + row_bits)
    packed |= _descending(score).astype(np.uint64) << np.uint64(row_bits)
    packed |= np.arange(rows, dtype=np.uint64)
    packed.sort()
    packed = packed[_first_of_each(packed >> np.uint64(_SCORE_BITS + row_bits), k)]
    return np.asarray(packed & np.uint64((1 << row_bits) - 1), np.int64)


def _first_of_each(sorted_group: np.ndarray, k: int) -> np.ndarray:
    """A mask of the first k rows of each run of equal values."""
    starts = np.concatenate([[0], np.flatnonzero(sorted_group[1:] != sorted_group[:-1]) + 1])
    within = np.arange(len(sorted_group)) - np.repeat(starts, np.diff(np.append(starts, len(sorted_group))))
    mask: np.ndarray = within < k
    return mask


def _descending(score: np.ndarray) -> np.ndarray:
    """uint32 that ascend as float32 scores descend; −0 counts as 0."""
    bits = (score.astype(np.float32) + np.float32(0)).view(np.uint32)
    negative = bits >> np.uint32(31) == 1
    return np.where(negative, bits, ~(bits | np.uint32(1 << 31)))
