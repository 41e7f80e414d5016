"""What a person may say about a file (pure)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from zoneinfo import ZoneInfo

from engine import localtime
from engine.errors import BadInput


@dataclass(frozen=True)
class Options:
    """How files are read.

    mapping: their columns → ours · types: their event types → ours · timezone: of times without an offset ·
    source: whose event ids these are · rejects: folder of the rejects files, default beside each file.
    """

    mapping: Mapping[str, str] = field(default_factory=dict)
    types: Mapping[str, str] = field(default_factory=dict)
    timezone: str | None = None
    source: str = ""
    rejects: Path | None = None

    def zone(self) -> ZoneInfo | None:
        """The zone of times without an offset. Raises BadInput for an unknown one."""
        return None if self.timezone is None else localtime.zone(self.timezone)


DEFAULTS = Options()
"""Canonical names, times with offsets."""


def parse_types(pairs: Sequence[str]) -> dict[str, str]:
    """`theirs=ours` pairs of event types. Raises BadInput for a pair without `=` and for a type given twice."""
    types: dict[str, str] = {}
    for pair in pairs:
        theirs, equals, ours = (part.strip() for part in pair.rpartition("="))
        if not (theirs and equals and ours):
            raise BadInput(f"--type {pair!r} is not theirs=ours", hint="for example: --type pageview=view")
        if theirs in types:
            raise BadInput(f"--type names {theirs!r} twice")
        types[theirs] = ours
    return types
