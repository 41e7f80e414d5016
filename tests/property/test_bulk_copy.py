"""Binary COPY packed by numpy writes what the arrays hold, for every type, with and without NULLs."""

from __future__ import annotations

import json
import uuid
from datetime import UTC, date, datetime

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from psycopg.errors import UniqueViolation
from sqlalchemy import text

from engine.store.bulk import copy_rows, jsonb

TABLE = """CREATE TEMP TABLE packed (a smallint, b integer, c bigint, d float8, e boolean, f timestamptz, g date,
           h uuid, i text, j bytea, k jsonb) ON COMMIT DROP"""

texts = st.text(st.characters(exclude_characters="\x00", exclude_categories=["Cs"]), max_size=40)
rows = st.lists(
    st.tuples(
        st.integers(-(2**15), 2**15 - 1),
        st.integers(-(2**31), 2**31 - 1),
        st.one_of(st.none(), st.integers(-(2**63), 2**63 - 1)),
        st.floats(allow_nan=False),
        st.booleans(),
        st.one_of(st.none(), st.datetimes(datetime(1970, 1, 1), datetime(2200, 1, 1))),
        st.one_of(st.none(), st.dates(date(1970, 1, 1), date(2200, 1, 1))),
        st.uuids(),
        st.one_of(st.none(), texts),
        st.one_of(st.none(), st.binary(max_size=40)),
        st.one_of(st.none(), texts),
    ),
    max_size=30,
)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(rows=rows)
def test_what_is_copied_is_what_is_read(database, rows):
    a, b, c, d, e, f, g, h, i, j, k = zip(*rows, strict=True) if rows else ([],) * 11
    columns = {
        "a": np.array(a, np.int16),
        "b": np.array(b, np.int32),
        "c": (np.array([x or 0 for x in c], np.int64), np.array([x is not None for x in c], bool)),
        "d": np.array(d, np.float64),
        "e": np.array(e, bool),
        "f": np.array([np.datetime64("NaT") if x is None else x for x in f], "datetime64[us]"),
        "g": np.array([np.datetime64("NaT") if x is None else x for x in g], "datetime64[D]"),
        "h": np.frombuffer(b"".join(x.bytes for x in h), np.uint8).reshape(-1, 16),
        "i": pa.array(i, pa.string()),
        "j": pa.array(j, pa.binary()),
        "k": jsonb(pa.array([None if x is None else json.dumps({"t": x}) for x in k], pa.string())),
    }

    with database.begin() as connection:
        connection.execute(text(TABLE))
        count = copy_rows(connection, "packed", columns)
        read = connection.execute(text("SELECT * FROM packed ORDER BY ctid")).all()

    expected = [
        (*row[:5], row[5] and row[5].replace(tzinfo=UTC), *row[6:10], None if row[10] is None else {"t": row[10]})
        for row in rows
    ]
    assert count == len(rows)
    assert [tuple(row) for row in read] == expected


def test_more_rows_than_one_chunk_arrive_in_order(database):
    n = 300_001
    with database.begin() as connection:
        connection.execute(text("CREATE TEMP TABLE many (x bigint, t text) ON COMMIT DROP"))
        copy_rows(connection, "many", {"x": np.arange(n), "t": pa.array([str(v) for v in range(n)])})
        equal, total = connection.execute(text("SELECT count(*) FILTER (WHERE x::text = t), count(*) FROM many")).one()

    assert (equal, total) == (n, n)


def test_a_sliced_arrow_array_is_copied_as_its_slice(database):
    with database.begin() as connection:
        connection.execute(text("CREATE TEMP TABLE sliced (t text) ON COMMIT DROP"))
        copy_rows(connection, "sliced", {"t": pa.array(["a", "bb", None, "dddd", "e"]).slice(1, 3)})
        assert connection.execute(text("SELECT t FROM sliced ORDER BY ctid")).scalars().all() == ["bb", None, "dddd"]


def test_unequal_lengths_and_unknown_types_are_refused(database):
    with database.begin() as connection:
        with pytest.raises(ValueError, match="unequal length"):
            copy_rows(connection, "t", {"a": np.zeros(2), "b": np.zeros(3)})
        with pytest.raises(TypeError, match="complex"):
            copy_rows(connection, "t", {"a": np.zeros(2, complex)})


def test_a_failed_copy_leaves_nothing(database):
    key = np.frombuffer(uuid.uuid4().bytes * 2, np.uint8).reshape(2, 16)
    with pytest.raises(UniqueViolation), database.begin() as connection:
        copy_rows(connection, "event_keys", {"key": key})
    with database.begin() as connection:
        assert connection.execute(text("SELECT count(*) FROM event_keys")).scalar_one() == 0
