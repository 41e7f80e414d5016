"""A campaign's report: who counts where, what answers which push, and what the holdout says; counted by hand."""

from __future__ import annotations

import json
import uuid
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from engine.cli.app import app
from engine.errors import BadInput, UnknownName
from engine.report import intervals
from engine.report.campaign import Report, report
from engine.report.intervals import clustered_rate, difference, rate_of, wilson
from engine.runtime import Runtime
from engine.store import partitions
from engine.store.tables import ARMS, DECISION_REASONS, EVENT_TYPES
from tests.delivery_store import NOON, DeliveryShop

DAY = NOON.date()
SOON = NOON + timedelta(hours=1)


class Ledger(DeliveryShop):
    """A shop whose decisions, deliveries and events are written by hand."""

    def decided(self, user: str, reason: str = "planned", arm: str = "exploit", **more: Any) -> Any:
        push = more.pop("push_id", uuid.uuid4() if reason == "planned" else None)
        values = {
            "date": DAY,
            "occurrence_id": self.occurrences["bread"],
            "user_id": self.user(user),
            "revision": 0,
            "run_id": self.run_id,
            "shard": 0,
            "arm": ARMS.index(arm),
            "reason": DECISION_REASONS.index(reason),
            "push_id": push,
            **more,
        }
        self._insert("decisions", values, returning="user_id")
        return push

    def delivered(self, push: uuid.UUID | None, user: str, **more: Any) -> None:
        values = {
            "day": DAY,
            "id": uuid.uuid4(),
            "push_id": push,
            "state": "accepted",
            "at": NOON,
            "occurrence_id": self.occurrences["bread"],
            "campaign_id": 1,
            "user_id": self.user(user),
            "item_id": None,
            "gateway": "log",
            "attempts": 1,
            "send_at": NOON,
            "counts": True,
            "scopes": [],
            **more,
        }
        self._insert("deliveries", values)

    def did(self, user: str, what: str, at: datetime, push: uuid.UUID | None = None, **more: Any) -> None:
        values = {
            "key": uuid.uuid4(),
            "user_id": self.user(user),
            "event_type": EVENT_TYPES[what],
            "occurred_at": at,
            "received_at": at,
            "push_id": push,
            **more,
        }
        self._insert("events", values, returning="key")

    def report(self, now: datetime = NOON + timedelta(days=8), **more: Any) -> Report:
        return report(self.database, now, "bread", DAY, DAY + timedelta(days=1), **more)


@pytest.fixture
def shop(runtime: Runtime) -> Ledger:
    partitions.ensure_ahead(runtime.database, NOON)
    partitions.ensure_ahead(runtime.database, NOON + timedelta(days=8))
    shop = Ledger(runtime.database)
    shop.campaign()
    return shop


def test_the_funnel_adds_up_and_each_reason_is_there(shop: Ledger) -> None:
    for user, state, why, attempts in (
        ("a", "accepted", None, 1), ("b", "rejected", "dead_device", 1), ("c", "suppressed", "capped", 0),
        ("d", "unknown", "no_answer", 1), ("e", "expired", "expired", 0),
    ):  # fmt: skip
        shop.delivered(shop.decided(user), user, state=state, reason=why, attempts=attempts)
    waits = shop.push("f", send_at=NOON + timedelta(days=1))
    shop.decided("f", push_id=waits)
    shop.decided("g")
    shop.decided("h", "capped")
    shop.decided("i", "not_eligible")
    replanned = shop.decided("j")
    shop.decided("j", "displaced", push_id=replanned, revision=1)

    found = shop.report()

    assert found.funnel == {
        "audience": 10, "planned": 7, "sent": 3, "accepted": 1, "opened": 0, "clicked": 0, "converted": 0
    }  # fmt: skip
    assert found.not_planned == {"capped": 1, "displaced": 1, "not_eligible": 1}
    assert found.ended == {
        "accepted": 1, "expired: expired": 1, "lost": 1, "rejected: dead_device": 1, "suppressed: capped": 1,
        "unknown: no_answer": 1, "waiting": 1,
    }  # fmt: skip
    assert found.funnel["audience"] == found.funnel["planned"] + sum(found.not_planned.values())
    assert found.funnel["planned"] == sum(found.ended.values())


