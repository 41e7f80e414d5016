"""`horae backtest --preset complete-journey`: the published protocol on Complete Journey, in a store of its own.

An item is a (product category, product type) bought on at least 30 shopping trips before 31 July 2017, or a product
bought on 150; pushable goods of known kind only. A trip is a household's baskets less than an hour apart; each trip is
ingested as an `app_open`, fuel too: it is when a household shops, whatever it buys. The campaigns have
a store of their own (`demo.coupons`, `demo.response`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import date, datetime, time, timedelta
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
from engine.demo import coupons, data, response, trips
from engine.demo.apart import Progress, apart, peak_mb
from engine.demo.coupons import Files
from engine.demo.promotions import promotions
from engine.demo.workspace import fresh, only_demo
from engine.ingest import run as intake
from engine.learning import training, warm
from engine.learning.backtest import hours
from engine.learning.backtest.log import Spec
from engine.learning.backtest.run import Result, backtest
from engine.localtime import resolve, zone
from engine.runtime import Runtime, open_runtime
from engine.store.database import Database

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

COLUMNS = ["household_id", "basket_id", "product_id", "quantity", "sales_value", "transaction_timestamp"]


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
    new_only = replace(spec, new_only=True, stale=(), impute=False, ablate=False, late=())

    def part(of: str, begin: float, end: float) -> Progress:
        return lambda what, share: tell(f"{of}: {what}", begin + (end - begin) * share)

    with _store(home, (write, "type"), part("types", 0.0, 0.1)) as runtime:
        whole = backtest(runtime.database, _instant(END), spec, part("all items", 0.1, 0.4))
        new_items = backtest(runtime.database, _instant(END), new_only, part("new items", 0.4, 0.55))
        sending = hours.measure(runtime.database, _instant(WINDOWS_FROM), _instant(END), part("windows", 0.55, 0.6))
        url = runtime.database.libpq_url
        timed, train_mb = apart(_retrain, url, spec.seed, spec.threads, tell=part("training", 0.6, 0.7))
        warmed, warm_mb = apart(_warm, url, spec.seed, spec.threads, tell=part("warm update", 0.7, 0.72))
    with _store(home, (write, "product"), part("products", 0.72, 0.77)) as runtime:
        products = backtest(runtime.database, _instant(END), new_only, part("new products", 0.77, 0.9))
    with _store(home, (coupons.write,), part("campaigns", 0.9, 0.95)) as runtime:
        answered, _ = apart(_response, runtime.database.libpq_url, tell=part("campaign response", 0.95, 1.0))
    report = dict(whole.report)
    report["windows_weekly"], report["windows"] = report["windows"], sending
    report["response"] = answered
    report["new_only"] = _tables(new_items)
    report["product_new_only"] = _tables(products)
    memory = {"train_mb": train_mb, "warm_update_mb": warm_mb, "backtest_mb": peak_mb()}
    report["memory"] = {name: round(value, 1) for name, value in memory.items()}
    report["figures"] = _figures(report) | timed | warmed | {"peak_mb": round(max(train_mb, warm_mb), 1)}
    return Result(report, whole.charts)


def _tables(result: Result) -> dict[str, Any]:
    return {key: result.report[key] for key in ("models", "differences", "snapshots", "seconds", "note")}


def _figures(report: dict[str, Any]) -> dict[str, Any]:
    """The figures of the published protocol. ECE is of the four test weeks pooled; `ece_weekly` is their mean."""
    full, new, products = (
        found["models"]["full"] or {} for found in (report, report["new_only"], report["product_new_only"])
    )
    model = report["windows"].get("model", {})
    return {
        **{key: full.get(key) for key in ("ndcg_10", "hr_10", "ap", "ne", "ece", "ece_weekly")},
        "new_ndcg_10": new.get("ndcg_10"),
        "new_auc": new.get("auc"),
        "product_new_ndcg_10": products.get("ndcg_10"),
        "window_ll": model.get("log_likelihood"),
        "window_top1": model.get("top_1"),
        "window_top3": model.get("top_3"),
        "response_auc": report["response"]["auc"],
    }


def _retrain(url: str, seed: int, threads: int, tell: Progress) -> dict[str, float]:
    """Seconds of a full training on the whole log, as `horae train` does it, features included."""
    database = Database(url)
    started = monotonic()
    training.train(database, _instant(END), tell, training.Options("purchase", seed, threads))
    database.dispose()
    return {"retrain_s": round(monotonic() - started, 2)}


def _warm(url: str, seed: int, threads: int, tell: Progress) -> dict[str, float]:
    """Seconds of a warm update a day later."""
    database = Database(url)
    started = monotonic()
    warm.warm_update(database, _instant(END + timedelta(days=1)), tell, training.Options("purchase", seed, threads))
    database.dispose()
    return {"warm_update_s": round(monotonic() - started, 2)}


def _response(url: str, tell: Progress) -> dict[str, Any]:
    database = Database(url)
    found = response.measure(database, _instant(END), tell)
    database.dispose()
    return found


@contextmanager
def _store(home: Path, log: tuple[Callable[..., Files], *tuple[str, ...]], tell: Progress) -> Iterator[Runtime]:
    """A fresh store with what the log's files hold; closed at the end. log: what writes them, and its arguments."""
    tell("starting PostgreSQL", 0.0)
    runtime = open_runtime(fresh(home))
    try:
        with runtime.database.begin() as connection:
            clock.start_virtual(connection, _instant(END))
            policy_store.save_policy(connection, lambda _: Policy(default_timezone=data.TIMEZONE), "backtest")
        files, _ = apart(*log, home / "files", tell=tell)
        total = parquet.read_metadata(files.events).num_rows

        def told(progress: intake.Progress) -> None:
            tell(f"ingesting, {progress.rows:,} of {total:,}", 0.3 + 0.7 * progress.rows / total)

        intake.ingest_users(runtime.database, [files.users], _instant(END))
        intake.ingest_items(runtime.database, [files.items], _instant(END))
        if files.promotions is not None:
            intake.ingest_promotions(runtime.database, [files.promotions], _instant(END))
        intake.ingest_events(runtime.database, [files.events], _instant(END), progress=told)
        yield runtime
    finally:
        runtime.close()


def write(level: str, folder: Path, tell: Progress) -> Files:
    """Write the users, items, events and promotions of one level ("type", "product") into `folder`."""
    tell("reading Complete Journey", 0.1)
    source = data.source()
    lines = data.read(source, "transactions", COLUMNS)
    found = trips.trips(lines)
    products = _keyed(data.read(source, "products", data.PRODUCT_COLUMNS), level)
    bought = _bought(lines, products)
    bought["trip"] = found.set_index("basket_id")["trip"].reindex(bought["basket_id"]).to_numpy()
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
    parquet.write_table(_events(bought, found), files.events, compression="lz4")
    announced = promotions(source, products[products["key"].isin(kept)])
    parquet.write_table(announced, files.promotions, compression="lz4")
    return files


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


def _events(bought: pd.DataFrame, found: pd.DataFrame) -> pa.Table:
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
    both = pd.concat([purchases, trips.opens(found)]).sort_values("occurred_at", kind="stable")
    both["occurred_at"] = both["occurred_at"].dt.tz_localize("UTC")
    return pa.Table.from_pandas(both, preserve_index=False)


def _instant(day: date) -> datetime:
    return resolve(datetime.combine(day, time()), zone(data.TIMEZONE))
