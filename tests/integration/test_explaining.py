"""Explanations on a real store: agree with the plan, name what bound, say what would have been, notice tampering."""

from __future__ import annotations

from datetime import timedelta

import numpy as np
import pytest
import xgboost
from sqlalchemy import text

from engine.campaigns.policy import Cap
from engine.errors import BadInput, UnknownName
from engine.features.logged import ROW
from engine.features.schema import NAMES
from engine.learning import registry, related
from engine.learning.candidates import Blend
from engine.learning.head import Head
from engine.learning.model import Model
from engine.learning.windows import with_everybody
from engine.planning.explain import Explanation, explain
from engine.runtime import Runtime
from engine.store.partitions import ensure_ahead
from engine.store.tables import ARMS, DECISION_REASONS
from tests.planning_shop import NOW, Workers, create, daily, fill_shop, rows, set_caps

CAP = Cap(id="cap-1", scope="all", limit=1, window="local_day")


def learn(shop: Runtime, regime: str) -> None:
    """A champion that prefers what a user bought, at their hours."""
    rng = np.random.default_rng(5)
    seen = rng.random((4_000, len(NAMES)), dtype=np.float32) * 3
    seen[rng.random(seen.shape) < 0.3] = np.nan
    liked = np.nan_to_num(seen[:, NAMES.index("pair_purchases_45d")]) + np.nan_to_num(
        seen[:, NAMES.index("window_log_ratio")]
    )
    booster = xgboost.train(
        {"objective": "binary:logistic", "max_depth": 3, "nthread": 1},
        xgboost.DMatrix(seen, (liked + rng.normal(0, 0.5, len(seen)) > 2).astype(np.float32)),
        20,
    )
    with shop.database.begin() as connection:
        items = np.array(connection.execute(text("SELECT id FROM items ORDER BY id")).scalars().all(), np.int64)
        windows = with_everybody(np.ones(48))
        head = Head(0.5, 1.0, 1.0, booster) if regime == "click" else None
        model = Model(booster, 1.0, related.nothing(items), Blend(), windows, NOW, head=head)
        registry.promote(connection, registry.register(connection, model, {}))


def user_with(shop: Runtime, reason: str, arm: str = "exploit", campaign: str = "daily") -> str:
    found = rows(
        shop,
        "SELECT u.external_id FROM decisions d JOIN users u ON u.id = d.user_id JOIN occurrences o"
        " ON o.id = d.occurrence_id JOIN campaigns c ON c.id = o.campaign_id"
        f" WHERE d.revision = 0 AND d.reason = {DECISION_REASONS.index(reason)} AND d.arm = {ARMS.index(arm)}"
        f" AND c.name = '{campaign}' ORDER BY u.id LIMIT 1",
    )
    return str(found[0].external_id)


def explained(shop: Runtime, user: str, campaign: str | None = None) -> list[Explanation]:
    return explain(shop.database, shop.gateways, user, campaign)


@pytest.fixture
def shop(runtime: Runtime) -> Runtime:
    filled = fill_shop(runtime)
    ensure_ahead(filled.database, NOW)
    set_caps(filled, CAP, min_gap=timedelta(hours=4), holdout=0.05)
    create(filled, daily(exploration=0.3, horizon="30h"), daily(name="sale", priority=0.9))
    return filled


@pytest.mark.parametrize("regime", ["baseline", "goal", "click"])
def test_every_decision_of_a_run_is_explained_and_agrees_with_its_receipt(shop: Runtime, regime: str) -> None:
    if regime != "baseline":
        learn(shop, regime)
    Workers(shop).tick()
    users = [row.external_id for row in rows(shop, "SELECT external_id FROM users ORDER BY id LIMIT 45")]

    found = [one for user in users for one in explained(shop, user)]

    wrong = [(one.user, one.reason, one.checks) for one in found if one.verdict != "agrees"]
    assert wrong == [], "\n".join(f"{w[:2]} {[c for c in w[2] if c.outcome == 'differs']}" for w in wrong)
    assert len(found) == 2 * len(users)
    assert {one.reason for one in found} >= {"planned", "no_consent"}
    for one in found:
        if one.reason == "planned" and regime != "baseline":
            assert one.score is not None
            assert len(one.score.reasons) > 0
            assert one.chosen is not None
            assert 0.0017 < one.score.score * one.score.worth - one.chosen.value < 0.01  # what disturbing costs
        assert (one.chosen is None) == (one.reason != "planned")


