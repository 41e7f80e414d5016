"""Callbacks from a file of JSON Lines, such as an app's own server gathers them."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from datetime import datetime
from itertools import islice
from pathlib import Path

from engine.delivery.callbacks import MOST_AT_ONCE, accept, summary
from engine.errors import BadInput
from engine.store.database import Database


def rejects_of(path: Path) -> Path:
    """Where the refused lines of a file go."""
    return path.with_name(f"{path.name}.rejects.jsonl")


def ingest(database: Database, now: datetime, path: Path) -> Counter[str]:
    """Take the callbacks of a file, received at business time `now`; how many of each answer (`callbacks.summary`).

    Lines refused are written to `rejects_of(path)` with number, reason and detail. Raises BadInput where the file
    cannot be read; what was taken stays, and reading it again changes nothing more.
    """
    totals: Counter[str] = Counter()
    rejects: list[str] = []
    try:
        with path.open(encoding="utf-8", errors="replace") as file:
            lines = enumerate(file, 1)
            while batch := list(islice(_filled(lines), MOST_AT_ONCE)):
                answers = accept(database, now, [_read(line) for _, line in batch])
                totals.update(summary(answers))
                for (number, line), answer in zip(batch, answers, strict=True):
                    if answer.status == "refused":
                        row = {"line": number, "reason": answer.reason, "detail": answer.detail, "row": _shown(line)}
                        rejects.append(json.dumps(row, ensure_ascii=False) + "\n")
        if rejects:
            rejects_of(path).write_text("".join(rejects), encoding="utf-8")
        else:
            rejects_of(path).unlink(missing_ok=True)
    except OSError as error:
        raise BadInput(f"{path}: {error.strerror or error}") from error
    return totals


def _filled(lines: Iterator[tuple[int, str]]) -> Iterator[tuple[int, str]]:
    return ((number, line) for number, line in lines if line.strip())


def _read(line: str) -> object:
    try:
        return json.loads(line)
    except (json.JSONDecodeError, RecursionError):
        return line


def _shown(line: str) -> object:
    """The row without its token: the rejects file is for people."""
    row = _read(line)
    return {name: value for name, value in row.items() if name != "callback_token"} if isinstance(row, dict) else row
