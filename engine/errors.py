"""The one exception tree of Horae.

HoraeError                    everything a caller may be told about
├── BadInput                  something given to Horae is wrong: a file, an option, a definition
│   ├── UnknownName           a name that stands for nothing (campaign, user, model, cap, …)
│   ├── Conflict              it does not fit the state that things are in (a campaign that is over, a key used before)
│   └── Faulty                a definition with faults, each with its place
├── Unavailable               a server or resource that Horae needs is not there
│   ├── StoreUnavailable      PostgreSQL
│   ├── RedisUnavailable      Redis or Valkey
│   └── DiskFull              no room to write
├── SchemaMismatch            the database is of another schema version than this code
├── IngestStopped             a file was stored only in part: `summary` says how much
├── ModelRefused              a model artifact fails its checks (hash, schema, library)
└── LeaseLost                 another worker has taken over this piece of work

The message is one sentence for the person who reads it; `hint` says what to do about it. Adapters translate their
driver's errors at the border with `raise … from`.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence


class HoraeError(Exception):
    """Something went wrong that a person should be told about, with what to do next."""

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message} ({self.hint})" if self.hint else self.message


class BadInput(HoraeError):
    """Something given to Horae is wrong; nothing was changed."""


class UnknownName(BadInput):
    """A name that stands for nothing in this store."""


class Conflict(BadInput):
    """What is asked for does not fit the state that things are in; asked at another time, it may."""


class Faulty(BadInput):
    """A definition has faults. faults: (path, sentence) of each; a path's parts are fields and places in lists."""

    def __init__(
        self, message: str, faults: Sequence[tuple[tuple[str | int, ...], str]], *, hint: str | None = None
    ) -> None:
        super().__init__(message, hint=hint)
        self.faults = tuple(faults)


class Unavailable(HoraeError):
    """A server or resource that Horae needs is not there."""


class StoreUnavailable(Unavailable):
    """PostgreSQL does not answer."""


class RedisUnavailable(Unavailable):
    """Redis (or Valkey) does not answer."""


class DiskFull(Unavailable):
    """There is no room left to write."""


class SchemaMismatch(HoraeError):
    """The database's schema is not the one this code was written for."""


class IngestStopped(HoraeError):
    """An ingest ended early; what was committed stays, and running it again completes it.

    `summary` (ingest.summary.Summary) says how much that is; `interrupted` that a person asked for the end.
    """

    def __init__(self, message: str, *, summary: object, interrupted: bool = False, hint: str | None = None) -> None:
        super().__init__(message, hint=hint)
        self.summary = summary
        self.interrupted = interrupted


class ModelRefused(HoraeError):
    """A model artifact failed its checks and is not used."""


class LeaseLost(HoraeError):
    """The lease on this piece of work has passed to another worker; nothing may be recorded."""


def did_you_mean(given: str, known: Iterable[str]) -> str | None:
    """A hint that names the known word closest to `given` (case aside), or None where none is close."""
    by_folded = {name.casefold(): name for name in known}
    close = difflib.get_close_matches(given.casefold(), by_folded, n=1, cutoff=0.7)
    return f"did you mean {by_folded[close[0]]}?" if close else None
