"""What an ingest did, in numbers that add up: rows = accepted + duplicates + rejected (pure)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace

from engine.ingest.layout import Kind


@dataclass(frozen=True)
class Summary:
    """Counts of one ingest. Mappings are by problem and by type."""

    kind: Kind
    files: int = 0
    rows: int = 0
    """Rows read, blank lines aside."""
    accepted: int = 0
    """Events: stored now. Others: valid rows, whether they changed something or not."""
    duplicates: int = 0
    """Events that were known already, from this or an earlier file."""
    created: int = 0
    updated: int = 0
    unchanged: int = 0
    """Users, items or devices, by what their rows did; a row that a later one of its chunk overrides counts in none."""
    user_stubs: int = 0
    item_stubs: int = 0
    without_timezone: int = 0
    """Users of the file who live by the workspace's default zone."""
    other_types: Mapping[str, int] = field(default_factory=dict)
    rejected: Mapping[str, int] = field(default_factory=dict)
    rejects_files: tuple[str, ...] = ()
    seconds: float = 0.0

    @property
    def refused(self) -> int:
        """How many rows were rejected."""
        return sum(self.rejected.values())

    @property
    def rows_per_second(self) -> float:
        """Rows read per second."""
        return self.rows / self.seconds if self.seconds else 0.0

    def plus(self, other: Summary) -> Summary:
        """Both together."""
        added: dict[str, object] = {}
        for name in (column.name for column in fields(self) if column.name != "kind"):
            mine, theirs = getattr(self, name), getattr(other, name)
            both = dict(Counter(mine) + Counter(theirs)) if isinstance(mine, Mapping) else mine + theirs
            added[name] = both
        return replace(self, **added)  # type: ignore[arg-type]

    def lines(self) -> list[tuple[str, str]]:
        """What a person wants to know, as (what, how much); zeros that say nothing are left out."""
        shown = [("rows read", self.rows), ("accepted", self.accepted)]
        if self.kind == "events":
            shown += [("duplicates", self.duplicates), ("users made as stubs", self.user_stubs)]
            shown += [("items made as stubs", self.item_stubs)]
        else:
            shown += [("created", self.created), ("updated", self.updated), ("unchanged", self.unchanged)]
            shown += [("without a time zone (workspace default)", self.without_timezone)]
            shown += [("users made as stubs", self.user_stubs)]
        shown += [("rejected", self.refused)]
        kept = [(what, f"{number:,}") for index, (what, number) in enumerate(shown) if number or index < 2]
        kept += [(f"  {problem}", f"{number:,}") for problem, number in _most(self.rejected)]
        kept += [(f"other type: {name}", f"{number:,}") for name, number in _most(self.other_types)]
        return [*kept, ("seconds", f"{self.seconds:.1f}"), ("rows a second", f"{self.rows_per_second:,.0f}")]

    def as_dict(self) -> dict[str, object]:
        """One JSON object: `rejected` is the number, `rejected_by` says why."""
        held: dict[str, object] = {column.name: getattr(self, column.name) for column in fields(self)}
        held |= {"rejected": self.refused, "rejected_by": dict(self.rejected), "other_types": dict(self.other_types)}
        held |= {"seconds": round(self.seconds, 3), "rows_per_second": round(self.rows_per_second)}
        return held


def _most(counts: Mapping[str, int]) -> list[tuple[str, int]]:
    return Counter(counts).most_common(20)
