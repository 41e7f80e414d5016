"""What `horae up` runs beside the servers: Celery workers, beat, the API and Flower."""

from __future__ import annotations

import secrets
import sys
from dataclasses import dataclass
from pathlib import Path

from engine.config import Settings
from engine.embedded.home import kept
from engine.supervise.ports import HOST, Port, claim_port
from engine.supervise.supervisor import Program

WORKERS = {"plan": ("plan", "train"), "dispatch": ("dispatch",), "ingest": ("ingest", "upkeep")}
"""The queues of each worker: sending and folding never wait behind planning."""

FLOWER_USER = "horae"
FLOWER_TASKS = 20_000
"""Tasks that Flower remembers: it keeps them in memory, and ticks come each second."""

AS_ROOT = "ignore:You're running the worker with superuser privileges"
"""Celery warns of pickled messages, which nobody here accepts."""


@dataclass(frozen=True)
class Plan:
    """The programs, and where the API and Flower will be (None: without): on ports that are kept for them until this is
    closed."""

    programs: tuple[Program, ...]
    api_url: str | None
    flower_url: str | None
    flower_password_file: Path | None
    ports: tuple[Port, ...]

    def close(self) -> None:
        """Give up the ports."""
        for port in self.ports:
            port.close()


def plan_programs(settings: Settings) -> Plan:
    """What to run for `settings`. Makes Flower's password where none is set.

    Raises BadInput where no port for the API or Flower is free.
    """
    programs = [_worker(settings, name) for name in WORKERS]
    programs.append(_celery(settings, "beat", "beat", "-l", settings.log_level))
    ports: list[Port] = []
    api_url = flower_url = file = None
    if settings.api_port:
        ports.append(claim_port(settings.api_port, "the API", "HORAE_API_PORT"))
        api_url = f"http://{HOST}:{ports[-1].number}"
        programs.append(_api(settings, ports[-1].number))
    if settings.flower_port:
        ports.append(claim_port(settings.flower_port, "Flower", "HORAE_FLOWER_PORT"))
        flower_url = f"http://{HOST}:{ports[-1].number}"
        given = settings.flower_password
        file = None if given else settings.home / "flower-password"
        password = given.get_secret_value() if given else kept(settings.home / "flower-password", secrets.token_urlsafe)
        programs.append(_flower(settings, ports[-1].number, password))
    return Plan(tuple(programs), api_url, flower_url, file, tuple(ports))


def _worker(settings: Settings, name: str) -> Program:
    processes = {"plan": settings.workers, "dispatch": 2, "ingest": 1}[name]
    return _celery(
        settings,
        name,
        *("worker", "-n", f"{name}@%h", "-Q", ",".join(WORKERS[name]), "-c", str(processes)),
        *("-l", settings.log_level, "-E", "--without-gossip", "--without-mingle"),
    )


def _flower(settings: Settings, port: int, password: str) -> Program:
    # By the environment: the arguments of a process are for every user of the machine to read.
    secret = {
        "FLOWER_BASIC_AUTH": f"{FLOWER_USER}:{password}",
        "FLOWER_READ_ONLY": str(settings.flower_read_only).lower(),
        "FLOWER_MAX_TASKS": str(FLOWER_TASKS),
        **({"FLOWER_URL_PREFIX": settings.flower_url_prefix} if settings.flower_url_prefix else {}),
    }
    return _celery(
        settings, "flower", "flower", f"--address={HOST}", f"--port={port}", "--logging=error", environment=secret
    )


def _api(settings: Settings, port: int) -> Program:
    # On loopback, whatever HORAE_API_HOST says: while there is no key it is open to this machine.
    listening = ("--host", HOST, "--port", str(port), "--development")
    command = (sys.executable, "-m", "engine.cli", "api", *listening)
    return Program("api", command, settings.home, _environment(settings))


def _celery(settings: Settings, name: str, *arguments: str, environment: dict[str, str] | None = None) -> Program:
    command = (sys.executable, "-W", AS_ROOT, "-m", "celery", "-q", "-A", "tasks.app", *arguments)
    # In the data directory, where no module of the shop's shadows ours: `-m` and `-A` look here first.
    return Program(name, command, settings.home, {**_environment(settings), **(environment or {})})


def _environment(settings: Settings) -> dict[str, str]:
    """Our settings for a process that works in another directory, and the way to our code from a mere checkout."""
    found = {"HORAE_HOME": str(settings.home), "PYTHONUNBUFFERED": "1"}
    if settings.journal is not None:
        found["HORAE_JOURNAL"] = str(settings.journal.absolute())
    project = Path(__file__).resolve().parents[2]
    if project.name not in ("site-packages", "dist-packages"):
        found["PYTHONPATH"] = str(project)
    return found
