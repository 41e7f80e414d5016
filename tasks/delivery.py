"""Delivery: send what is due."""

from __future__ import annotations

from tasks.app import app
from tasks.runtime import business_now, wake, worker_runtime


@app.task(name="horae.dispatch_due")
def dispatch_due() -> dict:
    """Send the pushes that are due now."""
    from engine.delivery import dispatch

    with worker_runtime() as runtime:
        return dispatch.dispatch_due(runtime, business_now(runtime), wake)
