"""Learning: today's model, and updates of it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tasks.app import app
from tasks.runtime import business_now, worker_runtime

if TYPE_CHECKING:
    from engine.learning.training import TrainReport

WARM_HOURS = 4


@app.task(name="horae.train", soft_time_limit=3 * 3600, time_limit=3 * 3600 + 60)
def train() -> dict:
    """Train today's model, unless that is done or under way, or a virtual clock's driver decides when."""
    return _learn("train", hours=24)


@app.task(name="horae.warm_update", soft_time_limit=1800, time_limit=1860)
def warm_update() -> dict:
    """Update the champion by what has matured since, once in WARM_HOURS hours."""
    return _learn("warm_update", hours=WARM_HOURS)


def _learn(name: str, hours: int) -> dict:
    from engine import clock
    from engine.learning import registry, training, warm
    from engine.store.ticks import once_in

    learn = {"train": training.train, "warm_update": warm.warm_update}[name]
    with worker_runtime() as runtime:
        with runtime.database.begin() as connection:
            if clock.is_virtual(connection):
                return {}

        def work() -> TrainReport | None:
            report = learn(runtime.database, business_now(runtime), options=training.Options(threads=1))
            return report if report.version is not None else None  # too little to learn from as yet

        report = once_in(runtime.database, name, clock.machine_now(), work, hours=hours)
        if report is None:
            return {}
        with runtime.database.begin() as connection:
            registry.prune(connection)
    return {"version": report.version, "promoted": report.promoted}
