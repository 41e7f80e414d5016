"""The k best rows of each group, against the plain definition."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from engine.learning.ranking import best_rows

SCORES = st.floats(-5, 5, width=32, allow_nan=False) | st.sampled_from([0.0, -0.0, 1.0, float("inf"), float("-inf")])


@given(st.lists(st.tuples(st.integers(0, 6), SCORES), max_size=60), st.integers(1, 5))
def test_the_best_rows_are_those_of_a_stable_sort(rows: list[tuple[int, float]], k: int) -> None:
    group = np.array([g for g, _ in rows], np.int64)
    score = np.array([s for _, s in rows], np.float32)

    expected: list[int] = []
    for g in sorted(set(group.tolist())):
        ours = [at for at in range(len(rows)) if group[at] == g]
        expected += sorted(ours, key=lambda at: (-score[at], at))[:k]

    assert best_rows(group, score, k).tolist() == expected


@given(st.integers(0, 2**32 - 1), st.integers(1, 6))
def test_pruning_before_sorting_changes_nothing(seed: int, k: int) -> None:
    rng = np.random.default_rng(seed)
    group = np.sort(rng.integers(0, 4, rng.integers(1, 400)))
    score = rng.integers(0, 20, len(group)).astype(np.float32)

    expected = np.lexsort((np.arange(len(group)), -score, group))
    kept = [expected[group[expected] == g][:k] for g in np.unique(group)]

    assert np.array_equal(best_rows(group, score, k), np.concatenate(kept))


def test_groups_too_many_to_pack_are_sorted_just_the_same() -> None:
    rng = np.random.default_rng(1)
    group = rng.integers(0, 2**40, 50)[rng.integers(0, 50, 3000)]
    score = rng.integers(0, 9, 3000).astype(np.float32)
    small = np.unique(group, return_inverse=True)[1]

    assert np.array_equal(best_rows(group, score, 7), best_rows(small, score, 7))
