"""Logs as shops and mailers that nobody thought of have them, ingested as files: what `horae backtest` must survive."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
from pyarrow import parquet

from engine.ingest import run as intake
from engine.store.database import Database

END = datetime(2026, 9, 1, tzinfo=UTC)
"""Now, in every one of them."""


def log(
    users: int,
    items: int,
    days: float,
    a_user: float,
    kinds: tuple[str, ...] = ("view", "purchase"),
    seed: int = 1,
    basket: int = 1,
) -> pd.DataFrame:
    """Users with some favourite items who come at an hour of their own, about `a_user` times each."""
    rng = np.random.default_rng(seed)
    user = np.repeat(np.arange(users), rng.poisson(a_user, users))
    at = END.timestamp() - rng.uniform(0.01, days, len(user)) * 86_400
    at += ((rng.integers(7, 23, users)[user] - (at / 3600) % 24) % 24) * 3600
    at = np.where(at < END.timestamp() - 60, at, at - 86_400)
    at = np.maximum(at, END.timestamp() - days * 86_400)
    user, at = np.repeat(user, basket), np.repeat(at, basket)
    favourites = rng.integers(0, items, (users, 5))
    item = np.where(
        rng.random(len(user)) < 0.6,
        favourites[user, rng.integers(0, 5, len(user))],
        (items * rng.random(len(user)) ** 2).astype(int),
    )
    return pd.DataFrame(
        {
            "event_id": np.arange(len(user)).astype(str),
            "user_id": pd.Series(user).map("u{}".format).astype(object),
            "item_id": pd.Series(item).map("i{}".format).astype(object),
            "event_type": rng.choice(kinds, len(user)),
            "occurred_at": pd.to_datetime(at, unit="s", utc=True).astype("datetime64[us, UTC]"),
        }
    ).sort_values("occurred_at", ignore_index=True)


def _nothing() -> pd.DataFrame:
    return log(1, 1, 1, 0)


def _usual() -> pd.DataFrame:
    return log(200, 60, 90, 30)


def _a_quarter_without_user() -> pd.DataFrame:
    found = _usual()
    found.loc[np.random.default_rng(2).random(len(found)) < 0.25, "user_id"] = None
    return found


def _bot() -> pd.DataFrame:
    """One account does 80 % of everything, round the clock."""
    people = log(150, 60, 90, 20, seed=3)
    bot = log(1, 60, 90, 4 * len(people), kinds=("view",), seed=4)
    bot["user_id"], bot["event_id"] = "bot", "b" + bot["event_id"]
    bot["occurred_at"] = END - pd.to_timedelta(np.random.default_rng(5).uniform(60, 90 * 86_400, len(bot)), unit="s")
    return pd.concat([people, bot], ignore_index=True)


def _mailer() -> pd.DataFrame:
    """Opens of e-mails: a user and an instant, and nothing else."""
    found = log(300, 1, 120, 25, kinds=("push_open", "email_open"))
    found["item_id"] = None
    return found


def _without_accounts() -> pd.DataFrame:
    found = _usual()
    found["user_id"] = None
    return found


def _other(**how: object) -> Callable[[], pd.DataFrame]:
    return lambda: log(**how)  # type: ignore[arg-type]


SHOPS: dict[str, Callable[[], pd.DataFrame]] = {
    "nothing": _nothing,
    "usual": _usual,
    "a hundred users": _other(users=100, items=40, days=60, a_user=12),
    "one user": _other(users=1, items=20, days=90, a_user=80),
    "one item": _other(users=80, items=1, days=90, a_user=15),
    "no purchases": _other(users=80, items=40, days=90, a_user=15, kinds=("view", "app_open")),
    "a week": _other(users=80, items=40, days=7, a_user=10),
    "a day": _other(users=80, items=40, days=0.4, a_user=10),
    "a quarter without user": _a_quarter_without_user,
    "without accounts": _without_accounts,
    "a bot": _bot,
    "wholesalers": _other(users=12, items=400, days=365, a_user=30, kinds=("purchase",), basket=60),
    "a mailer": _mailer,
}


def write(database: Database, events: pd.DataFrame, folder: Path) -> None:
    """Ingest `events` as a Parquet file."""
    if len(events):
        file = folder / "events.parquet"
        parquet.write_table(pa.Table.from_pandas(events, preserve_index=False), file)
        intake.ingest_events(database, [file], END + timedelta(minutes=1))
