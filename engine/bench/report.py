"""What a bench says: its load, its figures, the bounds they must keep (pure)."""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

Tell = Callable[[str], None]
"""Told what the bench does now, for the person who waits."""

_HOLDS = {"<=": operator.le, ">=": operator.ge, "=": operator.eq}


@dataclass(frozen=True)
class Options:
    """What a person may ask of a bench: users of the load and repeats (None: the bench's own), and the load's seed."""

    users: int | None = None
    repeats: int | None = None
    seed: int = 1


@dataclass(frozen=True)
class Report:
    """The result of a bench. `bounds` maps some figures to what they must keep, such as "<= 2" or "= 0"."""

    bench: str
    load: Mapping[str, object]
    figures: Mapping[str, float]
    bounds: Mapping[str, str] = field(default_factory=dict)

    def missed(self) -> list[str]:
        """The figures whose bound does not hold."""
        return [name for name, bound in self.bounds.items() if not _holds(self.figures[name], bound)]

    def as_dict(self) -> dict[str, object]:
        """The object that `--json` prints."""
        return {
            "bench": self.bench,
            "load": dict(self.load),
            "figures": {name: _rounded(value) for name, value in self.figures.items()},
            "bounds": dict(self.bounds),
            "ok": not self.missed(),
        }


def _holds(figure: float, bound: str) -> bool:
    sign, number = bound.split()
    return bool(_HOLDS[sign](figure, float(number)))


def _rounded(value: float) -> float:
    """Four significant digits; whole numbers stay whole."""
    return value if isinstance(value, int) or value == int(value) else float(f"{value:.4g}")
