"""A campaign's message is tried on users and items in the store before anybody gets it."""

from __future__ import annotations

from typing import Any

import pytest

from engine.campaigns.definition import Campaign
from engine.campaigns.review import Review, review
from engine.campaigns.sampling import try_message
from engine.campaigns.template import PAYLOAD_BYTES
from engine.runtime import Runtime
from tests.delivery_store import NOON, DeliveryShop


@pytest.fixture
def shop(runtime: Runtime) -> DeliveryShop:
    made = DeliveryShop(runtime.database)
    for number in range(20):
        made.user(f"u{number}", attributes={"name": "Ada"} if number else {})
    made.item("short", title="Bread", price=2.0)
    made.item("long", title="Bread " * 400, price=3.0)
    return made


def reviewed(shop: DeliveryShop, title: str, **definition: Any) -> Review:
    spec = {"name": "bread", "class": "marketing", "message": {"title": title, "body": "Fresh"}, **definition}
    with shop.database.begin() as connection:
        return review(connection, Campaign.model_validate(spec), NOON, ["log"])


def test_what_is_too_long_for_providers_is_an_error_when_it_is_saved(shop: DeliveryShop) -> None:
    fits = reviewed(shop, "{{ item.title }}", items="personalised")
    too_long = reviewed(shop, "{{ item.title }}{{ item.title }}", items="personalised")

    assert fits.errors == ()
    assert f"more than the {PAYLOAD_BYTES} that providers take" in too_long.errors[0]
    assert "for user u" in too_long.errors[0]


def test_a_field_that_some_lack_is_a_warning_and_one_that_all_lack_an_error(shop: DeliveryShop) -> None:
    some = reviewed(shop, "Hi {{ user.attributes.name }}")
    none = reviewed(shop, "Hi {{ user.attributes.nickname }}")

    assert some.errors == ()
    assert any("for 1 of 20 users in the store it cannot be rendered" in warning for warning in some.warnings)
    assert "for none of 20 users" in none.errors[0]


def test_data_that_comes_with_a_trigger_is_not_judged_but_its_excess_is(shop: DeliveryShop) -> None:
    with shop.database.begin() as connection:

        def tried(title: str) -> Any:
            message = {"title": title, "body": "{{ data.code | plus: 1 }}"}
            campaign = {"name": "bread", "class": "marketing", "items": "personalised", "message": message}
            return try_message(connection, Campaign.model_validate(campaign))

        assert tried("{{ user.attributes.nickname }}{{ data.code }}").errors == ()
        assert tried("{{ item.title }}{{ item.title }}{{ data.code }}").errors != ()
