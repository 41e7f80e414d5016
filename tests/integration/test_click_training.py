"""A shop with enough clicks: training adds the head, serving and explanations follow, warm updates grow it."""

from __future__ import annotations

import json
from datetime import timedelta
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from engine.cli.app import app
from engine.learning import registry
from engine.learning.explaining import reasons
from engine.learning.scoring import load_scorer
from engine.learning.training import Options, TrainReport, train
from engine.learning.warm import warm_update
from engine.store.database import Database
from tests.click_log import write_pushes
from tests.learning_store import Shop

ONE_THREAD = Options(threads=1)


@pytest.fixture(scope="module")
def trained(shared_database: Database) -> tuple[Database, Shop, TrainReport]:
    shop = Shop()
    shop.write(shared_database)
    write_pushes(shared_database, shop)
    return shared_database, shop, train(shared_database, shop.end, options=ONE_THREAD)


def test_with_a_thousand_clicks_the_registered_model_scores_clicks_and_says_so(
    trained: tuple[Database, Shop, TrainReport],
) -> None:
    database, shop, report = trained

    clicks = report.metrics["clicks"]
    assert report.promoted, report.reason
    assert clicks["clicked"] >= 1_000
    assert clicks["reason"] is None
    assert clicks["judged"]["ne"] < 0.95
    assert clicks["head"]["hour"] > 0.3
    with database.snapshot() as snapshot:
        scorer = load_scorer(snapshot.connection)
        state = scorer.state(snapshot, (0, 1024), shop.end, scorer.catalogue(snapshot, shop.end))
        entry = registry.entry(snapshot.connection, report.version or 0)
    found = scorer.candidates(state, 4)
    user, item = np.repeat(found.user, 16), np.repeat(found.item, 16)
    offers = scorer.offers(state, user, item, np.tile(np.arange(16), len(found))).reshape(-1, 16)
    assert (scorer.regime, entry.regime) == ("click", "click")
    assert np.median(offers.max(axis=1) / offers.min(axis=1)) > 1.5
    row = scorer.features(state, found.user[:1], found.item[:1], np.array([3]))[0]
    assert len(reasons(scorer, row)) == 5


def test_a_warm_update_grows_the_head_by_the_newest_clicks_and_leaves_the_goal_alone(
    trained: tuple[Database, Shop, TrainReport],
) -> None:
    database, shop, report = trained

    updated = warm_update(database, shop.end, options=ONE_THREAD)

    assert updated.version is not None, updated.reason
    assert updated.metrics["updated"] == "click"
    with database.begin() as connection:
        old, new = (registry.load(connection, version or 0) for version in (report.version, updated.version))
    assert new.booster.save_raw() == old.booster.save_raw()
    assert new.head is not None
    assert old.head is not None
    assert new.head.numbers() != old.head.numbers()
    assert updated.promoted == (updated.metrics["gate"]["reason"] is None)


def test_what_was_learned_from_clicks_is_shown(
    trained: tuple[Database, Shop, TrainReport], redis_url: str, tmp_path: Path
) -> None:
    database, _, report = trained
    environment = {"HORAE_HOME": str(tmp_path), "HORAE_DATABASE_URL": database.libpq_url, "HORAE_REDIS_URL": redis_url}

    shown = CliRunner().invoke(app, ["models", "show", str(report.version)], env=environment)

    assert "regime click: learned from clicks" in shown.stdout
    for words in ("pushes whose clicks are known", "click head on the newest pushes", "(served)"):
        assert words in shown.stdout
    listed = CliRunner().invoke(app, ["models", "list", "--json"], env=environment)
    assert {model["regime"] for model in json.loads(listed.stdout)["models"]} == {"click"}


def test_fewer_than_a_thousand_clicks_leave_the_goal_in_charge(trained: tuple[Database, Shop, TrainReport]) -> None:
    database, shop, _ = trained

    early = train(database, shop.end - timedelta(days=15), options=ONE_THREAD)

    assert "a head needs 1,000" in early.metrics["clicks"]["reason"]
    with database.begin() as connection:
        assert registry.entry(connection, early.version or 0).regime == "goal"
