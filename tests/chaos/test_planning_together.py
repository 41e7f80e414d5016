"""Two runs, a trigger and refreshes at once, in real processes of which one is killed: the caps hold for every user."""

from __future__ import annotations

import itertools
import multiprocessing
import os
import signal
import threading
from pathlib import Path

from sqlalchemy import text

from engine.campaigns.policy import Cap, GatewayRule
from engine.campaigns.policy_store import save_policy
from engine.config import Settings
from engine.planning import run
from engine.planning import trigger as triggers
from engine.planning.refresh import refresh
from engine.planning.wake import ignore
from engine.runtime import Runtime
from engine.store.database import Database
from tests.planning_shop import NOW, USERS, Workers, create, daily, fill_shop, rows, set_caps

SHARDS = 4
MARK = "INSERT INTO changed_users SELECT id, slot, '{now}' FROM users WHERE id % 9 = {nth} ON CONFLICT DO NOTHING"


def runtime_of(home: Path, database_url: str) -> Runtime:
    settings = Settings.model_validate({"home": home, "database_url": database_url})
    return Runtime(settings, Database(database_url), "", "", "")


def plan(home: Path, database_url: str, run_ids: tuple[int, ...]) -> None:
    """Plan and settle runs, as a worker does."""
    runtime = runtime_of(home, database_url)
    for run_id in run_ids:
        for shard in range(SHARDS):
            run.plan_shard(runtime, run_id, shard, ignore)
        run.settle(runtime, run_id, ignore)


def keep_refreshing(home: Path, database_url: str) -> None:
    """Mark some users and refresh, again and again, until killed."""
    runtime = runtime_of(home, database_url)
    for nth in itertools.count():
        with runtime.database.begin() as connection:
            connection.execute(text(MARK.format(now=NOW.isoformat(), nth=nth % 9)))
        refresh(runtime, NOW, ignore)


def test_runs_a_trigger_and_refreshes_at_once_keep_every_cap(runtime: Runtime) -> None:
    shop = fill_shop(runtime)
    set_caps(shop, Cap(scope="all", limit=1, window="local_day"))
    with shop.database.begin() as connection:
        rule = GatewayRule(gateway="log", per_quarter=6)  # settlements have something to move
        save_policy(connection, lambda policy: policy.model_copy(update={"gateways": (rule,)}))
    create(shop, daily(horizon="40h"), daily(name="by-hand", schedule=None, horizon="40h", priority=3))
    workers = Workers(shop)
    workers.tick()
    create(shop, daily(name="sale", horizon="40h", priority=2), daily(name="news", horizon="40h", priority=2))
    first = run.tick_campaigns(shop, NOW, ignore)["run"]
    made = triggers.trigger(shop.database, NOW, "by-hand", triggers.Request())
    second = run.open_runs(shop, NOW, made.starts_at, only=made.occurrence_id)
    context, url, home = multiprocessing.get_context("spawn"), shop.database.libpq_url, shop.settings.home
    refreshing = context.Process(target=keep_refreshing, args=(home, url))
    planning = [context.Process(target=plan, args=(home, url, one)) for one in ((first,), (second, first))]
    for process in (refreshing, *planning):
        process.start()
    done = "SELECT count(*) FROM shards WHERE state = 'done' AND run_id > 1"
    while rows(shop, done)[0][0] < 2:
        threading.Event().wait(0.01)
    assert planning[0].pid is not None
    os.kill(planning[0].pid, signal.SIGKILL)
    for process in planning:
        process.join()
    refreshing.kill()
    refreshing.join()
    with shop.database.begin() as connection:  # the leases of the dead run out
        connection.execute(text("UPDATE shards SET lease_until = clock_timestamp() WHERE state = 'planning'"))
        connection.execute(text("UPDATE runs SET lease_until = clock_timestamp() WHERE state = 'settling'"))
    workers.recover()

    assert {row.state for row in rows(shop, "SELECT state FROM runs")} == {"published"}
    days = rows(
        shop,
        "SELECT p.user_id, (p.send_at AT TIME ZONE coalesce(u.timezone, 'UTC'))::date AS day, count(*) AS n"
        " FROM pushes p JOIN users u ON u.id = p.user_id GROUP BY 1, 2",
    )
    assert max(day.n for day in days) == 1
    quarters = rows(shop, "SELECT floor(extract(epoch FROM send_at) / 900), count(*) AS n FROM pushes GROUP BY 1")
    assert max(row.n for row in quarters) <= 6
    assert {
        row.name for row in rows(shop, "SELECT DISTINCT name FROM campaigns c JOIN pushes p ON p.campaign_id = c.id")
    }
    decided = rows(shop, "SELECT count(DISTINCT (occurrence_id, user_id)) FROM decisions")[0][0]
    assert decided == 4 * USERS
    ends = "SELECT count(*) FROM decisions d WHERE reason = 0 AND NOT EXISTS (SELECT 1 FROM decisions e WHERE"
    last = " e.occurrence_id = d.occurrence_id AND e.user_id = d.user_id AND e.revision > d.revision)"
    assert rows(shop, ends + last)[0][0] == rows(shop, "SELECT count(*) FROM pushes")[0][0]
