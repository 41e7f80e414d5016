"""Flower, reached as people reach it: by the console's link, with its password."""

from __future__ import annotations

import re
import socket
import subprocess
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace

import pytest
from celery import Celery
from playwright.sync_api import Browser, expect

from engine.bench.serving import free_port
from engine.runtime import Runtime
from engine.supervise import plan_programs
from tests.api_server import serving
from tests.browser.conftest import Shop, log_in, visiting
from tests.running import environment, wait_for

pytestmark = pytest.mark.browser


@pytest.fixture
def flower(shop: Shop, tmp_path) -> Iterator[tuple[Runtime, str, str]]:
    """Flower as `horae up` starts it where its port is taken: the runtime of the API beside it, where it is, and its
    password."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        home = shop.runtime.settings.home
        wished = shop.runtime.settings.model_copy(
            update={"flower_port": taken.getsockname()[1], "api_port": free_port()}
        )
        plan = plan_programs(wished)
    with closing(plan):
        programs = {program.name: program for program in plan.programs}
        port = programs["api"].environment["HORAE_FLOWER_PORT"]
        assert plan.flower_url == f"http://127.0.0.1:{port}"
        assert int(port) != wished.flower_port
        servers = {"HORAE_DATABASE_URL": wished.database_url or "", "HORAE_REDIS_URL": wished.redis_url or ""}
        given = environment(home, servers | dict(programs["flower"].environment))
        with (tmp_path / "flower.log").open("wb") as log:
            running = subprocess.Popen(programs["flower"].command, env=given, cwd=home, stdout=log, stderr=log)
        try:
            wait_for(lambda: _listens(int(port)), f"Flower's start, see {tmp_path}", 60)
            settings = wished.model_copy(update={"flower_port": int(port)})
            yield replace(shop.runtime, settings=settings), plan.flower_url, (home / "flower-password").read_text()
        finally:
            running.terminate()
            running.wait(30)


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def test_the_consoles_link_leads_to_the_tasks_in_flower(chromium: Browser, shop: Shop, flower):
    runtime, where, password = flower
    given = {"username": "horae", "password": password}
    with serving(runtime) as api, visiting(chromium, replace(shop, url=api.url), http_credentials=given) as page:
        log_in(page, "viewer")
        page.goto("/console/settings/workers")
        link = page.get_by_role("link", name="Tasks in Flower")
        expect(link).to_have_attribute("href", f"{where}/")
        link.click()
        expect(page).to_have_url(re.compile(re.escape(where)))
        client = Celery(broker=shop.runtime.broker_url, set_as_current=False)
        client.send_task("horae.plan_shard", args=(123, 4), queue="plan")
        client.close()

        def shown() -> bool:
            page.goto(f"{where}/tasks")
            page.wait_for_timeout(500)
            return page.get_by_text("horae.plan_shard").count() > 0

        wait_for(shown, "the task in Flower", 60)


def test_flower_shows_nothing_without_its_password(chromium: Browser, flower):
    _, where, _ = flower
    context = chromium.new_context()
    try:
        assert context.request.get(where).status == 401
    finally:
        context.close()
