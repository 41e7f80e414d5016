"""What made an occurrence of an event-triggered campaign due for a user."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import Connection, text

from engine.campaigns.definition import Campaign
from engine.campaigns.triggers import described

_TRIGGER = text("""
    SELECT a.happened_at, a.due_at, i.external_id AS item FROM armed_triggers a LEFT JOIN items i ON i.id = a.item_id
    WHERE a.occurrence_id = :occurrence AND a.user_id = :user ORDER BY a.id LIMIT 1
""")


@dataclass(frozen=True)
class Because:
    """trigger: the campaign's, in words; item: what it was about, the shop's id."""

    trigger: str
    happened_at: datetime
    due_at: datetime
    item: str | None


def because(connection: Connection, campaign: Campaign, occurrence: int, user: int) -> Because | None:
    """The trigger that handed `user` to this occurrence of `campaign`; None where a schedule or a person made it."""
    if campaign.trigger is None:
        return None
    row = connection.execute(_TRIGGER, {"occurrence": occurrence, "user": user}).one_or_none()
    return None if row is None else Because(described(campaign.trigger), row.happened_at, row.due_at, row.item)
