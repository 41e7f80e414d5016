"""Users and items into the store: made, changed, left alone; versions kept; refused rows told."""

from __future__ import annotations

import csv
import gzip
import json
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path

import pyarrow as pa
import pytest
from pyarrow import parquet
from sqlalchemy import text

from engine.errors import BadInput, IngestStopped
from engine.ingest.options import Options
from engine.ingest.run import Progress, ingest_items, ingest_users
from engine.ingest.summary import Summary
from engine.store.database import Database
from engine.store.slots import slot_of

NOW = datetime(2026, 3, 2, 12, tzinfo=UTC)
LATER = datetime(2026, 3, 3, 12, tzinfo=UTC)


def csv_file(folder: Path, *rows: Sequence[object], name: str = "file.csv") -> Path:
    path = folder / name
    with path.open("w", newline="") as out:
        csv.writer(out).writerows(rows)
    return path


def json_file(folder: Path, *rows: Mapping[str, object], name: str = "file.jsonl") -> Path:
    path = folder / name
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def stored(database: Database, query: str) -> list[tuple]:
    with database.begin() as connection:
        return [tuple(row) for row in connection.execute(text(query)).all()]


def counts(summary: Summary) -> tuple[int, int, int]:
    return summary.created, summary.updated, summary.unchanged


def rejected(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.with_name(f"{path.name}.rejects.jsonl").read_text().splitlines()]


# --- users -----------------------------------------------------------------------------------------------------------


def test_users_are_made_with_everything_their_file_says(database, tmp_path) -> None:
    path = csv_file(
        tmp_path,
        ["user_id", "timezone", "country", "locale", "consent", "age", "plan"],
        ["a", "Europe/Istanbul", "TR", "tr_TR", "true", "34", "gold"],
        ["b", "", "", "", "", "", ""],
    )

    summary = ingest_users(database, [path], NOW)

    assert counts(summary) == (2, 0, 0)
    assert summary.without_timezone == 1
    assert stored(
        database,
        "SELECT external_id, slot, timezone, tz_source, country, locale, consent, attributes, stub"
        " FROM users ORDER BY 1",
    ) == [
        ("a", slot_of("a"), "Europe/Istanbul", "explicit", "TR", "tr_TR", True, {"age": 34, "plan": "gold"}, False),
        ("b", slot_of("b"), None, None, None, None, None, {}, False),
    ]


def test_a_repeated_file_changes_nothing_not_even_a_stamp(database, tmp_path) -> None:
    path = csv_file(tmp_path, ["user_id", "country", "age"], ["a", "TR", "34"], ["b", "", ""])
    ingest_users(database, [path], NOW)
    before = stored(database, "SELECT *, xmin::text FROM users ORDER BY id")

    assert counts(ingest_users(database, [path], NOW)) == (0, 0, 2)
    assert stored(database, "SELECT *, xmin::text FROM users ORDER BY id") == before


def test_what_a_file_does_not_mention_stays(database, tmp_path) -> None:
    first = csv_file(tmp_path, ["user_id", "country", "consent", "age", "plan"], ["a", "TR", "yes", "34", "gold"])
    ingest_users(database, [first], NOW)

    second = csv_file(tmp_path, ["user_id", "country", "age", "city"], ["a", "", "35", "Izmir"])
    assert counts(ingest_users(database, [second], NOW)) == (0, 1, 0)

    assert stored(database, "SELECT country, consent, attributes FROM users") == [
        (None, True, {"age": 35, "city": "Izmir", "plan": "gold"})
    ]


def test_json_rows_change_only_the_keys_they_have(database, tmp_path) -> None:
    rows: list[dict[str, object]] = [
        {"user_id": "a", "country": "TR", "locale": "tr"},
        {"user_id": "b", "country": "DE"},
        {"user_id": "a", "locale": None, "age": 5},
        {"user_id": "b", "locale": "de"},
    ]

    summary = ingest_users(database, [json_file(tmp_path, *rows)], NOW)

    assert (summary.rows, summary.accepted, summary.created) == (4, 4, 2)
    assert stored(database, "SELECT external_id, country, locale, attributes FROM users ORDER BY 1") == [
        ("a", "TR", None, {"age": 5}),
        ("b", "DE", "de", {}),
    ]


