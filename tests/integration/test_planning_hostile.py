"""What nobody hopes for, through the command line: each ends in a reason, never in an exception in a log alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text

from engine.errors import BadInput
from engine.runtime import Runtime
from tests.integration.test_planning_commands import Console
from tests.planning_shop import NOW, Workers, create, daily, fill_shop, reasons, rows

PERIOD = ("--from", "2026-03-01", "--to", "2026-03-05", "--caps", "1/day")


@pytest.fixture
def shop(runtime: Runtime) -> Runtime:
    return fill_shop(runtime)


@pytest.fixture
def horae(shop: Runtime) -> Console:
    return Console(shop)


def test_an_empty_audience_is_previewed_triggered_and_simulated_as_nobody(shop: Runtime, horae: Console) -> None:
    create(shop, daily(name="nobody", schedule=None, audience={"field": "user_id", "in": ["none such"]}))

    found = horae.json("preview", "nobody")
    assert (found["asked"], found["reasons"], found["value"]) == (0, {}, 0)
    assert "nobody is in its audience" in horae("preview", "nobody")
    horae("campaign", "trigger", "nobody", "--yes")
    Workers(shop).recover()
    assert reasons(shop) == {}
    with pytest.raises(BadInput, match="nothing was ever decided about user u1"):
        horae("explain", "u1")
    played = horae.json("simulate", *PERIOD)
    assert (played["decisions"], played["simulated"]["planned"]) == (0, 0)


def test_an_audience_of_one_without_a_zone_is_planned_by_the_default_zone_and_counted(
    shop: Runtime, horae: Console
) -> None:
    create(shop, daily(name="one", schedule=None, exploration=0, audience={"field": "user_id", "in": ["u3"]}))

    found = horae.json("preview", "one")
    assert (found["asked"], found["reasons"], found["without_zone"]) == (1, {"planned": 1}, 1)
    assert "default zone" in horae("preview", "one")
    horae("campaign", "trigger", "one", "--yes")
    Workers(shop).recover()
    (run,) = horae.json("runs", "list")
    assert horae.json("runs", "show", str(run["id"]))["without_zone"] == 1
    told = horae.json("explain", "u3")
    assert "agrees" in str(told)
    assert horae.json("simulate", *PERIOD)["really"]["planned"] == 1


def test_a_campaign_without_any_item_says_no_candidate_and_explains_it(shop: Runtime, horae: Console) -> None:
    with shop.database.begin() as connection:
        connection.execute(text("DELETE FROM items"))
    create(shop, daily(name="bare", schedule=None))

    assert set(horae.json("preview", "bare")["reasons"]) == {"no_candidate", "no_consent", "not_eligible"}
    horae("campaign", "trigger", "bare", "--yes")
    Workers(shop).recover()
    assert set(reasons(shop)) == {"no_candidate", "no_consent", "not_eligible"}
    assert "no_candidate" in horae("explain", "u1")
    assert horae.json("simulate", *PERIOD)["simulated"]["planned"] == 0


def test_an_item_that_is_deleted_after_planning_leaves_decisions_that_can_be_read(
    shop: Runtime, horae: Console
) -> None:
    create(shop, daily(name="gone", schedule=None, items={"kind": "fixed", "ids": ["i3"]}, cost_disturb=0))
    horae("campaign", "trigger", "gone", "--yes")
    Workers(shop).recover()
    user = rows(shop, "SELECT u.external_id FROM pushes p JOIN users u ON u.id = p.user_id ORDER BY u.id")[0][0]
    before = horae.json("simulate", *PERIOD)
    with shop.database.begin() as connection:
        connection.execute(text("DELETE FROM items WHERE external_id = 'i3'"))

    told = horae("explain", user, exits=0)
    assert "item" in told
    assert horae.json("simulate", *PERIOD)["simulated"]["planned"] == before["simulated"]["planned"] > 0
    assert set(horae.json("preview", "gone")["reasons"]) == {"no_candidate", "no_consent", "not_eligible"}


def test_a_model_of_another_schema_is_said_by_preview_and_by_explain(shop: Runtime, horae: Console) -> None:
    with shop.database.begin() as connection:
        connection.execute(
            text(
                "INSERT INTO models (state, regime, artifact, sha256, feature_schema, metrics, libraries, as_of)"
                " VALUES ('champion', 'goal', 'x', 'y', '[]', '{}', '{}', :now)"
            ),
            {"now": NOW},
        )
    create(shop, daily(name="refused", schedule=None))

    assert "failed_input" in horae.json("preview", "refused")["reasons"]
    assert "nobody can be scored" in horae("preview", "refused")
    horae("campaign", "trigger", "refused", "--yes")
    Workers(shop).recover()
    assert "failed_input" in horae("explain", "u1", exits=0)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--from", "2026-03-05", "--to", "2026-03-01", "--caps", "1/day"), "is empty"),
        (("--from", "2026-03-01", "--to", "2026-03-05"), "nothing is to be different"),
        (("--from", "2026-03-01", "--to", "2026-03-05", "--caps", "1/day"), "no run was opened"),
        (("--from", "2026-03-01", "--to", "2026-03-05", "--caps", "many/day"), "--caps many/day is no cap"),
        (("--from", "2026-03-01", "--to", "2026-03-05", "--capacity", "0"), "--capacity 0"),
        (("--from", "2026-03-01", "--to", "2026-03-05", "--pushes-per-stock", "0"), "pushes_per_stock"),
        (("--from", "2026-03-01", "--to", "2026-03-05", "--quiet-hours", "9 to 5"), "quiet_hours"),
    ],
)
def test_a_simulation_of_nonsense_is_refused_in_words(horae: Console, arguments: tuple[str, ...], said: str) -> None:
    with pytest.raises(BadInput, match=said):
        horae("simulate", *arguments)


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"hours": "23:00-07:00"}, ("hours", "quiet")),
        ({"horizon": "30m", "hours": "12:00-12:20"}, ("horizon", "hours")),
        ({"min_gap": "6d", "horizon": "24h"}, ("min_gap", "horizon")),
    ],
)
def test_settings_that_contradict_the_workspaces_are_refused_naming_both(
    horae: Console, tmp_path: Path, changes: dict[str, Any], named: tuple[str, str]
) -> None:
    import yaml

    definition = {
        "name": "odd", "class": "marketing", "schedule": {"cron": "0 8 * * *", "zone": "local"}, "items": "none",
        "message": {"title": "t", "body": "b"},
    }  # fmt: skip
    gap = changes.pop("min_gap", None)
    if gap is not None:
        horae("workspace", "set", "--min-gap", gap)
    file = tmp_path / "odd.yaml"
    file.write_text(yaml.safe_dump(definition | changes))
    with pytest.raises(BadInput) as refused:
        horae("campaign", "create", str(file))
    for word in named:
        assert word in f"{refused.value} {getattr(refused.value, 'hint', '')}"