def test_an_answer_belongs_to_the_push_it_names_else_to_the_last_one_before_it(shop: Ledger) -> None:
    item, other = shop.item("rye"), shop.item("milk")
    named, unnamed, late, overtaken, stranger = (shop.decided(user) for user in "abcde")
    for push, user in ((named, "a"), (unnamed, "b"), (late, "c"), (overtaken, "d"), (stranger, "e")):
        shop.delivered(push, user, item_id=item)
    shop.delivered(uuid.uuid4(), "d", at=SOON, item_id=other)  # another campaign's
    shop.did("a", "push_click", NOON - timedelta(seconds=20), named)  # the ledger wrote the delivery down later
    shop.did("b", "push_open", SOON)
    shop.did("c", "push_open", NOON + timedelta(days=1), late)
    shop.did("d", "push_open", SOON + timedelta(minutes=1))
    shop.did("e", "push_open", SOON, uuid.uuid4())
    shop.did("a", "purchase", NOON + timedelta(days=6), item_id=item)
    shop.did("b", "purchase", NOON + timedelta(days=6), item_id=other)
    shop.did("c", "purchase", NOON + timedelta(days=7), item_id=item)
    shop.did("d", "purchase", SOON + timedelta(days=1), item_id=item)
    shop.did("e", "purchase", SOON, stranger, item_id=other)

    found = shop.report()

    assert {name: found.funnel[name] for name in ("accepted", "opened", "clicked", "converted")} == {
        "accepted": 5, "opened": 2, "clicked": 1, "converted": 3
    }  # fmt: skip


def test_arms_and_local_hours_are_told_apart(shop: Ledger) -> None:
    for user, arm, zone in (("a", "exploit", "Asia/Tokyo"), ("b", "exploit", "UTC"), ("c", "explore", None)):
        shop.user(user, timezone=zone)
        push = shop.decided(user, arm=arm)
        shop.delivered(push, user)
        if user != "b":
            shop.did(user, "push_open", SOON, push)

    found = shop.report()

    assert [(arm.arm, arm.pushes, arm.opened.hits) for arm in found.arms] == [("exploit", 2, 1), ("explore", 1, 1)]
    assert [(hour.hour, hour.pushes, hour.opened.hits) for hour in found.hours] == [(12, 2, 1), (21, 1, 1)]
    assert found.open_windows == 0
    assert shop.report(NOON + timedelta(days=2)).open_windows == 3


def test_the_uplift_counts_everybody_drawn_whether_a_push_reached_them_or_not(shop: Ledger) -> None:
    shop.delivered(shop.decided("reached"), "reached")
    shop.decided("capped", "capped")
    shop.decided("outside", "no_consent")
    shop.decided("held", "holdout", "holdout")
    shop.decided("held2", "holdout", "holdout")
    for user in ("reached", "capped", "outside", "held"):
        shop.did(user, "purchase", SOON, value=10.0)
    shop.did("held2", "purchase", NOON - timedelta(hours=2))
    shop.did("held2", "purchase", NOON + timedelta(days=8, hours=1))

    up = shop.report(NOON + timedelta(days=9)).uplift

    assert (up.users.n, up.users.hits, up.held_out.n, up.held_out.hits) == (2, 2, 2, 1)
    assert (up.share, up.value_per_user, up.value_per_held_out) == (0.5, 10.0, 5.0)
    assert up.difference is not None
    assert up.difference.difference == 0.5
    assert up.difference.noise
    assert (up.relative, up.gained) == (1.0, 1.0)


