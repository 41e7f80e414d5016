"""Files into the store: read and checked ahead by one thread, written by others, one transaction a chunk.

The chunks of events are split by user among some connections, so that two transactions never fold the same user at
once. Every file is looked at before anything is stored; once started, whatever ends an ingest early (Ctrl-C, a file
that is cut off, a server that goes away) leaves whole chunks, and running it again completes it: events are known by
their keys, users and items by their ids.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Collection, Generator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, closing, suppress
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Any

from engine.clock import monotonic
from engine.errors import BadInput, HoraeError, IngestStopped
from engine.ingest.block import Block, Reject
from engine.ingest.formats import Source
from engine.ingest.intake import DeviceIntake, EventIntake, Intake, ItemIntake, Outcome, PromotionIntake, UserIntake
from engine.ingest.layout import Layout
from engine.ingest.lines import Cut
from engine.ingest.options import DEFAULTS, Options
from engine.ingest.reading import look_at, read_blocks
from engine.ingest.rejects import RejectsFile, rejects_path
from engine.ingest.summary import Summary
from engine.store.database import Database

AHEAD = 2
"""Chunks that may wait for each writer."""


@dataclass(frozen=True)
class Progress:
    """How far an ingest is: the file, bytes of it read and in all, rows read of all files."""

    file: Path
    done: int
    total: int
    rows: int


Told = Callable[[Progress], None]


def ingest_users(
    database: Database, paths: Sequence[Path], now: datetime, options: Options = DEFAULTS, progress: Told | None = None
) -> Summary:
    """Create or change the users of these files; `now` is business time, which users do not carry.

    Raises BadInput where a file cannot be ingested at all (nothing is changed then, whatever the other files are), and
    IngestStopped where it ended early: what the summary counts is stored.
    """
    del now
    return _Run(UserIntake(database), options, progress).ingest(paths)


def ingest_items(
    database: Database, paths: Sequence[Path], now: datetime, options: Options = DEFAULTS, progress: Told | None = None
) -> Summary:
    """Create or change the items of these files; as `ingest_users`."""
    return _Run(ItemIntake(database, now, options), options, progress).ingest(paths)


def ingest_events(
    database: Database, paths: Sequence[Path], now: datetime, options: Options = DEFAULTS, progress: Told | None = None
) -> Summary:
    """Record the events of these files and fold them into the profiles; as `ingest_users`."""
    return _Run(EventIntake(database, now, options), options, progress).ingest(paths)


def ingest_promotions(
    database: Database, paths: Sequence[Path], now: datetime, options: Options = DEFAULTS, progress: Told | None = None
) -> Summary:
    """Record what these files announce of items' promotions, as of `now` where they do not say; as `ingest_users`."""
    return _Run(PromotionIntake(database, now, options), options, progress).ingest(paths)


def ingest_devices(
    database: Database,
    paths: Sequence[Path],
    now: datetime,
    options: Options = DEFAULTS,
    progress: Told | None = None,
    *,
    gateways: Collection[str],
) -> Summary:
    """Register the devices of these files, for `gateways` of these names; as `ingest_users`."""
    return _Run(DeviceIntake(database, now, options, gateways), options, progress).ingest(paths)


Checked = tuple[Block, Any, list[Reject], int]
"""A block, its rows that may be stored, those that may not, and the bytes of the file read so far."""


