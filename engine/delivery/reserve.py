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

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import cache, lru_cache
from hashlib import sha1
from importlib.resources import files
from struct import Struct
from typing import Any
from uuid import UUID

import redis

from engine.delivery.limits import Attempt, Entry, Limit, Limits, Reservation
from engine.errors import HoraeError, RedisUnavailable

LOG_LIFE = timedelta(days=2)
"""Machine time after which the log of a user who got nothing may go; far longer than an attempt takes."""

_SEPARATOR = "\x1f"
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_LOG_SECONDS = int(LOG_LIFE.total_seconds())
_ASKED = Struct(">16s7d").pack
_ENTRY = Struct(">2d16sd").pack


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
        if min(answers, default=0) < 0:
            cold = {reservation.user_id for reservation, answer in zip(asked, answers, strict=True) if answer < 0}
            answers = self._ask(epoch, asked, ledger(cold))
        if not any(answers):
            return [None] * len(answers)
        return [_refusal(reservation, answer) for reservation, answer in zip(asked, answers, strict=True)]

    def release(self, epoch: Epoch, pushes: Collection[tuple[int, UUID, int]]) -> int:
        """Free the reservations of pushes (user, push, fence) that certainly did not leave; repeats change nothing.

        A reservation that a later claim has taken over stays. Raises RedisUnavailable.
        """
        if not pushes:
            return 0
        with _answering():
            script = _script("release")
            pipeline = self._pipeline([script])
            for user_id, push_id, fence in pushes:
                pipeline.evalsha(script.sha, 1, _key(epoch.token, user_id), push_id.bytes, str(fence))
            return sum(pipeline.execute()[1:])

    def forget_user(self, epoch: Epoch, user_id: int) -> None:
        """Remove the log of a user. Raises RedisUnavailable."""
        with _answering():
            self._client.delete(_key(epoch.token, user_id))

    def _ask(self, epoch: Epoch, asked: Sequence[Reservation], logs: Mapping[int, Sequence[Entry]]) -> list[int]:
        build, horizon, calls = _script("build"), _micros(epoch.horizon), _calls(asked)
        with _answering():
            scripts = dict.fromkeys(_compiled(limits) for limits, _ in calls)
            pipeline = self._pipeline([*([build] if logs else ()), *scripts])
            for user_id, entries in logs.items():
                pipeline.evalsha(build.sha, 1, _key(epoch.token, user_id), str(_LOG_SECONDS), *map(_entry, entries))
            logs_at = _key(epoch.token, "")
            for limits, places in calls:
                keys = [logs_at + str(asked[place].user_id) for place in places]
                arguments = [_asked(asked[place], horizon) for place in places]
                pipeline.evalsha(_compiled(limits).sha, len(keys), *keys, *arguments)
            proof = _proof(pipeline, epoch.run_id, epoch.token)
            answers = pipeline.execute()
        if not proof(answers):
            raise EpochLost("the caps' Redis lost data: their logs are rebuilt before anything leaves")
        said = [0] * len(asked)
        for (_, places), numbers in zip(calls, answers[-2 - len(calls) : -2], strict=True):
            for place, number in zip(places, numbers, strict=True):
                said[place] = number
        return said

    def _pipeline(self, scripts: Iterable[Script]) -> Any:
        """A pipeline that begins by loading `scripts`: after a restart they are gone, and it is one round trip."""
        pipeline = self._client.pipeline(transaction=False)
        for script in scripts:
            pipeline.script_load(script.code)
        return pipeline


@dataclass(frozen=True, slots=True)
class Script:
    """A Lua script and the hash by which Redis knows it."""

    sha: str
    code: str = field(compare=False)


@cache
def _script(name: str) -> Script:
    return _hashed((files(__package__) / f"{name}.lua").read_text())


def _hashed(code: str) -> Script:
    return Script(sha1(code.encode(), usedforsecurity=False).hexdigest(), code)


@cache
def _template() -> str:
    """reserve.lua without its comments, which Redis need not keep for every set of limits."""
    lines = (files(__package__) / "reserve.lua").read_text().splitlines()
    return "\n".join(line for line in lines if line and not line.startswith("--"))


