"""What is common to the answers of push services (pure)."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from pydantic_core import from_json

from engine.delivery.gateways.exchange import Answer, NotSent, Uncertain
from engine.delivery.gateways.retry_after import read_retry_after
from engine.delivery.messages import Kind, Outcome

DETAIL = 200
"""How much of an answer is kept for people."""


def no_answer(result: NotSent | Uncertain) -> Outcome:
    """What is known of a message whose provider did not answer."""
    return Outcome(Kind.RETRY if isinstance(result, NotSent) else Kind.UNKNOWN, detail=result.why)


def refused_for_now(answer: Answer, now: datetime, detail: str) -> Outcome:
    """A message that was certainly not taken, for now, with the provider's wish. `now` is machine time."""
    kind = Kind.THROTTLED if answer.status == 429 else Kind.RETRY
    return Outcome(kind, read_retry_after(answer.retry_after, now), detail=detail)


def parse_object(body: str) -> dict[str, Any] | None:
    """A JSON object, or None where the text is none."""
    try:
        found = from_json(body)
    except ValueError:
        return None
    return found if isinstance(found, dict) else None
