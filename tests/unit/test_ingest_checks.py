"""Rows of a block: values as types, and the reason of each refusal."""

from __future__ import annotations

from datetime import UTC, date, datetime
from decimal import Decimal
from pathlib import Path
from uuid import UUID

import numpy as np
import pyarrow as pa
import pytest

from engine.errors import BadInput
from engine.ingest.block import Block
from engine.ingest.check import check_events, check_items, check_users
from engine.ingest.entity_rows import collapse
from engine.ingest.event_rows import EventRows
from engine.ingest.layout import lay_out, parse_mapping
from engine.ingest.options import Options, parse_types
from engine.ingest.rejects import rejects_path

NOW = datetime(2026, 3, 2, 12, tzinfo=UTC)
PLAIN = Options()


def block(given=None, attributes=None, **columns) -> Block:
    arrays = {name: values if isinstance(values, pa.Array) else pa.array(values) for name, values in columns.items()}
    size = len(next(iter(arrays.values())))
    return Block(
        arrays,
        np.arange(2, 2 + size),
        lambda row: {name: array[row].as_py() for name, array in arrays.items()},
        None if attributes is None else pa.array(attributes, pa.string()),
        given or {},
    )


def event(**columns) -> Block:
    size = len(next(iter(columns.values())))
    defaults = {
        "user_id": ["u"] * size,
        "event_type": ["view"] * size,
        "occurred_at": ["2026-01-01T00:00:00Z"] * size,
    }
    return block(**{**defaults, **columns})


def problems(rejects) -> list[tuple[int, str]]:
    return [(reject.line, reject.problem) for reject in rejects]


# --- times -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "utc"),
    [
        ("2026-01-31T23:30:00Z", "2026-01-31T23:30:00"),
        ("2026-01-31 23:30:00+03:00", "2026-01-31T20:30:00"),
        ("2026-01-31T23:30:00.123456-0500", "2026-02-01T04:30:00.123456"),
        ("2026-01-31T23:30:00.123456789Z", "2026-01-31T23:30:00.123456"),
        ("2026-01-31 23:30:00 UTC", "2026-01-31T23:30:00"),
        ("2026-01-31 23:30:00 +0200", "2026-01-31T21:30:00"),
        ("20260131T233000Z", "2026-01-31T23:30:00"),
    ],
)
def test_times_with_an_offset_are_instants(text, utc) -> None:
    rows, rejects = check_events(event(occurred_at=[text]), NOW, PLAIN)

    assert rejects == []
    assert rows.occurred_at[0] == np.datetime64(utc)


@pytest.mark.parametrize(
    ("text", "utc"),
    [
        ("2025-07-01 12:00", "2025-07-01T10:00"),
        ("2025-12-01", "2025-11-30T23:00"),
        ("2025-03-30T02:30:00", "2025-03-30T01:30"),  # does not exist: later by the gap
        ("2025-10-26T02:30:00", "2025-10-26T00:30"),  # exists twice: the first
    ],
)
def test_times_without_an_offset_are_wall_clocks_of_the_given_zone(text, utc) -> None:
    one_by_one = "2025-12-01 00:00:00 UTC"
    for texts in ([text], [text, one_by_one]):
        rows, rejects = check_events(event(occurred_at=texts), NOW, Options(timezone="Europe/Berlin"))

        assert rejects == []
        assert rows.occurred_at[0] == np.datetime64(utc)


def test_times_without_an_offset_are_refused_where_no_zone_is_given() -> None:
    for texts in (["2026-01-01 12:00:00"], ["2026-01-01 12:00:00", "2026-01-01T12:00:00Z"]):
        _rows, rejects = check_events(event(occurred_at=texts), NOW, PLAIN)

        assert problems(rejects) == [(2, "occurred_at: a time without an offset needs --timezone")]


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("1999-12-31T23:59:59Z", "before 2000"),
        ("2026-03-02T12:00:00.000001Z", "in the future"),
        ("yesterday", "not an ISO 8601 time"),
        ("2026-02-30T00:00:00Z", "not an ISO 8601 time"),
        ("1767225600", "not an ISO 8601 time"),
        (None, "missing"),
    ],
)
def test_times_that_cannot_be_are_refused(text, problem) -> None:
    rows, rejects = check_events(event(occurred_at=["2026-03-02T12:00:00Z", text]), NOW, PLAIN)

    assert problems(rejects) == [(3, f"occurred_at: {problem}")]
    assert len(rows) == 1


