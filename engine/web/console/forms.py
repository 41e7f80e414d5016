"""What a form held (pure)."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Form:
    """Fields of a form by name, as they were sent."""

    pairs: tuple[tuple[str, str], ...]

    def text(self, name: str, default: str = "") -> str:
        """The first value of a field, without white space around it."""
        return next(self._values(name), default).strip()

    def raw(self, name: str) -> str:
        """The first value of a field as it was typed: a password."""
        return next(self._values(name), "")

    def lines(self, name: str) -> str:
        """The text of a field with line ends as files have them."""
        return next(self._values(name), "").replace("\r\n", "\n")

    def all(self, name: str) -> tuple[str, ...]:
        """All values of a field: boxes that are ticked."""
        return tuple(self._values(name))

    def ticked(self, name: str) -> bool:
        """Whether a box is ticked."""
        return next(self._values(name), "") not in ("", "false", "off")

    def filled(self) -> dict[str, str]:
        """Every field that is not empty, with its first value."""
        found: dict[str, str] = {}
        for name, value in self.pairs:
            if value.strip():
                found.setdefault(name, value.strip())
        return found

    def _values(self, name: str) -> Iterator[str]:
        return (value for key, value in self.pairs if key == name)


def kept(given: str) -> dict[str, Any]:
    """What a hidden field carries through a form as JSON: an object; nothing where it is anything else."""
    try:
        value = json.loads(given or "{}")
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}


def number(given: str) -> int | float | str:
    """A number, or the text as it is, which the definition refuses in its own words."""
    for kind in (int, float):
        try:
            return kind(given)
        except ValueError:
            continue
    return given
