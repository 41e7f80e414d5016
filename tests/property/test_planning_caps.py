"""The vectorised caps of planning say what `campaigns.policy.admits` says, and no plan breaks a cap."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.campaigns.policy import Cap, Policy, Sent, admits
from engine.localtime import local_day
from engine.planning import allocation, inbox, limits
from engine.planning.allocation import Problem
from engine.planning.inbox import Contest, Rivals
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
    covers = np.array([[cap.covers(push.scopes) for push in flat] for cap in rules], bool).reshape(
        len(rules), len(flat)
    )
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
def test_a_push_beside_others_of_the_plan_breaks_nothing_that_the_pure_function_forbids(
    rules_, sent, taken, asked, gap
):
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


@settings(max_examples=150, deadline=None)
@given(
    st.lists(caps, max_size=3),
    st.lists(st.lists(pushes, max_size=4), min_size=1, max_size=3),
    st.lists(instants, min_size=2, max_size=6),
    st.tuples(*(st.booleans() for _ in range(4))),
    gaps,
)
def test_pairs_are_judged_as_one_push_beside_the_other(rules_, users, at, flags, gap):
    rules = rules_of(rules_, frozenset({"channel:log"}), gap, occurrences=2)
    binds, counted = np.array(flags[:2]), np.array(flags[2:])
    flagged = {"binds": rules.binds & binds, "counted": rules.counted & counted}
    rules = replace(rules, **flagged, gap_binds=binds, gap_counted=counted)
    half = len(at) // 2
    shape = (len(users), 2, half)
    micros_ = np.broadcast_to(np.array([micros(t) for t in at[: 2 * half]]).reshape(2, half), shape)
    days = np.broadcast_to(
        np.array([local_day(TZ, t).toordinal() for t in at[: 2 * half]], np.int32).reshape(2, half), shape
    )
    room = limits.room(rules, sends_of(users, rules_), micros_, days)
    full = limits.full(rules, room)
    together = limits.pair_clash(rules, (0, 1), room, micros_, days)
    for w in range(half):
        taken = Taken(
            valid=np.ones((len(users), 1), bool),
            at=micros_[:, 0, w : w + 1],
            day=days[:, 0, w : w + 1],
            occurrence=np.zeros((len(users), 1), np.int64),
            category=np.full((len(users), 1), -1, np.int32),
            used=room.used[:, :, 0, w : w + 1],
        )
        alone = limits.gap_clash(rules, 1, micros_[:, 1], taken)
        for r, rule_ in enumerate(rules.rules):
            if rule_.category < 0:
                given_ = Candidates(room.used[r, :, 1], room.later[r, :, 1], micros_[:, 1], days[:, 1])
                alone |= limits.clash(rules, r, 1, given_, taken)
        possible = ~full[:, :, 1] & ~full[:, :, 0, w : w + 1]  # alone, each of the two could be sent
        assert (together[:, w] == alone)[possible.all(0)].all()


# --- whole sets ------------------------------------------------------------------------------------------------------

BASE = frozenset({"channel:log", "tag:sale"})


def push_of(problem: Problem, user: int, occurrence: int, choice: int) -> tuple[Sent, int]:
    windows = problem.net.shape[3]
    at = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=int(problem.at[user, occurrence, choice % windows]))
    category = int(problem.category[user, occurrence, choice // windows])
    own = BASE | ({f"category:{category}"} if category >= 0 else frozenset())
    return Sent(at, own, local_day(TZ, at)), int(problem.item[user, occurrence, choice // windows])


def stands(policy: Policy, rules_: list[Cap], sent: list[Sent], together: list[Sent]) -> bool:
    """Whether every one of `together` is admitted beside all others."""
    return all(
        admits(policy, rules_, [*sent, *(p for p in together if p is not one)], one.at, one.scopes, TZ) is None
        for one in together
    )


def problem_of(rules_: list[Cap], gap: timedelta | None, sent: list[list[Sent]], drawn: tuple) -> Problem:
    """A problem of len(sent) users from drawn instants [n][O][W], values, items and categories."""
    at, values, items, categories = drawn
    rules = rules_of(rules_, BASE, gap, occurrences=len(at[0]))
    micros_ = np.array([[[micros(t) for t in row] for row in user] for user in at], np.int64)
    days = np.array([[[local_day(TZ, t).toordinal() for t in row] for row in user] for user in at], np.int32)
    room = limits.room(rules, sends_of(sent, rules_), micros_, days)
    category = np.array(categories, np.int32)
    net = net_of(np.array(values, float), category, rules, room)
    once = np.ones(len(at[0]), bool)
    return Problem(net, np.array(items, np.int64), category, micros_, days, once, rules, room)


def net_of(values: np.ndarray, category: np.ndarray, rules: Rules, room: limits.Room) -> np.ndarray:
    """The values, −inf where the room forbids the push."""
    net, full = values.copy(), limits.full(rules, room)
    for r, rule_ in enumerate(rules.rules):
        hit = np.ones(category.shape, bool) if rule_.category < 0 else category == rule_.category
        net[hit[..., None] & full[r][:, :, None, :]] = -np.inf
    net[np.broadcast_to(~room.gap_free[:, :, None, :], net.shape)] = -np.inf
    return net


@st.composite
def problems(draw, occurrences: int):
    rules_ = draw(st.lists(caps, max_size=3))
    gap = draw(gaps)
    users, offers, windows = draw(st.integers(1, 3)), draw(st.integers(1, 3)), draw(st.integers(1, 4))
    past = st.builds(
        lambda hours, own: Sent(START - timedelta(hours=hours), own, local_day(TZ, START - timedelta(hours=hours))),
        st.integers(1, 60),
        scopes,
    )
    sent = draw(st.lists(st.lists(past, max_size=3), min_size=users, max_size=users))

    def nest(leaf, *sizes):
        for size in reversed(sizes):
            leaf = st.lists(leaf, min_size=size, max_size=size)
        return leaf

    values = st.integers(-2, 6).map(float)
    drawn = (
        draw(nest(instants, users, occurrences, windows)),
        draw(nest(values, users, occurrences, offers, windows)),
        [[draw(st.permutations([1, 2, 3, 4]))[:offers] for _ in range(occurrences)] for _ in range(users)],
        draw(nest(st.sampled_from((3, 4, -1)), users, occurrences, offers)),
    )
    return rules_, gap, sent, problem_of(rules_, gap, sent, drawn)


@st.composite
def contests(draw, occurrences: int):
    """A problem whose users may have a push planned already, which obeys every cap and has a value."""
    rules_, gap, sent, bare = draw(problems(occurrences))
    policy, users = Policy(quiet_hours=None, min_gap=gap), len(sent)
    planned: list[Sent | None] = []
    for past in sent:
        at = draw(instants)
        one = Sent(at, BASE, local_day(TZ, at))
        planned.append(one if admits(policy, rules_, past, at, BASE, TZ) is None and draw(st.booleans()) else None)
    beside = [past + ([one] if one else []) for past, one in zip(sent, planned, strict=True)]
    sends = sends_of(beside, rules_)
    worth = np.array([[draw(st.integers(1, 6)) + 0.5] if one else [-np.inf] for one in planned])
    whole = {name: np.zeros((users, 1), np.int64) for name in ("at", "day")}
    for user, push in enumerate(planned):
        if push:
            whole["at"][user], whole["day"][user] = micros(push.at), push.local_day.toordinal()
    flags = rules_of(rules_, BASE, gap)
    rivals = Rivals(
        occurrence=np.zeros((users, 1), np.int64),
        value=worth,
        at=whole["at"],
        day=whole["day"].astype(np.int32),
        item=np.full((users, 1), -1),
        category=np.full((users, 1), -1, np.int32),
        send=np.where(np.isfinite(worth), sends.offsets[1:, None] - 1, -1),
        binds=flags.binds,
        counted=flags.counted,
        gap_binds=flags.gap_binds,
        gap_counted=flags.gap_counted,
    )
    values = np.where(np.isfinite(bare.net), bare.net, 3.0)
    room = limits.room(bare.rules, sends, bare.at, bare.day)
    problem = replace(bare, net=net_of(values, bare.category, bare.rules, room), room=room)
    contest = Contest(bare.rules, np.ones(occurrences, bool), sends, rivals)
    return (rules_, policy, sent, planned), contest, problem, values


@settings(max_examples=150, deadline=None)
@given(problems(2))
def test_up_to_two_pushes_are_the_best_set_there_is(given_):
    rules_, gap, sent, problem = given_
    policy = Policy(quiet_hours=None, min_gap=gap)
    chosen = allocation.best_sets(problem)
    options = range(-1, problem.net.shape[2] * problem.net.shape[3])
    flat = problem.net.reshape(*problem.net.shape[:2], -1)
    for user in range(len(chosen)):
        best = 0.0
        for first in options:
            for second in options:
                picked = [(o, c) for o, c in enumerate((first, second)) if c >= 0]
                value = sum(flat[user, o, c] for o, c in picked)
                if value <= best or not np.isfinite(value):
                    continue
                pushes_, items = zip(*(push_of(problem, user, o, c) for o, c in picked), strict=True)
                if len(set(items)) == len(items) and stands(policy, rules_, sent[user], list(pushes_)):
                    best = value
        got = sum(flat[user, o, c] for o, c in enumerate(chosen[user]) if c >= 0)
        assert got == best


@settings(max_examples=150, deadline=None)
@given(problems(4))
def test_no_set_breaks_a_cap_and_none_is_worth_less_than_its_best_push(given_):
    rules_, gap, sent, problem = given_
    policy = Policy(quiet_hours=None, min_gap=gap)
    chosen = allocation.best_sets(problem)
    flat = problem.net.reshape(*problem.net.shape[:2], -1)
    for user in range(len(chosen)):
        picked = [(o, c) for o, c in enumerate(chosen[user]) if c >= 0]
        pushes_ = [push_of(problem, user, o, c) for o, c in picked]
        assert stands(policy, rules_, sent[user], [push for push, _ in pushes_])
        assert len({item for _, item in pushes_}) == len(pushes_)
        assert all(flat[user, o, c] > 0 for o, c in picked)
        assert sum(flat[user, o, c] for o, c in picked) >= max(flat[user].max(), 0.0)


@settings(max_examples=150, deadline=None)
@given(contests(2))
def test_a_planned_push_gives_way_only_to_what_is_worth_more_and_what_remains_stands(given_):
    (rules_, policy, sent, planned), contest, problem, values = given_
    before = allocation.best_sets(problem)

    def net_in(rows: np.ndarray, room: limits.Room) -> np.ndarray:
        return net_of(values[rows], problem.category[rows], problem.rules, room)

    chosen, gone = inbox.compete(contest, problem, before, net_in)
    flat = values.reshape(*values.shape[:2], -1)
    for user, one in enumerate(planned):
        worth = [sum(flat[user, o, c] for o, c in enumerate(choice[user]) if c >= 0) for choice in (before, chosen)]
        if gone[user, 0]:
            assert one is not None
            assert worth[1] > worth[0] + contest.rivals.value[user, 0]
        else:
            assert (chosen[user] == before[user]).all()
        pushes_ = [push_of(problem, user, o, c)[0] for o, c in enumerate(chosen[user]) if c >= 0]
        stays = [one] if one is not None and not gone[user, 0] else []
        assert stands(policy, rules_, sent[user], pushes_ + stays)


@settings(max_examples=50, deadline=None)
@given(problems(3), st.randoms(use_true_random=False))
def test_a_users_set_does_not_depend_on_who_else_is_in_the_block(given_, random):
    problem = given_[3]
    chosen = allocation.best_sets(problem)
    order = np.array(random.sample(range(len(chosen)), len(chosen)))
    assert (allocation.best_sets(problem.of(order)) == chosen[order]).all()
    for user in range(len(chosen)):
        assert (allocation.best_sets(problem.of(np.array([user]))) == chosen[user]).all()


@settings(max_examples=100, deadline=None)
@given(problems(3), st.data())
def test_choices_already_made_stay_and_the_others_fit_beside_them(given_, data):
    rules_, gap, sent, problem = given_
    policy = Policy(quiet_hours=None, min_gap=gap)
    flat = problem.net.reshape(*problem.net.shape[:2], -1)
    fixed = np.full(flat.shape[:2], -1, np.int32)
    for user in range(len(fixed)):
        open_ = np.flatnonzero(np.isfinite(flat[user, 1]))
        if len(open_):
            fixed[user, 1] = data.draw(st.sampled_from(open_.tolist()))
    chosen = allocation.best_sets(problem, fixed)
    for user in range(len(chosen)):
        if fixed[user, 1] >= 0:
            assert chosen[user, 1] == fixed[user, 1]
        pushes_ = [push_of(problem, user, o, c) for o, c in enumerate(chosen[user]) if c >= 0]
        assert stands(policy, rules_, sent[user], [push for push, _ in pushes_])
