"""`horae ingest` as a person meets it: exit codes, what is said, what is left."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from engine.cli.app import app
from engine.errors import BadInput
from engine.ingest.layout import CANONICAL
from engine.store.database import Database

Run = Callable[..., Result]


@pytest.fixture
def horae(database: Database, redis_url: str, tmp_path: Path) -> Run:
    """Runs `horae ingest …`; errors of Horae are the result's exception."""
    environment = {
        "HORAE_HOME": str(tmp_path / "home"),
        "HORAE_DATABASE_URL": database.libpq_url,
        "HORAE_REDIS_URL": redis_url,
        "COLUMNS": "200",
    }
    return lambda *arguments: CliRunner().invoke(app, ["ingest", *map(str, arguments)], env=environment)


def test_a_person_sees_counts_reasons_and_exit_codes(horae, tmp_path) -> None:
    users, events = tmp_path / "users.csv", tmp_path / "events.csv"
    users.write_text("uid,tz\na,Europe/Istanbul\nb,Europe/Istambul\n")
    events.write_text("user_id,item_id,kind,occurred_at\na,i,view,2026-01-01 10:00\n")

    refused = horae("users", users)
    assert isinstance(refused.exception, BadInput)
    assert "users.csv lacks user_id" in refused.exception.message
    assert refused.exception.hint == "try --map uid=user_id"

    partly = horae("users", users, "--map", "uid=user_id", "--map", "tz=timezone")
    assert partly.exit_code == 1
    assert "timezone: unknown time zone" in partly.stdout
    assert "users.csv.rejects.jsonl" in partly.stdout

    done = horae("events", events, "--map", "kind=event_type", "--timezone", "Europe/Istanbul", "--json")
    assert done.exit_code == 0
    summary = json.loads(done.stdout)
    assert (summary["accepted"], summary["item_stubs"], summary["user_stubs"], summary["rejected"]) == (1, 1, 0, 0)

    checked = horae("replay", "--check", "--json")
    assert checked.exit_code == 0
    assert json.loads(checked.stdout) == {"profiles": 4, "differing": 0, "rebuilt": False}
    assert "4 profiles rebuilt; 0 differed" in horae("replay").stdout


def test_profiles_that_differ_fail_the_check(horae, database, tmp_path) -> None:
    events = tmp_path / "events.jsonl"
    events.write_text('{"user_id": 1, "item_id": 2, "event_type": "view", "occurred_at": "2026-01-01T00:00:00Z"}\n')
    assert horae("events", events).exit_code == 0
    with database.begin() as connection:
        connection.exec_driver_sql("UPDATE item_profiles SET n = 7")

    assert horae("replay", "--check").exit_code == 1


@pytest.mark.parametrize("kind", CANONICAL)
def test_help_lists_the_columns(horae, kind) -> None:
    shown = horae(kind, "--help").stdout

    assert all(column in shown for column in CANONICAL[kind])
