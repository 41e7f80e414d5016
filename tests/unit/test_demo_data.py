"""Complete Journey as users, items and events."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import pandas as pd
import pytest
from pyarrow import parquet

from engine.demo import data
from engine.demo.titles import readable, titles

CUTOFF = datetime(2017, 10, 16, 4, tzinfo=UTC)


@pytest.fixture(scope="module")
def journey() -> data.Journey:
    return data.prepare(CUTOFF)


@pytest.mark.parametrize(
    ("source", "shown"),
    [
        ("FRZN SS PREMIUM ENTREES/DNRS/T", "Frozen Single Serve Premium Entrees/Dinners"),
        ("CANDY BARS (SINGLES)(INCLUDING", "Candy Bars (Singles)"),
        ("POTATOES RUSSET (BULK&BAG)", "Potatoes Russet"),
        ("BBQ SAUCE", "BBQ Sauce"),
        ("BREAD:ITALIAN/FRENCH", "Bread – Italian/French"),
        ("MARGARINE: TUBS AND BOWLS", "Margarine – Tubs and Bowls"),
        ("(", "("),
    ],
)
def test_names_are_written_out(source: str, shown: str) -> None:
    assert readable(source) == shown


def test_a_name_of_several_categories_says_which() -> None:
    assert titles(["PREMIUM", "PREMIUM", "SHREDDED CHEESE"], ["BACON", "PASTA SAUCE", "CHEESE"]) == [
        "Premium (Bacon)",
        "Premium (Pasta Sauce)",
        "Shredded Cheese",
    ]


def test_every_household_is_a_user_with_zone_and_consent(journey: data.Journey) -> None:
    users = journey.users.to_pandas()

    assert len(users) == users["user_id"].nunique() == 2_469
    assert set(users["timezone"]) == {"America/New_York"}
    assert users["consent"].all()


def test_items_have_unique_readable_ids_and_titles(journey: data.Journey) -> None:
    items = journey.items.to_pandas()

    assert len(items) == items["item_id"].nunique() == 3_793
    assert items["item_id"].str.fullmatch(r"[a-z0-9-]+/[a-z0-9-]+").all()
    assert (items["title"].str.len() > 0).all()
    assert "Shredded Cheese" in set(items["title"])
    assert (items["price"].dropna() >= 0).all()


def test_what_must_not_be_pushed_says_why(journey: data.Journey) -> None:
    items = journey.items.to_pandas().set_index("item_id")

    assert items.loc["fuel/gasoline-reg-unleaded", "kept_out"] == "not goods"
    assert items.loc["cigarettes/cigarettes", "kept_out"] == "restricted"
    assert items.loc["beers-ales/beeralemalt-liquors", "kept_out"] == "restricted"
    assert items.loc["family-planning/pregnancy-test-kits", "kept_out"] == "intimate"
    assert (items["pushable"] == items["kept_out"].isna()).all()
    assert items.loc["fluid-milk-products/fluid-milk-white-only", "pushable"]


def test_events_are_one_per_basket_and_item_in_order_of_time(journey: data.Journey) -> None:
    events = journey.events.to_pandas()

    assert events["event_id"].is_unique
    assert events["occurred_at"].is_monotonic_increasing
    assert str(events["occurred_at"].dt.tz) == "UTC"
    assert (events["quantity"].dropna() > 0).all()
    assert events["item_id"].dropna().isin(journey.items["item_id"].to_pylist()).all()


def test_local_hours_are_shopping_hours_only_in_new_york(journey: data.Journey) -> None:
    """The stamps are UTC: read as local time, the evening peak would stand after 20:00."""
    hours = journey.events.to_pandas()["occurred_at"].dt.tz_convert("America/New_York").dt.hour

    assert 15 <= hours.mode()[0] <= 18
    assert (hours.between(1, 4)).mean() < 0.02


def test_fuel_has_no_number_of_things(journey: data.Journey) -> None:
    events = journey.events.to_pandas()
    fuel = events[events["item_id"].fillna("").str.endswith("gasoline-reg-unleaded")]

    assert len(fuel) > 10_000
    assert fuel["quantity"].isna().all()


def test_a_slice_of_events_is_open_at_its_start_and_closed_at_its_end(journey: data.Journey) -> None:
    times = journey.events["occurred_at"].to_pandas()
    start, end = times.iloc[100].to_pydatetime(), times.iloc[5_000].to_pydatetime()

    found = journey.events_between(start, end)["occurred_at"].to_pandas()

    assert len(found) == int(((times > start) & (times <= end)).sum())
    assert found.iloc[0] > start
    assert found.iloc[-1] == end


def test_the_files_end_at_the_cutoff(journey: data.Journey, tmp_path: Path) -> None:
    paths = data.write_files(journey, CUTOFF, tmp_path / "files")

    events = parquet.read_table(paths["events"])
    assert set(paths) == {"users", "items", "events"}
    assert events["occurred_at"].to_pandas().max() <= pd.Timestamp(CUTOFF)
    assert 950_000 < events.num_rows < journey.events.num_rows
