"""Complete Journey's calendar of leaflets and displays as promotions of items, in Horae's own file format.

The table says which product was in the leaflet or on display in which shop and week; only promoted ones have rows. A
promotion's weight is how many of an item's products were promoted in a shop on average. Leaflets are printed and
displays planned before their week: each counts as announced a week ahead.
"""

from __future__ import annotations

from datetime import date, datetime, time, timedelta
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import parquet

from engine.demo.data import TIMEZONE
from engine.localtime import resolve, zone

if TYPE_CHECKING:
    from pathlib import Path

PROMOTED = {"advert": "mailer_location", "placement": "display_location"}
NOT_PROMOTED = "0"
SECOND_WEEK = date(2017, 1, 2)
"""Weeks begin on Monday; the first of the table has one day."""

WEEKS = 53
ANNOUNCED = timedelta(days=7)
_ROWS = 1_000_000


def promotions(folder: Path, products: pd.DataFrame) -> pa.Table:
    """item_id, kind, starts_at, ends_at, weight, announced_at.

    products: product_id and key, the item it belongs to; others are left out. The table has 21 million rows and is read
    a million at a time.
    """
    keys, item = np.unique(products["key"].to_numpy(str), return_inverse=True)
    order = np.argsort(products["product_id"].to_numpy())
    ids, item = products["product_id"].to_numpy()[order], item[order]
    shape = (WEEKS + 1, len(keys))
    counts = {kind: np.zeros(shape[0] * shape[1]) for kind in PROMOTED}
    shops: set[int] = set()
    columns = ["product_id", "store_id", "week", *PROMOTED.values()]
    for batch in parquet.ParquetFile(folder / "promotions.parquet").iter_batches(_ROWS, columns=columns):
        shops |= set(pc.unique(batch["store_id"]).to_pylist())
        product = batch["product_id"].to_numpy()
        at = np.minimum(np.searchsorted(ids, product), len(ids) - 1)
        cell = batch["week"].to_numpy() * len(keys) + item[at]
        for kind, column in PROMOTED.items():
            promoted = (ids[at] == product) & np.asarray(pc.not_equal(batch[column], NOT_PROMOTED))
            counts[kind] += np.bincount(cell[promoted], minlength=len(counts[kind]))
    parts = []
    for kind, count in counts.items():
        week, at = np.nonzero(count.reshape(shape))
        weight = count.reshape(shape)[week, at] / len(shops)
        parts.append(pd.DataFrame({"item_id": keys[at], "kind": kind, "week": week, "weight": weight}))
    return _dated(pd.concat(parts, ignore_index=True))


def _dated(found: pd.DataFrame) -> pa.Table:
    monday = [_midnight(SECOND_WEEK + timedelta(weeks=week - 2)) for week in range(WEEKS + 2)]
    starts = pd.Series(monday, dtype="datetime64[us, UTC]")
    dated = pd.DataFrame(
        {
            "item_id": found["item_id"],
            "kind": found["kind"],
            "starts_at": starts.iloc[found["week"]].to_numpy(),
            "ends_at": starts.iloc[found["week"] + 1].to_numpy(),
            "weight": found["weight"],
        }
    )
    dated["announced_at"] = dated["starts_at"] - ANNOUNCED
    for name in ("starts_at", "ends_at", "announced_at"):
        dated[name] = dated[name].astype("datetime64[us, UTC]")
    return pa.Table.from_pandas(dated, preserve_index=False)


def _midnight(day: date) -> datetime:
    return resolve(datetime.combine(day, time()), zone(TIMEZONE))
