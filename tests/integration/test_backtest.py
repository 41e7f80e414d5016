"""`horae backtest` as a person meets it, on logs as they come: one object, clear sentences, no look into the future."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner, Result

from engine import clock, embedded
from engine.cli.app import app
from engine.errors import BadInput, HoraeError, UnknownName
from engine.learning.backtest import sending, verdict
from engine.learning.backtest.log import Log, Spec, read_log
from engine.learning.backtest.page import page
from engine.learning.backtest.rivals import MODELS
from engine.learning.backtest.run import backtest
from engine.learning.backtest.snapshots import Steps, Taken
from engine.learning.candidates import SOURCES
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
    """Runs `horae …` at the end of the odd shops' logs."""
    return _runner(database, redis_url, tmp_path)


def _runner(database: Database, redis_url: str, folder: Path) -> Run:
    environment = {
        "HORAE_HOME": str(folder / "home"),
        "HORAE_DATABASE_URL": database.libpq_url,
        "HORAE_REDIS_URL": redis_url,
        "COLUMNS": "200",
    }
    with database.begin() as connection:
        clock.start_virtual(connection, END)
    return lambda *arguments: CliRunner().invoke(app, [*map(str, arguments)], env=environment)


@dataclass(frozen=True)
class Asked:
    """What `horae backtest --json --html` said of a hundred users' log."""

    report: dict[str, Any]
    page: str
    progress: str


@pytest.fixture(scope="module")
def asked(shared_database: Database, servers: embedded.Addresses, tmp_path_factory: pytest.TempPathFactory) -> Asked:
    folder = tmp_path_factory.mktemp("asked")
    odd_shops.write(shared_database, odd_shops.SHOPS["a hundred users"](), folder)
    horae = _runner(shared_database, servers.redis_url, folder)
    answered = horae("backtest", "--threads", 1, "--json", "--html", folder / "report.html")
    assert answered.exit_code == 0, answered.exception
    return Asked(json.loads(answered.stdout), (folder / "report.html").read_text(), answered.stderr)


def test_the_report_has_the_promised_shape_with_an_interval_around_every_measure(asked: Asked) -> None:
    report = asked.report
    assert list(report) == SHAPE
    assert tuple(report["models"]) == MODELS
    for found in report["models"].values():
        for key in verdict.MEASURES:
            low, value, high = (found[f"{key}{end}"] for end in ("_lo", "", "_hi"))
            assert value is None or low <= value <= high, key
    full, popularity = report["models"]["full"], report["models"]["popularity"]
    assert all(full[key] is not None for key in verdict.MEASURES)
    assert full["rmse"] == pytest.approx(full["brier"] ** 0.5, rel=0.05)
    against = report["differences"]["full - popularity"]["ndcg_10"]
    assert against["difference"] == pytest.approx(full["ndcg_10"] - popularity["ndcg_10"], abs=1e-5)
    assert against["difference_lo"] > 0
    assert not against["noise"]
    assert list(report["staleness"]) == ["0", "1", "7", "28"]
    assert report["staleness"]["0"]["ndcg_10"] == full["ndcg_10"]
    assert report["windows"]["model"]["log_likelihood"] > report["windows"]["global"]["log_likelihood"]
    roles = [week["role"] for week in report["snapshots"]]
    assert roles == sorted(roles, key=["train", "validate", "test"].index)
    assert {"train", "validate", "test"} == set(roles)


def test_the_page_needs_no_network_and_the_progress_goes_to_stderr(asked: Asked) -> None:
    assert "http" not in asked.page
    for word in ("Calibration", "Staleness", "Importance", "Hours", "prefers-color-scheme"):
        assert word in asked.page
    assert "features as of" in asked.progress


def test_the_same_store_and_seed_give_the_same_figures(asked: Asked, shared_database: Database) -> None:
    again = backtest(shared_database, END, ONE_THREAD, _quiet).report

    for part in ("snapshots", "models", "differences", "windows", "staleness"):
        assert again[part] == asked.report[part]


