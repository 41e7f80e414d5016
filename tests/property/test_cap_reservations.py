"""The Lua script and `campaigns.policy.admits` are one rule, on a real Valkey."""

from __future__ import annotations

import itertools
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import pytest
import redis
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from engine import embedded
from engine.campaigns.policy import Cap, Policy, Refusal, Sent, admits
from engine.delivery.limits import GAP, Attempt, Limit, Reservation, limits_of
from engine.delivery.reserve import CapStore, Epoch
from engine.localtime import local_day, zone

START = datetime(2026, 3, 7, tzinfo=UTC)
SCOPES = ("channel:log", "channel:webhook", "campaign:a", "campaign:ab", "tag:x", 'category:Café | "q"')
ZONES = ("UTC", "America/New_York", "Pacific/Kiritimati", "Africa/Cairo", "Australia/Lord_Howe")
WINDOWS = ("local_day", "local_week", "rolling:PT1H", "rolling:PT24H", "rolling:P7D")
Store = tuple[CapStore, Epoch]
_users = itertools.count(1)


@pytest.fixture(scope="module")
def store(servers: embedded.Addresses) -> Iterator[Store]:
    client = redis.Redis.from_url(servers.redis_url)
    caps = CapStore(client)
    token = uuid.uuid4().hex[:12]
    caps.open(token)
    yield caps, Epoch(1, caps.run_id(), token, timedelta(days=10))
    caps.forget(token)
    client.close()


@dataclass(frozen=True)
class Push:
    wait: timedelta
    scopes: frozenset[str]
    counts: bool
    obeys: bool
    zone: str


def _cap(number: int, scope: str, limit: int, window: str) -> Cap:
    return Cap(id=str(number), scope=scope, limit=limit, window=window)


caps_of_a_policy = st.lists(
    st.builds(
        _cap,
        st.integers(0, 10**6),
        st.sampled_from(("all", *SCOPES)),
        st.integers(0, 4),
        st.sampled_from(WINDOWS),
    ),
    max_size=6,
    unique_by=lambda cap: cap.id,
)
waits = st.one_of(
    st.sampled_from([timedelta(0), timedelta(hours=1), timedelta(hours=24), timedelta(days=7)]),
    st.timedeltas(timedelta(0), timedelta(days=3)),
    st.timedeltas(timedelta(0), timedelta(hours=2)),
)


def pushes(zones: st.SearchStrategy[str], *, plain: bool = False) -> st.SearchStrategy[list[Push]]:
    """Pushes of one user; `plain` ones all obey and count."""
    flag = st.just(True) if plain else st.sampled_from([True, True, False])
    scopes = st.frozensets(st.sampled_from(SCOPES), max_size=4)
    return st.lists(st.builds(Push, waits, scopes, flag, flag, zones), max_size=9)


def no_quiet(gap: timedelta | None) -> Policy:
    return Policy.model_validate({"quiet_hours": None, "min_gap": gap})


def run(
    store: Store, caps: list[Cap], gap: timedelta | None, asked: list[Push], deadline: timedelta
) -> Iterator[tuple[Refusal | None, Limit | None, Reservation]]:
    """Yields for each push: what `admits` says, what the script says."""
    reserve, epoch = store
    user, sent, at = next(_users), list[Sent](), START
    for push in asked:
        at += push.wait
        tz = zone(push.zone)
        obeyed, least = (caps, gap) if push.obeys else ([], None)
        expected = admits(no_quiet(least), obeyed, sent, at, push.scopes, tz)
        attempt = Attempt(at, tz, deadline)
        limits = limits_of(obeyed, least, push.scopes)
        asking = Reservation(user, uuid.uuid4(), 1, tuple(sorted(push.scopes)), attempt, limits, push.counts)
        refused: Limit | None = reserve.reserve(epoch, [asking], lambda users: dict.fromkeys(users, ()))[0]
        yield expected, refused, asking
        if refused is None:
            sent.append(Sent(at, push.scopes, local_day(tz, at), push.counts, push.obeys))


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(caps_of_a_policy, st.none() | st.timedeltas(timedelta(0), timedelta(days=2)), st.sampled_from(ZONES), st.data())
def test_the_script_admits_exactly_what_the_pure_function_admits(
    store: Store, caps: list[Cap], gap: timedelta | None, zone_name: str, data: st.DataObject
) -> None:
    asked = data.draw(pushes(st.just(zone_name)))

    for expected, refused, asking in run(store, caps, gap, asked, timedelta(0)):
        if expected is None:
            assert refused is None
        else:
            assert refused is not None
            assert refused.rule == (expected.cap.id if expected.cap else GAP)
        again = store[0].reserve(store[1], [asking], lambda users: {})[0]
        assert again == refused, "a repeat changes nothing"


@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    caps_of_a_policy,
    st.none() | st.timedeltas(timedelta(0), timedelta(days=2)),
    pushes(st.sampled_from(ZONES)),
    st.sampled_from([timedelta(0), timedelta(seconds=30), timedelta(hours=1)]),
)
def test_with_a_deadline_and_a_moving_user_the_script_is_only_ever_stricter(
    store: Store, caps: list[Cap], gap: timedelta | None, asked: list[Push], deadline: timedelta
) -> None:
    for expected, refused, _ in run(store, caps, gap, asked, deadline):
        assert refused is not None or expected is None


@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    caps_of_a_policy,
    st.none() | st.timedeltas(timedelta(0), timedelta(hours=30)),
    st.sampled_from(ZONES),
    st.lists(st.floats(0, 1), min_size=9, max_size=9),
    st.data(),
)
def test_whenever_a_push_arrives_before_its_deadline_no_window_overflows(
    store: Store, caps: list[Cap], gap: timedelta | None, zone_name: str, late: list[float], data: st.DataObject
) -> None:
    deadline = timedelta(minutes=10)
    asked = data.draw(pushes(st.just(zone_name), plain=True))
    tz = zone(zone_name)

    receipts = []
    for (_, refused, asking), push, delay in zip(run(store, caps, gap, asked, deadline), asked, late, strict=False):
        if refused is None:
            at = asking.attempt.at + deadline * delay
            receipts.append(Sent(at, push.scopes, local_day(tz, at), push.counts, push.obeys))

    receipts.sort(key=lambda sent: sent.at)
    for i, received in enumerate(receipts):
        assert admits(no_quiet(gap), caps, receipts[:i], received.at, received.scopes, tz) is None
