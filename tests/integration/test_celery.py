"""Celery's own commands, with nothing configured: they start the servers they need, and run the tasks."""

from __future__ import annotations

import signal
import sys
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

import pytest
from sqlalchemy import text

from engine import clock, embedded
from engine.store.database import Database
from engine.store.ticks import once_a_day, once_in
from tests.running import CELERY, run, start, wait_for

MORNING = datetime(2026, 3, 1, 3, 17, tzinfo=UTC)


def test_importing_the_app_opens_nothing(tmp_path):
    code = "import tasks.app, tasks.planning, tasks.delivery, tasks.ingest, tasks.learning, tasks.upkeep"

    done = run(sys.executable, "-W", "error", "-c", code, home=tmp_path / "home")

    assert done.returncode == 0, done.stderr
    assert not (tmp_path / "home").exists()


def test_worker_and_beat_start_the_servers_and_run_the_ticks(tmp_path):
    home, log = tmp_path / "home", tmp_path / "worker.log"
    worker = start(*CELERY, "worker", "-l", "DEBUG", "-c", "2", "-E", home=home, log=log)
    beat = start(*CELERY, "beat", "-l", "INFO", home=home, log=tmp_path / "beat.log")
    try:
        for task in ("horae.fold", "horae.dispatch_due", "horae.tick_campaigns"):
            wait_for(partial(_succeeded, log, task), f"running {task}")
        ping = run(*CELERY, "inspect", "ping", home=home)
        assert "celery@" in ping.stdout
        assert "celerybeat@" in ping.stdout
        assert _workers_schema(home) == 1
    finally:
        for process in (beat, worker):
            process.send_signal(signal.SIGTERM)
        codes = [process.wait(60) for process in (beat, worker)]
        embedded.stop(home)
    assert codes == [0, 0]
    assert "Traceback" not in log.read_text()
    assert not list(tmp_path.glob("celerybeat-schedule*")), "beat keeps no schedule file"


def _succeeded(log: Path, task: str) -> bool:
    return any(f"Task {task}[" in line and " succeeded in " in line for line in log.read_text().splitlines())


def _workers_schema(home) -> int:
    database = Database(embedded.ensure_started(home).database_url)
    with database.begin() as connection:
        found = connection.execute(text("SELECT count(*) FROM workspace")).scalar_one()
    database.dispose()
    return int(found)


def test_a_wake_up_that_reaches_no_broker_costs_nothing_but_time(tmp_path):
    code = "from tasks.runtime import wake; wake('horae.plan_shard', 1, 2); print('went on')"

    done = run(sys.executable, "-c", code, home=tmp_path, HORAE_BROKER_URL="redis://127.0.0.1:1/0")

    assert done.stdout == "went on\n", done.stderr
    assert "was not announced" in done.stderr


def test_a_worker_refuses_an_old_schema_that_is_not_its_own_to_change(tmp_path, empty_database, redis_url):
    code = "from tasks.upkeep import upkeep; upkeep.run()"
    servers = {"HORAE_DATABASE_URL": empty_database.libpq_url, "HORAE_REDIS_URL": redis_url}

    done = run(sys.executable, "-c", code, home=tmp_path, **servers)

    assert "the database's schema is empty (run: horae migrate)" in done.stderr.splitlines()[-1]


def test_a_daily_task_is_done_once_a_day_whoever_asks(database):
    assert once_a_day(database, "train", MORNING, lambda: "done") == "done"

    assert once_a_day(database, "train", MORNING.replace(hour=23), lambda: "done") is None
    assert once_a_day(database, "other", MORNING, lambda: "done") == "done"
    assert once_a_day(database, "train", MORNING.replace(day=2), lambda: "done") == "done"


def test_a_task_of_every_few_hours_is_done_once_in_each_stretch_of_the_day(database):
    done = [once_in(database, "warm", MORNING.replace(hour=hour), lambda: "done", hours=4) for hour in (3, 4, 7, 8, 23)]

    assert done == ["done", "done", None, "done", "done"]


def test_a_daily_task_that_failed_or_had_nothing_to_do_is_tried_again(database):
    with pytest.raises(ZeroDivisionError):
        once_a_day(database, "train", MORNING, lambda: 1 / 0)
    assert once_a_day(database, "train", MORNING, lambda: None) is None

    assert once_a_day(database, "train", MORNING, lambda: "done") == "done"


def test_a_daily_task_runs_in_one_place_at_a_time(database):
    def work() -> str:
        with ThreadPoolExecutor(1) as pool:
            return f"done, beside {pool.submit(once_a_day, database, 'train', MORNING, lambda: 'twice').result()}"

    assert once_a_day(database, "train", MORNING, work) == "done, beside None"


def test_training_waits_for_the_driver_of_a_virtual_clock(database, redis_url, tmp_path):
    with database.begin() as connection:
        clock.start_virtual(connection, MORNING)
    code = "from tasks.learning import train, warm_update; print(train.run(), warm_update.run())"
    servers = {"HORAE_DATABASE_URL": database.libpq_url, "HORAE_REDIS_URL": redis_url}

    done = run(sys.executable, "-c", code, home=tmp_path, **servers)

    assert done.stdout == "{} {}\n", done.stderr
    with database.begin() as connection:
        assert connection.execute(text("SELECT count(*) FROM ticks")).scalar_one() == 0
