"""`horae bench`: one object, bounds that can be missed, a database of its own that is gone afterwards."""

from __future__ import annotations

import json

import numpy as np
import pytest
from sqlalchemy import text
from typer.testing import CliRunner, Result

from engine.bench.loads import DAYS, END, ZONES, retail_load
from engine.bench.report import Report
from engine.cli.app import app
from engine.errors import UnknownName


@pytest.fixture
def horae(database, redis_url, tmp_path):
    environment = {
        "HORAE_HOME": str(tmp_path / "home"),
        "HORAE_DATABASE_URL": database.libpq_url,
        "HORAE_REDIS_URL": redis_url,
    }

    def run(*arguments: str) -> Result:
        return CliRunner().invoke(app, ["bench", *arguments], env=environment)

    return run


def test_the_ingest_bench_prints_one_object_and_leaves_nothing(horae, database) -> None:
    result = horae("ingest", "--users", "150", "--repeats", "1", "--json")

    report = json.loads(result.stdout)
    assert list(report) == ["bench", "load", "figures", "bounds", "ok"]
    assert report["load"]["users"] == 150
    assert report["figures"]["ingest_per_copy_ratio"] > 0
    assert report["figures"]["profiles_differing"] == 0
    assert report["bounds"]["ingest_per_copy_ratio"] == ">= 0.25"
    with database.begin() as connection:
        left = connection.execute(text("SELECT count(*) FROM pg_database WHERE datname LIKE 'horae_bench%'"))
        assert left.scalar_one() == 0


def test_an_unknown_bench_is_refused(horae) -> None:
    assert isinstance(horae("injest").exception, UnknownName)


def test_a_report_knows_the_bounds_it_misses() -> None:
    report = Report("x", {}, {"a": 1.0, "b": 2.0, "c": 0, "d": 3.14159}, {"a": ">= 2", "b": "<= 2", "c": "= 0"})

    assert report.missed() == ["a"]
    assert report.as_dict()["ok"] is False
    assert report.as_dict()["figures"] == {"a": 1.0, "b": 2.0, "c": 0, "d": 3.142}


def test_the_load_is_the_design_s_and_the_same_for_a_seed() -> None:
    load, again, other = retail_load(3_000), retail_load(3_000), retail_load(3_000, 2)
    events = np.bincount(load.user, minlength=3_000)

    assert np.array_equal(load.occurred_at, again.occurred_at)
    assert not np.array_equal(load.item[:100], other.item[:100])
    assert 18 <= np.median(events) <= 22
    assert events.max() <= 5_000
    assert (len(load.item_ids), len(ZONES), load.category.max() + 1) == (50_000, 24, 300)
    assert np.all(np.diff(load.occurred_at) >= 0)
    assert load.occurred_at[-1] < END.timestamp()
    assert load.occurred_at[0] >= END.timestamp() - (DAYS + 1) * 86_400
