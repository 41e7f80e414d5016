"""What providers answered of late, written down for all workers: breakers, buckets, campaigns' volume.

A pass counts in memory and writes once a second, or at once where a provider failed. A breaker that opens and a
campaign that is paused are alarms, in the log and in `horae status`.
"""

from __future__ import annotations

import logging
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from sqlalchemy import Connection, text

from engine import clock
from engine.campaigns import store
from engine.campaigns.audience import AudienceQuery, count_audience
from engine.campaigns.audience_store import resolve
from engine.campaigns.policy_store import current_policy
from engine.campaigns.store import Stored
from engine.delivery import breaker, buckets, volume
from engine.delivery.breaker import Heard
from engine.delivery.gate_rows import (
    gateway_key,
    lock_breakers,
    lock_buckets,
    retries_key,
    save_breaker,
    save_buckets,
)
from engine.delivery.gates import Gates
from engine.delivery.gateways import PUSH, device_gateways
from engine.delivery.gateways.exchange import NO_TIME
from engine.delivery.messages import Kind, Outcome
from engine.delivery.volume import Volume
from engine.store.database import Transactions

logger = logging.getLogger(__name__)

EVERY_SECONDS = 1.0
LONGEST_REST = timedelta(minutes=15)
"""A provider's wish that nothing be sent is kept for so long at most; then it is asked again."""
KEPT = timedelta(days=1)

_FAILURES = (Kind.RETRY, Kind.UNKNOWN)
_WAITS = (Kind.RETRY, Kind.THROTTLED)
_ERRORS = ("payload_refused", "attempts", "no_answer")
_AT_PROVIDER = ("accepted", "unknown", "rejected")

_COUNT = text("""
    INSERT INTO campaign_minutes (campaign_id, minute, sent, ended, errors)
    SELECT * FROM unnest(CAST(:campaigns AS bigint[]), CAST(:minutes AS timestamptz[]), CAST(:sent AS bigint[]),
                         CAST(:ended AS bigint[]), CAST(:errors AS bigint[]))
    ON CONFLICT (campaign_id, minute) DO UPDATE SET sent = campaign_minutes.sent + excluded.sent,
        ended = campaign_minutes.ended + excluded.ended, errors = campaign_minutes.errors + excluded.errors
""")
_VOLUMES = text("""
    SELECT m.campaign_id, c.name, sum(m.sent)::bigint AS sent, sum(m.ended)::bigint AS ended,
           sum(m.errors)::bigint AS errors,
           (SELECT count(*) FROM occurrences o WHERE o.campaign_id = m.campaign_id AND o.starts_at <= :now
            AND o.ends_at > :since) AS occurrences
    FROM campaign_minutes m JOIN campaigns c ON c.id = m.campaign_id
    WHERE m.campaign_id = ANY(:campaigns) AND m.minute > :since AND m.minute <= :now AND c.state = 'running'
    GROUP BY m.campaign_id, c.name ORDER BY c.name
""")


@dataclass
class _Gateway:
    """What one gateway answered since the last flush."""

    answers: int = 0
    failures: int = 0
    why: str | None = None
    asked_to_wait: int = 0
    wait: timedelta = timedelta(0)
    firsts: int = 0


@dataclass
class _Ended:
    """Pushes of one campaign and minute of business time that ended since the last flush."""

    sent: int = 0
    ended: int = 0
    errors: int = 0


