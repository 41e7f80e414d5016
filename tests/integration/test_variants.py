"""Variants of a message under test, from the definition to the report."""

from __future__ import annotations

import uuid
from collections import Counter
from datetime import timedelta
from random import Random

import pytest
from sqlalchemy import text

from engine.campaigns.definition import Campaign
from engine.campaigns.experiment import split_of
from engine.campaigns.review import review
from engine.campaigns.wording import Experiment
from engine.delivery import trial
from engine.delivery.dispatch import dispatch_due
from engine.errors import UnknownName
from engine.planning.explain import explain
from engine.planning.preview import preview
from engine.planning.runspec import secret_of
from engine.planning.trigger import Request, spec_of
from engine.report.campaign import report
from engine.report.page import page
from engine.runtime import Runtime
from engine.store.partitions import ensure_ahead
from engine.store.tables import ARMS, DECISION_REASONS
from tests.delivery_store import NOON, DeliveryShop, journal
from tests.planning_shop import NOW, Workers, create, daily, fill_shop

TESTED = {
    "title": "Plain",
    "body": "Fresh",
    "experiment": {
        "name": "subject",
        "arms": {"plain": {"weight": 1}, "asking": {"weight": 1, "title": "Asking {{ user.id }}?"}},
    },
}

SUBJECT = Experiment.model_validate(TESTED["experiment"])


def test_each_user_is_sent_their_arm_and_the_delivery_says_which_also_in_the_next_occurrence(runtime: Runtime) -> None:
    ensure_ahead(runtime.database, NOON)
    shop = DeliveryShop(runtime.database)
    campaign = shop.campaign(message=TESTED)
    ids = {f"u{n}": shop.user(f"u{n}") for n in range(40)}
    for occurrence in ("first", "second"):
        if occurrence == "second":
            shop.another_occurrence("bread", occurrence)
        for user in ids:
            shop.push(user)
        assert dispatch_due(runtime, NOON, rng=Random(1)) == {"accepted": 40}
    with runtime.database.begin() as connection:
        split = split_of(secret_of(connection), campaign, SUBJECT)
        found = connection.execute(text("SELECT user_id, variant FROM deliveries")).all()
    drawn = {user: split.arm(user_id) for user, user_id in ids.items()}
    assert {row.user_id: row.variant for row in found} == {ids[u]: f"subject:{arm}" for u, arm in drawn.items()}
    assert len(found) == 80
    assert set(drawn.values()) == {"plain", "asking"}
    sent = Counter((line["user_id"], line["title"]) for line in journal(runtime.settings.journal_path))
    meant = {"plain": "Plain", "asking": "Asking {}?"}
    assert sent == {(user, meant[arm].format(user)): 2 for user, arm in drawn.items()}


def test_a_test_push_shows_the_arm_asked_for_else_the_users_own(runtime: Runtime) -> None:
    ensure_ahead(runtime.database, NOON)
    shop = DeliveryShop(runtime.database)
    shop.campaign(message=TESTED)
    shop.user("ada")
    own = trial.send_test(runtime, NOON, "bread", trial.Wanted("ada"))
    assert trial.send_test(runtime, NOON, "bread", trial.Wanted("ada", variant="asking")).title == "Asking ada?"
    assert trial.send_test(runtime, NOON, "bread", trial.Wanted("ada", variant="plain")).title == "Plain"
    assert own.title == {"plain": "Plain", "asking": "Asking ada?"}[own.variant or ""]
    with pytest.raises(UnknownName, match="no variant 'aksing'"):
        trial.send_test(runtime, NOON, "bread", trial.Wanted("ada", variant="aksing"))


