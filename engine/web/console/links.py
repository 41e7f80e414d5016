"""The navigation."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Link:
    """A page in the navigation. label: marked by `word` · scope: whom it is for."""

    path: str
    label: str
    scope: str = "read"

    def leads_to(self, path: str) -> bool:
        """Whether `path` is this page or one below it."""
        below = self.path != "/console" and path.startswith(self.path + "/")
        return path == self.path or below
