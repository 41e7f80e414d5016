"""`horae campaign test`, `stop`, `start` and `deliveries` as a person meets them."""

from __future__ import annotations

import json
from datetime import timedelta
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from engine.campaigns.policy import Cap
from engine.cli.app import app
from engine.cli.asking import os_user
from engine.delivery import trial
from engine.delivery.dispatch import dispatch_due
from engine.errors import BadInput, HoraeError, UnknownName
from engine.runtime import Runtime
from tests.delivery_store import NOON, DeliveryShop, journal


class Console:
    """The command line on this test's servers."""

    def __init__(self, runtime: Runtime) -> None:
        self.environment = {
            "HORAE_HOME": str(runtime.settings.home),
            "HORAE_DATABASE_URL": runtime.database.libpq_url,
            "HORAE_REDIS_URL": runtime.redis_url,
            "COLUMNS": "160",
        }

    def __call__(self, *arguments: str, exits: int = 0) -> str:
        result: Result = CliRunner().invoke(app, list(arguments), env=self.environment)
        if isinstance(result.exception, HoraeError):
            raise result.exception
        assert result.exit_code == exits, result.output
        return result.output

    def json(self, *arguments: str) -> Any:
        return json.loads(self(*arguments, "--json"))


@pytest.fixture
def horae(runtime: Runtime, shop: DeliveryShop) -> Console:
    return Console(runtime)


# --- test pushes -----------------------------------------------------------------------------------------------------


def test_a_test_push_is_marked_and_counts_nowhere(runtime: Runtime, shop: DeliveryShop, horae: Console) -> None:
    shop.policy(Cap(id="daily", limit=1, window="local_day"), quiet_hours="11:00-13:00")
    shop.campaign(message={"title": "Hello {{ user.id }}", "body": "Use {{ data.code }}", "data": {"link": "shop://x"}})
    shop.user("ada")

    said = horae("campaign", "test", "bread", "--user", "ada", "--data", '{"code": "SPRING"}')

    [line], [row] = journal(runtime.settings.journal_path), shop.deliveries()
    assert "log: accepted: a test for user ada" in said
    assert "Use SPRING" in said
    assert (line["test"], line["title"], line["body"]) == (True, "Hello ada", "Use SPRING")
    assert (row["state"], row["test"], row["counts"], row["occurrence_id"], row["at"]) == (
        "accepted",
        True,
        False,
        None,
        NOON,
    )
    noted = horae.json("audit", "--subject", "campaign:bread")[0]
    assert (noted["actor"], noted["action"], noted["after"]["push"]) == (os_user(), "campaign.test", line["push_id"])
    shop.policy(Cap(id="daily", limit=1, window="local_day"))
    shop.campaign("other")
    shop.push("ada", "other")
    assert dispatch_due(runtime, NOON) == {"accepted": 1}


def test_a_test_push_is_about_the_best_item_that_can_be_had_or_a_given_one(
    runtime: Runtime, shop: DeliveryShop, horae: Console
) -> None:
    shop.campaign(items={"kind": "personalised", "where": {"field": "category", "equals": "Bakery"}})
    shop.campaign("cheese", items={"kind": "personalised", "where": {"field": "category", "equals": "Cheese"}})
    shop.item("bread", category="Bakery", available_from=NOON - timedelta(days=1))
    shop.item("stale", category="Bakery", stock=0)
    shop.item("milk", category="Dairy")
    shop.user("ada")

    assert horae.json("campaign", "test", "bread", "--user", "ada")["item_id"] == "bread"
    assert horae.json("campaign", "test", "bread", "--user", "ada", "--item", "milk")["item_id"] == "milk"
    with pytest.raises(BadInput, match="no available item"):
        horae("campaign", "test", "cheese", "--user", "ada")


