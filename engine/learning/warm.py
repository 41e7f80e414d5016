"""Warm update: a few more trees on the newest matured day, in seconds, where a full training takes a minute.

Candidates, tastes, windows and calibration stay the champion's; only trees learn. In the goal regime they are those of
the goal, from the newest instant whose week is over; in the click regime those of the head, from pushes whose day is
over: clicks are known sooner. Three quarters of the users teach and the others judge: the updated model replaces the
champion only if it is not worse on users it was not grown on.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any

import numpy as np

from engine.clock import monotonic
from engine.learning import ctr, dataset, head, registry, tastes
from engine.learning.candidates import Proposer
from engine.learning.clicking import lessons_of
from engine.learning.dataset import Proposals, Sample
from engine.learning.evaluation import classification
from engine.learning.gate import judge
from engine.learning.head import Lessons
from engine.learning.material import Material, TooLittleData, goal_of, read_material
from engine.learning.model import Model, set_threads
from engine.learning.portrait import portrait
from engine.learning.pushes import CLICKED_WITHIN, Pushes, read_pushes
from engine.learning.replay import Replay, scrambled
from engine.learning.timeline import ATTRIBUTION
from engine.learning.training import Options, TrainReport, champion_of, finite, predict
from engine.learning.walk import MOST_USERS, Progress
from engine.store.database import Database

LEAST_POSITIVES = 50
CLICK_DAYS = timedelta(days=2)
"""Newest pushes that a click head is updated by: a full day, and what came before a late update."""

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
            if champion.head is None:
                material = read_material(snapshot, now, options.goal, newest_only=True)
            else:
                since = now - CLICK_DAYS - CLICKED_WITHIN
                pushes = read_pushes(snapshot, now, goal_of(snapshot, options.goal), since)
        tell("features", 0.4)
        if champion.head is None:
            trial = _of_goal(champion, _seen(material, champion, options), options)
        else:
            trial = _of_clicks(champion, pushes, options)
    except TooLittleData as too_little:
        return TrainReport(None, False, str(too_little))
    updated = replace(trial.model, as_of=now)
    verdict = judge(trial.labels, trial.after, trial.before)
    metrics: dict[str, Any] = {
        "goal": options.goal,
        "warm": True,
        "updated": updated.regime,
        "trees": updated.booster.num_boosted_rounds(),
        "before": finite(classification(trial.labels, trial.before)),
        "after": finite(classification(trial.labels, trial.after)),
        "gate": {"passed": verdict.passed, "reason": verdict.reason},
        "portrait": portrait(updated, trial.rows, trial.labels, trial.after),
        "seconds": round(monotonic() - started, 3),
    }
    with database.begin() as connection:
        version = registry.register(connection, updated, metrics)
        if verdict.passed:
            registry.promote(connection, version)
    return TrainReport(version, verdict.passed, verdict.reason, metrics)


@dataclass(frozen=True)
class _Trial:
    """An updated model, and both models' chances (float32[n]) of what the judging users did (bool[n]); rows: feature
    rows float32[m, F] of positions int64[m] among these."""

    model: Model
    rows: Callable[[np.ndarray], np.ndarray]
    labels: np.ndarray
    before: np.ndarray
    after: np.ndarray


def _of_goal(champion: Model, seen: Proposals, options: Options) -> _Trial:
    judging = scrambled(seen.state.users)[seen.candidates.user] % np.uint64(JUDGES) == 0
    updated = replace(champion, booster=_grown(champion, seen, ~judging, options))
    before, after = (predict(model, seen)[judging] for model in (champion, updated))
    judges = np.flatnonzero(judging)
    return _Trial(updated, lambda at: seen.rows(judges[at]), seen.labels[judging], before, after)


def _of_clicks(champion: Model, pushes: Pushes, options: Options) -> _Trial:
    assert champion.head is not None
    judging = scrambled(pushes.user) % np.uint64(JUDGES) == 0
    lessons = lessons_of(champion, pushes)
    clicks = int(lessons.clicked[~judging].sum())
    if clicks < LEAST_POSITIVES or lessons.clicked[~judging].all() or not lessons.clicked[judging].any():
        raise TooLittleData(f"the newest days hold {clicks} clicks, an update needs {LEAST_POSITIVES}")
    taught = Lessons(*(getattr(lessons, name)[~judging] for name in ("rows", "goal", "clicked", "half")))
    grown = head.warm(champion.head, taught, options.seed, options.threads)
    rows, goal = lessons.rows[judging], lessons.goal[judging]
    before, after = (each.predict(rows, goal) for each in (champion.head, grown))
    return _Trial(replace(champion, head=grown), lambda at: rows[at], lessons.clicked[judging], before, after)


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
