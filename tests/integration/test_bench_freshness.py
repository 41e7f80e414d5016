"""`horae bench freshness`: its probes on a real API and planner, and, with the soak tests, the whole of it, small."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from datetime import timedelta

import numpy as np
import psutil
import pytest
from sqlalchemy import text

from engine import clock
from engine.bench import freshness, probing
from engine.bench.freshness import Load, measure
from engine.bench.probing import Api, Planned, Watch, connected, purchase_probe, steadily, view_probe
from engine.clock import monotonic
from engine.planning.refresh import refresh
from engine.planning.wake import ignore
from engine.runtime import Runtime
from tests.api_server import make_key, serving
from tests.planning_shop import NOW, Workers, create, daily, fill_shop

LATER = NOW + timedelta(minutes=15)
PLANNED = """
    SELECT p.id, p.user_id, u.external_id, p.item_id, i.external_id FROM pushes p JOIN users u ON u.id = p.user_id
    JOIN items i ON i.id = p.item_id
    WHERE p.state = 'planned' AND p.send_at > :soon AND p.send_at < :late ORDER BY u.external_id
"""


@pytest.fixture
def shop(runtime: Runtime) -> Runtime:
    """A shop with planned pushes, a quarter of an hour later."""
    made = fill_shop(runtime)
    create(made, daily(horizon="14h"))
    Workers(made).tick()
    with made.database.begin() as connection:
        clock.step_virtual(connection, LATER)
    return made


@pytest.fixture
def api(shop: Runtime) -> Iterator[Api]:
    key = make_key(shop.database, "read", "write")
    with serving(shop) as served, connected(served.port, key) as client:
        yield client


def planned(shop: Runtime) -> list[Planned]:
    given = {"soon": LATER + timedelta(minutes=10), "late": LATER + timedelta(hours=12)}
    with shop.database.begin() as connection:
        return [Planned(*row) for row in connection.execute(text(PLANNED), given)]


def test_a_purchase_shows_when_its_push_has_changed_and_not_before(shop, api, monkeypatch) -> None:
    first, second = planned(shop)[:2]
    ended = threading.Event()

    def refreshing() -> None:
        while not ended.wait(0.05):
            refresh(shop, LATER, ignore)

    with Watch(shop.database).looking() as watch:
        thread = threading.Thread(target=refreshing)
        thread.start()
        shown = purchase_probe(api, watch, first)
        ended.set()
        thread.join()
        monkeypatch.setattr(probing, "PATIENCE_SECONDS", 0.5)
        nobody = purchase_probe(api, watch, second)

    assert 0 < shown.answered < shown.sent < probing.PATIENCE_SECONDS + 20
    assert nobody.answered >= 0.5
    left = {(push.user, push.item) for push in planned(shop)}
    assert (first.user, first.item) not in left
    assert (second.user, second.item) in left


def test_views_show_when_the_viewed_item_is_recommended(shop, api) -> None:
    user = planned(shop)[0].user
    before = api.recommended(user, 50)
    items = [f"new-{number}" for number in range(3)]
    with shop.database.begin() as connection:
        connection.execute(
            text(
                "INSERT INTO items (external_id, title, price)"
                " SELECT name, name, 5 FROM unnest(CAST(:names AS text[])) AS name"
            ),
            {"names": items},
        )

    shown = view_probe(api, user, items, np.random.default_rng(1))

    assert not set(items) & set(before)
    assert len(set(items) & set(api.recommended(user, 50))) == 1
    assert 0 < shown.answered < shown.sent


def test_a_steady_load_makes_up_for_what_took_longer() -> None:
    done: list[int] = []

    def work(number: int) -> None:
        done.append(number)
        if number == 1:
            threading.Event().wait(0.2)

    steadily(work, 100, monotonic() + 0.4, first=1, step=2)

    assert done == list(range(1, 40, 2))


@pytest.mark.soak
def test_events_show_on_a_service_that_runs(database, tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("HORAE_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("HORAE_DATABASE_URL", database.libpq_url)
    load = Load(seconds=4, warming=3, events_per_s=40, batch=5, probes_per_s=2, probers=2, file_rows=5_000)

    report = measure(150, 1, load, lambda _: None)

    figures = report.figures
    assert report.bounds == freshness.BOUNDS
    assert figures["not_shown"] == 0
    for kind in ("views", "purchase"):
        assert figures[f"{kind}_probes"] >= 4
        assert 0 < figures[f"{kind}_p50_s"] <= figures[f"{kind}_p99_s"] <= figures[f"{kind}_p99_from_sending_s"]
    assert figures["freshness_p99_s"] == max(figures["views_p99_s"], figures["purchase_p99_s"])
    assert figures["events_per_s"] > 0
    with database.begin() as connection:
        left = connection.execute(text("SELECT count(*) FROM pg_database WHERE datname LIKE 'horae_bench_fresh%'"))
        assert left.scalar_one() == 0
    children = psutil.Process(os.getpid()).children(recursive=True)
    assert not [one for one in children if "horae-bench-" in one.environ().get("HORAE_HOME", "")]