@pytest.mark.parametrize(
    ("arguments", "error", "says"),
    [
        (("bred", "--user", "ada"), UnknownName, "no campaign 'bred'"),
        (("bread", "--user", "nobody"), UnknownName, "no user 'nobody'"),
        (("bread", "--user", "ada", "--item", "x"), UnknownName, "no item 'x'"),
        (("bread", "--user", "ada", "--data", "{"), BadInput, "not JSON"),
        (("bread", "--user", "ada", "--data", "[]"), BadInput, "JSON object"),
        (("bread", "--user", "no"), BadInput, "has not consented"),
        (("hooked", "--user", "ada"), BadInput, "webhook of campaign hooked is not configured"),
        (("fields", "--user", "ada"), BadInput, "cannot be rendered"),
    ],
)
def test_a_test_push_that_cannot_be_sent_says_why(
    runtime: Runtime, shop: DeliveryShop, horae: Console, arguments: tuple[str, ...], error: type[HoraeError], says: str
) -> None:
    shop.campaign("bread")
    shop.campaign("hooked", gateway="webhook")
    shop.campaign("fields", message={"title": "Hi", "body": "{{ user.attributes.name }}"})
    shop.user("ada")
    shop.user("no", consent=False)

    with pytest.raises(error, match=says):
        horae("campaign", "test", *arguments)
    assert shop.deliveries() == []


def test_a_test_push_that_the_provider_refuses_ends_with_code_1(
    runtime: Runtime, shop: DeliveryShop, horae: Console
) -> None:
    shop.campaign()
    shop.user("ada")
    runtime.settings.journal_path.mkdir()

    said = horae("campaign", "test", "bread", "--user", "ada", exits=1)

    assert "log: rejected (the journal cannot be written" in said
    assert [row["state"] for row in shop.deliveries()] == ["rejected"]


def test_a_stopped_channel_sends_no_test_either(runtime: Runtime, shop: DeliveryShop, horae: Console) -> None:
    shop.campaign()
    shop.user("ada")
    horae("stop", "--gateway", "log", "--why", "wrong price")

    with pytest.raises(BadInput, match="gateway:log is stopped: wrong price"):
        trial.send_test(runtime, NOON, "bread", trial.Wanted("ada"))


# --- stop and start --------------------------------------------------------------------------------------------------


def test_stop_says_what_it_comes_too_late_for_and_start_lets_go_on(
    runtime: Runtime, shop: DeliveryShop, horae: Console
) -> None:
    shop.campaign()
    shop.push("ada")
    shop.push("bob", state="sending")
    shop.sql("UPDATE pushes SET lease_until = clock_timestamp() + interval '1 minute' WHERE state = 'sending'")

    assert horae.json("stop", "--campaign", "bread") == {"stopped": "campaign:1", "may_still_leave": 1}
    assert "at most 1 pushes were already on their way" in horae("stop", "--all", "--why", "fire")
    assert dispatch_due(runtime, NOON) == {}
    listed = horae("start")
    assert "all, stopped" in listed
    assert f"by {os_user()}: fire" in listed

    assert "still stopped: campaign:1" in horae("start", "--all")
    assert "campaign bread sends again" in horae("start", "--campaign", "bread")
    assert "campaign bread was not stopped" in horae("start", "--campaign", "bread")
    assert "nothing is stopped" in horae("start")
    assert dispatch_due(runtime, NOON) == {"accepted": 1}


@pytest.mark.parametrize("arguments", [(), ("--all", "--gateway", "log"), ("--gateway", "log", "--campaign", "bread")])
def test_stop_wants_to_know_what(horae: Console, arguments: tuple[str, ...]) -> None:
    with pytest.raises(BadInput, match="say what: --all"):
        horae("stop", *arguments)


# --- deliveries ------------------------------------------------------------------------------------------------------


def test_deliveries_are_listed_newest_first_and_can_be_narrowed(
    runtime: Runtime, shop: DeliveryShop, horae: Console
) -> None:
    assert "No push came to its end" in horae("deliveries", "list")
    shop.campaign(items="personalised")
    shop.item("i1", stock=0)
    shop.push("ada")
    shop.push("bob", item="i1")
    dispatch_due(runtime, NOON)
    horae("campaign", "test", "bread", "--user", "ada", "--item", "i1")

    listed = horae("deliveries", "list")
    assert "suppressed: item_unavailable" in listed
    assert "bread (test)" in listed
    [bob] = horae.json("deliveries", "list", "--user", "bob")
    assert (bob["state"], bob["item_id"], bob["campaign"]) == ("suppressed", "i1", "bread")
    assert len(horae.json("deliveries", "list", "--state", "accepted", "--campaign", "bread")) == 2
    assert len(horae.json("deliveries", "list", "--limit", "1")) == 1
    with pytest.raises(UnknownName, match="no state"):
        horae("deliveries", "list", "--state", "acepted")
