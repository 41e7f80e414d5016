"""Decisions as Parquet: every row, with propensities and outcomes that add up; whole or not at all."""

from __future__ import annotations

from datetime import date
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from sqlalchemy import text

from engine.errors import BadInput, UnknownName
from engine.planning.export import COLUMNS, Wanted, export_decisions
from engine.runtime import Runtime
from engine.store.partitions import ensure_ahead
from tests.planning_shop import NOW, USERS, Workers, create, daily, fill_shop, reasons, rows


@pytest.fixture
def shop(runtime: Runtime) -> Runtime:
    filled = fill_shop(runtime)
    create(filled, daily(holdout=0.2, exploration=0.3, capacity_per_quarter=3), daily(name="sale"))
    Workers(filled).tick()
    ensure_ahead(filled.database, NOW)
    with filled.database.begin() as connection:  # of the first ten pushes every second was accepted and clicked
        pushes = connection.execute(text("SELECT * FROM pushes ORDER BY campaign_id, user_id LIMIT 10")).all()
        for number, push in enumerate(pushes):
            connection.execute(text("DELETE FROM pushes WHERE id = :id"), {"id": push.id})
            connection.execute(
                text(
                    "INSERT INTO deliveries (day, id, push_id, state, reason, at, occurrence_id, campaign_id, user_id,"
                    " gateway, attempts, send_at, counts, scopes) VALUES (CAST(:at AS date), :id, :id, :state, :reason,"
                    " :at, :occurrence, :campaign, :user, 'log', 1, :at, true, '{}')"
                ),
                {
                    "at": push.send_at,
                    "id": push.id,
                    "state": "accepted" if number % 2 == 0 else "suppressed",
                    "reason": None if number % 2 == 0 else "capped",
                    "occurrence": push.occurrence_id,
                    "campaign": push.campaign_id,
                    "user": push.user_id,
                },
            )
            if number % 2 == 0:
                for kind, value in ((8, None), (4, 2.5)):
                    connection.execute(
                        text(
                            "INSERT INTO events (key, user_id, event_type, occurred_at, received_at, value, push_id)"
                            " VALUES (gen_random_uuid(), :user, :kind, :at, :at, :value, :push)"
                        ),
                        {"user": push.user_id, "kind": kind, "at": push.send_at, "value": value, "push": push.id},
                    )
    return filled


def test_every_revision_is_a_row_and_the_last_ones_are_the_plan(shop: Runtime, tmp_path: Path) -> None:
    file = tmp_path / "decisions.parquet"

    written = export_decisions(shop.database, file, Wanted())

    table = pq.read_table(file)
    found = table.to_pylist()
    assert table.column_names == list(COLUMNS)
    assert all(table.schema.field(name).metadata[b"description"] for name in COLUMNS)
    assert len(found) == written == rows(shop, "SELECT count(*) FROM decisions")[0][0] > 2 * USERS
    last = [row for row in found if row["last"]]
    assert len(last) == 2 * USERS
    counted: dict[str, int] = {}
    for row in last:
        counted[row["reason"]] = counted.get(row["reason"], 0) + 1
    assert counted == dict(reasons(shop))
    assert sum(row["arm"] == "holdout" for row in last) == counted["holdout"] > 0


def test_propensities_are_those_of_the_arms_and_outcomes_those_of_the_ledger(shop: Runtime, tmp_path: Path) -> None:
    file = tmp_path / "decisions.parquet"
    export_decisions(shop.database, file, Wanted(campaign="daily"))
    found = pq.read_table(file).to_pylist()

    assert {row["campaign"] for row in found} == {"daily"}
    for row in found:
        if row["revision"] == 0 and row["propensity"] is not None and row["options"] > 1:
            expected = 0.3 / row["options"] + (0.7 if row["is_exploit"] else 0.0)
            assert row["propensity"] == pytest.approx(expected, rel=1e-12)
        assert (row["exploit_item"] is None) == (row["exploit_window_start"] is None)
        if row["arm"] == "exploit" and row["send_at"] is not None and row["revision"] == 0:
            assert (row["item"], row["window_start"]) == (row["exploit_item"], row["exploit_window_start"])
        assert (row["clicked"] is None) == (row["outcome"] != "accepted")
    accepted = [row for row in found if row["outcome"] == "accepted" and row["last"]]
    assert accepted
    assert all(row["opened"] and row["clicked"] and not row["dismissed"] for row in accepted)
    assert {row["purchase_value"] for row in accepted} == {2.5}
    assert {row["outcome_reason"] for row in found if row["outcome"] == "suppressed"} <= {"capped"}
    assert any(row["outcome"] == "planned" for row in found)


def test_what_is_wrong_or_interrupted_leaves_no_file_and_an_older_one_untouched(shop: Runtime, tmp_path: Path) -> None:
    file = tmp_path / "decisions.parquet"
    file.write_text("older")

    def interrupt(_rows: int, _left: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        export_decisions(shop.database, file, Wanted(), interrupt)
    with pytest.raises(BadInput, match="no decisions"):
        export_decisions(shop.database, file, Wanted(first=date(2030, 1, 1)))
    with pytest.raises(BadInput, match="is empty"):
        export_decisions(shop.database, file, Wanted(NOW.date(), NOW.date()))
    with pytest.raises(UnknownName):
        export_decisions(shop.database, file, Wanted(campaign="dayly"))
    with pytest.raises(BadInput, match="cannot be written"):
        export_decisions(shop.database, tmp_path / "nowhere" / "d.parquet", Wanted())
    assert [path.name for path in tmp_path.iterdir() if path.is_file()] == [file.name]
    assert file.read_text() == "older"
