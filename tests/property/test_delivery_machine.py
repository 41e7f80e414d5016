"""Delivery as a state machine: whatever order plans, passes, deaths, zombies, answers, losses and clocks come in.

Counted from what the provider received alone: no cap, gap or quiet hour is broken, marketing is received once, and
nothing comes outside its window. By the store: every push waits or has ended, once; fences only rise; at the end
nothing is left. PostgreSQL, Valkey and the whole of dispatch are real; the provider answers as hypothesis says, and the
receipt of a push lies anywhere between its attempt and the deadline δ.

The same steps do the same each time, on any machine: machine time stands still but where a rule moves it, groups are
sent in the thread that dispatches, chance is drawn, pushes have numbers, and no rule waits for what the store says.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime, time, timedelta
from random import Random
from typing import Any, ClassVar
from uuid import UUID

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    rule,
    run_state_machine_as_test,
)

from engine import clock
from engine.campaigns.policy import Cap, Journalled, check_journal
from engine.delivery import switches
from engine.delivery.dispatch import dispatch_due
from engine.delivery.sending import Pace
from engine.delivery.upkeep import upkeep
from engine.localtime import zone
from engine.runtime import Runtime
from tests.chaos.books import fullest
from tests.delivery_store import NOON, POINTS, DeliveryShop
from tests.machine_time import MachineTime
from tests.told_provider import Answer, Line, Post, answers

PACE = Pace(batch=6, group=3, in_flight=2)
ZONES = ("UTC", "America/New_York", "Europe/Berlin", "Pacific/Kiritimati", "Africa/Cairo", "Australia/Lord_Howe")
CHANGES = tuple(
    datetime(*instant, tzinfo=UTC)
    for instant in ((2026, 3, 8, 7), (2026, 3, 29, 1), (2026, 4, 4, 15), (2026, 4, 23, 22), (2026, 10, 25, 1))
)
"""Clocks change in New York, Berlin, Lord Howe, Cairo, Berlin."""
CAPS = (
    Cap(id="day", limit=1, window="local_day"),
    Cap(id="days", limit=2, window="rolling:PT24H"),
    Cap(id="spring", scope="tag:spring", limit=1, window="rolling:PT1H"),
    Cap(id="week", scope="campaign:b", limit=2, window="local_week"),
)
CAMPAIGNS: dict[str, dict[str, Any]] = {
    "a": {"tags": ["spring"]},
    "b": {},
    "unbound": {"obeys_caps": False, "tags": ["spring"]},
    "uncounted": {"counts_toward_caps": False},
    "code": {"class": "transactional"},
}
LEFT = ("pushes", "deliveries", "switches", "breakers", "buckets", "campaign_minutes", "unfolded_events")
"""What an example finds of the one before, and should not."""
a_person = st.integers(0, 1)
a_campaign = st.sampled_from(sorted(CAMPAIGNS))
_examples = itertools.count()


class DiedError(Exception):
    """Stands for the death of the process: nothing after it runs."""


@dataclass
class Person:
    """A user by a name."""

    name: str
    zone: str = "UTC"


class Delivery(RuleBasedStateMachine):
    seen: ClassVar[Counter[str]] = Counter()
    """What all examples together came to, for the record."""

    def __init__(self, runtime: Runtime, machine: MachineTime) -> None:
        super().__init__()
        self.number = next(_examples)
        self.machine = machine
        self.shop = DeliveryShop(runtime.database)
        for table in LEFT:
            self.shop.sql(f"DELETE FROM {table}")
        self.shop.sql("UPDATE campaigns SET state = 'cancelled'")
        self.shop.sql("UPDATE workspace SET cap_epoch = 1, cap_store_id = NULL")
        runtime.caps.flushdb()
        self.people = [Person(f"{self.number}.{n}.0") for n in range(2)]
        self.zones = {person.name: person.zone for person in self.people}
        self.post = Post(lambda name: self.zones[name])
        self.runtime = self._with_post(runtime)
        self.windows: dict[UUID, tuple[datetime, datetime]] = {}
        self.fences: dict[UUID, int] = {}
        self.now, self.occurrences = NOON, itertools.count()
        self.gone: dict[str, int] = {}
        self.chance = Random(0)

    def _with_post(self, runtime: Runtime, caps_url: str | None = None) -> Runtime:
        opened = replace(runtime, caps_url=caps_url or runtime.caps_url)
        opened.__dict__["gateways"] = {**runtime.gateways, "post": self.post}  # where cached_property keeps it
        return opened

    # --- what happens ------------------------------------------------------------------------------------------------

    @initialize(
        caps=st.sets(st.sampled_from(CAPS), min_size=1),
        gap=st.sampled_from([None, "PT2H"]),
        quiet=st.sampled_from([None, None, ("22:00", "08:00")]),
        seed=st.integers(0, 2**32 - 1),
    )
    def open(self, caps: set[Cap], gap: str | None, quiet: tuple[str, str] | None, seed: int) -> None:
        own, self.chance = f"{self.number}", Random(seed)
        caps = {
            cap.model_copy(update={"scope": f"campaign:b{own}"}) if cap.scope.startswith("campaign") else cap
            for cap in caps
        }
        ordered = sorted(caps, key=lambda cap: cap.id)
        self.policy = self.shop.policy(*ordered, min_gap=gap, quiet_hours=quiet)
        self.shop.now = self.now
        for name, more in CAMPAIGNS.items():
            self.shop.campaign(f"{name}{own}", gateway="post", **more)

    @rule(
        campaign=a_campaign,
        whose=st.sets(a_person, min_size=1),
        wait=st.sampled_from([timedelta(0), timedelta(minutes=20), timedelta(hours=5)]),
        length=st.sampled_from([timedelta(minutes=1), timedelta(hours=2), timedelta(hours=30)]),
    )
    def plan(self, campaign: str, whose: set[int], wait: timedelta, length: timedelta) -> None:
        name, begins = f"{campaign}{self.number}", self.now + wait
        self.shop.now = self.now
        self.shop.another_occurrence(name, f"{next(self.occurrences)}")
        for who in sorted(whose):
            person = self.people[who]
            self.shop.user(person.name, timezone=person.zone)
            turn = len(self.windows)  # the earlier is due a moment before: the order of claims is no chance
            due, push = begins - timedelta(milliseconds=900 - turn), UUID(int=(self.number + 1) << 64 | turn)
            self.shop.push(person.name, name, id=push, send_at=due, window_end=begins + length)
            self.windows[push] = (due, begins + length)

    @rule(answers=st.lists(answers(), max_size=6))
    def dispatch(self, answers: list[Answer]) -> None:
        self._pass(answers)

    @rule(
        campaign=a_campaign,
        who=a_person,
        point=st.sampled_from((*POINTS, "after_intent", "after_send")),
        nth=st.sampled_from([1, 1, 1, 2]),
        answers=st.lists(answers(), max_size=1),
        rescued=st.sampled_from([True, True, False]),
    )
    def die(self, campaign: str, who: int, point: str, nth: int, answers: list[Answer], rescued: bool) -> None:
        """A worker dies at the `nth` time that it passes `point`; others find what it left, or do not yet."""
        passed, dead = 0, False

        def at(here: str) -> None:
            nonlocal passed, dead
            passed += here == point
            dead = dead or (here == point and passed == nth)
            if dead:
                raise DiedError

        self.plan(campaign, {who}, timedelta(0), timedelta(hours=2))
        with suppress(DiedError):
            self._pass(answers, at)
        if rescued:
            self.leases_end()
            self.machine.passes(timedelta(seconds=25))
            self._pass([])

    @rule(point=st.sampled_from([point for point in POINTS if point != "after_record"]), answers=st.lists(answers()))
    def sleep_through_the_lease(self, point: str, answers: list[Answer]) -> None:
        """A worker stands still at a point until its lease has ended and others have done its work; then it goes on."""
        slept = False

        def at(here: str) -> None:
            nonlocal slept
            if here == point and not slept:
                slept = True
                self.leases_end()
                self._pass([])

        self._pass(answers, at)

    @rule()
    def leases_end(self) -> None:
        self.machine.passes(PACE.lease + timedelta(seconds=1))
        upkeep(self.runtime, self.now)

    @rule(by=st.sampled_from([timedelta(seconds=1), timedelta(seconds=25), timedelta(minutes=6)]))
    def machine_time_passes(self, by: timedelta) -> None:
        self.machine.passes(by)

    @rule()
    def somebody_resumes(self) -> None:
        """What Horae paused or stopped by itself."""
        self.shop.sql("UPDATE campaigns SET state = 'running' WHERE state = 'paused'")
        self.shop.sql("DELETE FROM switches WHERE author = 'horae'")

    @rule()
    def lose_redis(self) -> None:
        self.runtime.caps.flushdb()

    @rule()
    def dispatch_without_redis(self) -> None:
        received = len(self.post.journal)
        self._pass([], runtime=self._with_post(self.runtime, caps_url="redis://127.0.0.1:1/0"))
        assert len(self.post.journal) == received

    @rule(by=st.sampled_from([timedelta(seconds=20), timedelta(minutes=15), timedelta(hours=1), timedelta(hours=13)]))
    def time_passes(self, by: timedelta) -> None:
        self.now += by

    @rule(before=st.sampled_from([timedelta(seconds=10), timedelta(minutes=40), timedelta(hours=8)]))
    def clocks_will_change(self, before: timedelta) -> None:
        self.now = next((change - before for change in CHANGES if change - before > self.now), self.now)

    @rule(campaign=a_campaign, who=a_person, by=st.sampled_from([0, 20, 3600]), answer=answers())
    def send(self, campaign: str, who: int, by: int, answer: Answer) -> None:
        """A push that is planned and dispatched at once, a little later; nothing is stopped any more."""
        self.shop.sql("DELETE FROM switches")
        self.now += timedelta(seconds=by)
        self.plan(campaign, {who}, timedelta(0), timedelta(hours=2))
        self._pass([answer])

    @rule(campaign=a_campaign, who=a_person, before=st.sampled_from([1, 25]), answer=answers())
    def send_before_midnight(self, campaign: str, who: int, before: int, answer: Answer) -> None:
        """The attempt falls on one local day, the receipt perhaps on the next."""
        local = self.now.astimezone(zone(self.people[who].zone))
        midnight = datetime.combine(local.date() + timedelta(days=1), time(), local.tzinfo).astimezone(UTC)
        self.now = max(self.now, midnight - timedelta(seconds=before))
        self.send(campaign, who, 0, answer)

    @rule(
        width=st.sampled_from([timedelta(hours=1), timedelta(hours=2), timedelta(hours=24)]),
        past=st.sampled_from([0, 15]),
        campaign=a_campaign,
        who=a_person,
        answer=answers(),
    )
    def send_at_a_windows_end(self, width: timedelta, past: int, campaign: str, who: int, answer: Answer) -> None:
        """As long after the last attempt as a rolling window or the gap is, and a little: its receipt may be inside."""
        attempts = [line.asked for line in self.post.journal if line.user == self.people[who].name]
        if attempts:
            self.now = max(self.now, attempts[-1] + width + timedelta(seconds=past))
        self.send(campaign, who, 0, answer)

    @rule(who=a_person, to=st.sampled_from(ZONES))
    def move(self, who: int, to: str) -> None:
        person = self.people[who]
        person.zone = self.zones[person.name] = to
        self.shop.sql("UPDATE users SET timezone = :to WHERE external_id = :name", to=to, name=person.name)

    @rule(who=a_person, erased=st.booleans())
    def leave(self, who: int, erased: bool) -> None:
        """Somebody withdraws their consent or is erased, with pushes that wait; a newcomer takes their place here."""
        person = self.people[who]
        self.shop.user(person.name, timezone=person.zone)
        gone = "DELETE FROM users" if erased else "UPDATE users SET consent = false"
        self.shop.sql(f"{gone} WHERE external_id = :name", name=person.name)
        self.gone[person.name] = len(self.post.journal)
        place, _, life = person.name.rpartition(".")
        self.people[who] = Person(f"{place}.{int(life) + 1}", person.zone)
        self.zones[self.people[who].name] = person.zone

    @rule(campaign=a_campaign)
    def stop(self, campaign: str) -> None:
        with self.runtime.database.begin() as connection:
            switches.stop(connection, switches.scope_of(connection, campaign=f"{campaign}{self.number}"))

    @rule()
    def start(self) -> None:
        self.shop.sql("DELETE FROM switches")

    # --- what always holds -------------------------------------------------------------------------------------------

    @invariant()
    def no_rule_is_broken_at_the_provider(self) -> None:
        received = [self._as_sent(line, line.at) for line in self.post.journal]
        quiet = self.policy.model_copy(update={"caps": (), "min_gap": None})
        # One that obeys and does not count leaves no trace: a later one may be received before it (see limits). What
        # was there at its admission is what counts. At one instant the order of admissions is not known.
        traced = [send for send in received if send.counts or not send.obeys]
        admitted = [self._as_sent(line, line.asked) for line in self.post.journal]
        admitted.sort(key=lambda send: (not send.obeys, send.counts))
        for rules, sends in ((self.policy, traced), (quiet, received), (self.policy, admitted)):
            assert [str(broken) for broken in check_journal(rules, sends)] == []

    @invariant()
    def marketing_is_received_once_and_everything_in_its_window(self) -> None:
        received = Counter((line.occurrence_id, line.user) for line in self.post.journal if not self._is(line, "code"))
        assert [key for key, times in received.items() if times > 1] == []
        for number, line in enumerate(self.post.journal):
            begins, ends = self.windows[line.push_id]
            assert begins <= line.at < ends, line
            assert number < self.gone.get(line.user, number + 1), f"{line} came after they had left"

    @invariant()
    def every_push_waits_or_has_ended_once(self) -> None:
        hot = {row["id"]: row for row in self.shop.hot()}
        ended = self._ended()
        assert sorted([*hot, *ended]) == sorted(self.windows)
        for push, row in hot.items():
            assert row["fence"] >= self.fences.get(push, 0)
            self.fences[push] = row["fence"]
        received = {line.push_id for line in self.post.journal}
        assert {push for push, state in ended.items() if state == "accepted"} <= received
        for push in received:
            open_ = push in hot and (hot[push]["state"] == "sending" or hot[push]["in_doubt"])
            assert open_ or ended.get(push) in ("accepted", "unknown"), (hot.get(push), ended.get(push))

    def teardown(self) -> None:
        """Let everything come to its end: nothing may be stuck."""
        if not hasattr(self, "policy"):
            return
        for _ in range(8):
            self.shop.sql("DELETE FROM switches")
            self.somebody_resumes()
            self.machine.passes(timedelta(minutes=15))
            self.leases_end()
            self._pass([])
            self.now += timedelta(hours=20)
        assert self.shop.hot() == []
        self.seen.update(
            {"examples": 1, "pushes": len(self.windows), "attempts taken": len(self.post.journal)},
            **Counter(self._ended().values()),
            recovered=sum(row["attempts"] > 1 or row["reason"] == "lease_expired" for row in self.shop.deliveries()),
        )
        plain = [self._as_sent(line, line.at) for line in self.post.journal]
        for cap, most in fullest(self.policy, [send for send in plain if send.obeys and send.counts]).items():
            rule = cap.replace(f"campaign:b{self.number}", "campaign:b")
            self.seen[rule] = max(self.seen[rule], most)
        self.no_rule_is_broken_at_the_provider()
        self.marketing_is_received_once_and_everything_in_its_window()
        self.every_push_waits_or_has_ended_once()

    # --- common ------------------------------------------------------------------------------------------------------

    def _pass(
        self, answers: list[Answer], at: Callable[[str], None] = lambda _: None, runtime: Runtime | None = None
    ) -> None:
        self.post.answers = list(answers)
        dispatch_due(runtime or self.runtime, self.now, pace=PACE, rng=self.chance, at=at)

    def _ended(self) -> dict[UUID, str]:
        rows = [row for row in self.shop.deliveries() if row["push_id"] in self.windows]
        assert len({row["push_id"] for row in rows}) == len(rows)
        return {row["push_id"]: row["state"] for row in rows}

    def _is(self, line: Line, campaign: str) -> bool:
        return line.campaign == f"{campaign}{self.number}"

    def _as_sent(self, line: Line, at: datetime) -> Journalled:
        name = line.campaign.removesuffix(str(self.number))
        more = CAMPAIGNS[name]
        tags = {f"tag:{tag}" for tag in more.get("tags", ())}
        transactional = more.get("class") == "transactional"
        return Journalled(
            user=line.user,
            at=at,
            scopes=frozenset({"channel:post", f"campaign:{line.campaign}", *tags}),
            tz=zone(line.zone),
            counts=not transactional and bool(more.get("counts_toward_caps", True)),
            obeys=not transactional and bool(more.get("obeys_caps", True)),
        )


@pytest.fixture
def machine(runtime: Runtime, monkeypatch: pytest.MonkeyPatch) -> MachineTime:
    """Machine time that rules move, and groups that are sent one by one: two of them may still be under way at once."""
    monkeypatch.setattr(clock, "monotonic", lambda: 0.0)  # whoever sleeps does not notice
    monkeypatch.setattr(ThreadPoolExecutor, "submit", _at_once)
    return MachineTime(runtime.database)


def _at_once(_pool: ThreadPoolExecutor, work: Callable[..., Any], *given: Any) -> Future[Any]:
    done = Future[Any]()
    done.set_result(work(*given))
    return done


def check(runtime: Runtime, machine: MachineTime, examples: int, steps: int) -> None:
    chosen = settings(
        max_examples=examples,
        stateful_step_count=steps,
        suppress_health_check=list(HealthCheck),
    )

    class OfThisStore(Delivery):
        seen: ClassVar[Counter[str]] = Counter()

        def __init__(self) -> None:
            super().__init__(runtime, machine)

    run_state_machine_as_test(OfThisStore, settings=chosen)
    print(dict(OfThisStore.seen))


def test_any_order_of_deaths_answers_losses_and_clocks_keeps_every_promise(
    runtime: Runtime, machine: MachineTime
) -> None:
    check(runtime, machine, examples=12, steps=20)


@pytest.mark.soak
def test_many_orders_of_deaths_answers_losses_and_clocks_keep_every_promise(
    runtime: Runtime, machine: MachineTime
) -> None:
    check(runtime, machine, examples=400, steps=50)
