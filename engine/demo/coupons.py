"""Complete Journey's coupon campaigns as a shop's own log: 6,589 pairs of household and campaign, 792 of them redeemed.

A campaign is an item (its type the category, its days the availability, its number of coupons the stock). Its start is
a push about it to each of its households, which another system sent; each coupon redeemed is an event of type
`redemption` that names that push. Beside them go the households' purchases, by product, their trips (`app_open`) and
the baskets that any coupon made cheaper (`coupon_use`).
"""

from __future__ import annotations

import uuid
from dataclasses import dataclass
from datetime import datetime, time
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
from pyarrow import parquet

from engine.demo import data, trips
from engine.demo.apart import Progress
from engine.localtime import resolve, zone

REDEMPTION, COUPON_USE = "redemption", "coupon_use"
PREFIX = "campaign "

_LINES = [*data.LINE_COLUMNS, "coupon_disc"]
_PUSHES = uuid.UUID("5f3c9a54-6d0e-4f0c-9d57-0c6f3a1b7e21")


@dataclass(frozen=True)
class Files:
    """Parquet files in Horae's own format."""

    users: Path
    items: Path
    events: Path
    promotions: Path | None = None


def write(folder: Path, tell: Progress) -> Files:
    """Write the users, items and events of the campaigns into `folder`."""
    tell("reading Complete Journey", 0.1)
    source = data.source()
    lines = data.read(source, "transactions", _LINES)
    told = data.read(source, "campaign_descriptions", None).set_index("campaign_id").sort_index()
    coupons = data.read(source, "coupons", None)
    folder.mkdir(parents=True, exist_ok=True)
    files = Files(*(folder / f"{name}.parquet" for name in ("users", "items", "events")))
    households = pd.DataFrame({"user_id": pd.Index(lines["household_id"].unique()).sort_values().astype(str)})
    _save(households.assign(timezone=data.TIMEZONE), files.users)
    _save(pd.concat([_campaigns(told, coupons), _products(source, lines)]), files.items)
    sent = data.read(source, "campaigns", None)
    used = data.read(source, "coupon_redemptions", None)
    events = pd.concat(
        [
            _purchases(lines),
            trips.opens(trips.trips(lines)),
            _coupon_uses(lines),
            _pushes(sent, told["start_date"]),
            _redemptions(used),
        ]
    ).sort_values("occurred_at", kind="stable")
    events["occurred_at"] = events["occurred_at"].dt.tz_localize("UTC")
    _save(events, files.events)
    return files


def of_campaigns(coupons: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """The coupons of each campaign, by the campaign's item_id."""
    grouped = coupons.drop_duplicates().groupby("campaign_id")
    return {_name(campaign): found for campaign, found in grouped}


def _save(frame: pd.DataFrame, path: Path) -> None:
    parquet.write_table(pa.Table.from_pandas(frame, preserve_index=False), path, compression="lz4")


def _campaigns(told: pd.DataFrame, coupons: pd.DataFrame) -> pd.DataFrame:
    return pd.DataFrame(
        {
            "item_id": told.index.map(_name),
            "category": told["campaign_type"].astype(str).to_numpy(),
            "available_from": told["start_date"].map(_begin).dt.tz_localize("UTC").to_numpy(),
            "available_until": told["end_date"].map(_begin).dt.tz_localize("UTC").to_numpy(),
            "stock": coupons.groupby("campaign_id")["coupon_upc"].nunique().reindex(told.index).to_numpy(),
        }
    )


def _products(source: Path, lines: pd.DataFrame) -> pd.DataFrame:
    products = data.read(source, "products", data.PRODUCT_COLUMNS)
    bought = products[products["product_id"].isin(lines["product_id"].unique())]
    return pd.DataFrame({"item_id": bought["product_id"].astype(str), "category": bought["product_category"]})


def _purchases(lines: pd.DataFrame) -> pd.DataFrame:
    bought = lines[lines["quantity"] > 0]
    return pd.DataFrame(
        {
            "event_id": bought["basket_id"].astype(str) + ":" + bought["product_id"].astype(str),
            "user_id": bought["household_id"].astype(str),
            "item_id": bought["product_id"].astype(str),
            "event_type": "purchase",
            "occurred_at": bought["transaction_timestamp"].astype("datetime64[us]"),
            "value": bought["sales_value"].astype(float).round(2),
        }
    )


def _coupon_uses(lines: pd.DataFrame) -> pd.DataFrame:
    baskets = lines[lines["coupon_disc"] != 0].drop_duplicates("basket_id")
    return pd.DataFrame(
        {
            "event_id": "coupon:" + baskets["basket_id"].astype(str),
            "user_id": baskets["household_id"].astype(str),
            "event_type": COUPON_USE,
            "occurred_at": baskets["transaction_timestamp"].astype("datetime64[us]"),
        }
    )


def _pushes(sent: pd.DataFrame, starts: pd.Series) -> pd.DataFrame:
    return _about(sent, "push_sent", sent["campaign_id"].map(starts), sent["campaign_id"].map(lambda _: "sent"))


def _redemptions(used: pd.DataFrame) -> pd.DataFrame:
    """Their days are known, not their hours: they are stamped with the beginning of the day."""
    number = used.groupby(["household_id", "campaign_id"]).cumcount().astype(str)
    return _about(used, REDEMPTION, used["redemption_date"], number)


def _about(pairs: pd.DataFrame, event_type: str, day: pd.Series, number: pd.Series) -> pd.DataFrame:
    """Events about pairs of household and campaign."""
    pair = pairs["household_id"].astype(str) + ":" + pairs["campaign_id"].astype(str)
    return pd.DataFrame(
        {
            "event_id": event_type + ":" + pair + ":" + number,
            "user_id": pairs["household_id"].astype(str),
            "item_id": pairs["campaign_id"].map(_name),
            "event_type": event_type,
            "occurred_at": day.map(_begin).astype("datetime64[us]"),
            "push_id": pair.map(lambda name: str(uuid.uuid5(_PUSHES, name))),
        }
    )


def _name(campaign: Any) -> str:
    return f"{PREFIX}{campaign}"


def _begin(day: Any) -> datetime:
    """The instant (UTC, naive) at which a day begins in the households' zone."""
    begin = resolve(datetime.combine(pd.Timestamp(day).date(), time()), zone(data.TIMEZONE))
    return pd.Timestamp(begin).tz_convert("UTC").tz_localize(None)
