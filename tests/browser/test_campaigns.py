"""What a marketer does, by a real browser: log in, write a campaign, see what it would do, send it, stop everything."""

from __future__ import annotations

import re

import pytest
from playwright.sync_api import Browser, Page, expect
from sqlalchemy import text

from engine.campaigns import policy_store, store
from tests.browser.conftest import PASSWORD, Shop, log_in, visiting
from tests.planning_shop import NOW, daily

pytestmark = pytest.mark.browser


def add(shop: Shop, name: str, **changes) -> None:
    """A campaign that is there already."""
    with shop.runtime.database.begin() as connection:
        store.create(connection, daily(name=name, **{"schedule": None, **changes}), NOW, "tests")


def test_whoever_is_not_logged_in_comes_back_to_the_page_they_asked_for(chromium: Browser, shop: Shop):
    with visiting(chromium, shop) as page:
        page.goto("/console/campaigns")
        expect(page).to_have_url(re.compile("/console/login"))
        log_in_here(page, "operator", "not the password")
        expect(page.get_by_role("alert")).to_contain_text("do not fit")
        log_in_here(page, "operator", PASSWORD)

        expect(page).to_have_url(re.compile("/console/campaigns$"))


def log_in_here(page: Page, name: str, password: str) -> None:
    page.fill("#f-name", name)
    page.fill("#f-password", password)
    page.click("button.main")


def test_a_campaign_is_written_previewed_launched_triggered_and_watched(operator: Page, shop: Shop):
    page = operator
    page.goto("/console/editor")
    expect(page.locator("#check")).to_contain_text("Not yet a campaign")
    page.fill("#f-name", "autumn")
    page.fill("#f-message-title", "Autumn")
    page.fill("#f-message-body", "{{ item.title }} for {{ item.price }}")
    page.select_option("#f-items-kind", "personalised")

    expect(page.locator("#check .figure")).to_contain_text("400 users in the audience")
    expect(page.locator("#check .phone").first).to_contain_text("Item")
    expect(page.locator("#plan")).to_contain_text("of 400 would get a push")
    expect(page.locator("#plan canvas")).to_be_visible()
    expect(page.locator("#plan")).to_contain_text("What each rule costs")

    page.get_by_role("button", name="Whole definition (YAML)").click()
    expect(page.locator("#f-yaml")).to_have_value(re.compile("name: autumn"))
    page.get_by_role("button", name="Form", exact=True).click()
    page.get_by_role("button", name="Save as draft").click()
    expect(page.get_by_role("heading", name="autumn")).to_be_visible()

    page.get_by_role("button", name="Launch").click()
    page.get_by_role("dialog").get_by_role("button", name="Launch").click()
    expect(page.locator("#messages")).to_contain_text("autumn is launched")

    page.get_by_role("link", name="Trigger …").click()
    page.get_by_role("button", name="See whom it reaches").click()
    expect(page.get_by_role("heading", name="It would ask for 400 users")).to_be_visible()
    page.get_by_role("button", name="Send it").click()
    expect(page.locator("#messages")).to_contain_text("Triggered")
    expect(page.locator("#runs")).to_contain_text("published", timeout=60_000)
    with shop.runtime.database.begin() as connection:
        planned = connection.execute(text("SELECT count(*) FROM pushes")).scalar_one()
        authors = connection.execute(text("SELECT DISTINCT actor FROM audit_log WHERE subject = 'campaign:autumn'"))
        assert planned > 100
        assert authors.scalars().all() == ["user:operator"]