def test_parquet_and_gzipped_files_say_the_same_as_csv(database, tmp_path) -> None:
    table = pa.table({"user_id": [1, 2], "country": ["TR", None], "consent": [True, False], "age": [34, None]})
    parquet.write_table(table, tmp_path / "u.parquet")
    rows: tuple[list[object], ...] = (
        ["user_id", "country", "consent", "age"],
        [1, "TR", "true", 34],
        [2, "", "false", ""],
    )
    zipped = tmp_path / "u.csv.gz"
    zipped.write_bytes(gzip.compress(csv_file(tmp_path, *rows).read_bytes()))
    lines: list[dict[str, object]] = [
        {"user_id": 1, "country": "TR", "consent": True, "age": 34},
        {"user_id": 2, "consent": False},
    ]

    assert counts(ingest_users(database, [tmp_path / "u.parquet"], NOW)) == (2, 0, 0)
    assert counts(ingest_users(database, [zipped], NOW)) == (0, 0, 2)
    assert counts(ingest_users(database, [json_file(tmp_path, *lines, name="u.ndjson")], NOW)) == (0, 0, 2)


def test_columns_are_mapped(database, tmp_path) -> None:
    path = csv_file(tmp_path, ["uid", "tz"], ["a", "Asia/Tokyo"])

    ingest_users(database, [path], NOW, Options(mapping={"uid": "user_id", "tz": "timezone"}))

    assert stored(database, "SELECT external_id, timezone, attributes FROM users") == [("a", "Asia/Tokyo", {})]


def test_refused_rows_are_told_with_line_reason_and_row(database, tmp_path) -> None:
    path = csv_file(
        tmp_path,
        ["user_id", "timezone", "consent"],
        ["a", "Europe/Istambul", "true"],
        ["b", "UTC", "true"],
        ["", "UTC", "true"],
        ["c", "UTC"],
    )

    summary = ingest_users(database, [path], NOW)

    assert (summary.rows, summary.accepted, summary.refused) == (4, 1, 3)
    assert summary.rejects_files == (f"{path}.rejects.jsonl",)
    assert rejected(path) == [
        {
            "line": 2,
            "reason": "timezone: unknown time zone (Europe/Istambul: did you mean Europe/Istanbul?)",
            "row": {"user_id": "a", "timezone": "Europe/Istambul", "consent": "true"},
        },
        {"line": 4, "reason": "user_id: missing", "row": {"user_id": "", "timezone": "UTC", "consent": "true"}},
        {"line": 5, "reason": "wrong number of columns (2 instead of 3)", "row": "c,UTC"},
    ]


def test_a_clean_run_removes_the_rejects_of_an_earlier_one(database, tmp_path) -> None:
    path = csv_file(tmp_path, ["user_id", "consent"], ["a", "maybe"])
    assert ingest_users(database, [path], NOW).refused == 1
    assert rejected(path)

    csv_file(tmp_path, ["user_id", "consent"], ["a", "true"])
    assert ingest_users(database, [path], NOW).rejects_files == ()
    assert list(tmp_path.iterdir()) == [path]


def test_rejects_can_go_elsewhere(database, tmp_path) -> None:
    path = csv_file(tmp_path, ["user_id", "consent"], ["a", "maybe"])
    (tmp_path / "out").mkdir()

    ingest_users(database, [path], NOW, Options(rejects=tmp_path / "out"))

    assert (tmp_path / "out" / "file.csv.rejects.jsonl").exists()


def test_nothing_is_stored_where_a_later_file_is_refused(database, tmp_path) -> None:
    good = csv_file(tmp_path, ["user_id"], ["a"], name="good.csv")
    bad = csv_file(tmp_path, ["x", "y"], [1, 2], name="bad.csv")

    with pytest.raises(BadInput, match=r"bad\.csv lacks"):
        ingest_users(database, [good, bad], NOW)

    assert stored(database, "SELECT count(*) FROM users") == [(0,)]


def test_a_truncated_file_keeps_what_came_before_and_says_so(database, tmp_path) -> None:
    ids = [f"user-{number * 7919 % 100_003}" for number in range(50_000)]
    path = tmp_path / "u.csv.gz"
    path.write_bytes(gzip.compress(("user_id\n" + "\n".join(ids)).encode())[:-60_000])

    with pytest.raises(IngestStopped, match=r"gzip stream is cut off; .* rows are stored") as stopped:
        ingest_users(database, [path], NOW)

    summary = stopped.value.summary
    assert isinstance(summary, Summary)
    assert 0 < summary.created < 50_000
    assert stored(database, "SELECT count(*) FROM users") == [(summary.created,)]


