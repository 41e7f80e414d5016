"""Events into the store: once each, linked, folded the same in any order, and replayed to the same profiles."""

from __future__ import annotations

import csv
import json
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from sqlalchemy import text

from engine.campaigns.policy_store import save_policy
from engine.errors import SchemaMismatch
from engine.features.decay import DAY_SECONDS
from engine.ingest.event_rows import EventRows
from engine.ingest.fold import fold, fold_all
from engine.ingest.hours import refold_hours
from engine.ingest.options import Options
from engine.ingest.profiles import take_fold_lock
from engine.ingest.replay import Replayed, renew_profiles, replay, require_current_profiles
from engine.ingest.run import ingest_events, ingest_items, ingest_users
from engine.ingest.write import Recording, ensure_months, months_of, record_events
from engine.store.database import Database

NOW = datetime(2026, 3, 2, 12, tzinfo=UTC)
HEADER = ["event_id", "user_id", "item_id", "event_type", "occurred_at", "value"]
TYPES = ("view", "purchase", "add_to_cart", "app_open", "push_click", "push_dismiss", "whistle")


def written(folder: Path, rows: Sequence[Sequence[object]], name: str = "events.csv", header=HEADER) -> Path:
    path = folder / name
    with path.open("w", newline="") as out:
        csv.writer(out).writerows([header, *rows])
    return path


def a_log(count: int, seed: int = 1) -> list[list[object]]:
    rng = np.random.default_rng(seed)
    rows: list[list[object]] = []
    for number in range(count):
        kind = TYPES[rng.integers(len(TYPES))]
        at = NOW - timedelta(seconds=float(np.round(rng.exponential(40 * DAY_SECONDS), 3)))
        item = "" if kind == "app_open" else f"i{rng.integers(6)}"
        rows.append([f"e{number}", f"u{rng.integers(8)}", item, kind, at.isoformat(), rng.integers(1, 99) / 10])
    return rows


def event_rows(log: Sequence[Sequence[object]]) -> EventRows:
    columns = list(zip(*log, strict=True))
    stamps = [datetime.fromisoformat(str(value)).replace(tzinfo=None) for value in columns[4]]
    return EventRows(
        pa.array([value or None for value in columns[1]], pa.string()),
        pa.array([value or None for value in columns[2]], pa.string()),
        pa.array(columns[3], pa.string()),
        np.array(stamps, "datetime64[us]"),
        np.array(columns[5], float),
        np.full(len(log), np.nan),
        event_id=pa.array(columns[0], pa.string()),
    )


def recorded(database: Database, log, **recording) -> None:
    rows = event_rows(log)
    ensure_months(database, months_of(rows))
    with database.begin() as connection:
        record_events(connection, rows, NOW, Recording(**recording))


def rows_of(database: Database, query: str) -> list[tuple]:
    with database.begin() as connection:
        return [tuple(row) for row in connection.execute(text(query)).all()]


def profiles(database: Database) -> dict[tuple, np.ndarray]:
    """All profiles by readable key: numbers as they would be read at NOW."""
    users = "JOIN users ON users.id = p.user_id"
    queries = {
        "user": f"SELECT users.external_id, event_type, p.* FROM user_profiles p {users}",
        "item": "SELECT items.external_id, event_type, p.* FROM item_profiles p JOIN items ON items.id = p.item_id",
        "pair": "SELECT users.external_id || items.external_id, event_type, p.* FROM user_item_profiles p"
        f" {users} JOIN items ON items.id = p.item_id",
        "hour": f"SELECT users.external_id || '/' || rung, hour, p.* FROM user_hour_profiles p {users}",
    }
    found = {}
    with database.begin() as connection:
        for table, query in queries.items():
            for row in connection.execute(text(query)).mappings():
                key = (table, *list(row.values())[:2])
                found[key] = np.array([row[name] for name in row if name in NUMBERS], float)
    return found


NUMBERS = {"n", "first_at", "last_at", "value", *(f"s{number}" for number in range(7))}


