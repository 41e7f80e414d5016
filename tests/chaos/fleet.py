"""Celery's own beats and workers, and API processes, on servers of a test's own: kept alive, killed with all their
children."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from contextlib import suppress
from pathlib import Path
from random import Random

from engine.bench.serving import free_port
from tests.chaos.servers import Servers
from tests.running import CELERY, HORAE, PROJECT, environment

BEAT = (*CELERY, "beat", "-l", "DEBUG")
WORKER = (*CELERY, "worker", "-l", "INFO", "-c", "1", "--without-gossip", "--without-mingle", "-E")


class Fleet:
    """`beats` beats, `workers` workers and `apis` API processes on `ports`; their HORAE_HOME, `home`, has the logs."""

    def __init__(self, servers: Servers, home: Path, beats: int, workers: int, apis: int = 0) -> None:
        home.mkdir(exist_ok=True)
        self._home = home
        self._variables = {"HORAE_DATABASE_URL": servers.database_url, "HORAE_REDIS_URL": servers.redis_url}
        self.ports = [free_port() for _ in range(apis)]
        self._commands: dict[str, tuple[str, ...]] = {f"beat{n}": BEAT for n in range(beats)}
        self._commands |= {f"worker{n}": (*WORKER, "-n", f"worker{n}@chaos") for n in range(workers)}
        self._commands |= {f"api{n}": (*HORAE, "api", "--port", str(port)) for n, port in enumerate(self.ports)}
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        self._since: dict[str, float] = {}
        self.killed = 0
        self.keep()

    def log(self, name: str) -> str:
        """What a member has written, all its lives together."""
        return (self._home / f"{name}.log").read_text(errors="replace")

    def keep(self) -> None:
        """Start whoever is not alive."""
        for name, command in self._commands.items():
            running = self._processes.get(name)
            if running is None or running.poll() is not None:
                self._since[name] = time.monotonic()
                with (self._home / f"{name}.log").open("ab") as log:
                    self._processes[name] = subprocess.Popen(
                        command,
                        env=environment(self._home, self._variables),
                        cwd=PROJECT,
                        stdin=subprocess.DEVNULL,
                        stdout=log,
                        stderr=log,
                        start_new_session=True,
                    )

    def kill(self, rng: Random) -> str:
        """Kill one member with its children, as a machine that loses power does; its name."""
        name = rng.choice(sorted(self._commands))
        self._end(self._processes[name], signal.SIGKILL)
        self.killed += 1
        return name

    def kill_older(self, than: float) -> None:
        """Kill whoever was at work before `than` (time.monotonic): what hangs, Celery's time limit ends, only later."""
        for name, process in self._processes.items():
            if self._since[name] < than and process.poll() is None:
                self._end(process, signal.SIGKILL)
                self.killed += 1

    def close(self) -> None:
        """End everybody."""
        for process in self._processes.values():
            self._end(process, signal.SIGKILL)

    @staticmethod
    def _end(process: subprocess.Popen[bytes], how: signal.Signals) -> None:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, how)
        process.wait(30)