@dataclass
class Health:
    """What one pass heard. One thread uses it."""

    gates: Gates
    _gateways: defaultdict[str, _Gateway] = field(default_factory=lambda: defaultdict(_Gateway))
    _campaigns: defaultdict[tuple[int, datetime], _Ended] = field(default_factory=lambda: defaultdict(_Ended))
    _flushed: float = field(default_factory=clock.monotonic)

    def heard(self, gateway: str, outcomes: Sequence[Outcome], *, first: bool) -> None:
        """The answers to one push sent by `gateway`; `first`: at its first attempt."""
        for outcome in outcomes:
            if outcome.detail == NO_TIME:
                continue  # it was not sent
            one = self._gateways[outcome.gateway or gateway]
            one.answers += 1
            one.firsts += first
            if outcome.kind in _FAILURES:
                one.failures += 1
                one.why = outcome.detail or outcome.kind.value
            if outcome.kind in _WAITS and outcome.delay is not None:
                one.asked_to_wait += 1
                one.wait = max(one.wait, outcome.delay)

    def ended(self, campaign_id: int, state: str, reason: str | None, now: datetime, number: int = 1) -> None:
        """`number` pushes of a campaign ended at business time `now`."""
        if state not in _AT_PROVIDER or reason == "template":
            return
        one = self._campaigns[campaign_id, now.replace(second=0, microsecond=0)]
        one.ended += number
        one.sent += number * (state in ("accepted", "unknown"))
        one.errors += number * (reason in _ERRORS)

    def flush(self, database: Transactions, now: datetime, *, at_once: bool = False) -> Counter[str]:
        """Write down what was heard, where it is time; counts `breaker_opened` and `campaign_paused`."""
        if not (at_once or self._urgent() or clock.monotonic() - self._flushed >= EVERY_SECONDS):
            return Counter()
        self._flushed = clock.monotonic()
        counts = Counter[str]()
        gateways, self._gateways = self._gateways, defaultdict(_Gateway)
        if gateways or self.gates.unprobed or at_once:
            with database.begin() as connection:
                counts["breaker_opened"] = self._note_breakers(connection, gateways)
            with database.begin() as connection:
                self._note_buckets(connection, gateways)
        campaigns, self._campaigns = self._campaigns, defaultdict(_Ended)
        if campaigns:
            with database.begin() as connection:
                counts["campaign_paused"] = _note_campaigns(connection, campaigns, now)
        return counts

    def _urgent(self) -> bool:
        """Whether others should know at once: a failure, a wish to be left alone, a probe that is over."""
        return (
            bool(self.gates.unprobed)
            or any(
                one.failures or one.asked_to_wait or not self.gates.open_to(name)
                for name, one in self._gateways.items()
            )
            or any(one.errors for one in self._campaigns.values())
        )

    def _note_breakers(self, connection: Connection, gateways: dict[str, _Gateway]) -> int:
        unprobed, self.gates.unprobed = self.gates.unprobed, set()
        states, now = lock_breakers(connection, {*gateways, *unprobed})
        opened = 0
        for name, before in states.items():
            state = breaker.unprobed(before, now) if name in unprobed else before
            if (one := gateways.get(name)) is not None:
                state = breaker.after(state, Heard(one.answers, one.failures, one.why), now)
            if state != before:
                save_breaker(connection, name, state)
            if state.state == "open" and before.state != "open" and name not in unprobed:
                opened += 1
                logger.error(
                    "gateway %s fails and is left alone until %s: %s",
                    *(name, f"{state.until:%H:%M:%S} UTC", state.why),
                    extra={"action": "breaker_opened"},
                )
            elif state.state == "closed" and before.state != "closed":
                logger.warning("gateway %s answers again", name, extra={"action": "breaker_closed"})
        return opened

    def _note_buckets(self, connection: Connection, gateways: dict[str, _Gateway]) -> None:
        add: defaultdict[str, float] = defaultdict(float)
        rest: dict[str, timedelta] = {}
        for key, number in self.gates.returned().items():
            add[key] += number
        for name, one in gateways.items():
            if one.firsts:
                add[retries_key(name)] += one.firsts * buckets.RETRY_SHARE
            # A few that are told to wait are told so of their devices: these wait alone.
            if 2 * one.asked_to_wait >= one.answers > 0:
                rest[gateway_key(name)] = min(one.wait, LONGEST_REST)
        keys = sorted({*add, *rest})
        if not keys:
            return
        locked, now = lock_buckets(connection, keys, {key: rate for key in keys if (rate := self.gates.rate(key))})
        after = {}
        for key, bucket in locked.items():
            after[key] = buckets.changed(bucket, self.gates.rate(key), add[key], now)
            if key in rest:
                after[key] = buckets.emptied(after[key], now + rest[key])
                logger.warning(
                    "%s asks for a rest of %.0f s", key, rest[key].total_seconds(), extra={"action": "throttled"}
                )
        save_buckets(connection, after)


