"""Learning: train once a day."""

from __future__ import annotations

from tasks.app import app
from tasks.runtime import business_now, worker_runtime


@app.task(name="horae.train", soft_time_limit=3 * 3600, time_limit=3 * 3600 + 60)
def train() -> dict:
    """Train today's model unless that is done or under way."""
    from engine import clock
    from engine.learning.training import train as train_model
    from engine.store.ticks import once_a_day

    with worker_runtime() as runtime, once_a_day(runtime.database, "train", clock.machine_now()) as mine:
        if not mine:
            return {"trained": False}
        report = train_model(runtime.database, business_now(runtime))
        return {"trained": True, "version": report.version}
