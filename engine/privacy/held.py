"""Where rows about a user are, read from the schema itself: a table that is added later is found too."""

from __future__ import annotations

from collections.abc import Iterator

from engine.store.tables import metadata

LEDGERS = ("deliveries", "decisions")
"""Append-only, and their counts must go on adding up: an erased user's rows stay under a pseudonym."""

_OTHER_NAMES = {"rival_user_id"}


def tables_of_users() -> Iterator[tuple[str, tuple[str, ...]]]:
    """(table, its columns that hold a user's id), by name."""
    for name in sorted(metadata.tables):
        columns = metadata.tables[name].columns.keys()
        found = tuple(column for column in columns if column == "user_id" or column in _OTHER_NAMES)
        if found:
            yield name, found
