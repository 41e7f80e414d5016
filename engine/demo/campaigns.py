"""The demo's rules and its two campaigns, as a shop would write them."""

from __future__ import annotations

from datetime import time, timedelta
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from engine.campaigns.definition import Campaign
from engine.campaigns.filters import AttributeIs
from engine.campaigns.loading import load
from engine.campaigns.policy import Cap, Policy
from engine.demo.data import TIMEZONE

POLICY = Policy(
    default_timezone=TIMEZONE,
    quiet_hours=(time(22), time(8)),
    caps=(Cap(id="cap-1", limit=1, window="local_day"), Cap(id="cap-2", limit=3, window="local_week")),
    min_gap=timedelta(hours=12),
    holdout=0.05,
)
"""At most one push a day and three a week, twelve hours apart, none at night; one user in twenty gets none at all."""

FILES = tuple(Path(__file__).with_name(f"{name}.yaml") for name in ("daily-pick", "family-fresh"))


def load_campaigns() -> tuple[Campaign, ...]:
    """The two campaigns: one every day for everybody, one on Wednesdays for families that competes with it."""
    return tuple(load(file) for file in FILES)


def audience_size(campaign: Campaign, users: pa.Table) -> int:
    """How many of the data's users a campaign is for, counted here and not by the engine.

    Raises ValueError for an audience of another form than the demo's: everybody, or one attribute in a list.
    """
    condition = campaign.audience
    if condition is None:
        return int(users.num_rows)
    if not isinstance(condition, AttributeIs) or condition.in_ is None:
        raise ValueError(f"the demo does not count audiences like {condition}")
    column = users[condition.attribute]
    return int(pc.sum(pc.is_in(column, pa.array(condition.in_, column.type))).as_py())
