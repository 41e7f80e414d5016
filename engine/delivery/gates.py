"""What holds pushes back before anything is taken for them: open breakers, provider and campaign rates, retry budgets.

All workers share them as rows of PostgreSQL: what is taken is in the same store as the pushes it is taken for, by the
same clock as their leases, and no second server can lose it. A pass looks before each claim, so that rows wait where
they are; what only the devices decide (the gateways of the channel `push`, several devices a push) is settled right
after the facts are read, still before caps. What was taken for a push that does not leave after all is given back.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from random import Random
from uuid import UUID

from sqlalchemy import Connection, text

from engine.campaigns.policy import Policy
from engine.delivery import breaker, buckets
from engine.delivery.buckets import Bucket, Rate
from engine.delivery.claim import Back, Claimed, put_back
from engine.delivery.facts import Facts
from engine.delivery.gate_rows import (
    campaign_key,
    gateway_key,
    lock_breakers,
    lock_buckets,
    retries_key,
    save_breaker,
    save_buckets,
)
from engine.delivery.gateways import Gateway
from engine.store.database import Transactions

PAUSE = timedelta(seconds=1)
"""Machine time for which a push rests at least that was held back."""

RETRY_PAUSE = timedelta(seconds=20)
"""Likewise at most, where the retry budget is used up: spread evenly, so that none waits for ever."""

_LOOK = text("""
    SELECT gateway AS key, state, until, NULL::float8 AS level, until AS at, clock_timestamp() AS now
    FROM breakers WHERE state <> 'closed'
    UNION ALL SELECT key, NULL, NULL, level, at, clock_timestamp() FROM buckets
    UNION ALL SELECT NULL, NULL, NULL, NULL, NULL, clock_timestamp()
""")

_RATED = text("""
    SELECT c.id, (v.definition->>'per_minute')::int AS most, v.definition->>'gateway' AS gateway
    FROM campaigns c JOIN campaign_versions v ON v.campaign_id = c.id AND v.version = c.version
    WHERE c.state IN ('running', 'done') AND v.definition ? 'per_minute'
