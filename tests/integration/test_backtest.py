"""`horae backtest` as a person meets it, on logs as they come: one object, clear sentences, no look into the future."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sqlalchemy import text
from typer.testing import CliRunner, Result

from engine import clock
from engine.cli.app import app
from engine.errors import BadInput, HoraeError, UnknownName
from engine.learning.backtest import sending, verdict
from engine.learning.backtest.log import Log, Spec, read_log
from engine.learning.backtest.rivals import MODELS
from engine.learning.backtest.run import backtest
from engine.learning.backtest.snapshots import Steps, Taken
from engine.learning.window_fit import fit, lesson
from engine.store.database import Database
from tests import odd_shops
from tests.learning_store import Shop
from tests.odd_shops import END

Run = Callable[..., Result]
ONE_THREAD = Spec(threads=1)
SHAPE = ["snapshots", "models", "differences", "windows", "staleness", "seconds", "goal", "note"]


@pytest.fixture
def horae(database: Database, redis_url: str, tmp_path: Path) -> Run:
    """Runs `horae … --json` at the end of the odd shops' logs."""
    environment = {
        "HORAE_HOME": str(tmp_path / "home"),
        "HORAE_DATABASE_URL": database.libpq_url,
        "HORAE_REDIS_URL": redis_url,
        "COLUMNS": "200",
    }
    with database.begin() as connection:
        clock.start_virtual(connection, END)
    return lambda *arguments: CliRunner().invoke(app, [*map(str, arguments)], env=environment)


def test_the_report_has_the_promised_shape_with_an_interval_around_every_measure(
    horae: Run, database: Database, tmp_path: Path
) -> None:
    odd_shops.write(database, odd_shops.SHOPS["usual"](), tmp_path)

    answered = horae("backtest", "--threads", 1, "--json", "--html", tmp_path / "report.html")
    shown = horae("backtest", "--threads", 1, "--stale", "")

    assert (answered.exit_code, shown.exit_code) == (0, 0), answered.exception
    report = json.loads(answered.stdout)
    assert list(report) == SHAPE
    assert tuple(report["models"]) == MODELS
    for found in report["models"].values():
        for key in verdict.MEASURES:
            low, value, high = (found[f"{key}{end}"] for end in ("_lo", "", "_hi"))
            assert value is None or low <= value <= high, key
    full = report["models"]["full"]
    assert all(full[key] is not None for key in verdict.MEASURES)
    assert full["rmse"] == pytest.approx(full["brier"] ** 0.5, rel=0.05)
    assert full["ndcg_10"] > report["models"]["popularity"]["ndcg_10"]
    against = report["differences"]["full - popularity"]["ndcg_10"]
    assert against["difference"] == pytest.approx(full["ndcg_10"] - report["models"]["popularity"]["ndcg_10"], abs=1e-5)
    assert not against["noise"]
    assert list(report["staleness"]) == ["0", "1", "7", "28"]
    assert report["staleness"]["0"]["ndcg_10"] == full["ndcg_10"]
    assert report["windows"]["model"]["log_likelihood"] > report["windows"]["global"]["log_likelihood"]
    roles = [week["role"] for week in report["snapshots"]]
    assert roles == sorted(roles, key=["train", "validate", "test"].index)
    assert {"train", "validate", "test"} == set(roles)
    page = (tmp_path / "report.html").read_text()
    assert "http" not in page
    for word in ("Calibration", "Staleness", "Importance", "Hours", "prefers-color-scheme"):
        assert word in page
    assert "features as of" in answered.stderr
    assert "NDCG@10" in shown.stdout
    assert "full - logistic" in shown.stdout


def test_the_same_log_gives_the_same_figures_whatever_the_order_of_its_columns(
    database: Database, tmp_path: Path
) -> None:
    events = odd_shops.SHOPS["a hundred users"]()
    odd_shops.write(database, events[events.columns[::-1]], tmp_path)

    first, second = (backtest(database, END, replace(ONE_THREAD, stale=()), _quiet).report for _ in range(2))

    assert first["models"]["full"] is not None
    for report in (first, second):
        report.pop("seconds")
    assert first == second


@pytest.mark.parametrize(
    ("name", "code", "note", "windows"),
    [
        ("nothing", 1, "there are no events yet", False),
        ("a day", 1, "holds no week to test on", False),
        ("without accounts", 1, "no event names a user", False),
        ("one user", 0, "models that need training are left out", True),
        ("no purchases", 0, "--goal could be view", True),
        ("a mailer", 0, "only send windows are tested", True),
        ("one item", 0, None, True),
        ("wholesalers", 0, None, True),
        ("a bot", 0, None, True),
    ],
)
def test_any_log_ends_in_one_object_and_a_clear_sentence(  # noqa: PLR0917 - a row of the table above
    horae: Run, database: Database, tmp_path: Path, name: str, code: int, note: str | None, windows: bool
) -> None:
    odd_shops.write(database, odd_shops.SHOPS[name](), tmp_path)

    answered = horae("backtest", "--threads", 1, "--stale", "7", "--json", "--html", tmp_path / "report.html")
    trained = horae("train", "--threads", 1, "--json")

    assert answered.exit_code == code, answered.exception
    report = json.loads(answered.stdout, parse_constant=lambda constant: pytest.fail(f"{constant} is no JSON"))
    assert list(report) == SHAPE
    assert (note is None) == (report["note"] is None)
    assert (note or "") in (report["note"] or "")
    assert bool(report["windows"]) == windows
    assert "</html>" in (tmp_path / "report.html").read_text()
    report = json.loads(trained.stdout)
    assert (report["version"] is None) == (report["reason"] is not None and trained.exit_code == 1)


