"""Warm update: a few more trees on the newest matured day, in seconds, where a full training takes a minute.

Candidates, tastes, windows and calibration stay the champion's; only the trees learn. Three quarters of the users teach
and the others judge: the updated model replaces the champion only if it is not worse on users it was not grown on.
"""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime
from typing import Any

import numpy as np

from engine.clock import monotonic
from engine.learning import ctr, dataset, registry, tastes
from engine.learning.candidates import Proposer
from engine.learning.dataset import Proposals, Sample
from engine.learning.evaluation import classification
from engine.learning.gate import judge
from engine.learning.material import Material, TooLittleData, read_material
from engine.learning.model import Model, set_threads
from engine.learning.replay import Replay, scrambled
from engine.learning.timeline import ATTRIBUTION
from engine.learning.training import Options, TrainReport, champion_of, predict
from engine.learning.walk import MOST_USERS, Progress
from engine.store.database import Database

LEAST_POSITIVES = 50
JUDGES = 4
"""Every so manieth user judges, the others teach."""


def warm_update(
    database: Database, now: datetime, progress: Progress | None = None, options: Options | None = None
) -> TrainReport:
    """Grow the champion by what happened in the newest days whose outcomes are known at `now`; promote it if it passes.

    The report's version is None where there is no champion to grow or too little to learn from. Raises UnknownName for
    a goal that the store has no event type of.
    """
    options = options or Options()
    tell = progress or (lambda _text, _share: None)
    started = monotonic()
    try:
        with database.snapshot() as snapshot:
            champion = champion_of(snapshot.connection)
            if champion is None:
                return TrainReport(None, False, "there is no champion to update: run horae train")
            tell("reading events", 0.1)
            material = read_material(snapshot, now, options.goal, newest_only=True)
        tell("features", 0.4)
        seen = _seen(material, champion, options)
        tell("growing trees", 0.8)
        judging = scrambled(seen.state.users)[seen.candidates.user] % np.uint64(JUDGES) == 0
        updated = replace(champion, booster=_grown(champion, seen, ~judging, options), as_of=now)
    except TooLittleData as too_little:
        return TrainReport(None, False, str(too_little))
    before, after = predict(champion, seen)[judging], predict(updated, seen)[judging]
    verdict = judge(seen.labels[judging], after, before)
    metrics: dict[str, Any] = {
        "goal": material.goal_name,
        "warm": True,
        "trees": updated.booster.num_boosted_rounds(),
        "before": classification(seen.labels[judging], before),
        "after": classification(seen.labels[judging], after),
        "gate": {"passed": verdict.passed, "reason": verdict.reason},
        "seconds": round(monotonic() - started, 3),
    }
    with database.begin() as connection:
        version = registry.register(connection, updated, metrics)
        if verdict.passed:
            registry.promote(connection, version)
    return TrainReport(version, verdict.passed, verdict.reason, metrics)


def _seen(material: Material, champion: Model, options: Options) -> Proposals:
    """What the champion's blend proposes at the newest instant whose outcomes are known, and what was taken."""
    instant = material.now - ATTRIBUTION
    tau = instant.timestamp()
    items = material.items[tau]
    moment = Replay(material.events, items.ids, material.share).at(tau, items, MOST_USERS)
    taken = dataset.taken_after(material.events, moment.state, material.goal, material.now.timestamp())
    # the champion's own tastes may know what was taken since then
    collaborative = tastes.learn(moment, options.seed, options.threads).collaborate(moment.state)
    return dataset.propose(moment, Proposer(moment.neighbours, champion.blend), collaborative, taken)


def _grown(champion: Model, seen: Proposals, teaching: np.ndarray, options: Options) -> Any:
    rng = np.random.default_rng(options.seed)
    kept = np.flatnonzero(teaching & (seen.labels | (rng.random(len(seen.labels)) < champion.negative_share)))
    positives = int(seen.labels[kept].sum())
    if positives < LEAST_POSITIVES or positives == len(kept):
        raise TooLittleData(f"the newest days hold {positives} successes, an update needs {LEAST_POSITIVES}")
    fresh = Sample(seen.rows(kept), seen.labels[kept].astype(np.float32))
    return set_threads(ctr.warm(champion.booster, fresh, options.seed, options.threads), 1)
