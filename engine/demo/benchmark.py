"""`horae backtest --preset complete-journey`: the published protocol on Complete Journey, in a store of its own.

An item is a (product category, product type) bought on at least 30 shopping trips before 31 July 2017, or a product
bought on 150; pushable goods of known kind only. A trip is a household's baskets less than an hour apart; each trip is
ingested as an `app_open`, fuel too: it is when a household shops, whatever it buys.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from datetime import date, datetime, time
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
from pyarrow import parquet

from engine import clock, embedded
from engine.campaigns import policy_store
from engine.campaigns.policy import Policy
from engine.clock import monotonic
from engine.demo import data, response
from engine.demo.promotions import promotions
from engine.demo.workspace import fresh, only_demo
from engine.ingest import run as intake
from engine.learning import training
from engine.learning.backtest import hours
from engine.learning.backtest.log import Spec
from engine.learning.backtest.run import Result, backtest
from engine.localtime import resolve, zone
from engine.runtime import Runtime, open_runtime

Progress = Callable[[str, float], None]

FIRST, LAST = date(2017, 7, 31), date(2017, 10, 23)
WINDOWS_FROM, END = date(2017, 10, 1), date(2018, 1, 1)
LEAST_TRIPS = {"type": 30, "product": 150}
NOT_PUSHABLE = {
    "FUEL",
    "COUPON",
    "MISCELLANEOUS",
    "CNTRL/STORE SUP",
    "POSTAL CENTER",
    "PROD-WHS SALES",
    "PHOTO & VIDEO",
}
"""Departments left out by the protocol: it keeps restricted goods, which the demo would not push."""

TRIP_SECONDS = 3600.0
COLUMNS = ["household_id", "basket_id", "product_id", "quantity", "sales_value", "transaction_timestamp"]


@dataclass(frozen=True)
class Files:
    """Parquet files in Horae's own format."""

    users: Path
    items: Path
    events: Path
    promotions: Path


def run(home: Path, options: Spec, tell: Progress) -> Result:
    """The whole protocol: all items, new items only, products; send windows, campaign response, training times.

    Raises BadInput where the data are not installed or another run is at work in `home`. What an earlier run left in
    `home` is thrown away.
    """
    with only_demo(home):
        try:
            return _run(home, options, tell)
        finally:
            embedded.stop(home)


def _run(home: Path, options: Spec, tell: Progress) -> Result:
    spec = replace(options, goal="purchase", first=FIRST, last=LAST)

    def part(of: str, begin: float, end: float) -> Progress:
        return lambda what, share: tell(f"{of}: {what}", begin + (end - begin) * share)

    with _store(home, "type", part("types", 0.0, 0.1)) as runtime:
        whole = backtest(runtime.database, _instant(END), spec, part("all items", 0.1, 0.35))
        fresh_only = backtest(
            runtime.database, _instant(END), replace(spec, new_only=True, stale=()), part("new items", 0.35, 0.55)
        )
        sending = hours.measure(runtime.database, _instant(WINDOWS_FROM), _instant(END), part("windows", 0.55, 0.6))
        seconds = _timed(runtime, part("training", 0.6, 0.7), spec)
    with _store(home, "product", part("products", 0.7, 0.75)) as runtime:
        products = backtest(
            runtime.database, _instant(END), replace(spec, new_only=True, stale=()), part("new products", 0.75, 0.95)
        )
    tell("campaign response", 0.96)
    answered = response.measure()
    report = dict(whole.report)
    report["sending"] = sending
    report["response"] = answered
    report["new_only"] = {key: fresh_only.report[key] for key in ("models", "differences", "snapshots", "note")}
    report["product_new_only"] = {key: products.report[key] for key in ("models", "differences", "snapshots", "note")}
    report["figures"] = _figures(report, seconds)
    return Result(report, whole.charts)


def _figures(report: dict[str, Any], seconds: dict[str, float]) -> dict[str, Any]:
    full = report["models"]["full"] or {}
    new = report["new_only"]["models"]["full"] or {}
    products = report["product_new_only"]["models"]["full"] or {}
    model = report["sending"].get("model", {})
    return {
        **{key: full.get(key) for key in ("ndcg_10", "hr_10", "ap", "ne", "ece")},
        "new_ndcg_10": new.get("ndcg_10"),
        "new_auc": new.get("auc"),
        "product_new_ndcg_10": products.get("ndcg_10"),
        "window_ll": model.get("log_likelihood"),
        "window_top1": model.get("top_1"),
        "window_top3": model.get("top_3"),
        "response_auc": report["response"]["auc"],
        **seconds,
        "peak_mb": round(peak_mb(), 1),
    }


def peak_mb() -> float:
    """The most memory this process has held, in MB."""
    import resource  # noqa: PLC0415 - not on Windows

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def _timed(runtime: Runtime, tell: Progress, spec: Spec) -> dict[str, float]:
    """Seconds of a full retrain, features included, and of a warm update a day later."""
    now = _instant(date(2017, 10, 30))
    started = monotonic()
    training.train(runtime.database, now, tell, training.Options("purchase", spec.seed, spec.threads))
    retrained = monotonic() - started
    from engine.learning.warm import warm_update  # noqa: PLC0415 - with the training it belongs to

    started = monotonic()
    warm_update(runtime.database, _instant(date(2017, 10, 31)), tell)
    return {"retrain_s": round(retrained, 2), "warm_update_s": round(monotonic() - started, 2)}