@pytest.mark.parametrize(
    ("arguments", "error", "says"),
    [
        (("--goal", "purchas"), UnknownName, "purchase"),
        (("--from", "2026-08-01", "--to", "2026-07-01"), BadInput, "lies after"),
        (("--stale", "-1"), BadInput, "future"),
        (("--preset", "instacart"), BadInput, "complete-journey"),
        (("--html", "/nowhere/at/all.html"), BadInput, "no directory"),
    ],
)
def test_what_cannot_be_asked_is_refused_before_any_work(
    horae: Run, arguments: tuple[str, ...], error: type[HoraeError], says: str
) -> None:
    refused = horae("backtest", *arguments).exception

    assert isinstance(refused, error)
    assert says in str(refused)


@pytest.mark.parametrize("bounds", [{"first": date(2030, 1, 1)}, {"last": date(2001, 1, 1)}])
def test_weeks_outside_the_log_are_named(database: Database, tmp_path: Path, bounds: dict[str, date]) -> None:
    odd_shops.write(database, odd_shops.SHOPS["one user"](), tmp_path)

    result = backtest(database, END, replace(ONE_THREAD, **bounds), _quiet)

    assert not result.tested
    assert str(next(iter(bounds.values()))) in result.report["note"]


def test_ways_to_fill_what_is_missing_are_compared_on_the_same_rows(database: Database, tmp_path: Path) -> None:
    odd_shops.write(database, odd_shops.SHOPS["a hundred users"](), tmp_path)

    report = backtest(database, END, replace(ONE_THREAD, stale=(), impute=True), _quiet).report

    found = report["imputation"]
    assert set(found["strategies"]) == {"none", "drop", "mean", "median", "mode", "interpolation", "knn", "model"}
    assert {found["learned"][name]["rows"] for name in ("none", "mean", "knn", "model")} == {
        found["learned"]["none"]["rows"]
    }
    assert found["strategies"]["none"]["ap"] is not None
    assert "none - mean" in found["differences"]


def test_nothing_of_a_snapshot_changes_where_all_that_came_later_is_deleted(database: Database) -> None:
    shop = Shop()
    shop.write(database)
    spec = replace(ONE_THREAD, stale=())
    with database.snapshot() as snapshot:
        whole = read_log(snapshot, shop.end, spec)
    instant = whole.weeks.test[0]
    shop.forget_after(database, instant)
    with database.begin() as connection:
        connection.execute(text("DELETE FROM item_versions WHERE valid_from >= :at"), {"at": instant})
    with database.snapshot() as snapshot:
        cut = read_log(snapshot, shop.end, spec)
    cut = replace(cut, weeks=whole.weeks, items=whole.items)
    assert len(cut.events) < len(whole.events)

    (with_future, curves), (without, curves_without) = (_last_known(log) for log in (whole, cut))

    assert len(with_future.proposals.taken)
    assert not len(without.proposals.taken)
    ours, theirs = with_future.proposals, without.proposals
    for name in ("user", "item", "source", "score", "related"):
        assert np.array_equal(getattr(ours.candidates, name), getattr(theirs.candidates, name))
    every = np.arange(len(ours.labels))
    assert np.array_equal(ours.rows(every), theirs.rows(every), equal_nan=True)
    assert np.array_equal(with_future.sold, without.sold)
    for name, shares in curves.items():
        assert np.array_equal(shares, curves_without[name]), name


def _last_known(log: Log) -> tuple[Taken, dict[str, np.ndarray]]:
    """The first test snapshot after the weeks learned from, and the hour curves then."""
    assert log.weeks.validate is not None
    lessons = []
    for taken in Steps(log).walk((*log.weeks.train, log.weeks.validate, log.weeks.test[0])):
        lessons.append(lesson(taken.state.hours, len(taken.state), taken.visits))
    model = fit(taken.state.hours, len(taken.state), lessons[-4:-1])
    return taken, sending.curves(model, taken.state)


def test_history_of_one_week_tests_nothing_but_says_what_it_needs(database: Database, tmp_path: Path) -> None:
    odd_shops.write(database, odd_shops.SHOPS["a week"](), tmp_path)

    result = backtest(database, END - timedelta(hours=1), ONE_THREAD, _quiet)

    assert not result.tested
    assert "a week of history before it" in result.report["note"]


def _quiet(_what: str, _share: float) -> Any:
    """Progress that nobody watches."""
