"""The navigation."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Link:
    """A page in the navigation. label: marked by `word` · scope: whom it is for · also: further addresses."""

    path: str
    label: str
    scope: str = "read"
    also: tuple[str, ...] = ()

    def leads_to(self, path: str) -> bool:
        """Whether `path` is this page or one below it."""
        inside = path.startswith(tuple(f"{one}/" for one in (self.path, *self.also) if one != "/console"))
        return path in (self.path, *self.also) or inside
