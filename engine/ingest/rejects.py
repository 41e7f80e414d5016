"""FILE.rejects.jsonl: the rows that were not taken, each with its line, the reason, and the row as read.

It appears whole or not at all, when the file has been read; a file without rejected rows removes what an earlier run
left there.
"""

from __future__ import annotations

import errno
import json
import math
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from engine.errors import BadInput, DiskFull
from engine.ingest.block import Reject


def rejects_path(file: Path, folder: Path | None) -> Path:
    """Where the rejected rows of `file` go: beside it, or into `folder`.

    Raises BadInput where nothing can be written there.
    """
    target = (folder or file.parent) / f"{file.name}.rejects.jsonl"
    if not os.access(target.parent, os.W_OK):
        raise BadInput(f"{target} could not be written", hint="give a folder for rejected rows with --rejects")
    return target


class RejectsFile:
    """The rejected rows of one file."""

    def __init__(self, target: Path) -> None:
        self.target = target
        self._part = target.with_name(f".{target.name}.part")
        self._file: IO[str] | None = None

    def add(self, rejects: Sequence[Reject]) -> None:
        """Add rows. Raises DiskFull, or BadInput where the folder cannot be written."""
        if not rejects:
            return
        with _told(self.target):
            if self._file is None:
                self._file = self._part.open("w", encoding="utf-8", errors="backslashreplace")
            self._file.writelines(_line(reject) for reject in rejects)

    def finish(self, *, complete: bool) -> bool:
        """Publish what was added; whether there was anything. A `complete` run without rejects removes an old file."""
        file, self._file = self._file, None
        if file is None:
            if complete:
                self.target.unlink(missing_ok=True)
            return False
        with _told(self.target):
            with file:
                file.flush()
                os.fsync(file.fileno())
            self._part.replace(self.target)
        return True


@contextmanager
def _told(target: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise DiskFull(f"no space left for {target}", hint="free some and run the command again") from error
        raise BadInput(f"{target} cannot be written: {error.strerror}", hint="try --rejects FOLDER") from error


def _line(reject: Reject) -> str:
    reason = f"{reject.problem} ({reject.detail})" if reject.detail else reject.problem
    row = reject.row
    if isinstance(row, dict):
        row = {name: _storable(value) for name, value in row.items()}
    held = {"line": reject.line, "reason": reason, "row": row}
    return json.dumps(held, ensure_ascii=False, default=str) + "\n"


def _storable(value: object) -> object:
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value
