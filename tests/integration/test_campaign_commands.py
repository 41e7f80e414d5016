"""`horae campaign`, `horae caps` and `horae workspace` as a person types them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from engine.cli.app import app
from engine.errors import BadInput

WEEKLY = """
name: weekly
class: marketing
schedule: {cron: 0 9 * * THU, zone: local}
message: {title: "For you", body: "Have a look, {{ user.id }}"}
"""

Horae = Callable[..., Result]


@pytest.fixture
def environment(database, redis_url, tmp_path) -> dict[str, str]:
    return {
        "HORAE_DATABASE_URL": database.libpq_url,
        "HORAE_REDIS_URL": redis_url,
        "HORAE_HOME": str(tmp_path / "home"),
        "COLUMNS": "200",
    }


@pytest.fixture
def horae(environment) -> Horae:
    """Run a command in this process; errors of Horae come through as exceptions."""
    (Path(environment["HORAE_HOME"])).mkdir()

    def run(*arguments: str, said: str | None = None) -> Result:
        result = CliRunner().invoke(app, list(arguments), env=environment, input=said)
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        return result

    return run


@pytest.fixture
def weekly(tmp_path) -> str:
    path = tmp_path / "weekly.yaml"
    path.write_text(WEEKLY)
    return str(path)


def printed(result: Result) -> Any:
    return json.loads(result.stdout)


def test_a_campaign_is_created_left_alone_changed_and_shown(horae, weekly):
    assert "campaign weekly created (running; next due 2" in horae("campaign", "create", weekly).stdout
    assert "campaign weekly unchanged" in horae("campaign", "create", weekly).stdout
    Path(weekly).write_text(WEEKLY + "holdout: 0.1\n")
    assert "changed: now version 2" in horae("campaign", "create", weekly).stdout

    shown = horae("campaign", "show", "weekly").stdout
    assert "weekly, version 2, running" in shown
    assert "due: At 09:00 on Thursday, each user's local time" in shown
    assert "audience now: nobody" in shown
    assert "holdout: 0.1" in shown
    assert "holdout: 0.0" in horae("campaign", "show", "weekly", "--version", "1").stdout
    as_json = printed(horae("campaign", "show", "weekly", "--json"))
    assert (as_json["version"], as_json["definition"]["class"], as_json["audience"]["eligible"]) == (2, "marketing", 0)


def test_campaigns_are_listed_paused_resumed_and_cancelled(horae, weekly):
    assert "There are no campaigns yet" in horae("campaign", "list").stdout
    horae("campaign", "create", weekly)

    assert "weekly is paused" in horae("campaign", "pause", "weekly").stdout
    assert [row["state"] for row in printed(horae("campaign", "list", "--json"))] == ["paused"]
    assert "weekly is running" in horae("campaign", "resume", "weekly").stdout
    with pytest.raises(BadInput, match="Nobody answered") as unasked:
        horae("campaign", "cancel", "weekly", said="")
    assert "--yes" in str(unasked.value.hint)
    assert horae("campaign", "cancel", "weekly", said="n\n").exit_code == 1
    assert "cancelled for good" in horae("campaign", "cancel", "weekly", said="y\n").stdout
    assert "cancelled" in horae("campaign", "list").stdout
    with pytest.raises(BadInput, match="is cancelled and cannot become running"):
        horae("campaign", "resume", "weekly")


def test_of_several_files_one_bad_one_stores_none(horae, weekly, tmp_path):
    bad = tmp_path / "bad.yaml"
    bad.write_text(WEEKLY.replace("weekly", "other") + "gateway: pigeon\n")

    with pytest.raises(BadInput, match="gateway 'pigeon' is not configured here"):
        horae("campaign", "create", weekly, str(bad))

    assert printed(horae("campaign", "list", "--json")) == []


def test_the_schema_is_json(horae):
    assert printed(horae("campaign", "schema"))["title"] == "Campaign"


def test_caps_are_added_listed_and_removed(horae):
    assert "There are no caps" in horae("caps", "list").stdout
    assert horae("caps", "add", "--limit", "2", "--per", "day").stdout == "cap-1: at most 2 a local day\n"
    added = printed(horae("caps", "add", "--limit", "5", "--per", "week", "--rolling", "--scope", "tag:sale", "--json"))
    assert added["cap"] == {
        "id": "cap-2",
        "scope": "tag:sale",
        "limit": 5,
        "window": "rolling:P7D",
        "in_words": "at most 5 in any 7d of tag:sale",
    }
    assert "allows no push at all" in horae("caps", "add", "--limit", "0", "--per", "PT24H").stderr
    assert "removed cap-2" in horae("caps", "remove", "cap-2").stdout
    assert [cap["id"] for cap in printed(horae("caps", "list", "--json"))["caps"]] == ["cap-1", "cap-3"]


def test_a_cap_that_makes_no_sense_is_refused_and_changes_nothing(horae):
    for arguments, said in (
        (["--limit=-1", "--per", "day"], "limit must be greater than or equal to 0"),
        (["--limit", "1", "--per", "fortnight"], "window: must be a duration"),
        (["--limit", "1", "--per", "day", "--scope", "tags:x"], "scope: must be all, channel:NAME"),
    ):
        with pytest.raises(BadInput, match=said):
            horae("caps", "add", *arguments)

    assert printed(horae("caps", "list", "--json")) == {"policy": 1, "caps": []}


def test_the_workspace_is_set_and_shown(horae, weekly):
    horae("campaign", "create", weekly)

    result = horae("workspace", "set", "--timezone", "Europe/Berlin", "--quiet-hours", "21:00-09:00", "--min-gap", "4h")

    assert result.stderr == ""
    shown = printed(horae("workspace", "show", "--json"))
    assert (shown["default_timezone"], shown["quiet_hours"], shown["min_gap"], shown["policy"]) == (
        "Europe/Berlin", "21:00-09:00", "PT4H", 2,
    )  # fmt: skip
    assert "quiet hours" in horae("workspace", "set", "--quiet-hours", "none", "--min-gap", "none").stdout
    assert printed(horae("workspace", "show", "--json"))["quiet_hours"] is None


def test_a_rule_that_a_running_campaign_does_not_fit_is_told(horae, weekly):
    Path(weekly).write_text(WEEKLY + "hours: 09:00-11:00\n")
    horae("campaign", "create", weekly)

    said = horae("workspace", "set", "--quiet-hours", "20:00-12:00").stderr

    assert "campaign weekly does not fit any more: hours (09:00-11:00) lie inside" in said.replace("\n", " ")


def test_a_workspace_setting_that_makes_no_sense_is_refused_and_changes_nothing(horae):
    for arguments, said in (
        ([], "nothing to set"),
        (["--timezone", "Berlin"], "did you mean Europe/Berlin"),
        (["--quiet-hours", "late"], "quiet_hours: must be written like"),
        (["--holdout", "1.5"], "holdout must be less than or equal to 1"),
    ):
        with pytest.raises(BadInput, match=said):
            horae("workspace", "set", *arguments)

    assert printed(horae("workspace", "show", "--json"))["policy"] == 1


def test_an_error_is_one_message_and_exit_code_2(environment, tmp_path):
    (tmp_path / "bad.yaml").write_text("name: weekly\nclas: marketing\n")
    command = [
        sys.executable,
        "-c",
        "from engine.cli import main; main()",
        "campaign",
        "create",
        str(tmp_path / "bad.yaml"),
    ]
    root = str(Path(__file__).resolve().parents[2])

    done = subprocess.run(
        command, env={**os.environ, **environment, "PYTHONPATH": root}, capture_output=True, text=True, check=False
    )

    assert (done.returncode, done.stdout) == (2, "")
    assert "bad.yaml: 3 things are wrong\n" in done.stderr
    assert "  line 2: clas is no field here; did you mean class?\n" in done.stderr
    assert "horae campaign schema" in done.stderr