# --- campaigns -------------------------------------------------------------------------------------------------------


def _note_campaigns(connection: Connection, ended: dict[tuple[int, datetime], _Ended], now: datetime) -> int:
    ordered = sorted(ended)
    connection.execute(
        _COUNT,
        {
            "campaigns": [campaign for campaign, _ in ordered],
            "minutes": [minute for _, minute in ordered],
            "sent": [ended[key].sent for key in ordered],
            "ended": [ended[key].ended for key in ordered],
            "errors": [ended[key].errors for key in ordered],
        },
    )
    return sum(
        pause(connection, name, why) for name, why in _mistakes(connection, {campaign for campaign, _ in ended}, now)
    )


def _mistakes(connection: Connection, campaigns: set[int], now: datetime) -> list[tuple[str, str]]:
    """(name, why) of each of `campaigns` that should pause."""
    found = []
    parameters = {"campaigns": sorted(campaigns), "now": now, "since": now - volume.WINDOW}
    for row in connection.execute(_VOLUMES, parameters).all():
        seen = Volume(row.sent, row.ended, row.errors)
        why = volume.too_many_errors(seen)
        if why is None and volume.may_be_too_much(seen, row.occurrences):
            why = volume.too_much(seen, reachable(connection, store.get(connection, row.name), now))
        if why is not None:
            found.append((row.name, why))
    return found


def reachable(connection: Connection, campaign: Stored, now: datetime) -> int:
    """Users of the campaign's audience that it can reach now: with consent, and with a device where it needs one."""
    _, policy = current_policy(connection)
    definition = campaign.definition
    query = AudienceQuery(
        where=resolve(connection, definition.audience),
        now=now,
        gateway=definition.gateway,
        needs_device=definition.gateway in (PUSH, *device_gateways()),
        default_timezone=policy.default_timezone,
    )
    return count_audience(connection, query).get("eligible", 0)


def pause(connection: Connection, name: str, why: str) -> bool:
    """Pause a running campaign for Horae's own reasons; whether it was running."""
    paused = store.pause(connection, name, why)
    if paused:
        logger.error("campaign %s is paused: %s", name, why, extra={"action": "campaign_paused"})
    return paused


# --- for people and metrics ------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class GatewayHealth:
    """How a gateway's provider is doing: `state` of its breaker, what it answered in the present window, and until
    when (machine time) it is left alone or asked for a rest."""

    gateway: str
    state: str
    until: datetime | None
    why: str | None
    answers: int
    failures: int
    resting_until: datetime | None


_GATEWAYS = text("""
    SELECT coalesce(b.gateway, substr(k.key, 9)) AS gateway, coalesce(b.state, 'closed') AS state, b.until, b.why,
           coalesce(b.answers, 0) AS answers, coalesce(b.failures, 0) AS failures,
           CASE WHEN k.at > clock_timestamp() THEN k.at END AS resting_until
    FROM breakers b FULL JOIN (SELECT * FROM buckets WHERE key LIKE 'gateway:%') k ON k.key = 'gateway:' || b.gateway
    ORDER BY 1
""")


def gateways(connection: Connection) -> list[GatewayHealth]:
    """How every provider that was ever asked is doing."""
    return [GatewayHealth(**row._mapping) for row in connection.execute(_GATEWAYS)]


def forget(connection: Connection, now: datetime) -> int:
    """Forget counts of business days past, and buckets that are full by now; how many rows."""
    gone = connection.execute(text("DELETE FROM campaign_minutes WHERE minute < :until"), {"until": now - KEPT})
    full = connection.execute(
        text("DELETE FROM buckets WHERE at < clock_timestamp() - CAST(:kept AS interval)"), {"kept": KEPT}
    )
    return gone.rowcount + full.rowcount
