"""Learning: train once a day."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tasks.app import app
from tasks.runtime import business_now, worker_runtime

if TYPE_CHECKING:
    from engine.learning.training import TrainReport


@app.task(name="horae.train", soft_time_limit=3 * 3600, time_limit=3 * 3600 + 60)
def train() -> dict:
    """Train today's model, unless that is done or under way, or a virtual clock's driver decides when."""
    from engine import clock
    from engine.learning.training import Options, train
    from engine.store.ticks import once_a_day

    with worker_runtime() as runtime:
        with runtime.database.begin() as connection:
            if clock.is_virtual(connection):
                return {}

        def work() -> TrainReport | None:
            report = train(runtime.database, business_now(runtime), options=Options(threads=1))
            return report if report.version is not None else None  # too little to learn from as yet

        report = once_a_day(runtime.database, "train", clock.machine_now(), work)
    return {} if report is None else {"version": report.version, "promoted": report.promoted}
