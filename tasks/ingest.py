"""Ingest: fold accepted events into profiles."""

from __future__ import annotations

from tasks.app import app
from tasks.runtime import wake, worker_runtime


@app.task(name="horae.fold")
def fold() -> dict:
    """Fold the events that wait into profiles."""
    from engine.ingest.fold import fold_all

    def folded() -> None:
        wake("horae.refresh")  # what was folded may change what is planned
        wake("horae.tick_triggers")  # … and make something due

    with worker_runtime() as runtime:
        return {"events": fold_all(runtime.database, folded)}
