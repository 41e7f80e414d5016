"""Processor time by part, beside a bench's rate: where a machine is shared, it says more than seconds do."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping

import psutil
import redis
from sqlalchemy import text

from engine.store.database import Database

Parts = Mapping[str, Callable[[], float]]
"""By name, the processor seconds that a part of a system has used so far."""


class Spent:
    """Processor seconds of some parts, added up over the stretches that are measured."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        self._begun: dict[str, float] = {}
        self.seconds: defaultdict[str, float] = defaultdict(float)

    def add(self, part: str, seconds: float) -> None:
        """Add what a part says of itself."""
        self.seconds[part] += seconds

    def __enter__(self) -> Spent:
        self._begun = {name: read() for name, read in self._parts.items()}
        return self

    def __exit__(self, *_: object) -> None:
        for name, read in self._parts.items():
            self.seconds[name] += read() - self._begun[name]


def of_process(number: int) -> Callable[[], float]:
    """What the process of that id uses."""
    process = psutil.Process(number)

    def read() -> float:
        times = process.cpu_times()
        return float(times.user + times.system)

    return read


def of_postgres(database: Database) -> Callable[[], float] | None:
    """What all processes of the server use, those that have ended too; None where it runs elsewhere or hides itself."""
    with database.begin() as connection:
        number = connection.execute(text("SELECT pg_backend_pid()")).scalar_one()
    try:
        server = psutil.Process(number).parent()
        if server is None or "postgres" not in psutil.Process(number).name():
            return None
        server.cpu_times()
    except psutil.Error:
        return None

    def read() -> float:
        ended = server.cpu_times()
        total = ended.user + ended.system + ended.children_user + ended.children_system
        for child in server.children(recursive=True):
            try:
                times = child.cpu_times()
            except psutil.NoSuchProcess:
                continue
            total += times.user + times.system
        return float(total)

    return read


def of_redis(url: str) -> Callable[[], float]:
    """What the server uses, by its own account."""
    client = redis.Redis.from_url(url)

    def read() -> float:
        said = client.info("cpu")
        return float(said["used_cpu_sys"]) + float(said["used_cpu_user"])

    return read