def test_variants_and_conditions_are_written_in_the_form_and_shown_as_they_would_arrive(operator: Page, shop: Shop):
    page = operator
    with shop.runtime.database.begin() as connection:
        connection.execute(
            text("UPDATE users SET locale = CASE WHEN id % 2 = 0 THEN 'de' ELSE 'en' END, country = 'DE'")
        )
        connection.execute(text("UPDATE users SET country = 'FR' WHERE id % 4 = 0"))
    page.goto("/console/editor")
    page.fill("#f-name", "tested")
    page.fill("#f-message-title", "Hello")
    page.fill("#f-message-body", "Have a look")
    page.get_by_role("button", name="Test variants of the text").click()
    page.fill("#f-test-name", "greeting")
    page.fill("#f-arm-1-title", "Good morning")
    page.get_by_role("button", name="Add a variant").click()
    page.fill("#f-arm-2-name", "short")
    page.fill("#f-arm-2-title", "Hi")
    page.select_option("#f-for", "rules")
    page.select_option("[name='g0.r0.kind']", "field")
    page.fill("[name='g0.r0.name']", "country")
    page.fill("[name='g0.r0.value']", "FR")

    expect(page.locator("#check .figure")).to_contain_text("100 users in the audience")
    shown = page.locator("#check .phone")
    for title in ("Hello", "Good morning", "Hi"):
        expect(shown.filter(has_text=title).first).to_be_visible()
    expect(page.locator("#plan .phone").first).to_contain_text("variant")

    page.get_by_role("button", name="Save as draft").click()
    with shop.runtime.database.begin() as connection:
        stored = store.get(connection, "tested").definition
    assert stored.message.experiment is not None
    assert set(stored.message.experiment.arms) == {"plain", "other", "short"}
    assert stored.model_dump(mode="json", exclude_none=True)["audience"] == {"field": "country", "equals": "FR"}

    page.get_by_role("link", name="Edit").click()
    expect(page.locator("[name='g0.r0.value']")).to_have_value("FR")
    expect(page.locator("#f-arm-2-title")).to_have_value("Hi")


def test_a_version_that_waits_is_planned_before_it_is_approved(operator: Page, shop: Shop):
    page = operator
    add(shop, "waits")
    with shop.runtime.database.begin() as connection:
        policy_store.change_rules(connection, {"approvals": "required"}, "tests")
        changed = daily(name="waits", schedule=None, message={"title": "Changed", "body": "{{ item.title }}"})
        assert store.create(connection, changed, NOW, "another").pending == 2
    try:
        page.goto("/console/campaigns/waits")
        page.get_by_role("link", name="see what changed").click()
        page.get_by_role("button", name="Plan a sample").click()
        expect(page.locator("#plan .phone-title").first).to_have_text("Changed")
    finally:
        with shop.runtime.database.begin() as connection:
            policy_store.change_rules(connection, {"approvals": "off"}, "tests")


def test_what_is_wrong_is_told_at_its_field_and_nothing_typed_is_lost(operator: Page):
    page = operator
    page.goto("/console/editor")
    page.fill("#f-name", "wrong")
    page.fill("#f-message-title", "kept")
    page.fill("#f-horizon", "soon")
    page.get_by_role("button", name="Save as draft").click()

    expect(page.locator("#f-horizon-fault")).to_contain_text("must be a duration")
    expect(page.locator("#f-message-title")).to_have_value("kept")


def test_two_people_do_not_overwrite_each_other(operator: Page, shop: Shop):
    page = operator
    add(shop, "contested")
    page.goto("/console/editor?name=contested")
    with shop.runtime.database.begin() as connection:
        store.create(connection, daily(name="contested", schedule=None, description="theirs"), NOW, "another")
    page.fill("#f-description", "mine")
    page.get_by_role("button", name="Save as the next version").click()

    expect(page.get_by_role("alert")).to_contain_text("Somebody changed this campaign meanwhile")


def test_versions_show_what_changed(operator: Page, shop: Shop):
    page = operator
    add(shop, "edited")
    page.goto("/console/editor?name=edited")
    page.fill("#f-message-title", "Hello again")
    page.get_by_role("button", name="Save as the next version").click()
    expect(page.locator("#messages")).to_contain_text("version 2")
    page.get_by_role("link", name="2", exact=True).click()

    expect(page.locator(".diff .gone")).to_have_text("−   title: Hello")
    expect(page.locator(".diff .new")).to_have_text("+   title: Hello again")


def test_a_test_push_is_shown_as_it_was_sent(operator: Page, shop: Shop):
    page = operator
    add(shop, "tried", items={"kind": "fixed", "ids": ["i3"]})
    page.goto("/console/sends/tried/test")
    page.fill("#f-user", "u1")
    page.get_by_role("button", name="Send it").click()

    expect(page.locator(".phone")).to_contain_text("Item 3")