def test_parquet_times_are_taken_by_their_type() -> None:
    aware = pa.array([datetime(2026, 1, 1, 12, tzinfo=UTC)], pa.timestamp("ns", "Asia/Tokyo"))
    naive = pa.array([datetime(2026, 1, 1, 12)], pa.timestamp("ms"))
    days = pa.array([date(2026, 1, 1)])
    berlin = Options(timezone="Europe/Berlin")

    assert check_events(event(occurred_at=aware), NOW, PLAIN)[0].occurred_at[0] == np.datetime64("2026-01-01T12:00")
    assert check_events(event(occurred_at=naive), NOW, berlin)[0].occurred_at[0] == np.datetime64("2026-01-01T11:00")
    assert check_events(event(occurred_at=days), NOW, berlin)[0].occurred_at[0] == np.datetime64("2025-12-31T23:00")
    assert problems(check_events(event(occurred_at=naive), NOW, PLAIN)[1]) == [
        (2, "occurred_at: a time without an offset needs --timezone")
    ]
    epochs = pa.array([1_767_225_600])
    assert problems(check_events(event(occurred_at=epochs), NOW, PLAIN)[1]) == [
        (2, "occurred_at: not an ISO 8601 time")
    ]


# --- values ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("nan", "not a finite number"),
        ("-inf", "not a finite number"),
        ("1e400", "not a finite number"),
        ("1e16", "out of range"),
        ("12,50", "not a number"),
        ("1_000", "not a number"),
        ("€5", "not a number"),
    ],
)
def test_numbers_that_cannot_be_are_refused(text, problem) -> None:
    rows, rejects = check_events(event(value=["1.5", text, " 2 ", None]), NOW, PLAIN)

    assert problems(rejects) == [(3, f"value: {problem}")]
    assert np.array_equal(rows.value, [1.5, 2.0, np.nan], equal_nan=True)


def test_an_event_needs_a_type_and_a_user_or_an_item() -> None:
    rows, rejects = check_events(
        event(user_id=["u", None, None], item_id=[None, None, "i"], event_type=[None, "view", "view"]), NOW, PLAIN
    )

    assert problems(rejects) == [(2, "event_type: missing"), (3, "user_id, item_id: both missing")]
    assert rows.item.to_pylist() == ["i"]


def test_ids_are_text_and_whole_numbers_are_their_digits() -> None:
    for ids in (pa.array([12, 7]), pa.array([12.0, 7.0]), pa.array([Decimal(12), Decimal(7)])):
        assert check_users(block(user_id=ids))[0].ids.to_pylist() == ["12", "7"]

    rows, rejects = check_users(block(user_id=pa.array([12.0, 1.5, None])))
    assert rows.ids.to_pylist() == ["12"]
    assert problems(rejects) == [(3, "user_id: neither text nor a whole number"), (4, "user_id: missing")]


def test_ids_that_no_index_or_text_column_holds_are_refused() -> None:
    _rows, rejects = check_users(block(user_id=["a" * 512, "b" * 513, "c\0", ""]))

    assert problems(rejects) == [(3, "user_id: longer than 512 bytes"), (4, "user_id: a NUL character")]


def test_consent_is_true_or_false_or_not_recorded() -> None:
    rows, rejects = check_users(block(user_id=list("abcdef"), consent=["true", "NO", "1", None, "maybe", "F"]))
    values, known = rows.columns["consent"]

    assert problems(rejects) == [(6, "consent: neither true nor false")]
    assert [bool(value) if is_known else None for value, is_known in zip(values, known, strict=True)] == [
        True,
        False,
        True,
        None,
        False,
    ]


def test_a_misspelt_zone_is_refused_with_the_closest_name() -> None:
    zones = ["Europe/Istambul", "Europe/Istanbul", None, "istanbul"]
    rows, rejects = check_users(block(user_id=list("abcd"), timezone=zones))

    assert problems(rejects) == [(2, "timezone: unknown time zone"), (5, "timezone: unknown time zone")]
    assert all("did you mean" in reject.detail and "Istanbul" in reject.detail for reject in rejects)
    assert rows.columns["timezone"].to_pylist() == ["Europe/Istanbul", None]


def test_items_with_impossible_values_are_refused() -> None:
    rows, rejects = check_items(
        block(
            item_id=list("abcdef"),
            price=["-0.01", "nan", "0", "1", "2", "3"],
            stock=["1", "1", "-1", "1.5", "7", None],
            available_from=["2026-01-01T00:00:00Z"] * 6,
            available_until=[None, None, None, None, "2026-01-01T00:00:00Z", "2026-01-02T00:00:00Z"],
        ),
        PLAIN,
    )

    assert problems(rejects) == [
        (2, "price: negative"),
        (3, "price: not a finite number"),
        (4, "stock: negative"),
        (5, "stock: not a whole number"),
        (6, "available_until: not after available_from"),
    ]
    assert rows.ids.to_pylist() == ["f"]


def test_push_ids_are_uuids() -> None:
    identifier = UUID("0f8fad5b-d9cb-469f-a165-70867728950e")
    rows, rejects = check_events(event(push_id=[str(identifier), None, "x"]), NOW, PLAIN)

    assert problems(rejects) == [(4, "push_id: not a UUID")]
    assert rows.push_id is not None
    assert bytes(rows.push_id[0][0]) == identifier.bytes
    assert rows.push_id[1].tolist() == [True, False]


def test_types_are_renamed() -> None:
    rows, _ = check_events(event(event_type=["pageview", "view"]), NOW, Options(types={"pageview": "view"}))

    assert rows.event_type.to_pylist() == ["view", "view"]


