"""A real Chromium before a real console: the shop of planning_shop, served, with a worker that plans."""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
from playwright.sync_api import Browser, BrowserContext, Page, Playwright, sync_playwright

from engine.access import users
from engine.runtime import Runtime, redis_client
from engine.store.database import Database
from tests.api_server import module_runtime, serving
from tests.planning_shop import fill_shop
from tests.running import CELERY, start, wait_for

SYSTEM = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
PASSWORD = "correct horse battery"
ROLES = ("viewer", "operator", "admin")


@dataclass(frozen=True)
class Shop:
    """A console that runs; a user of each role has its name."""

    url: str
    runtime: Runtime


@pytest.fixture(scope="session")
def chromium() -> Iterator[Browser]:
    """Playwright's own browser, or the system's."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=found(playwright), args=["--no-sandbox"] if os.geteuid() == 0 else []
        )
        yield browser
        browser.close()


def found(playwright: Playwright) -> str:
    """The path of a Chromium; fails with what to do where there is none."""
    own = playwright.chromium.executable_path
    if Path(own).exists():
        return own
    system = next((path for name in SYSTEM if (path := shutil.which(name))), None)
    if system is None:
        pytest.fail("no Chromium: playwright install chromium, or apt-get install chromium", pytrace=False)
    return system


@contextmanager
def open_shop(database: Database, redis_url: str, home: Path) -> Iterator[Shop]:
    """The console of a small shop, and a worker."""
    runtime = fill_shop(module_runtime(database, redis_url, home))
    with database.begin() as connection:
        for role in ROLES:
            users.create_user(connection, role, role, PASSWORD, author="tests")
    servers = {"HORAE_DATABASE_URL": database.libpq_url, "HORAE_REDIS_URL": redis_url}
    log = home / "worker.log"
    worker = start(
        *(*CELERY, "worker", "-P", "solo", "-Q", "plan,dispatch,ingest,train,upkeep", "-l", "INFO"),
        *("--without-gossip", "--without-mingle"),
        home=home,
        log=log,
        **servers,
    )
    try:
        wait_for(lambda: "ready." in log.read_text(), "the worker's start", 60, log)
        with serving(runtime) as api:
            yield Shop(api.url, runtime)
    finally:
        worker.send_signal(signal.SIGTERM)
        worker.wait(30)


@pytest.fixture(scope="module")
def shop(shared_database: Database, servers, tmp_path_factory) -> Iterator[Shop]:
    """The shop of a module's tests."""
    redis_url = servers.redis_url.rsplit("/", 1)[0] + "/9"
    with open_shop(shared_database, redis_url, tmp_path_factory.mktemp("console")) as opened:
        yield opened


@contextmanager
def visiting(chromium: Browser, shop: Shop, role: str | None = None, **more: object) -> Iterator[Page]:
    """A page of a new browser profile, logged in as `role`; nothing that the console shows may break its own policy."""
    context: BrowserContext = chromium.new_context(base_url=shop.url, locale="en-GB", **more)  # type: ignore[arg-type]
    page = context.new_page()
    page.set_default_timeout(15_000)
    complaints: list[str] = []
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("console", lambda said: complaints.append(said.text) if "Content Security Policy" in said.text else None)
    try:
        if role is not None:
            _forget_logins(shop)
            log_in(page, role)
        yield page
        assert complaints == []
    finally:
        context.close()


def _forget_logins(shop: Shop) -> None:
    """Tests log in more often than the throttle lets people."""
    client = redis_client(shop.runtime.redis_url)
    for key in client.scan_iter("horae:rate:login:*"):
        client.delete(key)
    client.close()


def log_in(page: Page, name: str, password: str = PASSWORD) -> None:
    """Fill in the login form."""
    page.goto("/console/login")
    page.fill("#f-name", name)
    page.fill("#f-password", password)
    page.click("button.main")


@pytest.fixture
def operator(chromium: Browser, shop: Shop) -> Iterator[Page]:
    """A browser in which an operator is logged in."""
    with visiting(chromium, shop, "operator") as page:
        yield page
