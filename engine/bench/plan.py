"""`horae bench plan`: a whole run, from the database to published push rows, beside the yardstick.

Two worker processes plan the shards, as Celery's would, and settle; before and after, the same processes predict half
of 162 rows a user with the yardstick model, so that a machine that others use too is as busy for both. Of many users
it predicts the rows of some and counts them up: its time is even to the row. `plan_growth_ratio` is time per user;
`plan_growth_in_yardsticks` says the same on a machine that others use too. The plan itself scores fewer rows: (offer,
window) pairs whose windows fall in one cell of the week share a score, and so do occurrences about the same items.
"""

from __future__ import annotations

import multiprocessing
import resource
import statistics
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import xgboost
from sqlalchemy import text

from engine import clock
from engine.bench.loads import END
from engine.bench.report import Options, Report, Tell
from engine.bench.scratch import scratch_database
from engine.bench.shop import build_shop
from engine.bench.yardstick import BATCH_ROWS, yardstick_model, yardstick_rows, yardstick_seconds
from engine.campaigns import store
from engine.campaigns.definition import Campaign
from engine.campaigns.policy import Cap
from engine.campaigns.policy_store import save_policy
from engine.config import read_settings
from engine.planning import run as planning
from engine.planning.opening import set_scene
from engine.planning.runspec import read_run
from engine.planning.scene import Scene, plan_block
from engine.planning.wake import ignore
from engine.runtime import Runtime
from engine.store.database import Database
from engine.store.tables import DECISION_REASONS

USERS, ROUNDS = 20_000, 3
GROWN_FROM, GROWN_USERS = 100_000, 1_000_000
"""From GROWN_USERS on, the time per user is also measured on GROWN_FROM users; each once."""

ROWS_A_USER = 50 + 8 * 14
"""Model rows of a user by the design: 50 candidates, then the best 8 offers × 14 windows."""

WORKERS = 2
VALUE_USERS = 2_000
YARDSTICK_USERS = 20_000
"""The yardstick predicts the rows of at most so many users."""

BOUNDS = {
    "plan_per_yardstick_ratio": "<= 2",
    "plan_growth_ratio": "<= 1.15",
    "plan_value_ratio": ">= 0.99",
    "worker_peak_mb": "<= 1000",
}


def run(options: Options, tell: Tell) -> Report:
    """Run the bench."""
    users = options.users or USERS
    sizes = [users] if users < GROWN_USERS else [GROWN_FROM, users]
    rounds = options.repeats or (ROUNDS if users < GROWN_USERS else 1)
    measured = [_measure(size, rounds, options.seed, tell) for size in sizes]
    load, figures = measured[-1]
    if len(measured) > 1:
        before = measured[0][1]
        figures["plan_growth_ratio"] = figures["plan_us_per_user"] / before["plan_us_per_user"]
        grown = figures["plan_per_yardstick_ratio"] / before["plan_per_yardstick_ratio"]
        figures["plan_growth_in_yardsticks"] = grown
        figures["plan_s_of_the_smaller"] = before["plan_s"]
    return Report("plan", load, figures, {name: bound for name, bound in BOUNDS.items() if name in figures})


