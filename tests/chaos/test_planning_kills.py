"""Planning processes, really killed: nothing half, nothing twice, nothing lost."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from pathlib import Path

from sqlalchemy import text

from engine.config import Settings
from engine.planning import locks, run
from engine.planning.wake import ignore
from engine.runtime import Runtime
from engine.store.database import Database
from tests.planning_shop import NOW, USERS, Workers, create, daily, fill_shop, reasons, rows

SHARDS = 8


def work(home: Path, database_url: str, run_id: int) -> None:
    """Plan shard after shard, as a worker does."""
    settings = Settings.model_validate({"home": home, "database_url": database_url})
    runtime = Runtime(settings, Database(database_url), "", "", "")
    for shard in range(SHARDS):
        run.plan_shard(runtime, run_id, shard, ignore)


def test_a_killed_planner_leaves_nothing_half_and_the_next_one_finishes(runtime: Runtime) -> None:
    shop = fill_shop(runtime)
    settings = runtime.settings.model_copy(update={"shard_slots": 1024 // SHARDS})
    create(shop, daily(capacity_per_quarter=4))
    opened = run.tick_campaigns(Runtime(settings, shop.database, "", "", ""), NOW, ignore)["run"]
    context = multiprocessing.get_context("spawn")
    planner = context.Process(target=work, args=(settings.home, shop.database.libpq_url, opened))
    planner.start()
    begun = "SELECT count(*) FILTER (WHERE state = 'done'), count(*) FILTER (WHERE state = 'planning') FROM shards"
    while not (rows(shop, begun)[0][0] >= 2 and rows(shop, begun)[0][1] > 0):
        assert planner.is_alive()
        threading.Event().wait(0.002)
    assert planner.pid is not None
    os.kill(planner.pid, signal.SIGKILL)
    planner.join()

    ((finished, users),) = rows(shop, "SELECT shards_done, users_done FROM runs")
    assert 2 <= finished < SHARDS
    assert sum(reasons(shop).values()) == users
    assert rows(shop, "SELECT count(*) FROM pushes")[0][0] == reasons(shop)["planned"]
    with shop.database.begin() as connection:  # SILENCE passes, the lease has long to go; its locks went with it
        silent = text("UPDATE shards SET lease_until = lease_until - CAST(:by AS interval) WHERE state = 'planning'")
        connection.execute(silent, {"by": locks.SILENCE})
    Workers(shop).recover()

    assert rows(shop, "SELECT state, users_done FROM runs") == [("published", USERS)]
    assert sum(reasons(shop).values()) == USERS
    assert rows(shop, "SELECT count(*) FROM pushes WHERE state = 'planned'")[0][0] == reasons(shop)["planned"]
    assert rows(shop, "SELECT count(*) FROM decisions WHERE revision = 0")[0][0] == USERS
