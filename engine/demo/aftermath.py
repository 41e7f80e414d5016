"""From the journal and the data to what happened after the pushes, beside the baselines."""

from __future__ import annotations

from datetime import datetime

import numpy as np
import pandas as pd

from engine.demo import outcomes
from engine.demo.campaigns import POLICY
from engine.demo.data import TIMEZONE, Journey
from engine.demo.report import Aftermath, LateBinding

RECENT = pd.Timedelta(days=30)
"""How far back an item's popularity looks."""


def look_back(journey: Journey, journal: pd.DataFrame, start: datetime, rng: np.random.Generator) -> Aftermath:
    """What the data says happened after the pushes in `journal`; baselines know the data before `start` alone."""
    events = _frame(journey)
    history = events[events["at"] <= pd.Timestamp(start)]
    items = journey.items.to_pandas().set_index("item_id")
    ranking = _popular_items(history, items, journal)
    trips = outcomes.trips_of(events)
    hour = outcomes.most_popular_hour(trips[trips["at"] <= pd.Timestamp(start)], TIMEZONE, _open_hours())
    popular, moved = outcomes.with_popular_items(journal, ranking), outcomes.at_popular_hour(journal, TIMEZONE, hour)
    bought, bought_popular = (_bought(pushes, events) for pushes in (journal, popular))
    shopped, shopped_popular = (_shopped(pushes, trips) for pushes in (journal, moved))
    return Aftermath(
        bought=outcomes.compare(journal["user"], bought, bought_popular, rng),
        popular_item=str(items["title"][ranking[0]]),
        shopped=outcomes.compare(journal["user"], shopped, shopped_popular, rng),
        popular_hour=hour,
        example=_example(journal[bought & shopped], events),
    )


def late_binding(
    journey: Journey, changed: tuple[pd.DataFrame, dict[str, int]], rng: np.random.Generator
) -> LateBinding:
    """What late binding changed (`ledger.rebound`), and how often the new items and those planned first were bought."""
    sent, counts = changed
    events = _frame(journey)
    new, first = (_bought(sent.assign(item=sent[name]), events) for name in ("item", "first"))
    saved = _meanwhile(sent, events)
    others = sent[~saved]
    bought = outcomes.compare(others["user"], new[~saved], first[~saved], rng) if len(others) else None
    return LateBinding(**counts, saved=int(saved.sum()), saved_bought=int(new[saved].sum()), bought=bought)


def _meanwhile(sent: pd.DataFrame, events: pd.DataFrame) -> np.ndarray:
    """Whether the item planned first was bought between the plan and the send; bool[len(sent)]."""
    pairs = sent.reset_index(names="row")[["row", "user", "first", "planned", "at"]]
    joined = pairs.merge(events.rename(columns={"item": "first", "at": "bought"}), on=["user", "first"])
    between = joined[(joined["bought"] > joined["planned"]) & (joined["bought"] <= joined["at"])]
    found: np.ndarray = np.isin(sent.index.to_numpy(), between["row"].unique())
    return found


def _frame(journey: Journey) -> pd.DataFrame:
    events: pd.DataFrame = journey.events.select(["user_id", "item_id", "occurred_at"]).to_pandas()
    return events.rename(columns={"user_id": "user", "item_id": "item", "occurred_at": "at"})


def _popular_items(history: pd.DataFrame, items: pd.DataFrame, journal: pd.DataFrame) -> list[str]:
    """As many items that may be pushed as any household got pushes, most popular lately first."""
    recent = history[history["at"] > history["at"].max() - RECENT]
    pushable = recent[recent["item"].isin(items.index[items["pushable"]])]
    return outcomes.most_popular_items(pushable, int(journal.groupby("user").size().max()))


def _open_hours() -> list[int]:
    """The full hours outside the workspace's quiet hours."""
    assert POLICY.quiet_hours is not None
    night, morning = (end.hour for end in POLICY.quiet_hours)
    return list(range(morning, night))


def _bought(pushes: pd.DataFrame, events: pd.DataFrame) -> np.ndarray:
    return outcomes.followed_by(pushes, events, ["user", "item"], outcomes.BOUGHT_WITHIN)


def _shopped(pushes: pd.DataFrame, trips: pd.DataFrame) -> np.ndarray:
    return outcomes.followed_by(pushes, trips, ["user"], outcomes.TRIP_WITHIN)


def _example(hits: pd.DataFrame, events: pd.DataFrame) -> str | None:
    """One push that was right about both, told in a sentence; None where none was."""
    if hits.empty:
        return None
    push = hits.iloc[0]
    same = events[(events["user"] == push["user"]) & (events["item"] == push["item"]) & (events["at"] > push["at"])]
    sent, bought = (at.tz_convert(TIMEZONE) for at in (push["at"], same["at"].iloc[0]))
    return f'household {push["user"]} got "{push["title"]}" on {sent:%a at %H:%M} and bought it on {bought:%a at %H:%M}'
