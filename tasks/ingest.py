"""Ingest: fold accepted events into profiles."""

from __future__ import annotations

from tasks.app import app
from tasks.runtime import wake, worker_runtime


@app.task(name="horae.fold")
def fold() -> dict:
    """Fold the events that wait into profiles."""
    from engine.ingest.fold import fold_all

    with worker_runtime() as runtime:
        # What was folded may make something due. Late binding does not wait for it.
        return {"events": fold_all(runtime.database, lambda: wake("horae.tick_triggers"))}
