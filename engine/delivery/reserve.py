"""Reservations of caps: every cap of a user checked and taken in one atomic step, by the id of the push.

The ledger in PostgreSQL is the authority; Redis holds, for each user, a log of what counts (sent or under way), which
is quick to check and may be lost at any moment. Three rules make that safe:

- *A log that is not there is rebuilt* from the ledger before anything is admitted for that user. So a time to live, an
  eviction of everything or a new server only cost time.
- *What was lost while a push was under way is noticed before it leaves.* All logs live under the token of an epoch; a
  marker key with that token and the server's run_id prove, at the end of every pipeline, that nothing was lost since
  the epoch began. Where the proof fails, PostgreSQL's epoch moves first (see delivery.epoch); the statement that
  commits a push's intent compares it, so a reservation of a lost epoch never sends, and one that was committed before
  is a row in `sending`, which the rebuild counts.
- *A reservation at t stands for a receipt in [t, t + δ]*, δ being the attempt deadline: rolling caps look back by their
  width + δ, and within δ before local midnight a push counts for the next day too.

Redis must not evict single keys (`maxmemory-policy noeviction`): that is the one loss nobody can notice.
This is the one module that knows Redis keys.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from functools import cache, lru_cache
from hashlib import sha1
from importlib.resources import files
from typing import Any
from uuid import UUID

import redis

from engine.delivery.limits import Entry, Limit, Reservation
from engine.errors import HoraeError, RedisUnavailable

LOG_LIFE = timedelta(days=2)
"""Machine time after which the log of a user who got nothing may go; far longer than an attempt takes."""

_SEPARATOR = "\x1f"
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_PLAIN = str.maketrans({_SEPARATOR: " ", "\n": " "})
_LOG_SECONDS = int(LOG_LIFE.total_seconds())
_AS_JSON = json.JSONEncoder(separators=(",", ":")).encode


class EpochLost(HoraeError):
    """The caps' Redis lost data, or another process says so: nothing reserved in this epoch may leave."""


@dataclass(frozen=True, slots=True)
class Epoch:
    """A stretch of time in which the caps' Redis lost nothing; `number` is what the intent compares."""

    number: int
    run_id: str
    token: str
    horizon: timedelta
    """How far back the logs reach: no cap may look further."""


Ledger = Callable[[Collection[int]], Mapping[int, Sequence[Entry]]]
"""What counts for some users, by the ledger: pushes accepted or unknown, and those in `sending`."""


class CapStore:
    """The caps' Redis."""

    def __init__(self, client: redis.Redis) -> None:
        self._client = client

    def run_id(self) -> str:
        """The server's identity, new at each of its starts. Raises RedisUnavailable."""
        with _answering():
            return str(self._client.info("server")["run_id"])

    def open(self, token: str) -> None:
        """Write the marker of an epoch. Raises RedisUnavailable."""
        with _answering():
            self._client.set(_marker(token), "1")

    def forget(self, token: str) -> None:
        """Remove the marker of an epoch that did not come to be, or is over. Raises RedisUnavailable."""
        with _answering():
            self._client.delete(_marker(token))

    def holds(self, run_id: str, token: str) -> bool:
        """Whether the server has lost nothing since the epoch began. Raises RedisUnavailable."""
        with _answering():
            pipeline = self._client.pipeline(transaction=False)
            return _proof(pipeline, run_id, token)(pipeline.execute())

    def reserve(self, epoch: Epoch, asked: Sequence[Reservation], ledger: Ledger) -> list[Limit | None]:
        """Ask for every reservation in turn: None where it was granted, else the limit that refuses it.

        Users without a log are first rebuilt from `ledger`, which is read after this epoch was seen in PostgreSQL.
        Raises EpochLost (nothing granted here may be used) and RedisUnavailable.
        """
        answers = self._ask(epoch, asked, {})
        cold = {reservation.user_id for reservation, answer in zip(asked, answers, strict=True) if answer < 0}
        if cold:
            answers = self._ask(epoch, asked, ledger(cold))
        return [_refusal(reservation, answer) for reservation, answer in zip(asked, answers, strict=True)]

    def release(self, epoch: Epoch, pushes: Collection[tuple[int, UUID, int]]) -> int:
        """Free the reservations of pushes (user, push, fence) that certainly did not leave; repeats change nothing.

        A reservation that a later claim has taken over stays. Raises RedisUnavailable.
        """
        if not pushes:
            return 0
        with _answering():
            pipeline = self._pipeline("release")
            for user_id, push_id, fence in pushes:
                pipeline.evalsha(_script("release")[1], 1, _key(epoch.token, user_id), push_id.hex, str(fence))
            return sum(pipeline.execute()[1:])

    def forget_user(self, epoch: Epoch, user_id: int) -> None:
        """Remove the log of a user. Raises RedisUnavailable."""
        with _answering():
            self._client.delete(_key(epoch.token, user_id))

    def _ask(self, epoch: Epoch, asked: Sequence[Reservation], logs: Mapping[int, Sequence[Entry]]) -> list[int]:
        with _answering():
            pipeline = self._pipeline("reserve", "build")
            build, reserve = _script("build")[1], _script("reserve")[1]
            for user_id, entries in logs.items():
                log = "".join(map(_line, entries))
                pipeline.evalsha(build, 1, _key(epoch.token, user_id), str(_LOG_SECONDS), log)
            for reservation in asked:
                key = _key(epoch.token, reservation.user_id)
                pipeline.evalsha(reserve, 1, key, _arguments(epoch, reservation))
            proof = _proof(pipeline, epoch.run_id, epoch.token)
            answers = pipeline.execute()
        if not proof(answers):
            raise EpochLost("the caps' Redis lost data: their logs are rebuilt before anything leaves")
        first = 2 + len(logs)
        return [int(answer) for answer in answers[first : first + len(asked)]]

    def _pipeline(self, *scripts: str) -> Any:
        """A pipeline that begins by loading `scripts`: after a restart they are gone, and it is one round trip."""
        pipeline = self._client.pipeline(transaction=False)
        for name in scripts:
            pipeline.script_load(_script(name)[0])
        return pipeline


