"""The demo's progress on stderr: bars on a terminal, plain lines elsewhere."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from engine import clock

Advance = Callable[[float, str], None]
"""Says how much of a stage is done (0 … 1) and, in a few words, where it stands."""


class Stages:
    """Shows one stage after another and remembers how long each took."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self.seconds: dict[str, float] = {}

    @contextmanager
    def stage(self, name: str, title: str) -> Iterator[Advance]:
        """Show `title` while the block runs; its seconds are kept under `name`."""
        began = clock.monotonic()
        with self._bar(title) if self._console.is_terminal else self._lines(title) as advance:
            yield advance
        self.seconds[name] = self.seconds.get(name, 0.0) + clock.monotonic() - began

    @contextmanager
    def _bar(self, title: str) -> Iterator[Advance]:
        columns = (
            SpinnerColumn(),
            TextColumn(f"{title:<42}"),
            BarColumn(bar_width=24),
            TimeElapsedColumn(),
            TextColumn("{task.fields[where]}"),
        )
        with Progress(*columns, console=self._console) as progress:
            task = progress.add_task(title, total=None, where="")

            def advance(share: float, where: str) -> None:
                progress.update(task, total=1.0, completed=share, where=where)

            yield advance
            progress.update(task, total=1.0, completed=1.0)

    @contextmanager
    def _lines(self, title: str) -> Iterator[Advance]:
        began, shown = clock.monotonic(), -1
        self._console.print(f"{title} …", highlight=False)

        def advance(share: float, where: str) -> None:
            nonlocal shown
            if int(share * 4) > shown:  # at most five lines a stage
                shown = int(share * 4)
                self._console.print(f"  {share:4.0%} {where}", highlight=False)

        yield advance
        self._console.print(f"  done in {clock.monotonic() - began:.1f} s", highlight=False)
