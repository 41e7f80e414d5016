"""An ingest that is interrupted or killed: whole chunks stay, running it again completes it, nothing counts twice."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
from datetime import UTC, datetime
from pathlib import Path

import pytest
from sqlalchemy import text

from engine.errors import IngestStopped
from engine.ingest.replay import replay
from engine.ingest.run import Progress, ingest_events
from engine.store.database import Database

NOW = datetime(2026, 3, 2, 12, tzinfo=UTC)
ROOT = Path(__file__).resolve().parents[2]
ROWS = 150_000


@pytest.fixture(scope="module")
def events(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("events") / "events.csv"
    with path.open("w") as out:
        out.write("event_id,user_id,item_id,event_type,occurred_at\n")
        for number in range(ROWS):
            day, user, item = 1 + number % 27, number * 7919 % 500, number * 104_729 % 50
            out.write(f"{number},u{user},i{item},view,2026-01-{day:02}T{number % 24:02}:00:00Z\n")
    return path


def count(database: Database) -> int:
    with database.begin() as connection:
        number: int = connection.execute(text("SELECT count(*) FROM events")).scalar_one()
        return number


def command(database: Database, redis_url: str, home: Path, path: Path) -> subprocess.Popen:
    environment = {
        **os.environ,
        "HORAE_HOME": str(home),
        "HORAE_DATABASE_URL": database.libpq_url,
        "HORAE_REDIS_URL": redis_url,
        "PYTHONPATH": str(ROOT),
        "COLUMNS": "200",
    }
    arguments = [sys.executable, "-m", "engine.cli", "ingest", "events", str(path)]
    return subprocess.Popen(
        arguments, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )


def wait_for_a_chunk(database: Database, process: subprocess.Popen) -> None:
    while count(database) == 0 and process.poll() is None:
        threading.Event().wait(0.02)


@pytest.mark.parametrize("ending", [signal.SIGKILL, signal.SIGINT])
def test_an_ingest_ended_in_the_middle_is_completed_by_the_next(database, redis_url, tmp_path, events, ending) -> None:
    process = command(database, redis_url, tmp_path, events)
    wait_for_a_chunk(database, process)
    process.send_signal(ending)
    out, err = process.communicate()
    stored = count(database)

    assert stored > 0
    if ending == signal.SIGINT and process.returncode:
        assert process.returncode == 130
        assert "interrupted" in err
        [accepted] = re.findall(r"accepted +([\d,]+)", out)
        assert int(accepted.replace(",", "")) == stored

    summary = ingest_events(database, [events], NOW)
    assert (summary.rows, summary.accepted, summary.duplicates) == (ROWS, ROWS - stored, stored)
    assert replay(database, rebuild=False).differing == 0


def test_a_connection_lost_in_the_middle_leaves_whole_chunks(database, events) -> None:
    killed = threading.Event()

    def kill_writers(progress: Progress) -> None:
        if progress.rows and not killed.is_set():
            killed.set()
            with database.begin() as connection:
                connection.execute(
                    text(
                        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                        " WHERE datname = current_database() AND pid <> pg_backend_pid()"
                    )
                )

    with pytest.raises(IngestStopped, match="rows are stored") as stopped:
        ingest_events(database, [events], NOW, progress=kill_writers)

    assert "run the same command again" in str(stopped.value) or "is it running" in str(stopped.value)
    stored = count(database)
    assert 0 < stored < ROWS
    assert ingest_events(database, [events], NOW).accepted == ROWS - stored
    assert replay(database, rebuild=False).differing == 0