def test_every_arm_is_tried_on_users_when_the_campaign_is_saved(runtime: Runtime) -> None:
    shop = DeliveryShop(runtime.database)
    shop.user("ada")
    arms = {"plain": {"weight": 1}, "odd": {"weight": 1, "title": "{{ user.attributes.nobody_has }}"}}
    spec = {**TESTED, "experiment": {"name": "subject", "arms": arms}}
    with runtime.database.begin() as connection:
        campaign = Campaign.model_validate({"name": "bread", "class": "marketing", "message": spec})
        errors = review(connection, campaign, NOON, ["log"]).errors
    assert len(errors) == 1
    assert errors[0].startswith("message.experiment.arms.odd: for none of 1 users in the store it can be rendered")


def test_preview_and_explanation_name_the_users_variant(runtime: Runtime) -> None:
    shop = fill_shop(runtime)
    ensure_ahead(shop.database, NOW)
    create(shop, daily(message={**TESTED, "title": "{{ item.title }}"}))
    examples = preview(shop.database, shop.gateways, spec_of(shop.database, NOW, "daily", Request())).examples
    assert {one.variant for one in examples} <= {"plain", "asking"}
    Workers(shop).tick()
    with shop.database.begin() as connection:
        push = connection.execute(text("SELECT p.user_id, u.external_id, p.campaign_id FROM pushes p"
                                       " JOIN users u ON u.id = p.user_id ORDER BY 1 LIMIT 1")).one()  # fmt: skip
        drawn = split_of(secret_of(connection), push.campaign_id, SUBJECT).label(push.user_id)
    found = explain(shop.database, shop.gateways, push.external_id, "daily")[0]
    assert (found.variant, found.verdict) == (drawn, "agrees")


def test_the_report_counts_each_variant_and_compares_it_with_the_first(runtime: Runtime) -> None:
    ensure_ahead(runtime.database, NOON)
    shop = DeliveryShop(runtime.database)
    campaign = shop.campaign(message=TESTED)
    later = NOON + timedelta(hours=1)
    ensure_ahead(runtime.database, NOON + timedelta(days=8))
    with runtime.database.begin() as connection:
        for n in range(120):
            user, push = shop.user(f"u{n}"), uuid.uuid4()
            variant = ("subject:asking", "subject:plain", None)[n % 3]
            clicks = n % 3 == 0 or (n % 3 == 1 and n % 4 == 0)
            given = {"day": NOON.date(), "o": shop.occurrences["bread"], "user": user, "push": push, "at": NOON,
                     "campaign": campaign, "variant": variant, "planned": DECISION_REASONS.index("planned"),
                     "run": shop.run_id, "arm": ARMS.index("exploit"), "later": later, "key": uuid.uuid4()}  # fmt: skip
            connection.execute(text(
                "INSERT INTO decisions (date, occurrence_id, user_id, revision, run_id, shard, arm, reason, push_id)"
                " VALUES (:day, :o, :user, 0, :run, 0, :arm, :planned, :push)"), given)  # fmt: skip
            connection.execute(text(
                "INSERT INTO deliveries (day, id, push_id, state, at, occurrence_id, campaign_id, user_id, gateway,"
                " attempts, send_at, counts, scopes, variant) VALUES (:day, :push, :push, 'accepted', :at, :o,"
                " :campaign, :user, 'log', 1, :at, true, '{}', :variant)"), given)  # fmt: skip
            if clicks:
                connection.execute(text(
                    "INSERT INTO events (key, user_id, event_type, occurred_at, received_at, push_id)"
                    " VALUES (:key, :user, 8, :later, :later, :push)"), given)  # fmt: skip
    found = report(runtime.database, NOON + timedelta(days=8), "bread", NOON.date(), NOON.date() + timedelta(days=1))
    asking, plain = found.variants
    assert (asking.experiment, asking.arm, asking.pushes, asking.clicked.hits, asking.less) == (
        "subject", "asking", 40, 40, None,
    )  # fmt: skip
    assert (plain.arm, plain.pushes, plain.clicked.hits) == ("plain", 40, 10)
    assert plain.less is not None
    less = plain.less["clicked"]
    assert less is not None
    assert (less.difference, less.noise) == (-0.75, False)
    assert found.arms[0].pushes == 120
    assert "plain less asking, clicked: -75.00 points" in page(found)