# --- repeated ids ----------------------------------------------------------------------------------------------------


def test_rows_of_one_id_become_one_as_if_stored_in_turn() -> None:
    rows, _ = check_users(
        block(
            user_id=["b", "a", "b", "b"],
            country=["TR", "DE", None, "US"],
            locale=["tr", None, "en", "xx"],
            given={"country": np.array([1, 1, 1, 0], bool), "locale": np.array([1, 1, 1, 0], bool)},
            attributes=['{"x":1,"y":1}', None, '{"x":2}', '{"z":3}'],
        )
    )

    together = collapse(rows)

    assert together.ids.to_pylist() == ["a", "b"]
    assert together.columns["country"].to_pylist() == ["DE", None]
    assert together.columns["locale"].to_pylist() == [None, "en"]
    assert together.attributes is not None
    assert together.attributes.to_pylist() == [None, '{"x":2,"y":1,"z":3}']
    assert together.origin.tolist() == [1, 3]


# --- keys of events --------------------------------------------------------------------------------------------------


def keys(source="", **columns) -> list[str]:
    rows, _ = check_events(event(**columns), NOW, PLAIN)
    return [bytes(key).hex() for key in rows.keys(source)]


def test_keys_never_change() -> None:
    assert keys(event_id=["42"]) == ["71f23c6d19c88f6a863adc833a587b61"]
    assert keys(item_id=["i"], value=["1.5"]) == ["019b76daa800fc1555eb8050cf197279"]


def test_events_with_equal_ids_of_one_source_are_one() -> None:
    first, second = keys(event_id=["42", "42"], value=["1", "2"])

    assert first == second
    assert keys("till", event_id=["42"]) != [first]


def test_events_without_ids_are_one_where_all_their_values_are_equal() -> None:
    same = keys(value=["1", "1.0"], occurred_at=["2026-01-01T00:00:00Z", "2026-01-01T02:00:00+02:00"])
    assert same[0] == same[1]

    changed = [
        {"user_id": ["v"]},
        {"item_id": ["i"]},
        {"event_type": ["search"]},
        {"occurred_at": ["2026-01-01T00:00:00.000001Z"]},
        {"value": ["1"]},
        {"value": ["0"]},
        {"quantity": ["1"]},
        {"push_id": ["0f8fad5b-d9cb-469f-a165-70867728950e"]},
        {"attributes": ['{"a":1}']},
        {"user_id": ["ui"], "item_id": ["tem"]},
        {"user_id": ["uit"], "item_id": ["em"]},
    ]
    assert len({key for columns in [{"user_id": ["u"]}, *changed] for key in keys(**columns)}) == len(changed) + 1


def test_a_chunk_of_events_has_the_keys_of_its_events_one_by_one() -> None:
    rows, _ = check_events(event(user_id=["a", "b", "c"], event_id=["1", None, None]), NOW, PLAIN)

    apart = [bytes(rows.take(np.array([at])).keys("s")[0]) for at in range(3)]
    assert [bytes(key) for key in rows.keys("s")] == apart
    assert isinstance(rows, EventRows)


# --- options ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("pairs", "said"),
    [
        (["uid"], "not theirs=ours"),
        (["uid=userid"], "did you mean user_id"),
        (["uid=price"], "the canonical columns are"),
        (["a=user_id", "b=user_id"], "two columns for user_id"),
    ],
)
def test_a_bad_mapping_is_refused(pairs, said) -> None:
    with pytest.raises(BadInput) as refused:
        parse_mapping("users", pairs)

    assert said in str(refused.value)


def test_a_mapping_renames_and_must_fit_the_file() -> None:
    layout = lay_out("users", ["uid", "tz", "plan"], parse_mapping("users", ["uid=user_id", "tz=timezone"]), "f.csv")

    assert layout.canonical == {"uid": "user_id", "tz": "timezone"}
    with pytest.raises(BadInput, match=r"f\.csv has no column 'user' to map.*did you mean users"):
        lay_out("users", ["users"], {"user": "user_id"}, "f.csv")
    with pytest.raises(BadInput, match="both 'uid' and 'user_id'"):
        lay_out("users", ["uid", "user_id"], {"uid": "user_id"}, "f.csv")


def test_events_need_their_columns_and_each_missing_one_is_named() -> None:
    with pytest.raises(BadInput) as refused:
        lay_out("events", ["customer_id", "action", "ts"], {}, "f.csv")

    assert "lacks event_type, occurred_at, user_id or item_id" in str(refused.value)
    assert "--map action=event_type --map ts=occurred_at --map customer_id=user_id" in str(refused.value)


def test_other_options_that_mean_nothing_are_refused(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="not theirs=ours"):
        parse_types(["pageview"])
    with pytest.raises(BadInput, match="did you mean Europe/Berlin"):
        Options(timezone="Europe/Berln").zone()
    with pytest.raises(BadInput, match="--rejects"):
        rejects_path(Path("f.csv"), tmp_path / "none")
