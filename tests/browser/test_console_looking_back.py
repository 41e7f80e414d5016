"""Runs, users and models in a browser: a decision explained, a run watched, and what a viewer may not."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest
from playwright.sync_api import Page, expect
from sqlalchemy import text

from engine.learning import registry
from engine.planning import run as planning
from engine.planning.progress import get_run, list_runs
from tests.browser.conftest import Shop, visiting
from tests.models import small_model
from tests.planning_shop import NOW, Workers, create, daily

pytestmark = pytest.mark.browser


@pytest.fixture(scope="module")
def planned(shop: Shop) -> Shop:
    """A shop with a planned run and two models, of which the second decides."""
    with shop.runtime.database.begin() as connection:
        for version in [registry.register(connection, small_model(), {}) for _ in range(2)]:
            registry.promote(connection, version)
    create(shop.runtime, daily(name="looked-back-at"))
    Workers(shop.runtime).tick()
    return shop


@pytest.fixture
def viewer(chromium, planned: Shop) -> Iterator[Page]:
    """A browser in which a viewer is logged in."""
    with visiting(chromium, planned, "viewer") as page:
        yield page


def champion(shop: Shop) -> int | None:
    with shop.runtime.database.begin() as connection:
        return registry.champion(connection)


def test_a_run_is_watched_and_says_what_it_decided(viewer: Page, planned: Shop) -> None:
    with planned.runtime.database.begin() as connection:
        run = list_runs(connection)[0].id
    viewer.goto("/console/runs")
    viewer.click(f"a[href='/console/runs/{run}']")

    expect(viewer.locator("h1")).to_contain_text(str(run))
    expect(viewer.locator("#progress")).to_contain_text("400")
    expect(viewer.locator("#counts")).to_contain_text("no consent")


def test_a_decision_of_one_user_is_explained_and_agrees(viewer: Page, planned: Shop) -> None:
    viewer.goto("/console/users")
    viewer.fill("#f-q", "u7")
    viewer.click("#found a[href='/console/users/u7']")
    viewer.click("table#timeline button")

    expect(viewer.locator(".why").first).to_be_visible()
    expect(viewer.locator(".why").first).to_contain_text("everything agrees")


def test_a_viewer_can_neither_roll_back_nor_erase_by_page_or_by_form(viewer: Page, planned: Shop) -> None:
    before = champion(planned)
    viewer.goto("/console/models")
    expect(viewer.locator("table").first).to_be_visible()
    assert viewer.locator("[data-opens]").count() == 0
    viewer.goto("/console/users/u7")
    assert viewer.locator("[data-opens]").count() == 0
    token = viewer.locator("input[name=csrf]").first.get_attribute("value") or ""

    answers = [
        viewer.request.post(f"{planned.url}{path}", form={"csrf": token, **more})
        for path, more in (
            ("/console/models/rollback", {}),
            (f"/console/models/{before}/promote", {}),
            ("/console/users/u7", {"typed": "u7"}),
        )
    ]
    exported = viewer.request.get(f"{planned.url}/console/users/u7?part=export")

    assert [answer.status for answer in (*answers, exported)] == [403] * 4
    assert champion(planned) == before
    with planned.runtime.database.begin() as connection:
        assert connection.execute(text("SELECT 1 FROM users WHERE external_id = 'u7'")).scalar() == 1


def test_an_operator_rolls_back_and_sees_it(chromium, planned: Shop) -> None:
    before = champion(planned)
    with visiting(chromium, planned, "operator") as page:
        page.goto("/console/models")
        page.click("[data-opens=rollback]")
        page.click("#rollback button:not([type=button])")
        expect(page.locator("#messages")).to_contain_text("champion again")

    assert champion(planned) != before


def test_an_admin_erases_a_user_only_by_typing_the_id(chromium, planned: Shop) -> None:
    with visiting(chromium, planned, "admin") as page:
        for typed, said in (("u8", "Nothing was erased"), ("u9", "erased for good")):
            page.goto("/console/users/u9")
            page.click("[data-opens=erase]")
            page.fill("#f-typed", typed)
            page.click("#erase button:not([type=button])")
            expect(page.locator("#messages")).to_contain_text(said)
        page.goto("/console/users/u9")
        expect(page.locator("h1")).to_contain_text("was erased")


def test_a_run_is_seen_to_grow_without_loading_the_page_again(viewer: Page, planned: Shop) -> None:
    create(planned.runtime, daily(name="grows", items={"kind": "fixed", "ids": ["i1", "i2"]}))
    workers = Workers(planned.runtime)
    run = planning.tick_campaigns(planned.runtime, NOW, workers.wake)["run"]
    viewer.goto(f"/console/runs/{run}")
    progress = viewer.locator("#progress")
    expect(progress).to_contain_text(re.compile(r"of (400|399)"))  # one was erased above
    viewer.evaluate("window.loaded = 'once'")
    seen = [viewer.locator("#progress progress").get_attribute("value")]

    for shard in (0, 1):
        planning.plan_shard(planned.runtime, run, shard, workers.wake)
        with planned.runtime.database.begin() as connection:
            done = get_run(connection, run).users_done
        expect(viewer.locator("#progress progress")).to_have_attribute("value", str(done))
        seen.append(str(done))
    for shard in (2, 3):
        planning.plan_shard(planned.runtime, run, shard, workers.wake)
    planning.settle(planned.runtime, run, workers.wake)

    expect(progress).to_contain_text("published")
    expect(viewer.locator("#counts")).to_contain_text("planned")
    assert [int(value or 0) for value in seen] == sorted({int(value or 0) for value in seen})
    assert viewer.evaluate("window.loaded") == "once"