@cache
def _script(name: str) -> tuple[str, str]:
    """A Lua script's text and its hash."""
    code = (files(__package__) / f"{name}.lua").read_text()
    return code, sha1(code.encode(), usedforsecurity=False).hexdigest()


def _proof(pipeline: Any, run_id: str, token: str) -> Callable[[Sequence[Any]], bool]:
    """Adds the proof that nothing was lost to the end of `pipeline`; the function returned reads it."""
    pipeline.exists(_marker(token))
    pipeline.info("server")
    return lambda answers: bool(answers[-2]) and str(answers[-1]["run_id"]) == run_id


def _refusal(reservation: Reservation, answer: int) -> Limit | None:
    if answer < 0:  # the log vanished between its building and the question, and the marker did not
        raise EpochLost("a log of the caps' Redis vanished: does its maxmemory-policy evict single keys?")
    return None if answer == 0 else reservation.limits[answer - 1]


def _arguments(epoch: Epoch, reservation: Reservation) -> str:
    entry = reservation.entry
    values: list[str | int] = [
        entry.push_id.hex,
        entry.fence,
        _instant(entry.at),
        _day(entry.day),
        _scopes(entry.scopes) if reservation.counts else "",
        _instant(entry.at - epoch.horizon),
        _LOG_SECONDS,
    ]
    for limit in reservation.limits:
        since = _instant(limit.since) if isinstance(limit.since, datetime) else _day(limit.since)
        values += (since, limit.most, _scopes((limit.scope,)) if limit.scope else "")
    return _AS_JSON(values)


def _line(entry: Entry) -> str:
    return f"{_instant(entry.at)}{_day(entry.day)}{entry.push_id.hex}{entry.fence}{_scopes(entry.scopes)}\n"


def _instant(instant: datetime) -> str:
    since = instant - _EPOCH
    return f"{(since.days * 86_400 + since.seconds) * 1_000_000 + since.microseconds:016d}"


def _day(day: date) -> str:
    return f"{day.toordinal():06d}"


@lru_cache(4096)
def _scopes(scopes: tuple[str, ...]) -> str:
    return _SEPARATOR + "".join(scope.translate(_PLAIN) + _SEPARATOR for scope in scopes)


def _key(token: str, user_id: int) -> str:
    """A user's log; the braces keep all of a user in one slot of a cluster."""
    return f"horae:cap:{token}:{{{user_id}}}"


def _marker(token: str) -> str:
    return f"horae:caps:{token}"


@contextmanager
def _answering() -> Iterator[None]:
    try:
        yield
    except (redis.RedisError, OSError) as error:
        raise RedisUnavailable(
            f"the caps' Redis does not answer: {error}", hint="nothing leaves until it does; the pushes wait"
        ) from error
