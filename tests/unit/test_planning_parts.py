"""The pure parts of planning: draws, windows, offers, arms, prices, receipts, lists of users."""

from __future__ import annotations

import json
import uuid
from dataclasses import replace
from datetime import UTC, datetime, time, timedelta
from pathlib import Path
from zoneinfo import ZoneInfo

import numpy as np
import pytest

from engine.errors import BadInput
from engine.planning import arms, chance, offers, receipt, windows
from engine.planning.offers import MISSING
from engine.planning.prices import Capacities, Prices, Sample, free, rates, solve_prices
from engine.planning.userlist import read_user_list
from engine.planning.windows import LAST_CALL, Span

SECRET = bytes(range(16))
BERLIN = ZoneInfo("Europe/Berlin")
QUIET = (time(22), time(8))
NOON = datetime(2026, 3, 2, 11, tzinfo=UTC)  # noon in Berlin

# --- chance ----------------------------------------------------------------------------------------------------------


def test_draws_are_uniform_and_depend_on_every_id_and_on_their_order() -> None:
    users = np.arange(20_000)
    drawn = chance.uniform(chance.key_of(SECRET, "test"), users)
    counts = np.histogram(drawn, 20, (0, 1))[0]
    assert abs(counts - 1_000).max() < 5 * 1_000**0.5
    assert ((drawn >= 0) & (drawn < 1)).all()
    key = chance.key_of(SECRET, "test")
    assert chance.uniform(key, np.array([1]), np.array([2])) != chance.uniform(key, np.array([2]), np.array([1]))
    assert len({chance.key_of(SECRET, p, s) for p in ("a", "b") for s in (0, 1)} | {chance.key_of(b"x", "a", 0)}) == 5


def test_ids_of_pushes_are_distinct_uuids_of_version_8_and_always_the_same() -> None:
    occurrence, user = np.repeat(np.arange(50), 200), np.tile(np.arange(200), 50)
    ids = chance.push_ids(SECRET, occurrence, user)
    assert len(np.unique(ids, axis=0)) == len(ids)
    known = uuid.UUID(bytes=ids[0].tobytes())
    assert (known.version, known.variant) == (8, uuid.RFC_4122)
    assert (chance.push_ids(SECRET, occurrence, user) == ids).all()


# --- windows ---------------------------------------------------------------------------------------------------------


def test_windows_are_the_next_open_ones_and_every_push_is_due_well_before_its_window_closes() -> None:
    found, why = windows.open_stretches(BERLIN, Span(NOON, NOON + timedelta(days=2)), QUIET, NOON)
    assert why == ""
    assert [stretch.cell for stretch in found] == [4, 5, 6, 7, 2, 3, 4, 5, 6, 7, 2, 3]
    for stretch in found:
        assert stretch.end - (stretch.first + stretch.length) >= LAST_CALL.total_seconds()
        assert 0 < stretch.length <= windows.SPREAD.total_seconds()
    at = windows.instants(np.full(9, found[0].first), np.full(9, found[0].length), np.linspace(0, 0.999, 9))
    assert at.min() >= NOON.timestamp()
    assert at.max() < found[0].end - LAST_CALL.total_seconds()


def test_a_campaign_with_a_capacity_uses_the_whole_of_each_window() -> None:
    found, _ = windows.open_stretches(BERLIN, Span(NOON, NOON + timedelta(days=2), spread=None), QUIET, NOON)
    for stretch in found:
        assert stretch.end - (stretch.first + stretch.length) == pytest.approx(LAST_CALL.total_seconds())


def test_no_more_than_the_next_fourteen_windows_are_weighed() -> None:
    found, _ = windows.open_stretches(BERLIN, Span(NOON, NOON + timedelta(days=30)), QUIET, NOON)
    assert len(found) == windows.MOST_WINDOWS


@pytest.mark.parametrize(
    ("span", "why"),
    [
        (Span(NOON - timedelta(days=1), NOON), "too_late"),
        (Span(NOON + timedelta(hours=2), NOON + timedelta(hours=1)), "expired"),
        (Span(NOON + timedelta(hours=11), NOON + timedelta(hours=14)), "quiet_hours"),
        (Span(NOON, NOON + timedelta(minutes=10)), "too_late"),
        (Span(NOON, NOON + timedelta(hours=1), at_once=True, allowed=(time(18), time(20))), "quiet_hours"),
        (Span(NOON - timedelta(hours=2), NOON, at_once=True), "too_late"),
    ],
)
def test_where_there_is_no_window_there_is_a_reason(span: Span, why: str) -> None:
    assert windows.open_stretches(BERLIN, span, QUIET, NOON) == ([], why)