def test_a_capped_user_is_told_which_cap_and_what_they_would_have_got_without_it(shop: Runtime) -> None:
    Workers(shop).tick()
    set_caps(shop, CAP, min_gap=None, holdout=0)
    create(shop, daily(name="evening", schedule={"once": "2026-03-02T16:00", "zone": "local"}, horizon="2h"))
    Workers(shop).tick(NOW + timedelta(hours=1))
    user = user_with(shop, "capped", campaign="evening")

    (one,) = explained(shop, user, "evening")

    assert (one.verdict, one.reason, one.chosen) == ("agrees", "capped", None)
    nearest = one.alternatives[0]
    assert nearest.bound == f"cap-1: {CAP}"
    (without,) = [each for each in one.without if each.constraint.startswith("cap-1")]
    assert without.chosen is not None
    assert without.chosen.value == max(option.value for option in one.alternatives)
    assert without.gain == pytest.approx(without.chosen.value)


def test_quiet_hours_and_holdout_are_weighed_again_without_them(shop: Runtime) -> None:
    plain = {"title": "Hello", "body": "x"}
    create(shop, daily(name="night", hours="09:00-10:00", items="none", message=plain, exploration=0, obeys_caps=False))
    with shop.database.begin() as connection:
        connection.execute(text("UPDATE users SET quiet_from = '08:00', quiet_until = '23:00' WHERE id % 2 = 0"))
    Workers(shop).tick()

    (quiet,) = explained(shop, user_with(shop, "quiet_hours", campaign="night"), "night")
    (held,) = explained(shop, user_with(shop, "holdout", "holdout"), "daily")

    for one, name in ((quiet, "quiet hours"), (held, "the holdout")):
        (without,) = one.without
        assert one.verdict == "agrees"
        assert (without.constraint, without.today) == (name, True)
        assert without.chosen is not None
        assert without.chosen.value > 0


TAMPERED = {
    "UPDATE decisions SET score = score * 1.5 WHERE send_at IS NOT NULL": "differs: score, value",
    "UPDATE decisions SET value = value + 1 WHERE send_at IS NOT NULL": "differs: value",
    "UPDATE decisions SET send_at = send_at + interval '1 minute' WHERE send_at IS NOT NULL": "differs: instant",
    "UPDATE decisions SET arm = 2 WHERE send_at IS NOT NULL": "differs: arm",
    "UPDATE decisions SET propensity = propensity / 2 WHERE send_at IS NOT NULL": "differs: propensity",
    "UPDATE decisions SET receipt = NULL": "not comparable: the receipt is gone",
    "UPDATE decisions SET receipt = overlay(receipt placing '\\x090909'::bytea from"
    f" {ROW.itemsize + 3} + 4 * get_byte(receipt, 1)) WHERE send_at IS NOT NULL": "not comparable: decided by",
}


def test_a_decision_that_was_tampered_with_differs_and_one_without_receipt_is_not_comparable(shop: Runtime) -> None:
    learn(shop, "click")
    Workers(shop).tick()
    user = user_with(shop, "planned", campaign="daily")

    for change, said in TAMPERED.items():
        with shop.database.begin() as connection:
            kept = connection.execute(text("SELECT * FROM decisions")).all()
            connection.execute(text(change))
        assert explained(shop, user, "daily")[0].verdict.startswith(said), change
        with shop.database.begin() as connection:
            connection.execute(text("TRUNCATE decisions"))
            names = [str(name) for name in kept[0]._fields]
            values = ", ".join(f":{name}" for name in names)
            connection.execute(
                text(f"INSERT INTO decisions ({', '.join(names)}) VALUES ({values})"),
                [row._asdict() for row in kept],
            )


def test_who_is_unknown_or_was_never_decided_about_is_said_so(shop: Runtime) -> None:
    with pytest.raises(UnknownName, match="no user 'u9999'"):
        explained(shop, "u9999")
    with pytest.raises(UnknownName, match="no campaign 'dailly'"):
        explained(shop, "u1", "dailly")
    with pytest.raises(BadInput, match="nothing was ever decided about user u1"):
        explained(shop, "u1")


def test_choices_weighed_against_prices_agree_and_what_settlement_moved_is_said(runtime: Runtime) -> None:
    filled = fill_shop(runtime)
    ensure_ahead(filled.database, NOW)
    learn(filled, "click")
    set_caps(filled, CAP, min_gap=timedelta(hours=4))
    create(filled, daily(exploration=0, horizon="30h", capacity_per_quarter=4))
    Workers(filled).tick()
    revised = rows(
        filled,
        "SELECT u.external_id FROM decisions d JOIN users u ON u.id = d.user_id WHERE d.revision = 1 ORDER BY u.id",
    )
    priced = rows(
        filled,
        "SELECT u.external_id FROM decisions d JOIN users u ON u.id = d.user_id WHERE d.revision = 0 AND d.price > 0"
        " ORDER BY u.id",
    )

    assert len(revised) > 5
    assert len(priced) > 5
    for (user,) in revised[:15] + priced[:15]:
        (one,) = explained(filled, str(user))
        assert one.verdict == "agrees", one.checks
        others = [(option.item, option.send_at) for option in one.alternatives]
        assert one.chosen is None or (one.chosen.item, one.chosen.send_at) not in others
