"""Work in a process of its own. This module imports little: the processes import it again."""

from __future__ import annotations

import os
from typing import Any

import pytest

from engine.demo.apart import apart, peak_mb
from engine.errors import BadInput, HoraeError

MEGABYTE = 1 << 20


def held(megabytes: int, tell: Any) -> int:
    tell("holding", 0.5)
    return len(bytearray(b"x") * (megabytes * MEGABYTE))


def refused(tell: Any) -> None:
    del tell
    raise BadInput("not like this", hint="but so")


def killed(tell: Any) -> None:
    del tell
    os._exit(3)


def test_work_in_a_process_of_its_own_is_measured_by_itself() -> None:
    told: list[tuple[str, float]] = []
    ballast = bytearray(b"x") * (400 * MEGABYTE)  # what this process holds must not count there

    size, peak = apart(held, 100, tell=lambda what, share: told.append((what, share)))

    assert size == 100 * MEGABYTE
    assert 100 < peak < 400 < peak_mb()
    assert len(ballast) == 400 * MEGABYTE
    assert told == [("holding", 0.5)]


def test_errors_come_back_and_an_early_end_is_told() -> None:
    with pytest.raises(BadInput, match="not like this") as failed:
        apart(refused, tell=lambda *_: None)
    assert failed.value.hint == "but so"
    with pytest.raises(HoraeError, match="exit code 3"):
        apart(killed, tell=lambda *_: None)
