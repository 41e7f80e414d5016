"""An audience as a file: ids, and the fields that were asked for."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
from sqlalchemy import ColumnElement, select, true

from engine.campaigns.audience import AudienceQuery, as_sql, user_condition
from engine.campaigns.audience_store import require_known, resolve
from engine.campaigns.filters import Filter
from engine.campaigns.policy_store import current_policy
from engine.campaigns.spreadsheet import quoted
from engine.errors import BadInput, did_you_mean
from engine.store.database import Database
from engine.store.files import written_whole
from engine.store.slots import shard_ranges
from engine.store.tables import users

Progress = Callable[[int, int, int], None]
"""Told (rows so far, parts done, parts in all)."""

FIELDS = ("country", "locale", "timezone", "consent")
"""What may stand beside the id, and any `attributes.NAME`."""

_KINDS = ("csv", "parquet")
_SLOTS = 64


def export(
    database: Database,
    rules: Filter | None,
    file: Path,
    now: datetime,
    fields: Sequence[str] = (),
    progress: Progress | None = None,
) -> int:
    """Write the users whom `rules` (None: all) hold as of `now` to a .csv or .parquet `file`; how many.

    Columns: user_id, then `fields`, of FIELDS and attributes.NAME, as text; in a .csv file what a spreadsheet would run
    has an apostrophe before it (engine.campaigns.spreadsheet). The file appears when it is complete.
    Raises BadInput for another kind of file, a field that there is not, or where it cannot be written.
    """
    kind = file.suffix.lower().removeprefix(".")
    if kind not in _KINDS:
        raise BadInput(f"{file} must end in .csv or .parquet", hint="the name says what is written")
    columns = [users.c.external_id.label("user_id"), *(_column(name) for name in dict.fromkeys(fields))]
    with written_whole(file) as part:
        return _write(database, (rules, now), columns, (kind, part), progress)


def _write(
    database: Database,
    whom: tuple[Filter | None, datetime],
    columns: Sequence[ColumnElement[Any]],
    target: tuple[str, Path],
    progress: Progress | None,
) -> int:
    kind, part = target
    schema = pa.schema([(column.name, pa.string()) for column in columns])
    rows, ranges = 0, shard_ranges(_SLOTS)
    writer: Any = pq.ParquetWriter(part, schema, compression="zstd") if kind == "parquet" else None
    with database.snapshot() as snapshot, writer or pyarrow.csv.CSVWriter(part, schema) as out:
        require_known(snapshot.connection, "it", whom[0])
        _, policy = current_policy(snapshot.connection)
        query = AudienceQuery(
            resolve(snapshot.connection, whom[0]), whom[1], "log", needs_device=False,
            default_timezone=policy.default_timezone,
        )  # fmt: skip
        held = true() if query.where is None else user_condition(query.where, query)
        for number, (first, until) in enumerate(ranges, 1):
            chosen = select(*columns).where(users.c.slot >= first, users.c.slot < until, held, users.c.stub.is_(False))
            found = snapshot.arrow(as_sql(snapshot.connection, chosen.order_by(users.c.slot, users.c.id)))
            table = found.cast(schema)
            if kind == "csv":
                table = pa.table([quoted(column) for column in table.columns], schema)
            out.write_table(table)
            rows += len(found)
            if progress is not None:
                progress(rows, number, len(ranges))
    return rows


def _column(name: str) -> ColumnElement[Any]:
    root, _, attribute = name.partition(".")
    if root == "attributes" and attribute:
        text: ColumnElement[Any] = users.c.attributes[attribute].astext.label(name)
        return text
    if name not in FIELDS:
        near = did_you_mean(name, FIELDS)
        raise BadInput(f"there is no field {name!r}", hint=near or f"{', '.join(FIELDS)} or attributes.NAME")
    column: ColumnElement[Any] = users.c[name]
    return column.label(name)
