"""Delivery: send what is due."""

from __future__ import annotations

from tasks.app import app
from tasks.runtime import wake, worker_runtime


@app.task(name="horae.dispatch_due")
def dispatch_due() -> dict:
    """Send the pushes that are due now."""
    from engine import clock
    from engine.delivery import dispatch

    with worker_runtime() as runtime:
        with runtime.database.begin() as connection:
            now = clock.business_now(connection)
        return dispatch.dispatch_due(runtime, now, wake)