@pytest.mark.parametrize(
    ("name", "code", "note", "windows"),
    [
        ("nothing", 1, "there are no events yet", False),
        ("a week", 1, "holds no week to test on", False),
        ("without accounts", 1, "no event names a user", False),
        ("one user", 0, "models that need training are left out", True),
        ("no purchases", 0, "--goal could be view", True),
        ("a mailer", 0, "only send windows are tested", True),
        ("wholesalers", 0, None, True),
    ],
)
def test_any_log_ends_in_one_object_and_a_clear_sentence(
    horae: Run, database: Database, tmp_path: Path, name: str, code: int, note: str | None, windows: bool
) -> None:
    odd_shops.write(database, odd_shops.SHOPS[name](), tmp_path)

    answered = horae("backtest", "--threads", 1, "--stale", "", "--json", "--html", tmp_path / "report.html")
    shown = horae("backtest", "--threads", 1, "--stale", "") if code else answered
    trained = horae("train", "--threads", 1, "--json")

    assert answered.exit_code == code, answered.exception
    report = json.loads(answered.stdout, parse_constant=lambda constant: pytest.fail(f"{constant} is no JSON"))
    assert list(report) == SHAPE
    assert (note is None) == (report["note"] is None)
    assert (note or "") in (report["note"] or "")
    assert bool(report["windows"]) == windows
    assert shown.exit_code == code
    assert (note or "") in shown.stdout or not code
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
def test_weeks_outside_the_log_are_named(database: Database, tmp_path: Path, bounds: dict[str, Any]) -> None:
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


def test_leaving_out_the_users_own_history_costs_and_every_source_and_group_is_tried(
    database: Database, tmp_path: Path
) -> None:
    odd_shops.write(database, odd_shops.SHOPS["usual"](), tmp_path)

    result = backtest(database, END, replace(ONE_THREAD, stale=(), candidates=20, ablate=True), _quiet)

    features, sources = result.report["ablation"]["features"], result.report["ablation"]["sources"]
    assert set(sources["measures"]) == {"everything", *(f"without {name}" for name in SOURCES)}
    assert {"everything", "without user", "without pair", "without item"} <= set(features["measures"])
    assert "without window" not in features["measures"]  # nobody knows a window before anything is planned
    own = sources["differences"]["everything - without own"]
    assert own["candidate_recall"]["difference_lo"] > 0
    whole, without = (sources["measures"][name]["ndcg_10"] for name in ("everything", "without own"))
    assert own["ndcg_10"]["difference"] == pytest.approx(whole - without, abs=1e-5)
    assert "What each part adds" in page(result)


def test_nothing_of_a_snapshot_changes_where_all_that_came_later_is_deleted(database: Database) -> None:
    shop = Shop()
    shop.write(database)
    spec = replace(ONE_THREAD, stale=())
    with database.snapshot() as snapshot:
        whole = read_log(snapshot, shop.end, spec)
    instant = whole.weeks.test[0]
    shop.forget_after(database, instant)
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


def _quiet(_what: str, _share: float) -> Any:
    """Progress that nobody watches."""


@pytest.mark.parametrize("told", ["soon", "0", "168"])
def test_hours_of_late_binding_that_are_none_are_refused(told: str) -> None:
    answered = CliRunner().invoke(app, ["backtest", "--late", told])

    assert isinstance(answered.exception, BadInput)
    assert "--late" in str(answered.exception)


def test_choosing_again_later_is_judged_on_the_same_users_and_only_who_did_something_is_bound_again(
    shared_database: Database, tmp_path: Path
) -> None:
    odd_shops.write(shared_database, odd_shops.SHOPS["a hundred users"](), tmp_path)
    report = backtest(shared_database, END, replace(ONE_THREAD, stale=(), late=(18, 66)), lambda *_: None).report

    sooner, later = (report["late_binding"][hours] for hours in ("18", "66"))
    assert 0 < sooner["touched"] <= later["touched"] <= 1
    for found in (sooner, later):
        assert 0 <= found["changed"] <= 1
        for of in ("all", "touched_only"):
            told = found[of]
            apart = told["bound_hr_1"] - told["fixed_hr_1"]
            assert told["difference_hr_1"]["difference"] == pytest.approx(apart, abs=2e-6)
            assert told["difference_hr_1"]["difference_lo"] <= told["difference_hr_1"]["difference_hi"]
        assert found["touched_only"]["took"] <= found["all"]["took"]
