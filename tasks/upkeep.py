"""Upkeep: what time leaves behind."""

from __future__ import annotations

from tasks.app import app
from tasks.runtime import worker_runtime


@app.task(name="horae.upkeep")
def upkeep() -> dict:
    """Rescue expired leases, expire late pushes, make partitions ahead."""
    from engine import clock
    from engine.delivery import upkeep as keeping

    with worker_runtime() as runtime:
        with runtime.database.begin() as connection:
            now = clock.business_now(connection)
        return keeping.upkeep(runtime, now)
