"""What goes over the wire to a provider, and the three ways in which it ends (pure)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

NO_TIME = "no time left before the lease ends"
"""Why a request was not even begun: not the provider's failure."""


class Request(NamedTuple):
    """A POST: where, with which headers, what."""

    url: str
    headers: Mapping[str, str]
    body: bytes


class Answer(NamedTuple):
    """The provider answered. `body` is its beginning; of the headers those are kept that a gateway reads."""

    status: int
    retry_after: str | None
    body: str
    named: str | None = None
    """What it calls the message: `apns-id`, or the `location` of a Web Push message."""


@dataclass(frozen=True, slots=True)
class NotSent:
    """The request certainly did not leave."""

    why: str


@dataclass(frozen=True, slots=True)
class Uncertain:
    """The request may have arrived."""

    why: str


Result = Answer | NotSent | Uncertain
