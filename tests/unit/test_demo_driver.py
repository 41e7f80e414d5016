"""How the demo's driver steps and whom it wakes."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import numpy as np
import pyarrow as pa
import pytest

from engine.clock import LONGEST_STEP
from engine.demo.driver import TASKS, Open, rows_of, steps
from engine.planning.wake import QUEUES

NOON = datetime(2017, 10, 16, 16, tzinfo=UTC)


@pytest.mark.parametrize("length", [timedelta(minutes=1), timedelta(hours=3), timedelta(hours=1, minutes=7)])
def test_steps_reach_the_end_and_none_is_longer_than_the_clock_allows(length: timedelta) -> None:
    found = list(steps(NOON, NOON + length))

    assert found[0][0] == NOON
    assert found[-1][1] == NOON + length
    assert all(timedelta() < now - before <= LONGEST_STEP for before, now in found)
    assert [now for _, now in found[:-1]] == [before for before, _ in found[1:]]


def test_only_work_that_there_is_counts_as_open() -> None:
    assert not Open()
    assert Open(pushes=1).kinds == {"pushes"}
    assert Open(occurrences=1, events=2).kinds == {"occurrences", "events"}


def test_wake_ups_go_to_the_queues_that_workers_serve() -> None:
    assert set(TASKS.values()) <= set(QUEUES)


def test_events_become_what_ingest_takes() -> None:
    table = pa.table(
        {
            "event_id": ["1:7", "2:-1"],
            "user_id": ["1", "2"],
            "item_id": pa.array(["milk", None], pa.string()),
            "event_type": ["purchase", "purchase"],
            "occurred_at": pa.array([NOON, NOON], pa.timestamp("us", tz="UTC")),
            "value": [1.5, 0.0],
            "quantity": pa.array([2.0, None], pa.float64()),
        }
    )

    rows = rows_of(table)

    assert len(rows) == 2
    assert rows.item.to_pylist() == ["milk", None]
    assert rows.occurred_at.tolist() == [NOON.replace(tzinfo=None)] * 2
    assert rows.value.tolist() == [1.5, 0.0]
    assert np.isnan(rows.quantity[1])
    assert len(rows_of(table.slice(0, 0))) == 0