class _store:  # noqa: N801 - used as a function
    """A fresh store with the purchases of one level of items; closed at the end."""

    def __init__(self, home: Path, level: str, tell: Progress) -> None:
        self._home, self._level, self._tell = home, level, tell

    def __enter__(self) -> Runtime:
        self._tell("starting PostgreSQL", 0.0)
        self._runtime = open_runtime(fresh(self._home))
        with self._runtime.database.begin() as connection:
            clock.start_virtual(connection, _instant(END))
            policy_store.save_policy(connection, lambda _: Policy(default_timezone=data.TIMEZONE), "backtest")
        self._tell("reading Complete Journey", 0.1)
        # What pandas held of the tables would stay with this process: another one makes the files and ends.
        with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as apart:
            files = apart.submit(write, self._level, self._home / "files").result()
        total = parquet.read_metadata(files.events).num_rows

        def told(progress: intake.Progress) -> None:
            self._tell(f"ingesting, {progress.rows:,} of {total:,}", 0.3 + 0.7 * progress.rows / total)

        database = self._runtime.database
        intake.ingest_users(database, [files.users], _instant(END))
        intake.ingest_items(database, [files.items], _instant(END))
        intake.ingest_promotions(database, [files.promotions], _instant(END))
        intake.ingest_events(database, [files.events], _instant(END), progress=told)
        return self._runtime

    def __exit__(self, *_: object) -> None:
        self._runtime.close()


def write(level: str, folder: Path) -> Files:
    """Write the users, items and events of one level ("type", "product") into `folder`."""
    source = data.source()
    lines = data.read(source, "transactions", COLUMNS)
    trips = _trips(lines)
    products = _keyed(data.read(source, "products", data.PRODUCT_COLUMNS), level)
    bought = _bought(lines, products)
    bought["trip"] = trips.set_index("basket_id")["trip"].reindex(bought["basket_id"]).to_numpy()
    early = bought[bought["at"] < pd.Timestamp(_instant(FIRST)).tz_convert("UTC").tz_localize(None)]
    often = early.drop_duplicates(["key", "trip"]).groupby("key").size()
    kept = often.index[often >= LEAST_TRIPS[level]]
    bought = bought[bought["key"].isin(kept)]
    folder.mkdir(parents=True, exist_ok=True)
    files = Files(*(folder / f"{name}.parquet" for name in ("users", "items", "events", "promotions")))
    households = pd.DataFrame({"user_id": np.sort(lines["household_id"].unique()).astype(str)})
    parquet.write_table(pa.Table.from_pandas(households.assign(timezone=data.TIMEZONE)), files.users)
    items = bought.drop_duplicates("key")[["key", "category"]].rename(columns={"key": "item_id"})
    parquet.write_table(pa.Table.from_pandas(items, preserve_index=False), files.items)
    parquet.write_table(_events(bought, trips), files.events, compression="lz4")
    announced = promotions(source, products[products["key"].isin(kept)])
    parquet.write_table(announced, files.promotions, compression="lz4")
    return files


def _trips(lines: pd.DataFrame) -> pd.DataFrame:
    """Each basket's trip: household_id, basket_id, at, trip."""
    baskets = lines.groupby("basket_id", as_index=False).agg(
        household_id=("household_id", "first"), at=("transaction_timestamp", "first")
    )
    baskets = baskets.sort_values(["household_id", "at"], ignore_index=True)
    gap = baskets["at"].diff().dt.total_seconds()
    begins = (baskets["household_id"] != baskets["household_id"].shift()) | (gap >= TRIP_SECONDS)
    return baskets.assign(trip=begins.cumsum())


def _keyed(products: pd.DataFrame, level: str) -> pd.DataFrame:
    """The products that may be pushed: product_id, category, key of their item."""
    known = products[~products["department"].isin(NOT_PUSHABLE)]
    if level == "type":
        known = known.dropna(subset=["product_category", "product_type"])
        key = known["product_category"].astype(str) + " | " + known["product_type"].astype(str)
    else:
        key = known["product_id"].astype(str)
    return pd.DataFrame({"product_id": known["product_id"], "category": known["product_category"], "key": key})


def _bought(lines: pd.DataFrame, products: pd.DataFrame) -> pd.DataFrame:
    """One row per basket and item: key, category, basket_id, household_id, at, quantity, value."""
    merged = lines[lines["quantity"] > 0].merge(products, on="product_id")
    grouped = merged.groupby(["key", "basket_id"], as_index=False, observed=True)
    return grouped.agg(
        household_id=("household_id", "first"),
        at=("transaction_timestamp", "first"),
        quantity=("quantity", "sum"),
        value=("sales_value", "sum"),
        category=("category", "first"),
    )


def _events(bought: pd.DataFrame, trips: pd.DataFrame) -> pa.Table:
    first = trips.drop_duplicates("trip")
    purchases = pd.DataFrame(
        {
            "event_id": bought["basket_id"].astype(str) + ":" + bought["key"],
            "user_id": bought["household_id"].astype(str),
            "item_id": bought["key"],
            "event_type": "purchase",
            "occurred_at": bought["at"].astype("datetime64[us]"),
            "value": bought["value"].astype(float).round(2),
            "quantity": bought["quantity"].astype(float).clip(upper=20.0),
        }
    )
    visits = pd.DataFrame(
        {
            "event_id": "trip:" + first["basket_id"].astype(str),
            "user_id": first["household_id"].astype(str),
            "event_type": "app_open",
            "occurred_at": first["at"].astype("datetime64[us]"),
        }
    )
    both = pd.concat([purchases, visits]).sort_values("occurred_at", kind="stable")
    both["occurred_at"] = both["occurred_at"].dt.tz_localize("UTC")
    return pa.Table.from_pandas(both, preserve_index=False)


def _instant(day: date) -> datetime:
    return resolve(datetime.combine(day, time()), zone(data.TIMEZONE))
