"""Counters that only grow, for metrics: kept in the store, since no process lives as long as they do.

A counter is spread over rows by the backend that adds to it: sessions that count the same do not wait for each other.
"""

from __future__ import annotations

from collections.abc import Mapping

from sqlalchemy import Connection, text

_SPREAD = 16

_ADD = text("""
    INSERT INTO counters AS c (name, label, shard, value)
    SELECT :name, label, :shard, value
    FROM unnest(CAST(:labels AS text[]), CAST(:values AS bigint[])) AS given (label, value) ORDER BY label
    ON CONFLICT (name, label, shard) DO UPDATE SET value = c.value + excluded.value
""")
_READ = text("SELECT name, label, sum(value)::bigint FROM counters GROUP BY name, label ORDER BY name, label")


def add(connection: Connection, name: str, counts: Mapping[str, int]) -> None:
    """Add `counts` (label to number) to the counters of `name`. Call it last in a transaction: rows stay locked."""
    given = {label: number for label, number in sorted(counts.items()) if number}
    if given:
        shard = connection.execute(text("SELECT pg_backend_pid()")).scalar_one() % _SPREAD
        rows = {"name": name, "shard": shard, "labels": list(given), "values": list(given.values())}
        connection.execute(_ADD, rows)


def put(connection: Connection, name: str, label: str, value: int) -> None:
    """Let one counter be `value`: a count that may be made again."""
    statement = "INSERT INTO counters VALUES (:name, :label, 0, :value) ON CONFLICT (name, label, shard)"
    statement += " DO UPDATE SET value = excluded.value"
    connection.execute(text(statement), {"name": name, "label": label, "value": value})


def read(connection: Connection) -> dict[str, dict[str, int]]:
    """Every counter: name to label to value."""
    found: dict[str, dict[str, int]] = {}
    for name, label, value in connection.execute(_READ):
        found.setdefault(name, {})[label] = value
    return found
