"""The registry's memory: which model decides, which did before, what is kept."""

from __future__ import annotations

import pytest
from sqlalchemy import text

from engine.errors import ModelRefused, UnknownName
from engine.learning import registry
from engine.learning.head import Head
from engine.learning.scoring import load_scorer
from engine.store.database import Database
from tests.models import small_model


def test_rolling_back_follows_promotions_not_numbers_and_each_time_goes_one_further(database: Database) -> None:
    with database.begin() as connection:
        versions = [registry.register(connection, small_model(), {}) for _ in range(3)]
    first, second, third = versions
    for version in (second, first, third):  # each a transaction of its own, as in life
        with database.begin() as connection:
            registry.promote(connection, version)

    gone_back = []
    for _ in range(2):
        with database.begin() as connection:
            gone_back.append(registry.rollback(connection))
            assert registry.champion(connection) == gone_back[-1]

    assert gone_back == [first, second]
    with database.begin() as connection:
        with pytest.raises(UnknownName, match="no earlier champion"):
            registry.rollback(connection)
        registry.promote(connection, third)
        assert registry.rollback(connection) == second


def test_old_models_are_deleted_but_what_decides_did_before_or_was_planned_with(database: Database) -> None:
    with database.begin() as connection:
        versions = [registry.register(connection, small_model(), {}) for _ in range(registry.KEPT + 6)]
        for version in (versions[1], versions[2], versions[3]):
            registry.promote(connection, version)
        connection.execute(
            text(
                "INSERT INTO runs (state, as_of, seed, policy_version, model_version, shards_total)"
                " VALUES ('published', now(), 1, 1, :model, 1)"
            ),
            {"model": versions[4]},
        )

        deleted = registry.prune(connection)

        left = sorted(entry.version for entry in registry.entries(connection))
    assert deleted == 2
    assert left == [*versions[1:5], *versions[6:]]


def test_the_regime_is_the_models_and_a_running_process_takes_over_what_is_promoted(database: Database) -> None:
    with database.begin() as connection:
        goal, click = (registry.register(connection, small_model(head), {}) for head in (None, Head(0.0, 1.0, 1.0)))
        registry.promote(connection, goal)
        assert (load_scorer(connection).regime, registry.entry(connection, click).regime) == ("goal", "click")
        registry.promote(connection, click)
        assert load_scorer(connection).regime == "click"
        assert load_scorer(connection, goal).regime == "goal"


def test_a_damaged_model_is_not_promoted_and_the_champion_stays(database: Database) -> None:
    with database.begin() as connection:
        good, bad = (registry.register(connection, small_model(), {}) for _ in range(2))
        registry.promote(connection, good)
        connection.execute(text("UPDATE models SET artifact = 'x' WHERE version = :bad"), {"bad": bad})

    with database.begin() as connection, pytest.raises(ModelRefused, match="SHA-256 differs") as refused:
        registry.promote(connection, bad)

    assert "horae train" in str(refused.value.hint)
    with database.begin() as connection:
        assert registry.champion(connection) == good