""")


@dataclass(frozen=True)
class Lane:
    """One claim: at most `most` pushes of `gateways`, of one campaign or of all but those `apart`."""

    gateways: tuple[str, ...]
    most: int
    campaign: int | None = None
    apart: tuple[int, ...] = ()


class Gates:
    """The gates of one pass. One thread uses it."""

    def __init__(self, connection: Connection, policy: Policy, gateways: Mapping[str, Gateway]) -> None:
        self._members = {name: tuple(getattr(gateway, "members", (name,))) for name, gateway in gateways.items()}
        self._needs_device = {name for name, gateway in gateways.items() if gateway.needs_device}
        self._campaigns = {row.id: buckets.per_minute(row.most) for row in connection.execute(_RATED)}
        self._rates: dict[str, Rate] = {campaign_key(number): rate for number, rate in self._campaigns.items()}
        for name in {member for members in self._members.values() for member in members}:
            self._rates[retries_key(name)] = buckets.RETRIES
            if (most := policy.per_minute(name)) is not None:
                self._rates[gateway_key(name)] = buckets.per_minute(most)
        self._ways: dict[str, breaker.Way] = {}
        self._paused: set[str] = set()
        self._unused: Counter[str] = Counter()
        self._known_wants: dict[tuple[tuple[str, ...], int, bool], Mapping[str, int]] = {}
        self._probing: dict[UUID, list[str]] = {}
        self.unprobed: set[str] = set()
        """Gateways whose probe did not leave: for the next flush to say so."""

    def rate(self, key: str) -> Rate | None:
        """The rate of a bucket; None where none is known."""
        return self._rates.get(key)

    def open_to(self, gateway: str) -> bool:
        """Whether the gateway's breaker was closed at the last look."""
        return self._ways.get(gateway, "all") == "all"

    # --- before the claim --------------------------------------------------------------------------------------------

    def lanes(self, connection: Connection, most: int) -> list[Lane]:
        """The claims that may be made now, of up to `most` pushes each."""
        ways, found, now = self._look(connection)
        common, alone = list[str](), list[Lane]()
        for name, members in self._members.items():
            room, passes = 0.0, list[breaker.Way]()
            for member in members:
                passes.append(ways.get(member, "all"))
                if passes[-1] != "none":
                    room = max(room, self._level(gateway_key(member), found, now))
            if set(passes) <= {"none"} or room < 1:
                continue
            limit = 1 if "all" not in passes else min(most, math.floor(min(room, most)))
            if limit >= most:
                common.append(name)
            else:
                alone.append(Lane((name,), limit))
        if common:
            alone.append(Lane(tuple(common), most))
        return [*self._rated(alone, found, most, now), *(replace(lane, apart=tuple(self._campaigns)) for lane in alone)]

    def _rated(self, lanes: Sequence[Lane], found: Mapping[str, Bucket], most: int, now: datetime) -> list[Lane]:
        """The lanes of campaigns with a rate. They come first, and leave half of a batch to the others: a backlog of
        either does not keep the other waiting."""
        rated = []
        for campaign, rate in self._campaigns.items():
            level = buckets.level(found.get(campaign_key(campaign)), rate, now)
            room = min(max(1, most // (2 * len(self._campaigns))), math.floor(level))
            rated += [Lane(lane.gateways, min(room, lane.most), campaign) for lane in lanes if room >= 1]
        return rated

    def _look(self, connection: Connection) -> tuple[dict[str, breaker.Way], dict[str, Bucket], datetime]:
        rows = connection.execute(_LOOK).all()
        now = max(row.now for row in rows)
        self._ways = {
            row.key: "one" if row.until is None or row.until <= now else "none" for row in rows if row.state is not None
        }
        found = {row.key: Bucket(row.level, row.at) for row in rows if row.key is not None and row.state is None}
        self._paused = {key for key, bucket in found.items() if bucket.at > now}
        return self._ways, found, now

    def _level(self, key: str, found: Mapping[str, Bucket], now: datetime) -> float:
        return buckets.level(found.get(key), self.rate(key), now)

    # --- before the caps ---------------------------------------------------------------------------------------------

    def admit(
        self, database: Transactions, facts: Sequence[Facts], deadline: timedelta, rng: Random
    ) -> tuple[list[Facts], Counter[str]]:
        """Take what each push needs; those that got it, and how many went back for want of what: `breaker`, `rate`,
        `retries`. `deadline`: how long a probe may take."""
        if not self._matter(facts):
            return list(facts), Counter()
        wants = [self._wants(one) for one in facts]
        total = _total(wants)
        keys = sorted(key for key in total if key in self._rates or key in self._paused)
        members = {name for one in facts for name in self._members_of(one)} if self._ways else set[str]()
        broken = sorted(members.intersection(self._ways))
        if not keys and not broken:
            return list(facts), Counter()
        with database.begin() as connection:
            shut, probed = self._probe(connection, broken, facts, deadline)
            locked, now = lock_buckets(connection, keys, self._rates)
            for name in set(self._unused) & set(locked):
                locked[name] = buckets.changed(locked[name], self.rate(name), self._unused.pop(name), now)
            levels = {name: buckets.level(bucket, self.rate(name), now) for name, bucket in locked.items()}
            if not shut and all(levels.get(key, buckets.UNLIMITED) >= number for key, number in total.items()):
                passed, backs, why, spent = list(facts), list[Back](), Counter[str](), total
            else:
                waits = {name: bucket.at - now for name, bucket in locked.items()}
                passed, backs, why = self._divided(facts, wants, shut, levels, waits, rng)
                spent = _total([self._wants(one) for one in passed])
            save_buckets(
                connection,
                {name: buckets.changed(bucket, self.rate(name), -spent[name], now) for name, bucket in locked.items()},
            )
            if probed:
                self._took_probes(probed, {one.push.id for one in passed})
            if backs:
                put_back(connection, backs)
        return passed, why

    def _divided(
        self,
        facts: Sequence[Facts],
        wants: Sequence[Mapping[str, int]],
        shut: Collection[UUID],
        levels: Mapping[str, float],
        empty: Mapping[str, timedelta],
        rng: Random,
    ) -> tuple[list[Facts], list[Back], Counter[str]]:
        """Who passes where there is not enough for all, who goes back, and why; `empty`: how long each bucket is."""
        open_to = [{} if one.push.id in shut else want for one, want in zip(facts, wants, strict=True)]
        short = buckets.admit(open_to, levels)
        passed, backs, why, queued = list[Facts](), list[Back](), Counter[str](), Counter[str]()
        for one, want, key in zip(facts, wants, short, strict=True):
            if one.push.id in shut:
                backs.append(Back(one.push, PAUSE, tried=False))
                why["breaker"] += 1
            elif key is None:
                passed.append(one)
            else:
                queued[key] += want[key]
                backs.append(Back(one.push, self._wait(key, queued[key], empty[key], rng), tried=False))
                why["retries" if key.startswith("retries:") else "rate"] += 1
        return passed, backs, why

    def _matter(self, facts: Sequence[Facts]) -> bool:
        """Whether anything could hold one of these back: mostly nothing does."""
        members = {member for name in {one.push.gateway for one in facts} for member in self._members[name]}
        return (
            bool(self._campaigns)
            or not members.isdisjoint(self._ways)
            or any(gateway_key(name) in self._rates or gateway_key(name) in self._paused for name in members)
            or any(one.push.failed_before for one in facts)
        )

    def _took_probes(self, probed: Mapping[UUID, list[str]], passed: Collection[UUID]) -> None:
        for push_id, names in probed.items():
            if push_id in passed:
                self._probing[push_id] = names
            else:
                self.unprobed.update(names)

    def unused(self, facts: Sequence[Facts], leaving: Collection[Claimed]) -> None:
        """Of `facts`, which were admitted, those `leaving` are on their way; what the others took is free again."""
        if not self._probing and len(leaving) == len(facts):
            return
        left = {push.id for push in leaving}
        for one in facts:
            names = self._probing.pop(one.push.id, [])
            if one.push.id not in left:
                self._unused.update({key: number for key, number in self._wants(one).items() if key in self._rates})
                self.unprobed.update(names)

    def returned(self) -> Counter[str]:
        """What is to be given back to the buckets; it is the caller's to do so."""
        unused, self._unused = self._unused, Counter()
        return unused

    def _probe(
        self, connection: Connection, broken: Sequence[str], facts: Sequence[Facts], deadline: timedelta
    ) -> tuple[set[UUID], dict[UUID, list[str]]]:
        """(pushes that a breaker holds back, those that probe one and which)."""
        if not broken:
            return set(), {}
        breakers, now = lock_breakers(connection, broken)
        ways = {name: breaker.way(state, now) for name, state in breakers.items()}
        shut, probed = set[UUID](), dict[UUID, list[str]]()
        for one in facts:
            mine = {ways.get(name, "all"): name for name in self._members_of(one)}
            if "none" in mine:
                shut.add(one.push.id)
            elif "one" in mine:
                names = [name for name in self._members_of(one) if ways.get(name) == "one"]
                probed[one.push.id] = names
                for name in names:
                    ways[name] = "none"
        for name in {name for names in probed.values() for name in names}:
            save_breaker(connection, name, breaker.probed(breakers[name], now, deadline))
        return shut, probed

    def _members_of(self, one: Facts) -> list[str]:
        """The gateways that a push goes to."""
        if one.push.gateway not in self._needs_device:
            return [one.push.gateway]
        return sorted({device.gateway for device in one.chosen})

    def _wants(self, one: Facts) -> Mapping[str, int]:
        """How many of each bucket a push takes; most pushes of a batch take the same."""
        push = one.push
        gateways: tuple[str, ...] = (push.gateway,)
        if push.gateway in self._needs_device:
            gateways = tuple([device.gateway for device in one.chosen])
        key = (gateways, push.campaign_id, push.failed_before)
        if (known := self._known_wants.get(key)) is None:
            known = self._known_wants[key] = self._wanted(*key)
        return known

    def _wanted(self, gateways: tuple[str, ...], campaign_id: int, again: bool) -> Mapping[str, int]:
        messages = Counter(gateways)
        wants = {gateway_key(name): number for name, number in messages.items()}
        if campaign_id in self._campaigns:
            wants[campaign_key(campaign_id)] = 1
        if again:
            wants |= {retries_key(name): 1 for name in messages}
        return wants

    def _wait(self, key: str, place: int, empty: timedelta, rng: Random) -> timedelta:
        """Until about when the bucket `key`, `empty` for so long, has enough for the place-th of those that wait."""
        if key.startswith("retries:"):
            return PAUSE + (RETRY_PAUSE - PAUSE) * rng.random()
        rate = self.rate(key)
        turn = timedelta(seconds=place / rate.per_second) if rate is not None else timedelta(0)
        return max(PAUSE, max(empty, timedelta(0)) + turn)


def _total(wants: Sequence[Mapping[str, int]]) -> Counter[str]:
    """All of `wants` together; most are one and the same object."""
    total, distinct = Counter[str](), {id(want): want for want in wants}
    for place, number in Counter(map(id, wants)).items():
        for key, each in distinct[place].items():
            total[key] += number * each
    return total
