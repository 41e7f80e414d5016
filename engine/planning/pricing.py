"""The prices of a run: solved once, by the first shard that needs them, on a sample of the users."""

from __future__ import annotations

import json

import numpy as np
from sqlalchemy import text

from engine.planning import allocation, locks
from engine.planning.allocation import Problem
from engine.planning.decide import People, Terms, jitters
from engine.planning.offers import NO_ITEM
from engine.planning.prices import SAMPLE_USERS, Capacities, Prices, Sample, free, solve_prices
from engine.planning.scene import Scene, blocks_of, count_users, weigh_block
from engine.planning.windows import MOST_WINDOWS
from engine.store.database import Database
from engine.store.tables import SLOTS


def run_prices(database: Database, scene: Scene, run_id: int, capacities: Capacities) -> Prices:
    """The prices of run `run_id`, stored with it by whoever needs them first; zero where nothing is bounded."""
    if not capacities.bounded():
        return free(capacities)
    with database.begin() as connection:
        locks.lock_prices(connection, run_id)
        stored = connection.execute(text("SELECT prices FROM runs WHERE id = :run"), {"run": run_id}).scalar_one()
        if stored:
            return Prices.from_json(stored)
        prices = sampled_prices(scene, capacities)
        connection.execute(
            text("UPDATE runs SET prices = CAST(:prices AS jsonb) WHERE id = :run"),
            {"prices": json.dumps(prices.to_json()), "run": run_id},
        )
        return prices


def sampled_prices(scene: Scene, capacities: Capacities) -> Prices:
    """Prices from about SAMPLE_USERS users: those of neighbouring slots, which are a hash of the user."""
    if not capacities.bounded():
        return free(capacities)
    total = int(count_users(scene.snapshot, (0, SLOTS)).sum())
    width = min(SLOTS, -(-SAMPLE_USERS * SLOTS // max(total, 1)))
    first = scene.terms.seed % (SLOTS - width + 1)
    parts, users = [], 0
    for low, high, count in blocks_of(scene.snapshot, (first, first + width)):
        weighed = weigh_block(scene, (low, high)) if count else None
        users += count
        if weighed is not None:
            parts.append(sample_of(scene.terms, weighed.people, weighed.options.problem))
    if not parts:
        return free(capacities)
    whole = Sample(*(np.concatenate([getattr(part, name) for part in parts]) for name in Sample.__dataclass_fields__))
    return solve_prices(whole, capacities, users / total)


def sample_of(terms: Terms, people: People, problem: Problem) -> Sample:
    """What the program behind the prices sees of some users: their best offer of each window, values jittered."""
    slots = people.table.slot[people.group]
    jitter = jitters(terms.secret, terms.seed, people.users, (terms.campaigns, slots))
    best = np.argmax(problem.net, 2)
    value = np.take_along_axis(problem.net, best[:, :, None], 2)[:, :, 0] * jitter
    item = np.take_along_axis(problem.item, best, 2)
    first = people.table.first[people.group]
    end = first + np.maximum(people.table.length[people.group], 1.0)
    most = np.maximum((allocation.best_sets(problem) >= 0).sum(1), 1)
    missing = ((0, 0), (0, 0), (0, MOST_WINDOWS - value.shape[2]))
    return Sample(
        np.pad(value, missing, constant_values=-np.inf),
        np.pad(item, missing, constant_values=NO_ITEM),
        np.pad(first, missing),
        np.pad(end, missing),
        most,
    )
