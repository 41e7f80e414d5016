"""`horae campaign trigger` and `horae runs` as a person meets them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from engine.cli.app import app
from engine.errors import BadInput, HoraeError, UnknownName
from engine.runtime import Runtime
from tests.planning_shop import USERS, Workers, create, daily, fill_shop, reasons, rows


class Console:
    """The command line on this test's servers."""

    def __init__(self, runtime: Runtime) -> None:
        self.environment = {
            "HORAE_HOME": str(runtime.settings.home),
            "HORAE_DATABASE_URL": runtime.database.libpq_url,
            "HORAE_REDIS_URL": runtime.redis_url,
            "COLUMNS": "160",
        }

    def __call__(self, *arguments: str, answer: str = "", exits: int = 0) -> str:
        result: Result = CliRunner().invoke(app, list(arguments), env=self.environment, input=answer)
        if isinstance(result.exception, HoraeError):
            raise result.exception
        assert result.exit_code == exits, result.output
        return result.output

    def json(self, *arguments: str) -> Any:
        return json.loads(self(*arguments, "--json"))


@pytest.fixture
def shop(runtime: Runtime) -> Runtime:
    filled = fill_shop(runtime)
    create(filled, daily(schedule=None))
    return filled


@pytest.fixture
def horae(shop: Runtime) -> Console:
    return Console(shop)


def test_a_trigger_says_how_many_and_asks_and_a_no_changes_nothing(shop: Runtime, horae: Console) -> None:
    said = horae("campaign", "trigger", "daily", answer="n\n", exits=1)

    assert f"daily: {USERS} users" in said
    assert "Send it?" in said
    assert rows(shop, "SELECT count(*) FROM occurrences")[0][0] == 0


def test_a_trigger_opens_a_run_that_workers_plan_and_runs_show_it(shop: Runtime, horae: Console) -> None:
    said = horae("campaign", "trigger", "daily", answer="y\n")

    assert "Triggered: occurrence" in said
    (waiting,) = horae.json("runs", "list")
    assert (waiting["state"], waiting["shards_done"], waiting["campaigns"]) == ("planning", 0, ["daily"])
    Workers(shop).recover()
    shown = horae.json("runs", "show", str(waiting["id"]))
    assert shown["state"] == "published"
    assert shown["reasons"] == dict(reasons(shop))
    assert shown["pushes"] == {"planned": shown["reasons"]["planned"]}
    assert "planned" in horae("runs", "show", str(waiting["id"]))
    assert "published" in horae("runs", "list")


def test_a_dry_run_says_what_would_happen_and_writes_nothing(shop: Runtime, horae: Console) -> None:
    found = horae.json("campaign", "trigger", "daily", "--dry-run")

    assert found["asked"] == USERS == sum(found["reasons"].values())
    assert found["planned"] == sum(found["by_hour"].values()) > 0
    assert "nothing was written" in horae("campaign", "trigger", "daily", "--dry-run", "--at-once")
    assert rows(shop, "SELECT count(*) FROM runs")[0][0] == 0


def test_a_list_of_users_may_be_lines_or_a_column_and_unknown_ids_are_named(
    shop: Runtime, horae: Console, tmp_path: Path
) -> None:
    lines, table = tmp_path / "users.txt", tmp_path / "users.csv"
    lines.write_text("u1\nu2\nnobody\nu1\n")
    table.write_text("name,user_id\nAda,u1\nBob,u3\n")

    assert "1 listed user is unknown: nobody" in horae("campaign", "trigger", "daily", "--users", str(lines), "--yes")
    made = horae.json("campaign", "trigger", "daily", "--users", str(table))
    assert sum(made["audience"].values()) == 2
    assert rows(shop, "SELECT count(*) FROM occurrence_users")[0][0] == 4


def test_repeating_a_trigger_under_its_key_sends_nothing_more(shop: Runtime, horae: Console) -> None:
    first = horae.json("campaign", "trigger", "daily", "--idempotency-key", "k")
    again = horae.json("campaign", "trigger", "daily", "--idempotency-key", "k")

    assert again["occurrence_id"] == first["occurrence_id"]
    assert again["repeated"]
    assert "Nothing more is sent" in horae("campaign", "trigger", "daily", "--idempotency-key", "k")
    assert rows(shop, "SELECT count(*) FROM runs")[0][0] == 1


WRONG = {
    ("daily", "--data", "{"): "--data is no JSON",
    ("daily", "--data", "[1]"): "must be a JSON object",
    ("daily", "--users", "/nowhere/users.txt"): "does not exist",
    ("daily", "--idempotency-key", " "): "idempotency key",
    ("dayly",): "no campaign 'dayly'",
}


def test_what_is_wrong_with_a_trigger_is_said_and_changes_nothing(shop: Runtime, horae: Console) -> None:
    for arguments, said in WRONG.items():
        with pytest.raises(BadInput, match=said):
            horae("campaign", "trigger", *arguments, "--yes")
    assert rows(shop, "SELECT count(*) FROM occurrences")[0][0] == 0


def test_a_run_that_does_not_exist_is_said_so(horae: Console) -> None:
    with pytest.raises(UnknownName, match="no run 7"):
        horae("runs", "show", "7")
    assert "no runs yet" in horae("runs", "list")