def test_everything_is_stopped_and_started_by_the_red_switch(operator: Page, shop: Shop):
    page = operator
    page.goto("/console")
    page.get_by_role("button", name="Stop everything").click()
    dialog = page.get_by_role("dialog")
    dialog.get_by_label("Why").fill("a wrong price")
    dialog.get_by_role("button", name="Stop everything").click()

    expect(page.locator("#messages")).to_contain_text("No push was on its way")
    expect(page.locator("#now")).to_contain_text("a wrong price")
    page.goto("/console/campaigns")
    expect(page.locator(".banner")).to_contain_text("Everything is stopped")
    page.goto("/console")
    page.get_by_role("button", name="Start again").click()
    page.get_by_role("dialog").get_by_role("button", name="Start").click()
    expect(page.locator(".banner")).to_have_count(0)


def test_the_overview_refreshes_itself(operator: Page, shop: Shop):
    page = operator
    page.goto("/console")
    with shop.runtime.database.begin() as connection:
        connection.execute(text("INSERT INTO switches VALUES ('gateway:fcm', now(), 'horae', 'it refuses us')"))
    try:
        expect(page.locator("#now")).to_contain_text("it refuses us")
    finally:
        with shop.runtime.database.begin() as connection:
            connection.execute(text("DELETE FROM switches"))


def test_a_viewer_sees_no_buttons_that_change_something(chromium: Browser, shop: Shop):
    add(shop, "looked-at")
    with visiting(chromium, shop, "viewer") as page:
        for path in ("/console", "/console/campaigns", "/console/campaigns/looked-at"):
            page.goto(path)
            expect(page.locator("main form")).to_have_count(0)
            expect(page.locator("main a[href*='/editor'], main a[href*='/sends/']")).to_have_count(0)
        page.goto("/console/editor")
        expect(page.get_by_role("heading", name="This needs the role operator; yours is viewer.")).to_be_visible()


def test_the_console_speaks_chinese_and_remembers_it(chromium: Browser, shop: Shop):
    with visiting(chromium, shop, "admin") as page:
        page.get_by_role("button", name="简体中文").click()
        expect(page.get_by_role("heading", level=1)).to_have_text("概览")
        expect(page.locator("html")).to_have_attribute("lang", "zh-Hans")
    with visiting(chromium, shop, "admin") as page:
        expect(page.get_by_role("heading", level=1)).to_have_text("概览")


def test_it_is_usable_by_keyboard_and_at_phone_width(chromium: Browser, shop: Shop):
    with visiting(chromium, shop, "operator", viewport={"width": 390, "height": 800}) as page:
        page.goto("/console/campaigns")
        page.keyboard.press("Tab")
        expect(page.locator(".skip")).to_be_focused()
        for path in ("/console", "/console/campaigns", "/console/editor", "/console/account"):
            page.goto(path)
            assert page.evaluate("document.documentElement.scrollWidth") <= 390, path
        page.get_by_text("Menu").click()
        page.get_by_role("link", name="Campaigns", exact=True).click()
        expect(page).to_have_url(re.compile("/console/campaigns$"))


def test_logging_out_ends_the_session(operator: Page):
    page = operator
    page.get_by_role("button", name="Log out").click()
    expect(page.locator("#messages")).to_contain_text("You are logged out")
    page.goto("/console")
    expect(page).to_have_url(re.compile("/console/login"))


def test_the_theme_is_chosen_and_kept(operator: Page):
    page = operator
    page.get_by_role("button", name="As the system").click()
    expect(page.locator("html")).to_have_attribute("data-theme", "dark")
    page.goto("/console/campaigns")
    expect(page.locator("html")).to_have_attribute("data-theme", "dark")


def test_the_login_form_is_labelled(chromium: Browser, shop: Shop):
    with visiting(chromium, shop) as page:
        page.goto("/console/login")
        log_in(page, "viewer")
        page.goto("/console/account")
        for label in ("Your password now", "New password", "The new one once more"):
            expect(page.get_by_label(label, exact=True)).to_be_visible()
