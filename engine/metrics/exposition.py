"""The figures in Prometheus' text format.

Totals (`…_total`, the histogram) count since the store exists and are the same from whichever process is asked, so one
scrape target is enough. Ages and lags of pushes and models are business time; of ticks, leases and the event queue,
machine time.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from datetime import datetime
from typing import Any

import redis
from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4, generate_latest

from engine.config import QUEUES
from engine.delivery.metering import LATENESS
from engine.metrics.figures import Figures, read_figures
from engine.store.database import Database

CONTENT_TYPE = CONTENT_TYPE_PLAIN_0_0_4


def exposition(database: Database, broker: redis.Redis, now: datetime) -> bytes:
    """Everything that is measured, at business time `now`; `broker`: Celery's Redis.

    A Redis that does not answer is said so (`horae_broker_up` 0), not raised. Raises StoreUnavailable.
    """
    with database.begin() as connection:
        figures = read_figures(connection, now)
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Collected(figures, queue_depths(broker)))
    return generate_latest(registry)


def queue_depths(broker: redis.Redis) -> dict[str, int] | None:
    """Messages that wait in each of Celery's queues; None where Redis does not answer."""
    try:
        return {name: int(broker.llen(name)) for name in QUEUES}
    except (redis.RedisError, OSError):
        return None


class _Collected:
    def __init__(self, figures: Figures, depths: Mapping[str, int] | None) -> None:
        self._figures, self._depths = figures, depths

    def collect(self) -> Iterator[Metric]:
        """Every metric."""
        yield from _pushes(self._figures)
        yield from _outcomes(self._figures)
        yield from _queues(self._figures, self._depths)
        yield from _standing(self._figures)


def _pushes(figures: Figures) -> Iterator[Metric]:
    yield _gauge("horae_pushes_due", "Planned pushes whose instant has come", ("gateway",), figures.due)
    yield _gauge("horae_oldest_due_age_seconds", "How late the oldest due push is", (), figures.oldest_due_seconds)
    yield _gauge("horae_pushes_under_way", "Pushes held by dispatchers", ("state",), figures.under_way)
    yield _gauge("horae_leases_expired", "Pushes whose dispatcher is late or dead", (), figures.leases_expired)
    yield _gauge("horae_unknown_last_day", "Pushes of 24 hours that may or may not have been received", (),
                 figures.unknown_last_day)  # fmt: skip


def _outcomes(figures: Figures) -> Iterator[Metric]:
    outcomes = figures.totals.outcomes
    labels = ("gateway", "state", "reason")
    yield _counter("horae_outcomes", "Pushes that ended, by gateway, state and reason", labels, outcomes)
    denied = {key[::2]: n for key, n in outcomes.items() if key[1] == "suppressed" and key[2] in ("capped", "gap")}
    yield _counter("horae_cap_denials", "Pushes that a cap or the minimum gap held back", ("gateway", "rule"), denied)
    unknown = {key[0]: n for key, n in _summed(outcomes, "unknown").items()}
    yield _counter("horae_unknown", "Pushes that may or may not have been received", ("gateway",), unknown)
    late = HistogramMetricFamily(
        "horae_lateness_seconds", "How long after its instant an accepted push left", labels=["gateway"]
    )
    for gateway, found in figures.totals.lateness.items():
        below, buckets = 0, []
        for bound, number in zip((*(str(bound) for bound in LATENESS), "+Inf"), found.buckets, strict=True):
            below += number
            buckets.append((bound, below))
        late.add_metric([gateway], buckets, found.seconds)
    yield late


def _summed(outcomes: Mapping[tuple[str, str, str], int], state: str) -> dict[tuple[str], int]:
    found: dict[tuple[str], int] = {}
    for (gateway, ended, _), number in outcomes.items():
        if ended == state:
            found[(gateway,)] = found.get((gateway,), 0) + number
    return found


def _queues(figures: Figures, depths: Mapping[str, int] | None) -> Iterator[Metric]:
    yield _gauge("horae_broker_up", "Whether Celery's Redis answers", (), float(depths is not None))
    yield _gauge("horae_queue_depth", "Messages that wait in a queue of Celery's", ("queue",), depths or {})
    yield _gauge("horae_events_unfolded", "Events that no profile holds yet (counted up to 100,000)", (),
                 figures.events_unfolded)  # fmt: skip
    yield _gauge("horae_event_fold_lag_seconds", "How long one of the oldest of these waits", (),
                 figures.unfolded_age_seconds)  # fmt: skip
    yield _gauge("horae_changed_users", "Users whose pushes wait to be planned again", (), figures.changed_users)
    yield _gauge("horae_tick_age_seconds", "Since a task of beat's last ended well", ("task",), figures.ticks)


def _standing(figures: Figures) -> Iterator[Metric]:
    yield _gauge("horae_campaigns", "Campaigns by state", ("state",), figures.campaigns)
    yield _gauge("horae_runs", "Planning runs in progress", ("state",), figures.runs)
    off = {(scope, str(scope in figures.stopped_by_horae).lower()): 1 for scope in figures.stopped}
    yield _gauge("horae_stopped", "Stop switches that are on", ("scope", "by_horae"), off)
    standing = {(one.gateway, one.state): 1 for one in figures.providers}
    yield _gauge("horae_breaker", "The circuit breaker of a gateway is in this state", ("gateway", "state"), standing)
    if figures.model is not None:
        age = (figures.now - figures.model.as_of).total_seconds()
        known = {(str(figures.model.version), figures.model.regime): age}
        yield _gauge(
            "horae_model_age_seconds", "Since the champion's newest training row", ("version", "regime"), known
        )
    callbacks = {tuple(label.split(":")): n for label, n in figures.counters.get("callbacks", {}).items()}
    yield _counter("horae_callbacks", "Callbacks by event and answer", ("event", "answer"), callbacks)
    yield _counter("horae_upkeep", "What upkeep found and mended", ("what",), figures.counters.get("upkeep", {}))


_Values = float | Mapping[Any, float]
"""One value, or values by label: a text, or a tuple of texts."""


def _gauge(name: str, said: str, labels: tuple[str, ...], values: _Values) -> Metric:
    metric = GaugeMetricFamily(name, said, labels=labels)
    for label, value in _each(values):
        metric.add_metric(label, value)
    return metric


def _counter(name: str, said: str, labels: tuple[str, ...], values: _Values) -> Metric:
    metric = CounterMetricFamily(name, said, labels=labels)
    for label, value in _each(values):
        metric.add_metric(label, value)
    return metric


def _each(values: _Values) -> Iterable[tuple[list[str], float]]:
    if not isinstance(values, Mapping):
        return [([], float(values))]
    return [([key] if isinstance(key, str) else list(key), float(value)) for key, value in values.items()]
