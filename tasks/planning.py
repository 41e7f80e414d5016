"""Planning: look for due campaigns, plan one shard, settle a run, plan users with new events again."""

from __future__ import annotations

from tasks.app import app
from tasks.runtime import business_now, wake, worker_runtime


@app.task(name="horae.tick_campaigns")
def tick_campaigns() -> dict:
    """Open a run over the occurrences that have become due; wake its shards, and those that were forgotten."""
    from engine.planning import run

    with worker_runtime() as runtime:
        return run.tick_campaigns(runtime, business_now(runtime), wake)


@app.task(name="horae.tick_triggers")
def tick_triggers() -> dict:
    """Arm, call off and hand on the triggers of event-triggered campaigns."""
    from engine.planning import firing

    with worker_runtime() as runtime:
        return firing.tick_triggers(runtime, business_now(runtime), wake)


@app.task(name="horae.plan_shard")
def plan_shard(run_id: int, shard: int) -> dict:
    """Plan one shard of a run."""
    from engine.planning import run

    with worker_runtime() as runtime:
        return run.plan_shard(runtime, run_id, shard, wake)


@app.task(name="horae.settle")
def settle(run_id: int) -> dict:
    """Settle a run whose shards are done, and publish its pushes."""
    from engine.planning import run

    with worker_runtime() as runtime:
        return run.settle(runtime, run_id, wake)


@app.task(name="horae.refresh")
def refresh() -> dict:
    """Plan the pushes of users with new events again."""
    from engine.planning import refresh as late

    with worker_runtime() as runtime:
        now = business_now(runtime)
        found = late.refresh(runtime, now, wake)
        if not found:
            late.keep_ready(runtime, now)
        return found