def test_a_zone_that_a_device_reported_becomes_the_shops_word(database, tmp_path) -> None:
    path = csv_file(tmp_path, ["user_id", "timezone"], ["a", "Asia/Tokyo"])
    ingest_users(database, [path], NOW)
    with database.begin() as connection:
        connection.execute(text("UPDATE users SET tz_source = 'device'"))

    assert counts(ingest_users(database, [csv_file(tmp_path, ["user_id", "country"], ["a", "JP"])], NOW)) == (0, 1, 0)
    assert stored(database, "SELECT tz_source FROM users") == [("device",)]
    path = csv_file(tmp_path, ["user_id", "timezone"], ["a", "Asia/Tokyo"])
    assert counts(ingest_users(database, [path], NOW)) == (0, 1, 0)
    assert stored(database, "SELECT tz_source FROM users") == [("explicit",)]


def test_two_files_of_one_name_do_not_share_a_rejects_file(database, tmp_path) -> None:
    for name in ("a", "b", "out"):
        (tmp_path / name).mkdir()
    paths = [csv_file(tmp_path / name, ["user_id"], [name]) for name in "ab"]

    assert ingest_users(database, paths, NOW).created == 2
    with pytest.raises(BadInput, match="2 files would share"):
        ingest_users(database, paths, NOW, Options(rejects=tmp_path / "out"))


def test_no_room_for_rejected_rows_is_told(database, tmp_path) -> None:
    path = csv_file(tmp_path, ["user_id", "consent"], ["a", "true"], ["b", "maybe"])
    (tmp_path / ".file.csv.rejects.jsonl.part").symlink_to("/dev/full")

    with pytest.raises(IngestStopped, match=r"no space left for .*rejects\.jsonl; 1 rows are stored"):
        ingest_users(database, [path], NOW)

    assert stored(database, "SELECT external_id FROM users") == [("a",)]


# --- items -----------------------------------------------------------------------------------------------------------


def test_items_are_made_and_changed_with_their_versions_kept(database, tmp_path) -> None:
    first = csv_file(
        tmp_path,
        ["item_id", "title", "category", "brand", "price", "available_from", "available_until", "stock", "colour"],
        ["a", "Jam", "Food", "Own", "2.50", "2026-01-01T00:00:00Z", "", "5", "red"],
        ["b", "Tea", "Food", "", "", "", "", "", ""],
    )
    assert counts(ingest_items(database, [first], NOW)) == (2, 0, 0)

    second = csv_file(tmp_path, ["item_id", "price", "colour"], ["a", "3", "red"], ["b", "", ""])
    assert counts(ingest_items(database, [second], LATER)) == (0, 1, 1)

    assert stored(
        database,
        "SELECT external_id, version, title, price, stock, available_from, attributes FROM items ORDER BY 1",
    ) == [
        ("a", 2, "Jam", 3.0, 5, datetime(2026, 1, 1, tzinfo=UTC), {"colour": "red"}),
        ("b", 1, "Tea", None, None, None, {}),
    ]
    [(version, definition, until)] = stored(database, "SELECT version, definition, until FROM item_versions")
    assert (version, definition["price"], definition["title"], until) == (1, 2.5, "Jam", LATER)


def test_an_item_that_would_end_before_it_starts_is_refused(database, tmp_path) -> None:
    both = ["item_id", "available_from", "available_until"]
    path = csv_file(tmp_path, both, ["a", "2026-02-01T00:00:00Z", ""], ["b", "", ""])
    ingest_items(database, [path], NOW)

    path = csv_file(tmp_path, both[::2], ["b", "2026-01-15T00:00:00Z"], ["a", "2026-01-15T00:00:00Z"])
    summary = ingest_items(database, [path], LATER)

    assert (summary.accepted, summary.updated, summary.refused) == (1, 1, 1)
    assert [(row["line"], row["reason"]) for row in rejected(path)] == [
        (3, "available_until: not after available_from (with what the store knows of the item)")
    ]
    assert stored(database, "SELECT available_until FROM items WHERE external_id = 'a'") == [(None,)]


def test_times_of_items_without_an_offset_need_a_zone(database, tmp_path) -> None:
    path = csv_file(tmp_path, ["item_id", "available_from"], ["a", "2026-01-01"])

    assert ingest_items(database, [path], NOW).refused == 1
    assert ingest_items(database, [path], NOW, Options(timezone="Asia/Tokyo")).created == 1
    assert stored(database, "SELECT available_from FROM items") == [(datetime(2025, 12, 31, 15, tzinfo=UTC),)]


def test_chunks_larger_than_one_block_are_all_stored(database, tmp_path) -> None:
    path = tmp_path / "u.csv"
    path.write_text("user_id\n" + "".join(f"u{number}\n" for number in range(140_000)))
    told: list[Progress] = []

    summary = ingest_users(database, [path], NOW, progress=told.append)

    assert counts(summary) == (140_000, 0, 0)
    assert told[-1].done == told[-1].total == path.stat().st_size
