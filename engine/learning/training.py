"""Training, end to end: events in, a registered champion out, or a clear reason why there is none yet.

The newest week whose outcomes are known tests, the week before it stops early, older weeks train; the metrics are those
of the model that is served. Item-to-item neighbours and everybody's hours are as of now.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any

import numpy as np
from sqlalchemy import Connection

from engine.clock import monotonic
from engine.errors import ModelRefused
from engine.learning import answering, ctr, factors, measuring, registry
from engine.learning.clicking import with_clicks
from engine.learning.dataset import Proposals, Sample
from engine.learning.gate import calibrate, judge
from engine.learning.imputing import Imputer, complete, fit_imputer
from engine.learning.material import Material, TooLittleData, read_material
from engine.learning.model import Model, set_threads
from engine.learning.portrait import portrait
from engine.learning.pushes import read_pushes
from engine.learning.related import Related
from engine.learning.replay import scrambled
from engine.learning.timeline import ATTRIBUTION
from engine.learning.walk import Progress, Walk, Walked
from engine.learning.window_fit import fit, relearned
from engine.store.database import Database

LEAST_POSITIVES = 100
LEAST_VALIDATION_POSITIVES = 10

_READ, _WALKED, _GROWN = 0.05, 0.65, 0.92
"""Shares of the whole that are done after reading, after the features and after the trees."""

_USUAL_TREES = 100
_ROWS = 16_384


@dataclass(frozen=True)
class TrainReport:
    """What training did. `version` is None where there was too little to learn from: `reason` says why.

    A model that ranks no better than popularity, is off in its chances or is worse than the champion on the newest week
    whose outcomes are known is registered but not promoted; `reason` says that too.
    """

    version: int | None
    promoted: bool
    reason: str | None
    metrics: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Options:
    """How to train.

    goal: the event type that counts as success · seed: same seed, same model · threads: for trees · impute: one of
    imputing.STRATEGIES; `none` leaves missing values to the trees.
    """

    goal: str = "purchase"
    seed: int = 1
    threads: int = 2
    impute: str = "none"


def train(
    database: Database, now: datetime, progress: Progress | None = None, options: Options | None = None
) -> TrainReport:
    """Learn from what happened before `now` (business time, aware), register the model and promote it.

    Raises UnknownName for a goal that the store has no event type of.
    """
    options = options or Options()
    tell = progress or _say_nothing
    started = monotonic()
    tell("reading events", 0.0)
    try:
        with database.snapshot() as snapshot:
            material = read_material(snapshot, now, options.goal)
            champion = champion_of(snapshot.connection)
            pushes = read_pushes(snapshot, now, material.goal)
        walked = Walk(material, options.seed, tell, options.threads).run(_READ, _WALKED)
        model, metrics = _learn(material, walked, options, tell)
    except TooLittleData as too_little:
        return TrainReport(None, False, str(too_little))
    tell("learning clicks", 0.97)
    clicks = with_clicks(model, pushes, champion, options.seed, options.threads)
    model, metrics["clicks"] = clicks.model, clicks.report
    reason = _objection(model, metrics, walked.test, champion) or clicks.objection
    metrics["seconds"] = round(monotonic() - started, 3)
    tell("registering", 0.99)
    with database.begin() as connection:
        version = registry.register(connection, model, metrics)
        if reason is None:
            registry.promote(connection, version)
    return TrainReport(version, reason is None, reason, metrics)


def champion_of(connection: Connection) -> Model | None:
    """The champion, None while there is none or where this version cannot use it: then nothing is to be beaten."""
    version = registry.champion(connection)
    if version is None:
        return None
    try:
        return registry.load(connection, version)
    except ModelRefused:
        return None


def _objection(model: Model, metrics: dict[str, Any], test: Proposals, champion: Model | None) -> str | None:
    """Why the model must not become champion, None where it may."""
    ours, theirs = metrics["model"]["ndcg_10"], metrics["popularity"]["ndcg_10"]
    if ours is None or ours < theirs:
        return "the model ranks no better than popularity: registered, not promoted"
    rival = None if champion is None else predict(champion, test)
    verdict = judge(test.labels, predict(model, test), rival)
    metrics["gate"] = {"passed": verdict.passed, "reason": verdict.reason}
    return None if verdict.passed else f"{verdict.reason}: registered, not promoted"


def _learn(material: Material, walked: Walked, options: Options, tell: Progress) -> tuple[Model, dict[str, Any]]:
    _require_positives(walked, material.goal_name)

    def grown(trees: int) -> None:
        tell(f"growing tree {trees}", _WALKED + (_GROWN - _WALKED) * min(trees / _USUAL_TREES, 1.0))

    imputer, train_sample, validate_sample = _imputed(walked, options)
    fitted = ctr.fit(train_sample, validate_sample, options.seed, options.threads, grown)
    tell("fitting send windows", _GROWN)
    state = walked.final.state
    model = Model(
        booster=set_threads(fitted.booster, options.threads),
        negative_share=walked.negative_share,
        related=Related(state.catalogue.ids, walked.final.neighbours),
        blend=walked.blend,
        windows=fit(state.hours, len(state), walked.lessons, walked.answers),
        as_of=material.now,
        tastes=walked.tastes,
        constants=imputer.constants if np.isfinite(imputer.constants).any() else None,
        order=fitted.order,
    )
    tell("testing", 0.95)
    test = walked.test
    half = scrambled(test.state.users)[test.candidates.user] % np.uint64(2) == 0
    model = replace(model, calibration=calibrate(test.labels, predict(model, test), half))
    metrics = _measured(model, walked) | {"portrait": portrait(model, test.rows, test.labels, predict(model, test))}
    set_threads(fitted.booster, 1)
    if fitted.order is not None:
        set_threads(fitted.order.booster, 1)
    described = {
        "goal": material.goal_name,
        "attribution_days": ATTRIBUTION.days,
        "instants": [instant.isoformat() for instant in material.timeline.instants],
        "rows": len(train_sample.labels),
        "impute": options.impute,
        "trees": fitted.trees,
        "best_trees": fitted.best,
        "order_trees": 0 if fitted.order is None else fitted.order.booster.num_boosted_rounds(),
        "trade_off": fitted.trade_off(),
        "calibration": list(model.calibration),
        "factors": factors.installed(),
        "answers": model.windows.answers.told(),
        "negative_share": round(walked.negative_share, 6),
    }
    return model, described | metrics


def _imputed(walked: Walked, options: Options) -> tuple[Imputer, Sample, Sample]:
    """The samples as the trees learn from them; validation rows as they are served."""
    imputer, train = fit_imputer(options.impute, walked.train.rows, options.seed), walked.train
    if options.impute == "drop":
        kept = complete(train.rows)
        train = Sample(train.rows[kept], train.labels[kept], None if train.group is None else train.group[kept])
        if not 0 < train.labels.sum() < len(kept):
            raise TooLittleData("no complete row is left to learn from: impute otherwise")
    elif options.impute != "none":
        train = Sample(imputer.offline(train.rows), train.labels, train.group)
    return imputer, train, Sample(imputer.served(walked.validate.rows), walked.validate.labels)


def _require_positives(walked: Walked, goal: str) -> None:
    train, validate = int(walked.train.labels.sum()), int(walked.validate.labels.sum())
    if train < LEAST_POSITIVES or validate < LEAST_VALIDATION_POSITIVES or train == len(walked.train.labels):
        raise TooLittleData(
            f"there are too few events of type {goal} to learn from: {train} to train and {validate} to validate,"
            f" {LEAST_POSITIVES} and {LEAST_VALIDATION_POSITIVES} are needed"
        )


def _measured(model: Model, walked: Walked) -> dict[str, Any]:
    test = walked.test
    # visits are foretold by when people come of themselves, not by what pushes meet with
    came = replace(model.windows, answers=answering.none())
    curve_then = relearned(came, test.state.hours, len(test.state))
    found = measuring.measure_windows(curve_then, test.state, walked.visits)
    return {
        "users": len(test.state),
        "candidate_recall": _finite(test.recall),
        "model": finite(measuring.measure_model(test, predict(model, test))),
        "popularity": finite(measuring.measure_popularity(test)),
        "own_history": finite(measuring.measure_own_history(test)),
        "windows": {name: finite(values) for name, values in found.items()},
    }


def predict(model: Model, proposals: Proposals) -> np.ndarray:
    """The model's chance of every candidate, float32[n], a part at a time."""
    rows = np.arange(len(proposals.labels))
    parts = [rows[start : start + _ROWS] for start in range(0, len(rows), _ROWS)]
    return np.concatenate([model.predict(proposals.rows(part)) for part in parts] or [np.zeros(0, np.float32)])


def finite(values: Mapping[str, float]) -> dict[str, float | None]:
    """Measures as JSON values: what could not be measured is None."""
    return {name: _finite(value) for name, value in values.items()}


def _finite(value: float) -> float | None:
    """JSON has no NaN: what could not be measured is null."""
    return round(value, 6) if math.isfinite(value) else None


def _say_nothing(_text: str, _share: float) -> None:
    """The progress of a caller who does not ask."""