def campaigns(users: int) -> tuple[Campaign, ...]:
    """The two campaigns that are due: one of them with a capacity that binds in about three windows."""
    common: dict[str, Any] = {
        "class": "marketing",
        "schedule": {"once": "2026-03-02T18:00", "zone": "local"},
        "horizon": "3d",
        "items": "personalised",
        "message": {"title": "For you", "body": "{{ item.title }}"},
    }
    return (
        Campaign.model_validate(common | {"name": "daily", "capacity_per_quarter": max(users // 180, 1)}),
        Campaign.model_validate(common | {"name": "sale", "tags": ["sale"], "priority": 0.8}),
    )


CAPS = (
    Cap(id="cap-1", scope="all", limit=1, window="rolling:PT20H"),
    Cap(id="cap-2", scope="all", limit=4, window="local_week"),
    Cap(id="cap-3", scope="tag:sale", limit=1, window="rolling:P3D"),
    Cap(id="cap-4", scope="category:category 0", limit=1, window="local_day"),
)


# --- measuring -------------------------------------------------------------------------------------------------------


def _measure(users: int, rounds: int, seed: int, tell: Tell) -> tuple[dict[str, object], dict[str, float]]:
    tell(f"making a shop of {users:,} users")
    with scratch_database(read_settings(), "plan") as database:
        described = build_shop(database, users, seed, tell)
        _prepare(database, users)
        model = bytes(yardstick_model().save_raw("ubj"))
        plans, yardsticks = [], []
        with _workers(database.libpq_url, model) as pool:
            for number in range(rounds):
                _reset(database)
                tell(f"round {number + 1} of {rounds}: half of the yardstick")
                half = _half_a_yardstick(pool, users)
                tell(f"round {number + 1} of {rounds}: planning {users:,} users")
                plans.append(_plan(_runtime(database.libpq_url), pool))
                tell(f"round {number + 1} of {rounds}: planned in {plans[-1]:.0f} s; the other half of the yardstick")
                yardsticks.append(half + _half_a_yardstick(pool, users))
            peak = max(pool.map(_peak_mb, range(WORKERS)))
        tell("the value of all offers beside it")
        seconds = statistics.median(plans)
        figures = {
            "plan_per_yardstick_ratio": statistics.median(p / y for p, y in zip(plans, yardsticks, strict=True)),
            "plan_value_ratio": _value_ratio(_runtime(database.libpq_url), users),
            "worker_peak_mb": peak,
            "plan_s": seconds,
            "yardstick_s": statistics.median(yardsticks),
            "plan_us_per_user": seconds / users * 1e6,
            "users_per_s": users / seconds,
        }
        more = {"rows_a_user": ROWS_A_USER, "workers": WORKERS, "rounds": rounds, **_counts(database)}
        return described | more, figures


def _prepare(database: Database, users: int) -> None:
    with database.begin() as connection:
        save_policy(connection, lambda policy: policy.model_copy(
            update={"caps": CAPS, "min_gap": timedelta(hours=4), "holdout": 0.05}
        ))  # fmt: skip
        for campaign in campaigns(users):
            store.create(connection, campaign, END)


def _reset(database: Database) -> None:
    """Forget the last round's run."""
    with database.begin() as connection:
        connection.execute(text("TRUNCATE decisions, pushes, shards, occurrences, runs CASCADE"))
        connection.execute(text("UPDATE campaigns SET scheduled_until = NULL"))


def _plan(runtime: Runtime, pool: ProcessPoolExecutor) -> float:
    """Seconds from the tick that finds the campaigns due to published push rows."""
    started = clock.monotonic()
    opened = planning.tick_campaigns(runtime, END, ignore)["run"]
    with runtime.database.begin() as connection:
        shards = connection.execute(text("SELECT shard FROM shards ORDER BY shard")).scalars().all()
    list(pool.map(_plan_shard, [opened] * len(shards), shards))
    pool.submit(_settle, opened).result()
    seconds = clock.monotonic() - started
    with runtime.database.begin() as connection:
        state = connection.execute(text("SELECT state FROM runs")).scalar_one()
    runtime.database.dispose()
    assert state == "published"
    return seconds


def _half_a_yardstick(pool: ProcessPoolExecutor, users: int) -> float:
    """Seconds of predicting half of the rows of `users`."""
    predicted = min(users, YARDSTICK_USERS)
    started = clock.monotonic()
    list(pool.map(_predict, [predicted * ROWS_A_USER // 2 // WORKERS] * WORKERS))
    return (clock.monotonic() - started) * users / predicted


def _counts(database: Database) -> dict[str, object]:
    with database.begin() as connection:
        rows = connection.execute(
            text("SELECT reason, revision, count(*) AS n FROM decisions GROUP BY 1, 2 ORDER BY 1, 2")
        ).all()
        quarters = connection.execute(
            text(
                "SELECT count(*) FROM (SELECT count(*) AS n FROM pushes p JOIN campaigns c ON c.id = p.campaign_id"
                " WHERE c.name = 'daily' GROUP BY floor(extract(epoch FROM send_at) / 900)) q,"
                " (SELECT (definition->>'capacity_per_quarter')::int AS most FROM campaign_versions"
                "  WHERE definition->>'name' = 'daily') c WHERE q.n >= c.most"
            )
        ).scalar_one()
    decided = {DECISION_REASONS[row.reason] + (", revised" if row.revision else ""): row.n for row in rows}
    return {"decisions": decided, "binding_quarters": quarters}


# --- in the workers --------------------------------------------------------------------------------------------------


class _Worker:
    """A worker process: its runtime and the yardstick."""

    runtime: Runtime
    yardstick: Any
    batch: np.ndarray


@contextmanager
def _workers(url: str, model: bytes) -> Iterator[ProcessPoolExecutor]:
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(WORKERS, mp_context=context, initializer=_start, initargs=(url, model)) as pool:
        list(pool.map(_ready, range(WORKERS * 4)))
        yield pool


def _runtime(url: str) -> Runtime:
    return Runtime(read_settings(database_url=url), Database(url), "", "", "")


def _start(url: str, model: bytes) -> None:
    _Worker.runtime = _runtime(url)
    _Worker.yardstick, _Worker.batch = xgboost.Booster(model_file=bytearray(model)), yardstick_rows(BATCH_ROWS)
    _Worker.yardstick.set_param({"nthread": 1})


def _ready(_number: int) -> None:
    """Keeps one worker busy until the other has started too."""
    _predict(BATCH_ROWS * 10)


def _plan_shard(run_id: int, shard: int) -> None:
    planning.plan_shard(_Worker.runtime, run_id, shard, ignore)


def _settle(run_id: int) -> None:
    planning.settle(_Worker.runtime, run_id, ignore)


def _predict(rows: int) -> None:
    yardstick_seconds(_Worker.yardstick, _Worker.batch, rows)


def _peak_mb(_number: int) -> float:
    _predict(BATCH_ROWS * 10)
    status = Path("/proc/self/status")
    if status.exists():  # Linux: ru_maxrss still knows the parent's size from before the exec
        return next(int(line.split()[1]) for line in status.read_text().splitlines() if line[:6] == "VmHWM:") / 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1 << 20)


# --- value -----------------------------------------------------------------------------------------------------------


def _value_ratio(runtime: Runtime, users: int) -> float:
    """Value of what exploiting chooses from the best 8 offers, beside all 50, for about VALUE_USERS users."""
    width = min(1024, max(1, round(1024 * VALUE_USERS / users)))
    with runtime.database.snapshot() as snapshot:
        (run_id,) = snapshot.connection.execute(text("SELECT id FROM runs")).scalars().all()
        scene = set_scene(snapshot, {}, read_run(snapshot.connection, run_id))
        terms = replace(scene.terms, exploration=np.zeros(len(scene.occasions)))
        staged, full = (
            _value(replace(scene, terms=terms, most_offers=most), (0, width)) for most in (scene.most_offers, 50)
        )
    runtime.database.dispose()
    return staged / full


def _value(scene: Scene, slots: tuple[int, int]) -> float:
    block = plan_block(scene, slots)
    return 0.0 if block is None else float(np.nansum(block.decided.value))