def same_profiles(a: dict[tuple, np.ndarray], b: dict[tuple, np.ndarray]) -> bool:
    return a.keys() == b.keys() and all(np.allclose(a[key], b[key], rtol=1e-9, atol=0) for key in a)


# --- once each -------------------------------------------------------------------------------------------------------


def test_a_file_ingested_twice_is_ingested_once(database, tmp_path) -> None:
    path = written(tmp_path, a_log(300))

    first = ingest_events(database, [path], NOW)
    before = profiles(database)
    second = ingest_events(database, [path], NOW)

    assert (first.rows, first.accepted, first.duplicates, first.refused) == (300, 300, 0, 0)
    assert (second.rows, second.accepted, second.duplicates, second.refused) == (300, 0, 300, 0)
    assert rows_of(database, "SELECT count(*) FROM events") == [(300,)]
    assert same_profiles(profiles(database), before)
    assert first.other_types == {"whistle": sum(row[3] == "whistle" for row in a_log(300))}


def test_a_file_with_some_known_rows_adds_the_others(database, tmp_path) -> None:
    log = a_log(400)
    ingest_events(database, [written(tmp_path, log[:150])], NOW)

    summary = ingest_events(database, [written(tmp_path, [*log, *log[:10]])], NOW)

    assert (summary.accepted, summary.duplicates) == (250, 160)
    assert replay(database, rebuild=False).differing == 0


def test_rows_without_an_id_are_one_event_where_they_are_equal(database, tmp_path) -> None:
    row = ["", "u1", "i1", "view", "2026-01-01T00:00:00Z", "1"]
    other = ["", "u1", "i1", "view", "2026-01-01T00:00:00Z", "2"]

    summary = ingest_events(database, [written(tmp_path, [row, row, other])], NOW)

    assert (summary.accepted, summary.duplicates) == (2, 1)


def test_a_transaction_may_record_more_than_once(database) -> None:
    log = a_log(90)
    parts = [event_rows(log[start : start + 40]) for start in (0, 20, 50)]
    ensure_months(database, months_of(event_rows(log)))
    with database.begin() as connection:
        accepted = [record_events(connection, part, NOW).accepted for part in parts]
        users = connection.execute(text("SELECT id FROM users ORDER BY id")).scalars().all()
        take_fold_lock(connection)
        for half in (users[:4], users[4:]):
            refold_hours(connection, np.array(half))

    assert accepted == [40, 20, 30]
    assert replay(database, rebuild=False).differing == 0


def test_ids_of_two_sources_are_two_events(database, tmp_path) -> None:
    path = written(tmp_path, [["1", "u1", "i1", "view", "2026-01-01T00:00:00Z", ""]])

    ingest_events(database, [path], NOW, Options(source="till"))
    summary = ingest_events(database, [path], NOW, Options(source="shop"))

    assert summary.accepted == 1


def test_the_same_file_by_four_at_once_is_ingested_once(database, tmp_path) -> None:
    path = written(tmp_path, a_log(500))

    with ThreadPoolExecutor(4) as pool:
        summaries = list(pool.map(lambda _: ingest_events(database, [path], NOW), range(4)))

    assert sum(summary.accepted for summary in summaries) == 500
    assert sum(summary.duplicates for summary in summaries) == 1500
    assert replay(database, rebuild=False).differing == 0


def test_users_of_news_are_noted_for_their_planned_pushes_and_those_of_history_are_not(database, tmp_path) -> None:
    days_ago = {"today": 0.5, "yesterday": 0.99, "earlier": 1.01, "once": 300}
    log = [[user, user, "i1", "view", (NOW - timedelta(days=ago)).isoformat(), ""] for user, ago in days_ago.items()]

    ingest_events(database, [written(tmp_path, log)], NOW)

    noted = (
        "SELECT u.external_id FROM changed_users c JOIN users u ON u.id = c.user_id WHERE changed_at = '{}' ORDER BY 1"
    )
    assert rows_of(database, noted.format(NOW.isoformat())) == [("today",), ("yesterday",)]


# --- computed by another recipe ---------------------------------------------------------------------------------------