@lru_cache(4096)
def _compiled(limits: Limits) -> Script:
    """The script that checks `limits`."""
    checks = "\n".join(_check(number, limit) for number, limit in enumerate(limits, 1))
    return _hashed(_template().replace("@LIFE@", str(_LOG_SECONDS)).replace("@CHECKS@", checks))


def _check(number: int, limit: Limit) -> str:
    """Lua: refuse by the rule of that number. A log shorter than the cap cannot break it."""
    match limit.window:
        case "local_day":
            since, counts = "today", "log[i + 1] >= since"
        case "local_week":
            since, counts = "monday", "log[i + 1] >= since"
        case width:
            since, counts = f"early - {_micros(width):.0f}", "log[i] >= since"
    scoped = f" and find(log[i + 4], {_literal(_scopes((limit.scope,)))}, 1, true)" if limit.scope else ""
    return f"""if #log >= {5 * limit.most} then
  local since, left = {since}, {limit.most}
  for i = 1, #log, 5 do
    if {counts} and i ~= own{scoped} then left = left - 1 end
  end
  if left <= 0 then return {number} end
end"""


def _proof(pipeline: Any, run_id: str, token: str) -> Callable[[Sequence[Any]], bool]:
    """Adds the proof that nothing was lost to the end of `pipeline`; the function returned reads it."""
    pipeline.exists(_marker(token))
    pipeline.info("server")
    return lambda answers: bool(answers[-2]) and str(answers[-1]["run_id"]) == run_id


def _calls(asked: Sequence[Reservation]) -> list[tuple[Limits, list[int]]]:
    """The places in `asked` that are one call: the same limits; a user's several reservations each in its turn."""
    turns: dict[int, int] = {}
    calls: dict[tuple[int, Limits], list[int]] = {}
    for place, reservation in enumerate(asked):
        user_id = reservation.user_id
        turn = turns[user_id] = turns.get(user_id, -1) + 1
        calls.setdefault((turn, reservation.limits), []).append(place)
    return [(limits, places) for (_, limits), places in sorted(calls.items(), key=lambda call: call[0][0])]


def _refusal(reservation: Reservation, answer: int) -> Limit | None:
    if answer < 0:  # the log vanished between its building and the question, and the marker did not
        raise EpochLost("a log of the caps' Redis vanished: does its maxmemory-policy evict single keys?")
    return None if answer == 0 else reservation.limits.each[answer - 1]


def _asked(reservation: Reservation, horizon: float) -> bytes:
    _, push_id, fence, scopes, attempt, _, counts = reservation
    at, early, day, today, monday = _when(attempt)
    packed = _ASKED(push_id.bytes, fence, at, day, early, today, monday, at - horizon)
    return packed + _scopes(scopes) if counts else packed


@lru_cache(1024)
def _when(attempt: Attempt) -> tuple[float, float, int, int, int]:
    """at, early, day, today, monday, as reserve.lua reads them; the same for all users of a zone in a group."""
    at, today = _instant(attempt.at), attempt.today
    monday = today.toordinal() - today.weekday()
    return at, at - _micros(attempt.deadline), attempt.day.toordinal(), today.toordinal(), monday


def _entry(entry: Entry) -> bytes:
    packed = _ENTRY(_instant(entry.at), entry.day.toordinal(), entry.push_id.bytes, entry.fence)
    return packed + _scopes(entry.scopes)


def _instant(instant: datetime) -> float:
    return _micros(instant - _EPOCH)


def _micros(span: timedelta) -> float:
    """Microseconds: whole numbers that a double holds exactly for two centuries and more."""
    return float((span.days * 86_400 + span.seconds) * 1_000_000 + span.microseconds)


@lru_cache(4096)
def _scopes(scopes: tuple[str, ...]) -> bytes:
    plain = (scope.replace(_SEPARATOR, " ") for scope in scopes)
    return (_SEPARATOR + "".join(scope + _SEPARATOR for scope in plain)).encode()


def _literal(value: bytes) -> str:
    """A string of Lua, whatever its bytes."""
    return "'" + "".join(f"\\{byte:03d}" for byte in value) + "'"


def _key(token: str, user_id: int | str) -> str:
    """A user's log. The logs of many users are asked for in one call: one server, not a cluster."""
    return f"horae:cap:{token}:{user_id}"


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
