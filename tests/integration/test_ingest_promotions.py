"""Promotions into the store, and what features know of them at an instant."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import numpy as np

from engine.features import schema
from engine.ingest.run import ingest_items, ingest_promotions
from engine.learning.reading import read_catalogue
from engine.store.database import Database
from tests.integration.test_ingest_entities import csv_file, rejected, stored

NOW = datetime(2026, 3, 2, 12, tzinfo=UTC)
HEADER = ("item_id", "kind", "starts_at", "ends_at", "weight", "announced_at")
WEEK = ("2026-03-09T00:00Z", "2026-03-16T00:00Z")


def column(database: Database, as_of: datetime, name: str) -> list[float]:
    """An item feature of every item, by id: milk before tea, as names are stored in order."""
    with database.snapshot() as snapshot:
        catalogue = read_catalogue(snapshot, as_of)
    return [float(value) for value in catalogue.block[:, schema.group_names("item").index(name)]]


def test_promotions_are_announced_once_replaced_later_and_known_from_their_announcement_on(
    database: Database, tmp_path
) -> None:
    ingest_items(database, [csv_file(tmp_path, ["item_id"], ["tea"], ["milk"], name="items.csv")], NOW)
    first = csv_file(
        tmp_path,
        HEADER,
        ("tea", "advert", *WEEK, "0.5", "2026-02-20T00:00Z"),
        ("tea", "advert", "2026-02-02T00:00Z", "2026-02-09T00:00Z", "0.8", "2026-01-20T00:00Z"),
        ("milk", "discount", *WEEK, "", ""),
        ("cake", "advert", *WEEK, "1", ""),
        ("tea", "poster", *WEEK, "1", ""),
        ("tea", "advert", WEEK[1], WEEK[0], "1", ""),
        ("tea", "advert", *WEEK, "1", "2026-03-03T00:00Z"),
        name="first.csv",
    )

    summary = ingest_promotions(database, [first], NOW)
    again = ingest_promotions(database, [first], NOW + timedelta(hours=1))

    assert (summary.created, summary.updated, summary.unchanged) == (3, 0, 0)
    assert (again.created, again.updated, again.unchanged) == (0, 0, 3)
    assert sorted((row["line"], row["reason"].split(":")[0]) for row in rejected(first)) == [
        (5, "item_id"),
        (6, "kind"),
        (7, "ends_at"),
        (8, "announced_at"),
    ]

    # a withdrawal, learned of later
    later = csv_file(tmp_path, HEADER, ("tea", "advert", *WEEK, "0", "2026-03-05T00:00Z"), name="later.csv")
    withdrawn = ingest_promotions(database, [later], NOW + timedelta(days=4))
    assert (withdrawn.created, withdrawn.updated) == (0, 1)
    assert stored(database, "SELECT count(*) FROM promotions") == [(4,)]

    monday = datetime(2026, 3, 9, tzinfo=UTC)
    assert np.isnan(column(database, datetime(2026, 1, 10, tzinfo=UTC), "item_advert_7d")).all()
    assert column(database, datetime(2026, 2, 19, tzinfo=UTC), "item_advert_7d") == [0.0, 0.0]
    assert np.allclose(column(database, datetime(2026, 3, 4, tzinfo=UTC), "item_advert_7d"), [0.0, 0.5 * 2 / 7])
    assert column(database, monday, "item_advert_7d") == [0.0, 0.0]
    assert column(database, monday, "item_discount_7d") == [1.0, 0.0]
    usual = 0.8 * 7 / 56
    assert np.allclose(column(database, monday, "item_advert_usual"), [1.0, 0.1 / (0.1 + usual)])
    assert np.isnan(column(database, monday, "item_placement_7d")).all()


def test_a_price_drop_is_told_by_what_the_item_cost_before(database: Database, tmp_path) -> None:
    for day, price in ((0, "4"), (10, "3"), (60, "6")):
        path = csv_file(tmp_path, ["item_id", "price"], ["tea", price], name=f"day{day}.csv")
        ingest_items(database, [path], NOW + timedelta(days=day))

    told = [round(column(database, NOW + timedelta(days=day), "item_price_drop")[0], 3) for day in (5, 12, 45, 61)]

    assert told == [0.0, 0.25, 0.0, 0.0]