def test_profiles_of_another_recipe_are_refused_until_they_are_computed_again(database, tmp_path) -> None:
    require_current_profiles(database)
    ingest_events(database, [written(tmp_path, a_log(200))], NOW)
    require_current_profiles(database)
    right = profiles(database)
    with database.begin() as connection:
        connection.execute(text("UPDATE workspace SET profile_recipe = NULL"))
        connection.execute(text("UPDATE user_item_profiles SET s6 = 0"))

    with pytest.raises(SchemaMismatch, match="older version") as refused:
        require_current_profiles(database)
    assert "horae migrate" in str(refused.value.hint)
    assert renew_profiles(database)

    require_current_profiles(database)
    assert same_profiles(profiles(database), right)
    assert not renew_profiles(database)


# --- linked ----------------------------------------------------------------------------------------------------------


def test_unknown_users_and_items_are_stubs_until_their_files_come(database, tmp_path) -> None:
    summary = ingest_events(database, [written(tmp_path, a_log(100))], NOW)
    assert (summary.user_stubs, summary.item_stubs) == (8, 6)
    assert rows_of(database, "SELECT DISTINCT stub, consent FROM users") == [(True, None)]

    users = written(tmp_path, [["u1", "true"]], "users.csv", ["user_id", "consent"])
    items = written(tmp_path, [["i1", "Jam"]], "items.csv", ["item_id", "title"])
    assert ingest_users(database, [users], NOW).updated == 1
    assert ingest_items(database, [items], NOW).updated == 1

    assert rows_of(database, "SELECT stub, consent FROM users WHERE external_id = 'u1'") == [(False, True)]
    assert rows_of(
        database,
        "SELECT count(*) > 0 FROM events JOIN items ON items.id = item_id JOIN users ON users.id = user_id"
        " WHERE title = 'Jam' AND NOT users.stub",
    ) == [(True,)]


def test_events_about_no_user_or_no_item_are_kept(database, tmp_path) -> None:
    rows = [
        ["1", "", "i1", "view", "2026-01-01T00:00:00Z", ""],
        ["2", "u1", "", "app_open", "2026-01-01T00:00:00Z", ""],
        ["3", "", "", "view", "2026-01-01T00:00:00Z", ""],
    ]

    summary = ingest_events(database, [written(tmp_path, rows)], NOW)

    assert (summary.accepted, summary.refused) == (2, 1)
    assert {key[0] for key in profiles(database)} == {"item", "user", "hour"}


def test_everything_about_an_event_is_stored(database, tmp_path) -> None:
    path = tmp_path / "events.jsonl"
    push = "0f8fad5b-d9cb-469f-a165-70867728950e"
    row = {
        "user_id": 7,
        "item_id": "i",
        "event_type": "push_click",
        "occurred_at": "2026-01-01T00:00:00.123456Z",
        "value": 1.5,
        "quantity": 2,
        "push_id": push,
        "screen": {"name": "home"},
    }
    path.write_text(json.dumps(row) + "\n")

    ingest_events(database, [path], NOW)

    assert rows_of(
        database,
        "SELECT users.external_id, event_types.name, occurred_at, received_at, value, quantity, push_id::text,"
        " events.attributes FROM events JOIN users ON users.id = user_id"
        " JOIN event_types ON event_types.id = event_type",
    ) == [
        (
            "7",
            "push_click",
            datetime(2026, 1, 1, 0, 0, 0, 123456, UTC),
            NOW,
            1.5,
            2.0,
            push,
            {"screen": {"name": "home"}},
        )
    ]


def test_too_many_other_types_are_refused(database, tmp_path) -> None:
    rows = [[number, "u", "i", f"type{number}", "2026-01-01T00:00:00Z", ""] for number in range(1_001)]

    with pytest.raises(Exception, match="is the right column event_type"):
        ingest_events(database, [written(tmp_path, rows)], NOW)

    assert rows_of(database, "SELECT count(*) FROM events") == [(0,)]


