"""A provider inside the test that does with each message what it was told, and keeps a journal of what it took."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from uuid import UUID

from hypothesis import strategies as st

from engine.delivery.gateways import Kind, Outcome, Outgoing


@dataclass(frozen=True)
class Answer:
    """What a provider does with a message: whether it takes it, what it says, and when it arrives after the attempt."""

    kind: Kind
    taken: bool
    late: timedelta


def answers() -> st.SearchStrategy[Answer]:
    late = st.sampled_from([0, 17, 29]).map(lambda seconds: timedelta(seconds=seconds))
    kinds = [
        *[(Kind.ACCEPTED, True)] * 4,
        (Kind.UNKNOWN, True),
        (Kind.UNKNOWN, False),
        (Kind.RETRY, False),
        (Kind.THROTTLED, False),
        (Kind.PAYLOAD_REFUSED, False),
        (Kind.CREDENTIALS_REFUSED, False),
    ]
    return st.builds(lambda kind, late: Answer(kind[0], kind[1], late), st.sampled_from(kinds), late)


@dataclass
class Line:
    """What the provider received."""

    push_id: UUID
    occurrence_id: int
    campaign: str
    user: str
    asked: datetime
    """When the attempt began."""
    at: datetime
    zone: str


@dataclass
class Post:
    """A provider that answers in turn, and its journal."""

    zone_of: Callable[[str], str]
    name: str = "post"
    needs_device: bool = False
    timeout: timedelta = timedelta(seconds=1)
    answers: list[Answer] = field(default_factory=list)
    journal: list[Line] = field(default_factory=list)

    def send_many(self, messages: Sequence[Outgoing], start_by: float = math.inf) -> list[Outcome]:
        return [self._send(message) for message in messages]

    def _send(self, message: Outgoing) -> Outcome:
        answer = self.answers.pop(0) if self.answers else Answer(Kind.ACCEPTED, taken=True, late=timedelta(0))
        if answer.taken:
            assert message.occurrence_id is not None
            user, asked, at = message.user_id, message.at, message.at + answer.late
            whose = (message.push_id, message.occurrence_id, message.campaign, user)
            self.journal.append(Line(*whose, asked, at, self.zone_of(user)))
        return Outcome(answer.kind, delay=timedelta(seconds=1) if answer.kind is Kind.THROTTLED else None)

    def close(self) -> None:
        """Nothing is open."""