def test_who_was_once_in_each_group_counts_in_neither(shop: Ledger) -> None:
    shop.decided("moved", "holdout", "holdout")
    shop.another_occurrence("bread", "second")
    shop.decided("moved", "capped")

    up = shop.report().uplift

    assert (up.users.n, up.held_out.n, up.mixed, up.difference) == (0, 0, 1, None)


def test_what_is_not_there_is_said(shop: Ledger) -> None:
    with pytest.raises(UnknownName, match="did you mean bread"):
        report(shop.database, NOON, "bred", None, None)
    with pytest.raises(UnknownName, match="no events of type 'purchse'"):
        shop.report(goal="purchse")
    with pytest.raises(BadInput, match="is empty"):
        report(shop.database, NOON, "bread", DAY, DAY)


def test_the_command_prints_the_funnel_and_writes_a_page_of_its_own(
    runtime: Runtime, shop: Ledger, tmp_path: Path
) -> None:
    push = shop.decided("a")
    shop.delivered(push, "a")
    shop.did("a", "push_open", NOON, push)
    shop.decided("h", "holdout", "holdout")
    shop.sql("UPDATE workspace SET business_now = :now", now=NOON + timedelta(days=8))
    environment = {
        "HORAE_HOME": str(runtime.settings.home),
        "HORAE_DATABASE_URL": runtime.database.libpq_url,
        "HORAE_REDIS_URL": runtime.redis_url,
    }
    file = tmp_path / "report.html"

    shown = CliRunner().invoke(app, ["report", "bread", "--html", str(file)], env=environment)
    told = CliRunner().invoke(app, ["report", "bread", "--json"], env=environment)

    assert shown.exit_code == 0, shown.output
    assert "audience" in shown.output
    assert "no effect beyond chance" in shown.output
    assert json.loads(told.stdout)["funnel"]["opened"] == 1
    page = file.read_text()
    assert page.count("<svg") == 2
    assert "src=" not in page
    assert "http" not in page


# --- intervals -------------------------------------------------------------------------------------------------------


def test_wilsons_interval_is_the_published_one_and_stays_inside() -> None:
    low, high = wilson(81 / 263, 263)  # Newcombe 1998, table I, method 3
    assert (round(low, 4), round(high, 4)) == (0.2553, 0.3662)
    assert wilson(0.0, 20)[0] == 0.0
    assert 0 < wilson(0.0, 20)[1] < 0.2
    assert rate_of(0, 0).rate is None


def test_newcombes_interval_of_a_difference_is_the_published_one() -> None:
    found = difference(rate_of(56, 70), rate_of(48, 80))  # Newcombe 1998, table II, method 10
    assert found is not None
    assert (round(found.low, 4), round(found.high, 4), found.noise) == (0.0524, 0.3339, False)
    assert difference(rate_of(1, 2), rate_of(0, 0)) is None


def test_pushes_of_one_user_are_no_independent_proof() -> None:
    user = np.repeat(np.arange(50), 10)
    together = np.repeat(np.arange(50) % 2 == 0, 10)
    apart = np.arange(500) % 2 == 0

    assert intervals.effective(user, together) == pytest.approx(49, rel=0.03)
    assert intervals.effective(user, apart) == 50  # every user alike: not more than one a user is sure
    wide, alone = clustered_rate(user, together), rate_of(int(together.sum()), 500)
    assert wide.low is not None
    assert alone.low is not None
    assert wide.low < alone.low


def test_intervals_by_user_hold_the_truth_as_often_as_they_say() -> None:
    rng = np.random.default_rng(1)
    held = 0
    for _ in range(400):
        chances = rng.beta(2, 18, 200)
        user = np.repeat(np.arange(200), rng.integers(1, 12, 200))
        found = clustered_rate(user, rng.random(len(user)) < chances[user])
        assert found.low is not None
        assert found.high is not None
        held += found.low <= 0.1 <= found.high
    assert 0.92 <= held / 400 <= 0.98
