"""What a form held (pure)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass


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
