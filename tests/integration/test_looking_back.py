"""What the console looks back at: users and their weeks, what late binding changed, prices, kept backtests."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from typing import Any

import numpy as np
import pytest
from sqlalchemy import text

from engine import audit, clock
from engine.errors import UnknownName
from engine.features import schema
from engine.learning import registry
from engine.learning.backtest import kept
from engine.learning.portrait import calibration_curve
from engine.planning.pricelist import price_list
from engine.planning.progress import count_run, list_runs
from engine.planning.rebound import rebound
from engine.planning.refresh import refresh
from engine.planning.wake import ignore
from engine.privacy.finding import find_users
from engine.privacy.profile import read_profile, top_items
from engine.privacy.timeline import read_timeline
from engine.privacy.week import by_week
from engine.runtime import Runtime
from engine.store.tables import DECISION_REASONS
from engine.web.console.meanings import MEANINGS
from tests.integration.test_planning_refresh import LATER, happen, loose
from tests.models import small_model
from tests.planning_shop import NOW, Workers, create, daily, fill_shop


@pytest.fixture
def shop(runtime: Runtime) -> Runtime:
    """A shop whose campaign may send three pushes in a quarter of an hour, planned, a quarter of an hour later."""
    shop = fill_shop(runtime)
    create(shop, daily(horizon="14h", capacity_per_quarter=3))
    Workers(shop).tick()
    with shop.database.begin() as connection:
        clock.step_virtual(connection, LATER)
    return shop


def test_a_runs_prices_counts_and_changes_are_told(shop: Runtime) -> None:
    push = loose(shop, 1)[0]
    happen(shop, [(push.user_id, "unsubscribe", "i0")])
    refresh(shop, LATER, ignore)

    with shop.database.begin() as connection:
        run = list_runs(connection)[0]
        prices, counts, changed = (
            price_list(connection, run.id),
            count_run(connection, run.id),
            rebound(connection, run.id),
        )
        assert list_runs(connection, before=run.id) == []
        rows = connection.execute(text("SELECT count(DISTINCT user_id) FROM decisions")).scalar_one()

    assert [(rate.kind, rate.name) for rate in prices.rates] == [("campaign", "daily")]
    assert prices.rates[0].scarce > 0
    assert prices.rates[0].dearest[1] == max(price for _, price in prices.rates[0].quarters)
    assert sum(counts.reasons.values()) == rows
    assert changed.ended == {"no_consent": 1}
    assert changed.total == 1
    assert (changed.examples[0].user, changed.examples[0].after.reason) == (push.user_id, "no_consent")
    assert changed.examples[0].before.item == push.item


def test_what_shards_counted_and_what_was_revised_since_are_the_decisions_that_hold(shop: Runtime) -> None:
    happen(shop, [(push.user_id, "unsubscribe", "i0") for push in loose(shop, 2)])
    refresh(shop, LATER, ignore)

    with shop.database.begin() as connection:
        run = list_runs(connection)[0].id
        told = count_run(connection, run)
        connection.execute(text("UPDATE shards SET counts = NULL"))
        counted = count_run(connection, run)
        last = connection.execute(
            text(
                "SELECT reason, count(*) FROM (SELECT DISTINCT ON (occurrence_id, user_id) reason FROM decisions"
                " ORDER BY occurrence_id, user_id, revision DESC) held GROUP BY 1"
            )
        ).all()
        revised = connection.execute(
            text("SELECT count(DISTINCT (occurrence_id, user_id)) FROM decisions WHERE revision > 0")
        ).scalar_one()

    assert told == counted
    assert told.reasons == {DECISION_REASONS[reason]: n for reason, n in last}
    assert told.revised == revised > 2


def test_a_user_is_found_by_the_beginning_of_the_id_and_shown_without_tokens(shop: Runtime) -> None:
    with shop.database.begin() as connection:
        connection.execute(
            text(
                "INSERT INTO devices (user_id, gateway, token, seen_at) SELECT id, 'fcm', 'secret-token', :now"
                " FROM users WHERE external_id = 'u7'"
            ),
            {"now": NOW},
        )
        found = find_users(connection, "u7", 5)
        further = find_users(connection, "u7", 50, after=found[-1].name)
        profile = read_profile(connection, "u7")
        liked = top_items(connection, profile, LATER)
        entries = read_timeline(connection, profile.id, profile.zone, LATER.date(), 10)
        older = read_timeline(connection, profile.id, profile.zone, LATER.date(), 10, entries[-1].key)
        with pytest.raises(UnknownName, match="no user 'nobody'"):
            read_profile(connection, "nobody")

    assert found[0].name == "u7"
    assert all(user.name.startswith("u7") for user in found + further)
    assert not {user.name for user in found} & {user.name for user in further}
    assert "secret" not in repr(profile)
    assert [len(device.token) for device in profile.devices] == [12]
    assert len(liked) == 3
    assert [one.interest for one in liked] == sorted((one.interest for one in liked), reverse=True)
    assert [(entry.campaign, entry.run is not None) for entry in entries] == [("daily", True)]
    assert older == []


def test_a_week_is_by_the_users_own_clock() -> None:
    sunday = datetime(2026, 3, 1, 23, 30, tzinfo=UTC).timestamp()  # Monday, 8:30 in Tokyo

    week = by_week(np.array([sunday, sunday]), "Asia/Tokyo")

    assert week.sum() == 2
    assert week[0, 8] == 2
    assert by_week(np.array([sunday]), "UTC")[6, 23] == 1
    assert by_week(np.zeros(0), "UTC").shape == (7, 24)


def test_backtests_are_kept_the_latest_five(runtime: Runtime) -> None:
    staleness: dict[str, Any] = {"7": {"ndcg_10": 0.2}, "0": {"ndcg_10": 0.3}}
    with runtime.database.begin() as connection:
        assert kept.latest(connection) is None
        ids = [
            kept.keep(connection, NOW + timedelta(days=n), {"goal": "purchase", "staleness": staleness}, f"<p>{n}</p>")
            for n in range(7)
        ]
        latest = kept.latest(connection)

        assert latest is not None
        assert latest.id == ids[-1]
        assert [age for age, _ in latest.staleness] == [0, 7]
        assert kept.page_of(connection, ids[-1]) == "<p>6</p>"
        assert kept.page_of(connection, ids[1]) is None


def test_who_promotes_a_model_is_noted(runtime: Runtime) -> None:
    with runtime.database.begin() as connection:
        first, second = (registry.register(connection, small_model(), {}) for _ in range(2))
        registry.promote(connection, first, "ada")
        registry.promote(connection, second, "ada")
        assert registry.earlier_champion(connection) == first
        registry.rollback(connection, "eve")
        told = [(entry.actor, entry.action, entry.after) for entry in audit.read(connection)]

    assert told[:2] == [
        ("eve", "model.rollback", {"champion": first}),
        ("ada", "model.promote", {"champion": second}),
    ]


def test_a_calibration_curve_has_bins_of_equal_size_and_meets_what_happened() -> None:
    chances = np.linspace(0, 1, 300, dtype=np.float32)
    labels = np.arange(300) >= 150

    curve = calibration_curve(labels, chances)

    assert [rows for _, _, rows in curve] == [20] * 15
    assert [foretold for foretold, _, _ in curve] == sorted(foretold for foretold, _, _ in curve)
    assert (curve[0][1], curve[-1][1]) == (0.0, 1.0)


def test_every_feature_has_its_words() -> None:
    assert {feature.name: feature.meaning for feature in schema.FEATURES} == MEANINGS


def test_a_key_of_the_timeline_that_is_none_begins_anew(shop: Runtime) -> None:
    with shop.database.begin() as connection:
        profile = read_profile(connection, "u7")
        anew = read_timeline(connection, profile.id, profile.zone, date(2026, 3, 2), 10, "nonsense")

    assert [entry.campaign for entry in anew] == ["daily"]
