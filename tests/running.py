"""Processes under test: the command line and Celery, run as a user runs them."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

PROJECT = Path(__file__).resolve().parents[1]
HORAE = (sys.executable, "-m", "engine.cli")
CELERY = (sys.executable, "-m", "celery", "-A", "tasks.app")


def environment(home: Path, more: Mapping[str, str] | None = None) -> dict[str, str]:
    """This process' environment, with a data directory and the way to our code."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("HORAE_", "FLOWER_", "CELERY_"))}
    return {**kept, "HORAE_HOME": str(home), "PYTHONPATH": str(PROJECT), **(more or {})}


def run(*command: str, home: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run a command to its end."""
    return subprocess.run(
        command,
        env=environment(home, variables),
        cwd=PROJECT,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def start(*command: str, home: Path, log: Path, **variables: str) -> subprocess.Popen[bytes]:
    """Start a command whose output goes to `log`."""
    with log.open("ab") as file:
        return subprocess.Popen(
            command, env=environment(home, variables), cwd=PROJECT, stdin=subprocess.DEVNULL, stdout=file, stderr=file
        )


def wait_for(condition: Callable[[], Any], what: str, seconds: float = 90, log: Path | None = None) -> Any:
    """The first true value of `condition`; fails with `what`, and the end of `log`, where it does not come."""
    until = time.monotonic() + seconds
    while not (value := condition()):
        if time.monotonic() >= until:
            said = "" if log is None else f"; the end of its log:\n{log.read_text()[-4000:]}"
            raise AssertionError(f"{what} did not happen within {seconds} s{said}")
        time.sleep(0.1)
    return value
