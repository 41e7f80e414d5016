"""The vectorised caps of planning say what `campaigns.policy.admits` says."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.campaigns.policy import Cap, Policy, Sent, admits
from engine.localtime import local_day
from engine.planning import limits
from engine.planning.limits import Candidates, Rule, Rules, Sends, Taken

TZ = ZoneInfo("America/New_York")
START = datetime(2026, 10, 29, tzinfo=UTC)  # a week with a change of clocks and of month
SCOPES = ("channel:log", "tag:sale", "category:3", "category:4")

instants = st.integers(0, 9 * 24 * 4).map(lambda quarter: START + timedelta(minutes=15 * quarter))
caps = st.builds(
    Cap,
    scope=st.sampled_from(("all", *SCOPES)),
    limit=st.integers(0, 3),
    window=st.sampled_from(("rolling:PT6H", "rolling:PT24H", "rolling:P3D", "local_day", "local_week")),
)
scopes = st.frozensets(st.sampled_from(SCOPES))
pushes = st.builds(
    lambda at, scopes, counts, obeys: Sent(at, scopes, local_day(TZ, at), counts, obeys),
    instants,
    scopes,
    st.booleans(),
    st.booleans(),
)
gaps = st.sampled_from((None, timedelta(hours=2), timedelta(hours=8)))


def micros(at: datetime) -> int:
    return (at - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(microseconds=1)


def rule(cap: Cap) -> Rule:
    category = int(cap.scope.rpartition(":")[2]) if cap.scope.startswith("category:") else -1
    if cap.width is None:
        return Rule(cap.limit, "day" if cap.window == "local_day" else "week", 0, category)
    return Rule(cap.limit, "rolling", cap.width // timedelta(microseconds=1), category)


def sends_of(users: list[list[Sent]], rules: list[Cap]) -> Sends:
    flat = [push for user in users for push in user]
    covers = np.array([[cap.covers(push.scopes) for push in flat] for cap in rules], bool).reshape(len(rules), len(flat))
    counts, obeys = (np.array([getattr(push, name) for push in flat], bool) for name in ("counts", "obeys"))
    return Sends(
        np.cumsum([0, *map(len, users)]),
        np.array([micros(push.at) for push in flat], np.int64),
        np.array([push.local_day.toordinal() for push in flat], np.int32),
        covers & counts,
        covers & obeys,
        counts,
        obeys,
    )


def rules_of(caps_: list[Cap], own: frozenset[str], gap: timedelta | None, occurrences: int = 1) -> Rules:
    """Rules of occurrences whose pushes have the scopes `own`, obey and count; category rules look at the item."""
    covered = np.array([[cap.covers(own) or cap.scope.startswith("category:")] * occurrences for cap in caps_], bool)
    yes = np.ones(occurrences, bool)
    matrix = covered.reshape(len(caps_), occurrences)
    return Rules(tuple(map(rule, caps_)), matrix, matrix, (gap or timedelta()) // timedelta(microseconds=1), yes, yes)


def blocked_at(rules: Rules, room: limits.Room, category: int, user: int, w: int) -> tuple[bool, bool]:
    full = limits.full(rules, room)[:, user, 0, w]
    about = np.array([rule_.category in (-1, category) for rule_ in rules.rules], bool)
    return bool((full & about).any()), not room.gap_free[user, 0, w]


@settings(max_examples=150, deadline=None)
@given(
    st.lists(caps, max_size=4),
    st.lists(st.lists(pushes, max_size=5), min_size=1, max_size=3),
    st.lists(instants, min_size=1, max_size=4),
    scopes,
    gaps,
)
def test_one_push_is_judged_as_by_the_pure_function(rules_, users, at, own, gap):
    category = next((int(scope[-1]) for scope in sorted(own) if scope.startswith("category:")), -1)
    own = frozenset(scope for scope in own if not scope.startswith("category:")) | (
        {f"category:{category}"} if category >= 0 else set()
    )
    policy = Policy(quiet_hours=None, min_gap=gap)
    rules = rules_of(rules_, own, gap)
    shape = (len(users), 1, len(at))
    candidates = np.broadcast_to(np.array([micros(t) for t in at]), shape)
    days = np.broadcast_to(np.array([local_day(TZ, t).toordinal() for t in at], np.int32), shape)
    room = limits.room(rules, sends_of(users, rules_), candidates, days)
    for user, sent in enumerate(users):
        for w, instant in enumerate(at):
            refusal = admits(policy, rules_, sent, instant, own, TZ)
            capped, close = blocked_at(rules, room, category, user, w)
            assert (refusal is not None) == (capped or close)
            if refusal is not None and refusal.reason == "gap":
                assert close
                assert not capped


@settings(max_examples=150, deadline=None)
@given(
    st.lists(caps, max_size=3),
    st.lists(pushes, max_size=4),
    st.lists(st.tuples(instants, st.sampled_from((3, 4, -1))), min_size=1, max_size=3),
    st.tuples(instants, st.sampled_from((3, 4, -1))),
    gaps,
)
def test_a_push_beside_others_of_the_plan_breaks_nothing_that_the_pure_function_forbids(rules_, sent, taken, asked, gap):
    """Where the twin allows the push, `admits` does too, beside all that is sent and taken, for every one of them."""
    policy = Policy(quiet_hours=None, min_gap=gap)
    base = frozenset({"channel:log", "tag:sale"})
    rules = rules_of(rules_, base, gap)

    def push(at: datetime, category: int) -> Sent:
        return Sent(at, base | ({f"category:{category}"} if category >= 0 else set()), local_day(TZ, at))

    chosen: list[Sent] = []
    kept: list[tuple[datetime, int]] = []
    for at, category in (*taken, asked):
        room = limits.room(rules, sends_of([sent], rules_), as_array(at), as_day(at))
        alone = blocked_at(rules, room, category, 0, 0)
        beside = clash(rules, rules_, (sent, kept), at, category) if kept else False
        together = [*chosen, push(at, category)]
        refused = any(
            admits(policy, rules_, [*sent, *(p for p in together if p is not other)], other.at, other.scopes, TZ)
            for other in together
        )
        ours = any(alone) or beside
        assert ours or not refused
        if not any(other.at > min(at, *(c.at for c in chosen), at) for other in sent):
            assert ours == refused  # with nothing planned later, the twin is exact
        if ours:
            continue
        chosen.append(push(at, category))
        kept.append((at, category))


def as_array(at: datetime) -> np.ndarray:
    return np.array([[[micros(at)]]], np.int64)


def as_day(at: datetime) -> np.ndarray:
    return np.array([[[local_day(TZ, at).toordinal()]]], np.int32)


def clash(
    rules: Rules, caps_: list[Cap], before: tuple[list[Sent], list[tuple[datetime, int]]], at: datetime, category: int
) -> bool:
    sent, kept = before
    rooms = [limits.room(rules, sends_of([sent], caps_), as_array(t), as_day(t)) for t, _ in kept]
    taken = Taken(
        valid=np.ones((1, len(kept)), bool),
        at=np.array([[micros(t) for t, _ in kept]]),
        day=np.array([[local_day(TZ, t).toordinal() for t, _ in kept]], np.int32),
        occurrence=np.zeros((1, len(kept)), np.int64),
        category=np.array([[c for _, c in kept]], np.int32),
        used=np.stack([room.used[:, :, 0, 0] for room in rooms], 2),
    )
    here = limits.room(rules, sends_of([sent], caps_), as_array(at), as_day(at))
    close = bool(limits.gap_clash(rules, 0, as_array(at)[:, 0], taken)[0, 0])
    for r, rule_ in enumerate(rules.rules):
        if rule_.category not in (-1, category):
            continue
        given_ = Candidates(here.used[r, :, 0], here.later[r, :, 0], as_array(at)[:, 0], as_day(at)[:, 0])
        close |= bool(limits.clash(rules, r, 0, given_, taken)[0, 0])
    return close