def test_at_once_is_now_for_as_long_as_the_clock_allows() -> None:
    ((only,), why) = windows.open_stretches(BERLIN, Span(NOON, NOON + timedelta(hours=9), at_once=True), QUIET, NOON)
    assert (why, only.first, only.length, only.cell) == ("", NOON.timestamp(), 0.0, 4)
    assert only.end == (NOON + timedelta(hours=1)).timestamp()
    late = NOON + timedelta(hours=9, minutes=50)  # ten minutes before quiet hours
    assert windows.open_stretches(BERLIN, Span(late, late + timedelta(hours=1), at_once=True), QUIET, late)[0] == []


# --- offers ----------------------------------------------------------------------------------------------------------


def test_the_best_offers_are_kept_in_order_without_those_that_may_not_come_again() -> None:
    pool = offers.Pool(
        np.array([0, 0, 0, 2, 2], np.int32),
        np.array([5, 6, 7, 5, 8], np.int32),
        np.array([0.1, 0.3, 0.2, 0.9, 0.4], np.float32),
        np.array([1, 2, 3, 4, 5], np.float32),
    )
    everyone = np.ones(3, bool)
    best = offers.top(pool, everyone, np.array([0 * 10 + 6, 2 * 10 + 8]), 10, most=2)
    assert best.item.tolist() == [[7, 5], [MISSING, MISSING], [5, MISSING]]
    assert best.related.tolist() == [[3, 1], [0, 0], [4, 0]]
    assert (offers.top(pool, ~everyone, np.zeros(0, np.int64), 10).item == MISSING).all()


# --- arms ------------------------------------------------------------------------------------------------------------


def test_holdout_is_sticky_and_of_its_share_and_transactional_sends_have_none() -> None:
    users = np.arange(40_000)
    held = arms.held_out(SECRET, users, np.array([1, 2, 3]), (0.05, np.array([0.0, 0.1, np.nan])))
    shares = held.mean(0)
    assert abs(shares[0] - 0.05) < 0.006
    assert abs(shares[1] - (1 - 0.95 * 0.9)) < 0.008
    assert shares[2] == 0
    again = arms.held_out(SECRET, users[::-1], np.array([1, 2, 3]), (0.05, np.array([0.0, 0.1, np.nan])))
    assert (again[::-1] == held).all()


def test_exploring_is_uniform_over_what_is_feasible_and_nothing() -> None:
    feasible = np.tile([True, False, True, True], (8_000, 1))
    drawn = chance.uniform(chance.key_of(SECRET, "draw"), np.arange(8_000))
    picked = arms.explored(feasible, drawn)
    names, counts = np.unique(picked, return_counts=True)
    assert names.tolist() == [-1, 0, 2, 3]
    assert abs(counts - 2_000).max() < 5 * 2_000**0.5


def test_propensities_of_all_choices_add_up_to_one() -> None:
    options, share = 5, 0.05
    best = np.arange(options) == 3
    assert arms.propensity(np.full(options, share), np.full(options, options), best).sum() == pytest.approx(1)


# --- prices ----------------------------------------------------------------------------------------------------------


def sample_of(value: list[list[float]], starts: list[float]) -> Sample:
    """One occurrence; windows of an hour that begin at `starts` (in quarters)."""
    values = np.array(value, float)[:, None, :]
    begin = np.broadcast_to(np.array(starts) * 900.0, values.shape)
    return Sample(values, np.full(values.shape, 7), begin, begin + 3_600.0, np.ones(len(values), np.int64))


def test_prices_are_what_the_last_one_to_get_in_is_worth() -> None:
    sample = sample_of([[5.0], [4.0], [3.0], [2.0], [1.0]], [0.0])
    capacities = rates(0, np.full((1, 8), 1), np.array([0]))  # four pushes in the window's four quarters
    prices = solve_prices(sample, capacities, 1.0)
    assert 1.0 <= prices.table[0, :4].min() <= prices.table[0, :4].max() <= 2.0
    assert prices.table[0, 4:].tolist() == [0, 0, 0, 0]


def test_where_capacity_suffices_nothing_has_a_price() -> None:
    sample = sample_of([[5.0, 1.0], [4.0, 3.0]], [0.0, 4.0])
    assert not solve_prices(sample, rates(0, np.full((1, 8), 1), np.array([0])), 1.0).table.any()
    assert not solve_prices(sample, rates(0, np.full((1, 8), 0), np.array([-1])), 1.0).table.any()


def test_prices_move_those_who_lose_least() -> None:
    # Two want the first window, which takes one: the second window costs the first user more.
    sample = sample_of([[5.0, 1.0], [4.0, 3.9]], [0.0, 4.0])
    capacities = rates(0, np.array([[1, 0, 0, 0, 1, 0, 0, 0]]), np.array([0]))
    prices = solve_prices(sample, capacities, 1.0)
    net = sample.value[:, 0] - np.array([prices.table[0, :4].mean(), prices.table[0, 4:].mean()])
    assert net.argmax(1).tolist() == [0, 1]


