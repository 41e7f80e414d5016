"""The log gateway: a JSON Lines journal, the default way out. It needs no device and no consent record.

Several processes append to one file. Each batch is one write under an exclusive lock, then fsync: lines never
interleave, and a batch that did not fit on the disk is cut off again, so that a line stands for an accepted push.
"""

from __future__ import annotations

import fcntl
import json
import math
import os
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path

from engine.clock import monotonic
from engine.config import Settings
from engine.delivery.gateways import Kind, Outcome, Outgoing
from engine.delivery.gateways.exchange import NO_TIME


class LogGateway:
    """Appends each push as one line: when, which, whose, what it said, whether it was a test."""

    name = "log"
    needs_device = False
    timeout = timedelta(seconds=1)

    def __init__(self, path: Path) -> None:
        self.path = path

    def send_many(self, messages: Sequence[Outgoing], start_by: float = math.inf) -> list[Outcome]:
        """Append `messages` as one write; accepted once they are on disk. A full disk takes none of them."""
        if monotonic() > start_by:
            return [Outcome(Kind.RETRY, detail=NO_TIME)] * len(messages)
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(self.path, os.O_APPEND | os.O_CREAT | os.O_RDWR, 0o640)
        except OSError as error:
            return [_not_written(error)] * len(messages)
        try:
            return [_append(descriptor, b"".join(map(_line, messages)))] * len(messages)
        finally:
            os.close(descriptor)

    def close(self) -> None:
        """Nothing stays open between batches, so that the file may be rotated."""


def build(settings: Settings) -> LogGateway:
    """The log gateway; always configured."""
    return LogGateway(settings.journal_path)


def _append(descriptor: int, batch: bytes) -> Outcome:
    """Append `batch` whole or not at all."""
    fcntl.flock(descriptor, fcntl.LOCK_EX)  # released when the descriptor is closed
    size = os.fstat(descriptor).st_size
    if size and os.pread(descriptor, 1, size - 1) != b"\n":
        batch = b"\n" + batch  # a power cut left half a line behind: it must not swallow ours
    try:
        written = os.write(descriptor, batch)
    except OSError as error:
        return _not_written(error)
    if written != len(batch):
        os.ftruncate(descriptor, size)
        return Outcome(Kind.RETRY, detail=f"the disk is full: {written} of {len(batch)} bytes fitted the journal")
    try:
        os.fsync(descriptor)
    except OSError as error:
        return Outcome(Kind.UNKNOWN, detail=f"the journal may not have reached the disk: {error}")
    return Outcome(Kind.ACCEPTED)


def _not_written(error: OSError) -> Outcome:
    return Outcome(Kind.RETRY, detail=f"the journal cannot be written: {error}")


def _line(message: Outgoing) -> bytes:
    record = {
        "at": message.at.isoformat(),
        "push_id": str(message.push_id),
        "callback_token": message.callback_token,
        "occurrence_id": message.occurrence_id,
        "campaign": message.campaign,
        "user_id": message.user_id,
        "item_id": message.item_id,
        "title": message.title,
        "body": message.body,
        "data": dict(message.data),
        "test": message.test,
    }
    return json.dumps(record, ensure_ascii=False, separators=(",", ":")).encode() + b"\n"
