"""Rows of a long table, a page at a time, by key: never by number, which would count what it skips (pure)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

T = TypeVar("T")


@dataclass(frozen=True)
class Page(Generic[T]):
    """Some rows. after: key of the last, where there are more · begun: whether others come before."""

    rows: Sequence[T]
    after: str | None
    begun: bool


def page_of(rows: Sequence[T], most: int, key: Callable[[T], object], after: str | None) -> Page[T]:
    """The first `most` of `rows`, which were read after the key `after`, one more than are shown."""
    shown = rows[:most]
    return Page(shown, str(key(shown[-1])) if len(rows) > most else None, after is not None)