def test_prices_are_stored_exactly_and_read_by_instant() -> None:
    table, of = np.array([[0.1, 0.2], [0.3, 1 / 3]]), np.array([[1, -1], [-1, 0]], np.int32)
    budgets, items = np.array([0, -1], np.int32), np.array([7, 9], np.int64)
    prices = Prices(4, table, of, np.array([0.5]), budgets, np.array([0.25, 2.0]), items)
    again = Prices.from_json(json.loads(json.dumps(prices.to_json())))
    assert (again.table == prices.table).all()
    instants = np.array([[[4 * 900.0, 5 * 900.0 + 1], [4 * 900.0, 5 * 900.0]]])
    assert again.at(instants).tolist() == [[[0.3, 1 / 3], [0.1, 0.2]]]
    assert again.of_offers(np.array([[[7, 8], [9, -1]]])).tolist() == [[[0.75, 0.5], [2.0, 0.0]]]
    assert again.highest() == pytest.approx(2 / 3 + 2.5)
    assert not free(rates(0, np.ones((1, 3), int), np.array([0]))).at(instants[:, :1]).any()


def test_a_budget_and_a_short_item_have_a_price_and_the_rest_has_none() -> None:
    sample = sample_of([[5.0], [4.0], [3.0], [2.0]], [0.0])
    none, nobody = np.zeros(0, np.int64), np.full((1, 1), -1, np.int32)
    empty = np.zeros((0, 8), np.int64)
    budget = Capacities(0, empty, nobody, np.array([2]), np.array([0], np.int32), none, none)
    assert 3.0 <= solve_prices(sample, budget, 1.0).budget[0] <= 4.0
    assert not solve_prices(sample, replace(budget, budget=np.array([4])), 1.0).budget.any()
    unlimited = np.array([-1], np.int32)
    stock = Capacities(0, empty, nobody, none, unlimited, np.array([9, 1]), np.array([3, 7]))
    prices = solve_prices(sample, stock, 1.0)
    assert prices.stock_items.tolist() == [7]
    assert 4.0 <= prices.stock[0] <= 5.0


# --- receipts --------------------------------------------------------------------------------------------------------


def test_a_receipt_reads_back_as_it_was_written() -> None:
    head = receipt.headers(
        2, as_of=1.5, model=3, options=[4, 1], alternatives=[2, 0], library=(1, 2, 3), exploit_slot=7.0
    )
    features = np.array([[1.0, np.nan], [0.0, 0.0]], np.float32)
    alternatives = np.zeros((2, 5), receipt.ALTERNATIVE)
    alternatives["item"][0, :2], alternatives["value"][0, :2] = (7, 8), (0.5, 0.25)
    stored = receipt.encode(head, features, np.array([True, False]), alternatives).to_pylist()

    full, bare = map(receipt.decode, stored)
    assert (full.library, full.model, full.options, full.as_of) == ("1.2.3", 3, 4, 1.5)
    assert full.features.tobytes() == features[0].tobytes()
    assert full.alternatives["item"].tolist() == [7, 8]
    assert (len(bare.features), len(bare.alternatives), bare.exploit_slot) == (0, 0, 7.0)


@pytest.mark.parametrize("stored", [b"", b"\x00" * 60, b"\x02" + b"\x07" * 70])
def test_a_receipt_of_another_version_or_broken_is_refused(stored: bytes) -> None:
    with pytest.raises(BadInput, match="receipt"):
        receipt.decode(stored)


# --- lists of users --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "ids"),
    [
        (b"u1\nu2\n\nu1\n", ("u1", "u2")),
        (b"\xef\xbb\xbfuser_id\r\nu1\r\n", ("u1",)),
        (b'name,user_id\n"A, B",u1\nC,u2\n', ("u1", "u2")),
    ],
)
def test_a_list_of_users_is_read_in_order_each_once(tmp_path: Path, content: bytes, ids: tuple[str, ...]) -> None:
    (tmp_path / "list").write_bytes(content)
    assert read_user_list(tmp_path / "list") == ids


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "names no users"),
        (b"\n \n", "names no users"),
        (b"a,b\n1,2\n", "none is called user_id"),
        (b"a,user_id\n1,2\n3,\n", "row 3: no user_id"),
        (b"u1\0\n", "NUL"),
        (b"\xff\xfe", "not UTF-8"),
        (b"x" * 2_000, "more than 1000 characters"),
    ],
)
def test_a_bad_list_of_users_is_refused_with_what_is_wrong(tmp_path: Path, content: bytes, said: str) -> None:
    (tmp_path / "list").write_bytes(content)
    with pytest.raises(BadInput, match=said):
        read_user_list(tmp_path / "list")
