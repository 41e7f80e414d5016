"""Metrics: read from the tables, in agreement with `horae status`, monotone, and never by counting history."""

from __future__ import annotations

import json
from datetime import timedelta
from typing import Any

import redis
from prometheus_client.parser import text_string_to_metric_families
from sqlalchemy import text
from typer.testing import CliRunner

from engine.campaigns.policy import Cap
from engine.cli.app import app
from engine.delivery import metering
from engine.delivery.dispatch import dispatch_due
from engine.delivery.switches import stop, stop_channel
from engine.metrics import exposition
from engine.runtime import Runtime
from engine.store import counters, ticks
from tests.delivery_store import NOON, DeliveryShop


def scraped(runtime: Runtime, now: Any = NOON) -> dict[tuple[str, ...], float]:
    broker = redis.Redis.from_url(runtime.broker_url)
    body = exposition(runtime.database, broker, now).decode()
    broker.close()
    return {
        (sample.name.removeprefix("horae_"), *(value for _, value in sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(body)
        for sample in family.samples
    }


def ended(found: dict[tuple[str, ...], float]) -> dict[tuple[str, ...], float]:
    return {name: value for name, value in found.items() if name[0].startswith(("outcomes", "lateness"))}


def recorded_long_ago(shop: DeliveryShop) -> None:
    shop.sql("UPDATE deliveries SET recorded_at = recorded_at - interval '5 minutes'")
    shop.sql("UPDATE workspace SET metered_until = metered_until - interval '10 minutes'")


def test_outcomes_lateness_and_denials_are_totals_by_gateway_and_reason(runtime: Runtime, shop: DeliveryShop) -> None:
    shop.policy(Cap(id="daily", limit=1, window="local_day"))
    shop.campaign("a")
    shop.campaign("b")
    shop.push("u1", "a", send_at=NOON - timedelta(seconds=3))
    shop.push("u2", "a", send_at=NOON - timedelta(minutes=90), window_end=NOON + timedelta(hours=1))
    dispatch_due(runtime, NOON)
    shop.push("u1", "b")
    dispatch_due(runtime, NOON)

    found = scraped(runtime)

    assert found["outcomes_total", "log", "", "accepted"] == 2
    assert found["outcomes_total", "log", "capped", "suppressed"] == 1
    assert found["cap_denials_total", "log", "capped"] == 1
    assert [found["lateness_seconds_bucket", "log", bound] for bound in ("2.0", "5.0", "3600.0", "+Inf")] == [
        0,
        1,
        1,
        2,
    ]
    assert found["lateness_seconds_sum", "log"] == 5403


def test_totals_stay_when_the_mark_moves_and_when_the_ledger_is_dropped(runtime: Runtime, shop: DeliveryShop) -> None:
    shop.campaign()
    shop.pushes(["u1", "u2"])
    dispatch_due(runtime, NOON)
    recorded_long_ago(shop)
    before = ended(scraped(runtime))
    assert before

    assert metering.meter(runtime.database) == 2
    assert metering.meter(runtime.database) == 0
    assert ended(scraped(runtime)) == before
    shop.sql("DELETE FROM deliveries")
    shop.another_occurrence("bread", "second")
    shop.push("u3")
    dispatch_due(runtime, NOON)

    assert scraped(runtime)["outcomes_total", "log", "", "accepted"] == 3


def test_what_waits_is_under_way_or_stands_still_is_told(runtime: Runtime, shop: DeliveryShop) -> None:
    shop.campaign()
    shop.push("u1", send_at=NOON - timedelta(seconds=90))
    shop.push("u2", send_at=NOON + timedelta(hours=1))
    shop.push("u3", state="sending", lease_until=NOON - timedelta(days=400))
    shop.sql(
        "INSERT INTO unfolded_events (key, slot, event_type, occurred_at, created_at)"
        " VALUES (gen_random_uuid(), -1, 1, :now, clock_timestamp() - interval '30 seconds')",
        now=NOON,
    )
    shop.sql("INSERT INTO models (state, regime, artifact, sha256, feature_schema, metrics, libraries, as_of)"
             " VALUES ('champion', 'click', '', '', '{}', '{}', '{}', :at)", at=NOON - timedelta(hours=5))  # fmt: skip
    with runtime.database.begin() as connection:
        stop_channel(connection, "fcm", "401")
        stop(connection, "campaign:1", "ada", None)
        counters.add(connection, "upkeep", {"rescued.unknown": 2})
    ticks.mark(runtime.database, "dispatch_due")
    client = redis.Redis.from_url(runtime.broker_url)
    client.rpush("plan", "a message")

    found = scraped(runtime)

    assert (found["pushes_due", "log"], found["oldest_due_age_seconds",]) == (1, 90)
    assert (found["pushes_under_way", "sending"], found["leases_expired",]) == (1, 1)
    assert found["events_unfolded",] == 1
    assert 30 <= found["event_fold_lag_seconds",] < 90
    assert found["model_age_seconds", "click", "1"] == 5 * 3600
    assert (found["stopped", "true", "gateway:fcm"], found["stopped", "false", "campaign:1"]) == (1, 1)
    assert 0 <= found["tick_age_seconds", "dispatch_due"] < 60
    assert (found["queue_depth", "plan"], found["queue_depth", "upkeep"], found["broker_up",]) == (1, 0, 1)
    assert found["upkeep_total", "rescued.unknown"] == 2
    client.delete("plan")


def test_a_broker_that_is_away_is_said_and_not_raised(runtime: Runtime, shop: DeliveryShop) -> None:
    away = redis.Redis(port=1, socket_connect_timeout=1)

    body = exposition(runtime.database, away, NOON).decode()

    assert "horae_broker_up 0.0" in body


def test_status_and_metrics_say_the_same(runtime: Runtime, shop: DeliveryShop) -> None:
    shop.campaign()
    shop.push("u1")
    dispatch_due(runtime, NOON)
    shop.sql("UPDATE deliveries SET state = 'unknown', reason = 'no_answer'")
    shop.push("u2")
    shop.push("u3", state="claimed", lease_until=NOON - timedelta(days=400))
    shop.sql(
        "INSERT INTO breakers (gateway, state, since, until, trips, counted_from, answers, failures, why)"
        " VALUES ('fcm', 'open', now(), now() + interval '1 hour', 1, now(), 9, 9, '503')"
    )
    shop.sql("INSERT INTO counters VALUES ('lost', '2026-03-01', 0, 4)")
    environment = {
        "HORAE_HOME": str(runtime.settings.home),
        "HORAE_DATABASE_URL": runtime.database.libpq_url,
        "HORAE_REDIS_URL": runtime.redis_url,
    }

    status = json.loads(CliRunner().invoke(app, ["status", "--json"], env=environment).stdout)
    printed = CliRunner().invoke(app, ["metrics"], env=environment).stdout

    store = status["store"]
    found = scraped(runtime)
    assert found["unknown_last_day",] == store["unknown_last_day"] == 1
    assert found["unknown_total", "log"] == 1
    assert found["pushes_due", "log"] == store["pushes_due"] == store["due_by_gateway"]["log"] == 1
    assert found["leases_expired",] == store["leases_expired"] == 1
    assert "horae_unknown_last_day 1.0" in printed
    assert found["breaker", "fcm", "open"] == 1
    assert any(alarm.startswith("gateway fcm fails (503) and is left alone") for alarm in status["alarms"])
    assert any("4 pushes of 2026-03-01" in alarm for alarm in status["alarms"])


def test_no_query_of_theirs_reads_a_whole_table_that_grows(runtime: Runtime, shop: DeliveryShop) -> None:
    """With the tables as large as they grow, and nothing due."""
    shop.campaign()
    shop.push("template", send_at=NOON + timedelta(hours=2))
    shop.sql(
        "INSERT INTO pushes SELECT (jsonb_populate_record(p, jsonb_build_object("
        "'id', gen_random_uuid(), 'user_id', n, 'slot', n % 1024))).* FROM pushes p, generate_series(1000, 60000) n"
    )
    dispatch_due(runtime, NOON)  # makes the day's partition
    shop.sql(
        "INSERT INTO deliveries (day, id, push_id, state, at, campaign_id, user_id, gateway, attempts, send_at, counts,"
        " scopes, recorded_at) SELECT CAST(:now AS date), gen_random_uuid(), gen_random_uuid(), 'accepted', :now, 1, n,"
        " 'log', 1, :now, true, '{}', clock_timestamp() - interval '1 hour' FROM generate_series(1, 60000) n",
        now=NOON,
    )
    shop.sql("UPDATE workspace SET metered_until = clock_timestamp() - interval '3 minutes'")
    with runtime.database.autocommit() as connection:
        connection.execute(text("VACUUM ANALYZE"))
        connection.execute(text("SELECT pg_stat_force_next_flush()"))  # what VACUUM read is not theirs
        connection.execute(text("SELECT pg_stat_reset()"))

    scraped(runtime)

    with runtime.database.autocommit() as connection:
        connection.execute(text("SELECT pg_stat_force_next_flush()"))
        read = connection.execute(
            text("SELECT relname, seq_tup_read + coalesce(idx_tup_fetch, 0) FROM pg_stat_user_tables"
                 " WHERE relname LIKE 'deliveries%' OR relname = 'pushes'")
        ).all()  # fmt: skip
    assert {name: n for name, n in read if n > 10_000} == {}, "but one range of the index on recorded_at"
