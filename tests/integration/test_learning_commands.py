"""`horae train` and `horae models` as a person meets them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from engine import clock
from engine.cli.app import app
from engine.errors import UnknownName
from engine.store.database import Database
from tests.learning_store import Shop

Run = Callable[..., Result]


@pytest.fixture
def horae(database: Database, redis_url: str, tmp_path: Path) -> Run:
    """Runs `horae …`; errors of Horae are the result's exception."""
    environment = {
        "HORAE_HOME": str(tmp_path / "home"),
        "HORAE_DATABASE_URL": database.libpq_url,
        "HORAE_REDIS_URL": redis_url,
        "COLUMNS": "200",
    }
    return lambda *arguments: CliRunner().invoke(app, [*map(str, arguments)], env=environment)


def test_a_store_without_events_gets_no_model_and_is_told_what_happens_instead(horae: Run) -> None:
    trained = horae("train")

    assert trained.exit_code == 1
    assert "no model: there are no events yet" in trained.stdout
    assert "planning goes on" in trained.stdout
    assert "no models yet" in horae("models", "list").stdout
    assert json.loads(horae("models", "list", "--json").stdout) == {"models": []}


def test_training_is_shown_beside_its_baselines_and_kept(horae: Run, database: Database) -> None:
    shop = Shop()
    shop.write(database)
    with database.begin() as connection:
        clock.start_virtual(connection, shop.end)

    trained = horae("train", "--threads", 1)

    assert trained.exit_code == 0
    assert "model 1 is the champion" in trained.stdout
    for word in ("NDCG@10", "predicted / actual", "own history", "popularity", "goal: purchase"):
        assert word in trained.stdout
    again = json.loads(horae("train", "--seed", 2, "--threads", 1, "--json").stdout)
    assert again["version"] == 2
    assert again["promoted"] == (again["reason"] is None)  # the gate decides, and says why not
    assert "model 2 is the champion" in horae("models", "promote", 2).stdout
    listed = json.loads(horae("models", "list", "--json").stdout)["models"]
    assert [(model["version"], model["state"]) for model in listed] == [(2, "champion"), (1, "retired")]
    assert "champion" in horae("models", "list").stdout
    assert "sha256" in horae("models", "show", 1).stdout
    assert json.loads(horae("models", "show", 2, "--json").stdout)["metrics"] == again["metrics"]

    assert "model 1 is the champion" in horae("models", "promote", 1).stdout
    listed = json.loads(horae("models", "list", "--json").stdout)["models"]
    assert [model["state"] for model in listed] == ["retired", "champion"]
    assert isinstance(horae("models", "show", 7).exception, UnknownName)
    assert isinstance(horae("train", "--goal", "purchas").exception, UnknownName)
