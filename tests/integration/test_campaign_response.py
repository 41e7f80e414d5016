"""The campaigns of the preset as a log: what was known at a campaign's start, and which push a redemption answers."""

from __future__ import annotations

import uuid
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from pyarrow import parquet

from engine.demo import response
from engine.ingest import run as intake
from engine.store.database import Database

BEGIN = datetime(2026, 1, 5, tzinfo=UTC)
END = BEGIN + timedelta(days=90)
STARTS = {"campaign 1": 10, "campaign 2": 20, "campaign 3": 60}
ABOUT = {name: pd.DataFrame({"coupon_upc": [1, 1], "product_id": ["milk", "bread"]}) for name in STARTS}
PUSHED = {"campaign 1": ("a", "b"), "campaign 2": ("a", "b", "c"), "campaign 3": ("a", "c")}


def _push(name: str, user: str) -> str:
    return str(uuid.uuid5(uuid.NAMESPACE_OID, f"{name} {user}"))


def _event(day: float, user: str, kind: str, item: str | None = None, push: str | None = None) -> dict[str, object]:
    at = BEGIN + timedelta(days=day)
    return {"user_id": user, "item_id": item, "event_type": kind, "occurred_at": at, "push_id": push}


def _events() -> pd.DataFrame:
    events = [_event(day, user, "app_open") for day in range(1, 85, 4) for user in "abc"]
    events += [_event(day + 0.01, user, "purchase", "milk") for day in range(1, 85, 8) for user in "ab"]
    events += [_event(5, "a", "coupon_use"), _event(15, "a", "coupon_use"), _event(70, "a", "coupon_use")]
    events += [
        _event(STARTS[name], user, "push_sent", name, _push(name, user)) for name in STARTS for user in PUSHED[name]
    ]
    # both campaigns are running: the redemption names the first, though the second came later
    events += [_event(25, "a", "redemption", "campaign 1", _push("campaign 1", "a"))]
    events += [_event(62, "c", "redemption", "campaign 3", _push("campaign 3", "c"))]
    return pd.DataFrame(events)


@pytest.fixture(scope="module")
def log(shared_database: Database, tmp_path_factory: pytest.TempPathFactory) -> Database:
    folder: Path = tmp_path_factory.mktemp("campaigns")
    begins = pd.to_datetime([BEGIN + timedelta(days=day) for day in STARTS.values()])
    items = pd.DataFrame(
        {
            "item_id": [*STARTS, "milk", "bread"],
            "category": ["Type A"] * 3 + ["DAIRY", "BREAD"],
            "available_from": [*begins, pd.NaT, pd.NaT],
            "available_until": [*(begins + timedelta(days=20)), pd.NaT, pd.NaT],
        }
    )
    events = _events()
    for name, frame in (("items", items), ("events", events)):
        parquet.write_table(pa.Table.from_pandas(frame, preserve_index=False), folder / f"{name}.parquet")
    intake.ingest_items(shared_database, [folder / "items.parquet"], END)
    told = intake.ingest_events(shared_database, [folder / "events.parquet"], END)
    assert told.accepted == len(events)
    return shared_database


def _shop(log: Database, now: datetime) -> response.Shop:
    with log.snapshot() as snapshot:
        return response.Shop(snapshot, now, ABOUT)


def _users(log: Database, found: response.Rows) -> list[str]:
    with log.snapshot() as snapshot:
        rows = snapshot.arrow("SELECT id, external_id FROM users")
    names = dict(zip(rows["id"].to_pylist(), rows["external_id"].to_pylist(), strict=True))
    return [names[user] for user in found.user.tolist()]


def test_a_redemption_answers_the_push_it_names(log: Database) -> None:
    shop = _shop(log, END)
    answers = {}
    for name in shop.names:
        found = shop.rows(name)
        answers[name] = dict(zip(_users(log, found), found.answered.tolist(), strict=True))
    assert answers == {
        "campaign 1": {"a": True, "b": False},
        "campaign 2": {"a": False, "b": False, "c": False},
        "campaign 3": {"a": False, "c": True},
    }


def test_what_happens_after_a_campaign_began_is_no_part_of_its_features(log: Database) -> None:
    later, then = _shop(log, END), _shop(log, BEGIN + timedelta(days=STARTS["campaign 2"]))
    np.testing.assert_array_equal(later.rows("campaign 2").rows, then.rows("campaign 2").rows)


def test_what_happened_before_a_campaign_began_is_in_its_features(log: Database) -> None:
    shop = _shop(log, END)
    first, third = shop.rows("campaign 1"), shop.rows("campaign 3")
    early = first.rows[_users(log, first).index("a")]
    late, nobody = third.rows[_users(log, third).index("a")], third.rows[_users(log, third).index("c")]
    # user a used one coupon before the first campaign and two before the third, user c none
    assert ((early == 1) & (late == 2) & (nobody == 0)).any()