class _Run:
    """One ingest of some files of a kind."""

    def __init__(self, intake: Intake, options: Options, progress: Told | None) -> None:
        self._intake = intake
        self._options = options
        self._progress = progress
        self._summary = Summary(intake.kind)
        self._at = Progress(Path(), 0, 0, 0)
        self._began = monotonic()

    def ingest(self, paths: Sequence[Path]) -> Summary:
        files = []
        for path in paths:
            source, layout = look_at(self._intake.kind, path, self._options.mapping)
            files.append((source, layout, rejects_path(path, self._options.rejects)))
        _require_apart({source.path: target for source, _, target in files})
        for source, layout, target in files:
            self._one(source, layout, RejectsFile(target))
        return self._timed()

    def _one(self, source: Source, layout: Layout, rejects: RejectsFile) -> None:
        try:
            self._pass_on(source, layout, rejects)
            self._publish(rejects, complete=True)
        except (Cut, HoraeError, KeyboardInterrupt) as end:
            with suppress(HoraeError):  # the rejects file, where that is what failed
                self._publish(rejects, complete=False)
            raise self._stopped(source, end) from end

    def _pass_on(self, source: Source, layout: Layout, rejects: RejectsFile) -> None:
        """Read, check, store: one thread ahead of this one, one for each writer behind it."""
        under_way: deque[Future[Outcome]] = deque()
        with ExitStack() as stack:
            blocks = stack.enter_context(closing(self._checked(source, layout)))
            reader = stack.enter_context(ThreadPoolExecutor(1, "read"))
            writers = [stack.enter_context(ThreadPoolExecutor(1, "write")) for _ in range(self._intake.writers)]
            try:
                ahead = reader.submit(next, blocks, None)
                while (checked := ahead.result()) is not None:
                    ahead = reader.submit(next, blocks, None)
                    block, rows, refused, done = checked
                    self._refuse(refused, rejects)
                    for writer, part in self._intake.split(rows):
                        under_way.append(writers[writer].submit(self._intake.store, block, part))
                    while len(under_way) > AHEAD * len(writers):
                        self._settle(under_way, rejects)
                    self._tell(replace(self._at, file=source.path, done=done, total=source.size))
                self._settle_all(under_way, rejects)
            except Cut:
                self._settle_all(under_way, rejects)
                raise
            except BaseException:
                self._abandon(under_way, rejects)
                raise

    def _checked(self, source: Source, layout: Layout) -> Generator[Checked, None, None]:
        with closing(read_blocks(source, layout)) as blocks:
            for block, done in blocks:
                yield block, *self._intake.check(block), done

    def _settle_all(self, under_way: deque[Future[Outcome]], rejects: RejectsFile) -> None:
        while under_way:
            self._settle(under_way, rejects)

    def _abandon(self, under_way: deque[Future[Outcome]], rejects: RejectsFile) -> None:
        """Leave out what no writer has begun; what one has begun is finished and counted."""
        begun = deque(future for future in under_way if not future.cancel())
        while begun:
            failed = begun[0].exception() is not None  # the error that ended the ingest is the one to tell
            if failed:
                begun.popleft()
            else:
                self._settle(begun, rejects)

    def _settle(self, under_way: deque[Future[Outcome]], rejects: RejectsFile) -> None:
        """Wait for the oldest and count it."""
        stored, refused = under_way[0].result()
        summary = self._summary.plus(stored)
        # Counted and taken off together: a Ctrl-C lands while waiting, never between these two.
        self._summary = summary
        under_way.popleft()
        self._refuse(refused, rejects)
        self._tell(self._at)

    def _refuse(self, refused: Sequence[Reject], rejects: RejectsFile) -> None:
        rejects.add(refused)
        problems = dict(Counter(reject.problem for reject in refused))
        self._summary = self._summary.plus(Summary(self._intake.kind, rows=len(refused), rejected=problems))

    def _publish(self, rejects: RejectsFile, *, complete: bool) -> None:
        written = (str(rejects.target),) if rejects.finish(complete=complete) else ()
        self._summary = self._summary.plus(Summary(self._intake.kind, files=1, rejects_files=written))

    def _tell(self, at: Progress) -> None:
        self._at = replace(at, rows=self._summary.rows)
        if self._progress is not None:
            self._progress(self._at)

    def _stopped(self, source: Source, end: BaseException) -> IngestStopped:
        stored = f"{self._summary.rows - self._summary.refused:,} rows are stored"
        if isinstance(end, KeyboardInterrupt):
            message, hint = f"interrupted in {source.path}", "run the same command again to go on"
        elif isinstance(end, HoraeError):
            message, hint = f"{source.path}: {end.message}", end.hint or "run the same command again to go on"
        else:
            message, hint = f"{source.path}: {end}", "get the whole file and run the same command again"
        interrupted = isinstance(end, KeyboardInterrupt)
        return IngestStopped(f"{message}; {stored}", summary=self._timed(), interrupted=interrupted, hint=hint)

    def _timed(self) -> Summary:
        return replace(self._summary, seconds=monotonic() - self._began)


def _require_apart(targets: Mapping[Path, Path]) -> None:
    """Raise BadInput where the rejected rows of two files would go to one."""
    for target, count in Counter(targets.values()).items():
        if count > 1:
            raise BadInput(f"{count} files would share {target}", hint="ingest files of one name one after the other")
