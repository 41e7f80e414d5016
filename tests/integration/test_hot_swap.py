"""Another model takes over while a worker process serves: no restart, and no run with two models."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from engine.learning import registry
from engine.learning.head import Head
from engine.planning import receipt
from engine.planning.run import tick_campaigns
from engine.planning.wake import ignore
from engine.runtime import Runtime
from tests.models import small_model
from tests.planning_shop import NOW, create, daily, fill_shop, rows
from tests.running import PROJECT, environment

WORKER = """
import os, sys
from engine.planning.run import plan_shard
from engine.planning.wake import ignore
from engine.runtime import open_runtime
runtime = open_runtime()
for line in sys.stdin:
    run, shard = map(int, line.split())
    print(plan_shard(runtime, run, shard, ignore)["decisions"], os.getpid(), flush=True)
"""


@pytest.fixture
def worker(runtime: Runtime, tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """A process that plans the shards it is told of, as a pool child of Celery does."""
    servers = {"HORAE_DATABASE_URL": runtime.database.libpq_url, "HORAE_REDIS_URL": runtime.settings.redis_url or ""}
    process = subprocess.Popen(
        [sys.executable, "-c", WORKER],
        env=environment(tmp_path / "home", servers),
        cwd=PROJECT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    yield process
    assert process.stdin is not None
    process.stdin.close()
    assert process.wait(30) == 0
    assert process.stdout is not None
    process.stdout.close()


def plan(worker: subprocess.Popen[str], run: int, shard: int) -> int:
    """Have the worker plan a shard; its process id."""
    assert worker.stdin is not None
    assert worker.stdout is not None
    worker.stdin.write(f"{run} {shard}\n")
    worker.stdin.flush()
    decisions, pid = map(int, worker.stdout.readline().split())
    assert decisions > 0
    return pid


def test_a_promoted_model_plans_the_next_run_of_a_running_worker_and_no_shard_of_the_one_before(
    runtime: Runtime, worker: subprocess.Popen[str]
) -> None:
    shop = fill_shop(runtime)
    with shop.database.begin() as connection:
        first, second = (registry.register(connection, small_model(head), {}) for head in (None, Head(-1.0, 1.0, 1.0)))
        registry.promote(connection, first)
    create(shop, daily())
    before = tick_campaigns(shop, NOW, ignore)["run"]
    pids = {plan(worker, before, 0)}

    with shop.database.begin() as connection:
        registry.promote(connection, second)
    pids.add(plan(worker, before, 1))
    create(shop, daily(name="another"))
    after = tick_campaigns(shop, NOW, ignore)["run"]
    pids.add(plan(worker, after, 0))

    assert len(pids) == 1
    used = {
        (row.run_id, row.shard): {(told.model, told.regime) for told in map(receipt.decode, row.receipts)}
        for row in rows(shop, "SELECT run_id, shard, array_agg(receipt) AS receipts FROM decisions GROUP BY 1, 2")
    }
    assert used == {
        (before, 0): {(first, "goal")},
        (before, 1): {(first, "goal")},
        (after, 0): {(second, "click")},
    }
