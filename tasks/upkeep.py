"""Upkeep: what time leaves behind."""

from __future__ import annotations

from tasks.app import app
from tasks.runtime import business_now, worker_runtime


@app.task(name="horae.upkeep")
def upkeep() -> dict:
    """Rescue expired leases, expire late pushes, make partitions ahead."""
    from engine.delivery import upkeep as keeping

    with worker_runtime() as runtime:
        return keeping.upkeep(runtime, business_now(runtime))
