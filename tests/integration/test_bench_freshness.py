"""`horae bench freshness`, small: the real service, real events, and figures that come from them."""

from __future__ import annotations

import json
import os

import psutil
import pytest
from sqlalchemy import text

from engine.bench import freshness
from engine.bench.freshness import Load, measure

SMALL = Load(seconds=4, warming=3, events_per_s=40, batch=5, probes_per_s=2, probers=2, file_rows=5_000)


@pytest.fixture
def settings(database, tmp_path, monkeypatch):
    monkeypatch.setenv("HORAE_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("HORAE_DATABASE_URL", database.libpq_url)


def test_events_show_in_recommendations_and_plans_of_a_service_that_runs(settings, database) -> None:
    told: list[str] = []

    report = measure(150, 1, SMALL, told.append)

    figures = json.loads(json.dumps(report.as_dict()))["figures"]
    assert report.bounds == freshness.BOUNDS
    assert figures["not_shown"] == 0
    for kind in ("views", "purchase"):
        assert 4 <= figures[f"{kind}_probes"] <= SMALL.seconds * SMALL.probes_per_s
        assert 0 < figures[f"{kind}_p50_s"] <= figures[f"{kind}_p99_s"] <= figures[f"{kind}_p99_from_sending_s"]
    assert figures["freshness_p99_s"] == max(figures["views_p99_s"], figures["purchase_p99_s"])
    assert 0 < figures["events_per_s"] <= SMALL.events_per_s * 1.2
    assert figures["file_rows_per_s"] >= 0
    with database.begin() as connection:
        left = connection.execute(text("SELECT count(*) FROM pg_database WHERE datname LIKE 'horae_bench_fresh%'"))
        assert left.scalar_one() == 0
    children = psutil.Process(os.getpid()).children(recursive=True)
    assert not [one for one in children if "horae-bench-" in one.environ().get("HORAE_HOME", "")]