def test_events_of_years_apart_make_only_the_partitions_they_need(database, tmp_path) -> None:
    rows = [["1", "u", "i", "view", "2001-05-05T00:00:00Z", ""], ["2", "u", "i", "view", "2026-01-01T00:00:00Z", ""]]

    ingest_events(database, [written(tmp_path, rows)], NOW)

    assert rows_of(
        database, "SELECT inhrelid::regclass::text FROM pg_inherits WHERE inhparent = 'events'::regclass ORDER BY 1"
    ) == [("events_2001_05",), ("events_2026_01",)]


# --- profiles --------------------------------------------------------------------------------------------------------


def test_a_profile_holds_what_its_definition_says(database, tmp_path) -> None:
    log = [
        ["1", "u", "i", "view", "2026-02-20T10:00:00Z", "2"],
        ["2", "u", "i", "view", "2026-02-27T10:00:00Z", ""],
        ["3", "u", "i", "view", "2026-02-20T10:00:00Z", "3"],
    ]
    ingest_events(database, [written(tmp_path, log)], NOW)

    [(n, first_at, last_at, s0, s2, value)] = rows_of(
        database, "SELECT n, first_at, last_at, s0, s2, value FROM user_profiles"
    )
    assert (n, value) == (3, 5)
    assert last_at - first_at == 7 * DAY_SECONDS
    assert s0 == pytest.approx(1 + 2 * 2 ** (-7 * 24), rel=1e-12)
    assert s2 == pytest.approx(1 + 2 / 2, rel=1e-12)


def test_hours_are_local_by_day_type_and_rung(database, tmp_path) -> None:
    users = written(tmp_path, [["u", "Asia/Tokyo"], ["v", ""]], "users.csv", ["user_id", "timezone"])
    ingest_users(database, [users], NOW)
    friday_evening_utc = "2026-02-27T20:00:00Z"  # Saturday, 5 o'clock in Tokyo
    log = [
        [f"{user}{kind}", user, "i", kind, friday_evening_utc, ""]
        for user in "uv"
        for kind in ("push_open", "view", "purchase", "push_dismiss", "unsubscribe", "whistle")
    ]

    ingest_events(database, [written(tmp_path, log)], NOW)

    assert rows_of(
        database,
        "SELECT external_id, rung, hour, n FROM user_hour_profiles JOIN users ON users.id = user_id ORDER BY 1, 2",
    ) == [("u", 0, 29, 1), ("u", 1, 29, 1), ("u", 2, 29, 1), ("v", 0, 20, 1), ("v", 1, 20, 1), ("v", 2, 20, 1)]


def test_a_basket_of_many_lines_is_one_visit_however_its_lines_arrive(database) -> None:
    log = [
        [f"{user}{day}{line}", f"u{user}", f"i{line}", "purchase", f"2026-02-{day:02}T10:00:00Z", "1"]
        for user in range(3)
        for day in range(1, 9)
        for line in range(6)
    ]
    shuffled = [log[at] for at in np.random.default_rng(6).permutation(len(log))]

    for start in range(0, len(log), 25):  # files and HTTP by turns, the folder behind or not
        recorded(database, shuffled[start : start + 25], fold=start % 2 == 0)
        if start % 75 == 0:
            fold_all(database)
    with ThreadPoolExecutor(3) as pool:
        list(pool.map(lambda _: fold_all(database), range(3)))

    assert rows_of(database, "SELECT sum(n) FROM user_hour_profiles") == [(3 * 8,)]
    assert rows_of(database, "SELECT sum(n) FROM user_profiles") == [(len(log),)]
    assert replay(database, rebuild=False).differing == 0


def test_late_and_shuffled_events_give_the_same_profiles(database, empty_database, tmp_path) -> None:
    from engine.store import schema

    schema.upgrade(empty_database)
    log = a_log(400)
    ingest_events(database, [written(tmp_path, log)], NOW)

    shuffled = [log[at] for at in np.random.default_rng(5).permutation(len(log))]
    for start in range(0, len(log), 57):
        recorded(empty_database, shuffled[start : start + 57], fold=start % 2 == 0)
    fold_all(empty_database)

    assert same_profiles(profiles(empty_database), profiles(database))


