"""What becomes of a push after each answer, when it is tried again, and what several devices answer together."""

from __future__ import annotations

from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.delivery.ledger import REASONS
from engine.delivery.messages import Kind, Outcome
from engine.delivery.outcomes import Again, Ended, Tried, combine, settle, stops_channel
from engine.delivery.retry import FIRST_WAIT, LONGEST_WAIT, MOST_ATTEMPTS, SPREAD, backoff
from engine.store.tables import OUTCOMES

HOUR = timedelta(hours=1)
UNKNOWN = Ended("unknown", "no_answer")


def tried(**changes: object) -> Tried:
    usual = {"attempts": 1, "transactional": False, "needs_device": True, "in_doubt": False, "left": HOUR}
    return Tried(**{**usual, **changes})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("kind", "given_", "becomes"),
    [
        (Kind.ACCEPTED, {}, Ended("accepted")),
        (Kind.ACCEPTED, {"in_doubt": True}, Ended("accepted")),
        (Kind.UNKNOWN, {}, UNKNOWN),
        (Kind.UNKNOWN, {"transactional": True}, Again(FIRST_WAIT / 2, in_doubt=True)),
        (Kind.UNKNOWN, {"transactional": True, "attempts": MOST_ATTEMPTS}, UNKNOWN),
        (Kind.UNKNOWN, {"transactional": True, "left": timedelta(0)}, UNKNOWN),
        (Kind.RETRY, {}, Again(FIRST_WAIT / 2)),
        (Kind.THROTTLED, {}, Again(FIRST_WAIT / 2)),
        (Kind.RETRY, {"in_doubt": True, "transactional": True}, Again(FIRST_WAIT / 2, in_doubt=True)),
        (Kind.RETRY, {"attempts": MOST_ATTEMPTS}, Ended("rejected", "attempts")),
        (Kind.RETRY, {"left": FIRST_WAIT / 2}, Ended("expired", "retries")),
        (Kind.RETRY, {"left": FIRST_WAIT / 2, "in_doubt": True, "transactional": True}, UNKNOWN),
        (Kind.PAYLOAD_REFUSED, {}, Ended("rejected", "payload_refused")),
        (Kind.PAYLOAD_REFUSED, {"in_doubt": True, "transactional": True}, UNKNOWN),
        (Kind.DEAD_DEVICE, {}, Ended("rejected", "dead_device")),
        (Kind.DEAD_DEVICE, {"needs_device": False}, Again(FIRST_WAIT, tried=False)),
        (Kind.CREDENTIALS_REFUSED, {}, Again(FIRST_WAIT, tried=False)),
    ],
)
def test_an_answer_has_one_consequence(kind: Kind, given_: dict[str, object], becomes: Ended | Again) -> None:
    assert settle(Outcome(kind), tried(**given_), luck=0.5) == becomes


def test_a_providers_wish_is_kept_unless_the_window_ends_before() -> None:
    asked = Outcome(Kind.THROTTLED, delay=timedelta(minutes=30))

    assert settle(asked, tried(), 0.0) == Again(timedelta(minutes=30))
    assert settle(asked, tried(), 0.5) == Again(timedelta(minutes=31, seconds=30))
    assert settle(asked, tried(left=timedelta(minutes=30)), 0.5) == Ended("expired", "retries")


@given(
    st.sampled_from(Kind),
    st.integers(1, 100),
    st.booleans(),
    st.booleans(),
    st.booleans(),
    st.timedeltas(timedelta(0), timedelta(days=2)),
    st.floats(0, 1, exclude_max=True),
)
def test_every_end_has_a_reason_of_the_closed_list_and_doubt_is_never_forgotten(
    kind: Kind, attempts: int, transactional: bool, needs_device: bool, in_doubt: bool, left: timedelta, luck: float
) -> None:
    result = settle(Outcome(kind), Tried(attempts, transactional, needs_device, in_doubt, left), luck)

    if isinstance(result, Ended):
        assert result.state in OUTCOMES
        assert result.state == "accepted" or result.reason in REASONS[result.state]
        assert not in_doubt or result.state in ("accepted", "unknown")
    else:
        assert timedelta(0) <= result.wait < left or stops_channel(kind, needs_device=needs_device)
        assert result.tried or stops_channel(kind, needs_device=needs_device)
        assert kind is not Kind.UNKNOWN or (transactional and result.in_doubt)


@given(
    st.integers(1, 1000), st.none() | st.timedeltas(timedelta(0), timedelta(days=1)), st.floats(0, 1, exclude_max=True)
)
def test_waiting_grows_stays_bounded_and_honours_the_provider(
    attempts: int, asked: timedelta | None, luck: float
) -> None:
    wait = backoff(attempts, asked, luck)

    assert wait <= max(LONGEST_WAIT, (asked or timedelta(0)) * (1 + SPREAD))
    assert wait >= (asked or timedelta(0))
    assert backoff(attempts + 1, asked, luck) >= wait
    assert backoff(attempts, None, 0.0) == timedelta(0)


@pytest.mark.parametrize(
    ("kinds", "together"),
    [
        ([Kind.DEAD_DEVICE, Kind.ACCEPTED, Kind.UNKNOWN], Kind.ACCEPTED),
        ([Kind.DEAD_DEVICE, Kind.RETRY, Kind.UNKNOWN], Kind.UNKNOWN),
        ([Kind.PAYLOAD_REFUSED, Kind.THROTTLED], Kind.THROTTLED),
        ([Kind.DEAD_DEVICE, Kind.PAYLOAD_REFUSED], Kind.PAYLOAD_REFUSED),
        ([Kind.DEAD_DEVICE, Kind.DEAD_DEVICE], Kind.DEAD_DEVICE),
    ],
)
def test_of_several_devices_one_that_accepted_is_enough(kinds: list[Kind], together: Kind) -> None:
    assert combine([Outcome(kind) for kind in kinds]).kind is together
