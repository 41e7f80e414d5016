"""The demo as a person runs it: a process, with workers that are killed, and Ctrl-C."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from engine import clock, embedded

ROOT = Path(__file__).resolve().parents[2]
LONG = 400.0


@pytest.fixture(scope="module")
def home() -> Iterator[Path]:
    """A data directory whose servers are stopped after the tests. Not pytest's: that closes its folders to others, and
    PostgreSQL started by root runs as another user."""
    folder = Path(tempfile.mkdtemp(prefix="horae-demo-"))
    folder.chmod(0o755)
    yield folder / "home"
    embedded.stop(folder / "home")
    shutil.rmtree(folder, ignore_errors=True)


def start(home: Path, log: Path) -> subprocess.Popen[str]:
    """`horae demo` over one day of some households, its report as JSON."""
    command = (sys.executable, "-m", "engine.cli", "demo", "--days", "1", "--households", "60", "--json")
    with log.open("w") as errors:
        return subprocess.Popen(
            (*command, "--home", str(home)),
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
            start_new_session=True,
        )


def wait_for(demo: subprocess.Popen[str], what: Callable[[], object]) -> None:
    """Wait until `what` is true, as long as `demo` lives."""
    until = clock.monotonic() + LONG
    while not what():
        assert clock.monotonic() < until
        try:
            demo.wait(0.02)
        except subprocess.TimeoutExpired:
            continue
        pytest.fail("the demo ended before")


def programs(home: Path) -> list[psutil.Process]:
    """The processes of `horae up` on `home`: itself, workers, their pools, beat."""
    found = []
    for process in psutil.process_iter(["cmdline"]):
        line = " ".join(process.info["cmdline"] or ())
        if "celery" in line or "engine.cli up" in line or "spawn_main" in line:
            try:
                if process.environ().get("HORAE_HOME") == str(home):
                    found.append(process)
            except psutil.Error:
                continue
    return found


def lines(journal: Path) -> list[dict]:
    return [json.loads(line) for line in journal.read_text().splitlines()] if journal.exists() else []


def test_a_demo_whose_workers_are_killed_still_adds_up(home: Path, tmp_path: Path) -> None:
    with start(home, tmp_path / "log") as demo:
        wait_for(demo, lambda: lines(home / "journal.jsonl"))
        killed = [process for process in programs(home) if "worker" in process.cmdline()]
        for process in killed:
            process.kill()
        printed, _ = demo.communicate(timeout=LONG)

    assert demo.returncode == 0, (tmp_path / "log").read_text()
    report = json.loads(printed)
    assert len(killed) >= 3
    assert report["worker_restarts"] >= 3
    assert report["adds_up"]
    assert sum(c["sent"] for c in report["campaigns"]) <= len(lines(home / "journal.jsonl"))
    daily = report["campaigns"][0]
    assert (daily["audience"], daily["occurrences"]) == (60, 1)
    assert daily["sent"] > 30
    assert all(cap["largest"] <= cap["limit"] for cap in report["caps"])
    spacing = report["spacing"]
    assert (spacing["sent_twice"], spacing["sent_in_quiet_hours"], spacing["violations"]) == (0, 0, 0)
    assert programs(home) == []


def test_ctrl_c_stops_what_the_demo_started_and_leaves_the_servers(home: Path, tmp_path: Path) -> None:
    with start(home, tmp_path / "log") as demo:
        wait_for(demo, lambda: any("beat" in process.cmdline() for process in programs(home)))
        os.kill(demo.pid, signal.SIGINT)
        demo.communicate(timeout=LONG)

    assert demo.returncode == 130
    assert programs(home) == []
    assert embedded.running(home) is not None
    assert "horae down" in (tmp_path / "log").read_text()