def test_queued_events_are_folded_once_by_any_number_of_folders(database) -> None:
    log = a_log(600)
    recorded(database, log, fold=False)
    assert profiles(database) == {}

    def work(_number: int) -> int:
        total = 0
        while folded := fold(database, limit=37):
            total += folded
        return total

    with ThreadPoolExecutor(4) as pool:
        totals = list(pool.map(work, range(4)))

    assert sum(totals) + fold_all(database) == 600
    assert rows_of(database, "SELECT count(*) FROM unfolded_events") == [(0,)]
    assert replay(database, rebuild=False).differing == 0


def test_a_folder_takes_its_slots_only(database) -> None:
    recorded(database, a_log(100), fold=False)
    [(slot,)] = rows_of(database, "SELECT slot FROM users ORDER BY slot LIMIT 1")

    taken = fold(database, slot, slot + 1)

    assert 0 < taken < 100
    assert rows_of(database, f"SELECT count(*) FROM unfolded_events WHERE slot = {slot}") == [(0,)]


def test_a_zone_that_comes_late_moves_the_hours_it_changes(database, tmp_path) -> None:
    ingest_events(database, [written(tmp_path, a_log(200))], NOW)
    recorded(database, a_log(50, seed=2), fold=False, source="http")

    users = [["u1", "Asia/Tokyo"], ["u2", "UTC"], ["u3", "America/New_York"]]
    ingest_users(database, [written(tmp_path, users, "users.csv", ["user_id", "timezone"])], NOW)
    assert replay(database, rebuild=False).differing == 0

    fold_all(database)
    assert replay(database, rebuild=False).differing == 0


def test_another_default_zone_moves_the_hours_of_those_without_one(database, tmp_path) -> None:
    ingest_events(database, [written(tmp_path, a_log(200))], NOW)
    before = profiles(database)
    with database.begin() as connection:
        save_policy(connection, lambda policy: policy.model_copy(update={"default_timezone": "Asia/Tokyo"}))

    assert not same_profiles(profiles(database), before)
    assert replay(database, rebuild=False).differing == 0


# --- replay ----------------------------------------------------------------------------------------------------------


def test_replay_finds_and_repairs_what_differs(database, tmp_path) -> None:
    ingest_events(database, [written(tmp_path, a_log(300))], NOW)
    before = profiles(database)
    assert replay(database, rebuild=False) == Replayed(len(before), 0)

    with database.begin() as connection:
        connection.execute(text("UPDATE user_profiles SET s0 = s0 * 1.001 WHERE event_type = 1"))
        connection.execute(text("DELETE FROM item_profiles WHERE event_type = 4"))
        connection.execute(text("INSERT INTO item_profiles SELECT -5, 1, 1, 1, 0, 0, 1, 1, 1, 1, 1"))
    expected = rows_of(database, "SELECT count(*) FROM user_profiles WHERE event_type = 1")[0][0] + 6 + 1
    assert replay(database, rebuild=False).differing == expected

    told: list[tuple[int, int]] = []
    assert replay(database, lambda done, total: told.append((done, total))).differing == expected
    assert told[-1] == (17, 17)
    assert replay(database, rebuild=False).differing == 0
    assert same_profiles(profiles(database), before)


def test_replay_beside_ingest_and_folders_loses_and_doubles_nothing(database, tmp_path) -> None:
    files = [written(tmp_path, a_log(300, seed), f"{seed}.csv") for seed in range(4)]
    options = [Options(source=str(seed)) for seed in range(4)]
    ingest_events(database, files[:1], NOW, options[0])

    with ThreadPoolExecutor(4) as pool:
        replays = [pool.submit(replay, database) for _ in range(2)]
        ingests = [pool.submit(ingest_events, database, [files[seed]], NOW, options[seed]) for seed in (1, 2, 3)]
        for seed in (5, 6):
            recorded(database, a_log(200, seed), fold=False, source=f"http{seed}")
            fold_all(database)
        for replayed in replays:
            replayed.result()
        for ingested in ingests:
            ingested.result()
    fold_all(database)

    assert rows_of(database, "SELECT count(*) FROM events") == [(1600,)]
    assert replay(database, rebuild=False).differing == 0
