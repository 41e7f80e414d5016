"""Rules, audiences and approvals in a browser; and axe over every page."""

from __future__ import annotations

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, Page, expect
from sqlalchemy import text

from engine.access import users
from engine.campaigns import policy_store, store
from engine.store.browse import TABLES
from tests.browser.conftest import PASSWORD, Shop, log_in, visiting
from tests.planning_shop import NOW, daily

pytestmark = pytest.mark.browser

PAGES = [
    "/console",
    "/console/campaigns",
    "/console/campaigns/looked-at",
    "/console/campaigns/looked-at/report",
    "/console/campaigns/looked-at/versions/1",
    "/console/editor",
    "/console/editor?name=looked-at",
    "/console/sends/looked-at",
    "/console/sends/looked-at/test",
    "/console/approvals",
    "/console/audiences",
    "/console/runs",
    "/console/users",
    "/console/users/u7",
    "/console/models",
    "/console/audiences/edit",
    *(f"/console/data/{name}" for name in TABLES),
    "/console/data/devices",
    "/console/settings",
    "/console/settings/audit",
    "/console/settings/keys",
    "/console/settings/team",
    "/console/settings/workers",
    "/console/account",
    "/console/nowhere",
]


def test_a_cap_is_added_and_removed(chromium: Browser, shop: Shop):
    with visiting(chromium, shop, "admin") as page:
        page.goto("/console/settings")
        page.get_by_text("Add a cap").click()
        page.fill("#f-limit", "3")
        page.select_option("#f-window", "rolling:PT24H")
        page.get_by_role("button", name="Add", exact=True).click()
        expect(page.get_by_text("at most 3 in any 24 hours")).to_be_visible()

        page.get_by_role("button", name="Remove").click()
        page.get_by_role("dialog").get_by_role("button", name="Remove").click()
        expect(page.get_by_text("There are no caps")).to_be_visible()

        page.goto("/console/settings/audit?action=policy.change")
        expect(page.locator("ins", has_text="rolling:PT24H")).to_be_visible()
        expect(page.locator("del", has_text="rolling:PT24H")).to_be_visible()


def test_a_rule_that_makes_no_sense_is_told_at_its_field_and_keeps_what_was_typed(chromium: Browser, shop: Shop):
    with visiting(chromium, shop, "admin") as page:
        page.goto("/console/settings")
        page.fill("#f-default_timezone", "Europe/Berlinn")
        page.fill("#f-min_gap", "6h")
        page.get_by_role("button", name="Save the rules").click()

        expect(page.locator("#f-default_timezone-fault")).to_contain_text("Europe/Berlin")
        expect(page.locator("#f-min_gap")).to_have_value("6h")


def test_a_new_key_is_shown_this_once(chromium: Browser, shop: Shop):
    with visiting(chromium, shop, "admin") as page:
        page.goto("/console/settings/keys")
        page.fill("#f-name", "the shop")
        page.get_by_role("button", name="Make the key").click()
        key = page.locator("#made code").inner_text()
        page.goto("/console/settings/keys")

        assert key.startswith("horae_")
        assert key not in page.content()


def test_an_audience_is_built_and_counted_while_it_is_written(chromium: Browser, shop: Shop):
    with shop.runtime.database.begin() as connection:
        connection.execute(text('UPDATE users SET attributes = \'{"tier": "gold"}\' WHERE id % 4 = 0'))
        held = connection.execute(text("SELECT count(*) FROM users WHERE id % 4 = 0")).scalar_one()

    with visiting(chromium, shop, "operator") as page:
        page.goto("/console/audiences/edit")
        page.fill("#f-name", "gold")
        page.fill("[name='g0.r0.name']", "tier")
        page.fill("[name='g0.r0.value']", "gold")
        expect(page.locator("#check .tile dd").first).to_have_text(str(held))

        page.get_by_role("button", name="Save", exact=True).last.click()
        expect(page.get_by_role("heading", name="gold")).to_be_visible()
        page.get_by_role("button", name="Delete").click()
        page.get_by_role("dialog").get_by_role("button", name="Delete").click()
        expect(page.get_by_text("There are no audiences yet.")).to_be_visible()


def test_with_four_eyes_somebody_else_approves(chromium: Browser, shop: Shop):
    with shop.runtime.database.begin() as connection:
        users.create_user(connection, "second", "operator", PASSWORD, author="tests")
        policy_store.change_rules(connection, {"approvals": "four_eyes"}, "tests")
        store.create(connection, daily(name="eyed"), NOW, "user:operator")

    with visiting(chromium, shop, "operator") as page:
        page.goto("/console/campaigns/eyed")
        page.get_by_role("button", name="Ask for an approval").click()
        expect(page.locator("#approval")).to_contain_text("waits for an approval")
        page.locator("#approval").get_by_role("button", name="Approve").first.click()
        page.get_by_role("dialog").get_by_role("button", name="Approve").click()
        expect(page.get_by_text("by somebody else")).to_be_visible()

    with visiting(chromium, shop) as page:
        log_in(page, "second")
        page.goto("/console/approvals")
        page.get_by_role("link", name="eyed").click()
        page.locator("#approval").get_by_role("button", name="Approve").first.click()
        page.get_by_role("dialog").get_by_role("button", name="Approve").click()
        expect(page.locator("#approval")).to_contain_text("approved")
    with shop.runtime.database.begin() as connection:
        policy_store.change_rules(connection, {"approvals": "off"}, "tests")


def serious(page: Page) -> dict[str, list[str]]:
    """What axe finds that matters, by rule."""
    return {
        one["id"]: [node["html"][:120] for node in one["nodes"][:3]]
        for one in Axe().run(page).response["violations"]
        if one["impact"] in ("serious", "critical")
    }


def test_axe_finds_nothing_serious_in_a_form_with_conditions_and_variants(chromium: Browser, shop: Shop):
    with visiting(chromium, shop, "operator", reduced_motion="reduce", bypass_csp=True) as page:
        page.goto("/console/editor")
        page.fill("#f-name", "looked-into")
        page.get_by_role("button", name="Test variants of the text").click()
        page.select_option("#f-for", "rules")
        page.get_by_role("button", name="Add a condition").click()
        page.wait_for_load_state("networkidle")

        assert serious(page) == {}


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing_serious_on_any_page(chromium: Browser, shop: Shop, scheme: str):
    with shop.runtime.database.begin() as connection:
        store.create(connection, daily(name="looked-at"), NOW, "tests")
    found: dict[tuple[str, str], list[str]] = {}
    with visiting(chromium, shop, "admin", color_scheme=scheme, reduced_motion="reduce", bypass_csp=True) as page:
        for path in PAGES:
            page.goto(path)
            page.wait_for_load_state("networkidle") if "/workers" not in path else page.wait_for_timeout(300)
            found |= {(path, rule): where for rule, where in serious(page).items()}

    assert found == {}
