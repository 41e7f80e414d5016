"""Decayed counters: streaming = batch = any order of arrival, strictly before, in numpy and in SQL."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import text

from engine.features.decay import DAY_SECONDS, Folded, fold, merge, merge_assignments, read
from engine.store.bulk import copy_out, copy_rows
from engine.store.database import Database

HALF_LIVES = (1 / 24, 1.0, 7.0, 120.0)
START = 1_700_000_000.0

logs = st.lists(
    st.tuples(
        st.integers(0, 3),
        st.integers(-5, 5),
        st.floats(0, 4000 * DAY_SECONDS),
        st.one_of(st.just(np.nan), st.floats(-1e6, 1e6)),
    ),
    max_size=40,
)


def folded(log, before=None) -> Folded:
    columns = np.array(log, float).reshape(-1, 4)
    keys = (columns[:, 0].astype(np.int64), columns[:, 1].astype(np.int64))
    return fold(keys, START + columns[:, 2], None, HALF_LIVES, values=columns[:, 3], before=before)


def same(a: Folded, b: Folded) -> bool:
    return (
        all(np.array_equal(mine, theirs) for mine, theirs in zip(a.keys, b.keys, strict=True))
        and np.array_equal(a.n, b.n)
        and np.array_equal(a.first_at, b.first_at)
        and np.array_equal(a.last_at, b.last_at)
        and np.allclose(a.s, b.s, rtol=1e-9, atol=0)
        and np.allclose(a.value, b.value, rtol=1e-9, atol=1e-6)
    )


@settings(deadline=None)
@given(logs, st.randoms(use_true_random=False))
def test_events_one_by_one_in_any_order_give_the_profile_of_the_batch(log, random) -> None:
    shuffled = random.sample(log, len(log))
    streamed = folded([])
    for event in shuffled:
        streamed = merge(streamed, folded([event]), HALF_LIVES)

    assert same(streamed, folded(log))


@settings(deadline=None)
@given(logs, logs)
def test_merging_is_commutative_and_is_folding_both(log, other) -> None:
    a, b = folded(log), folded(other)

    assert same(merge(a, b, HALF_LIVES), merge(b, a, HALF_LIVES))
    assert same(merge(a, b, HALF_LIVES), folded(log + other))


@settings(deadline=None)
@given(logs, st.floats(0, 4000 * DAY_SECONDS))
def test_events_at_or_after_the_instant_change_nothing(log, after) -> None:
    tau = START + after

    assert same(folded(log, before=tau), folded([event for event in log if START + event[2] < tau]))


@settings(deadline=None)
@given(st.lists(st.floats(0, 300 * DAY_SECONDS), min_size=1, max_size=30), st.floats(0, 300 * DAY_SECONDS))
def test_a_reading_is_the_sum_over_the_events_as_the_definition_says(times, later) -> None:
    at = START + np.array(times)
    tau = at.max() + later
    profile = fold((np.zeros(len(at), np.int64),), at, None, HALF_LIVES)

    expected = [[sum(2 ** (-(tau - t) / DAY_SECONDS / half_life) for t in at) for half_life in HALF_LIVES]]
    assert np.allclose(read(profile.s, profile.last_at, tau, HALF_LIVES), expected, rtol=1e-9, atol=1e-300)


@settings(deadline=None)
@given(st.lists(st.tuples(st.floats(0, 300 * DAY_SECONDS), st.floats(0, 10)), min_size=1, max_size=20))
def test_weights_multiply(log) -> None:
    at, weights = np.array(log).T + np.array([[START], [0]])
    one_key = (np.zeros(len(at), np.int64),)
    profile = fold(one_key, at, weights, (7.0,))

    assert np.allclose(profile.s[0, 0], np.sum(weights * 2 ** (-(at.max() - at) / DAY_SECONDS / 7)), rtol=1e-9)


def test_keys_too_wide_to_pack_fold_as_well() -> None:
    keys = (np.array([2**62, -(2**62), 2**62]), np.array([5, -(2**60), 5]))
    profile = fold(keys, START + np.arange(3.0), None, HALF_LIVES)

    assert profile.keys[0].tolist() == [-(2**62), 2**62]
    assert profile.n.tolist() == [1, 2]


def test_a_profile_is_not_read_before_its_last_event() -> None:
    profile = fold((np.zeros(2, np.int64),), np.array([START, START + 10]), None, HALF_LIVES)

    with pytest.raises(ValueError, match="before its last event"):
        read(profile.s, profile.last_at, START + 5, HALF_LIVES)


def test_ages_beyond_any_half_life_underflow_nowhere() -> None:
    profile = fold((np.zeros(2, np.int64),), np.array([START, START + 40_000 * DAY_SECONDS]), None, HALF_LIVES)

    assert np.all(np.isfinite(profile.s))
    assert profile.s[0, 0] == 1.0


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(logs, logs)
def test_the_merge_in_sql_is_the_merge_in_numpy(database: Database, log, other) -> None:
    a, b = folded(log), folded(other)
    expected = merge(a, b, HALF_LIVES)
    merged = merge_assignments(HALF_LIVES, "stored", "added", valued=True)
    names = ["k0", "k1", *merged]
    kinds = {name: "bigint" if name in ("k0", "k1", "n") else "float8" for name in names}
    definition = ", ".join(f"{name} {kind}" for name, kind in kinds.items())
    either = {name: f"coalesce({value}, stored.{name}, added.{name})" for name, value in merged.items()}
    with database.begin() as connection:
        for table, profile in (("stored", a), ("added", b)):
            connection.execute(text(f"CREATE TEMP TABLE {table} ({definition}) ON COMMIT DROP"))
            copy_rows(connection, table, columns(profile, names))
        found = copy_out(
            connection,
            f"SELECT k0, k1, {', '.join(either.values())} FROM stored FULL JOIN added USING (k0, k1) ORDER BY k0, k1",
            kinds,
        )

    s = np.stack([found[f"s{number}"] for number in range(len(HALF_LIVES))], axis=1)
    stored = Folded((found["k0"], found["k1"]), found["n"], found["first_at"], found["last_at"], s, found["value"])
    assert same(stored, expected)


def columns(profile: Folded, names: list[str]) -> dict[str, np.ndarray]:
    values = [*profile.keys, profile.n.astype(np.int64), profile.first_at, profile.last_at]
    return dict(zip(names, [*values, *np.ascontiguousarray(profile.s.T), profile.value], strict=True))
