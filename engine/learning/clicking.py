"""From delivered pushes to a model that scores clicks, once there are enough of them; or why not yet."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from engine.features import schema
from engine.learning import head
from engine.learning.gate import Verdict, judge
from engine.learning.head import LEAST_CLICKS, Lessons
from engine.learning.model import Model
from engine.learning.odds import calibrated
from engine.learning.portrait import portrait
from engine.learning.pushes import CLICKED_WITHIN, Pushes
from engine.learning.replay import scrambled

LEAST_RIVAL_CLICKS = 50
"""Clicks that a champion cannot have learned from, below which it is not compared on them."""


@dataclass(frozen=True)
class Clicks:
    """What pushes made of a model. report: as JSON values · objection: why the whole model must not replace the
    champion, None where it may."""

    model: Model
    report: dict[str, Any]
    objection: str | None = None


def with_clicks(model: Model, pushes: Pushes, champion: Model | None, seed: int, threads: int) -> Clicks:
    """`model` with a head learned from `pushes`, where they are enough and it is good enough.

    A head that is off in its chances is left out, and the goal regime stays; but where the champion scores clicks
    already, the whole model is refused.
    """
    clicked = pushes.labels
    report: dict[str, Any] = {
        "pushes": len(pushes),
        "opened": int(pushes.opened.sum()),
        "clicked": int(pushes.clicked.sum()),
        "matured": int(pushes.matured.sum()),
        "converted": int(pushes.converted[pushes.matured].sum()),
        "left_out": pushes.others,
        "needed": LEAST_CLICKS,
        "reason": None,
    }
    if clicked.sum() < LEAST_CLICKS:
        why = f"{int(clicked.sum()):,} clicks are known, a head needs {LEAST_CLICKS:,}"
        return Clicks(model, report | {"reason": why})
    lessons = lessons_of(model, pushes)
    fitted = head.fit(lessons, seed, threads)
    if fitted is None:
        return Clicks(model, report | {"reason": "some of the pushes have no clicks at all, or nothing but clicks"})
    report |= fitted.report
    ours, judged = calibrated(fitted.chances, fitted.head.calibration), slice(fitted.judged, None)
    verdict = judge(clicked[judged], ours, None)
    if verdict.passed and champion is not None and champion.head is not None:
        verdict = _beside(champion, pushes.where(np.arange(len(pushes))[judged]), ours)
    if verdict.passed:
        served = replace(model, head=fitted.head)
        told = portrait(served, lambda at: lessons.rows[judged][at], clicked[judged], ours)
        return Clicks(served, report | {"portrait": told})
    refused = report | {"reason": verdict.reason}
    scored = champion is not None and champion.head is not None
    return Clicks(model, refused, f"of clicks, {verdict.reason}" if scored else None)


def lessons_of(model: Model, pushes: Pushes) -> Lessons:
    """Pushes as a head learns from them, with the model's chances of the goal."""
    bare = pushes.rows.copy()
    bare[:, schema.SLICES["window"]] = np.nan
    half = scrambled(pushes.user) % np.uint64(2) == 0
    return Lessons(pushes.rows, model.predict(bare), pushes.labels, half)


def _beside(champion: Model, judged: Pushes, ours: np.ndarray) -> Verdict:
    """The verdict on pushes whose clicks the champion cannot have known."""
    unseen = judged.at > champion.as_of.timestamp() - CLICKED_WITHIN.total_seconds()
    clicked = judged.labels[unseen]
    if clicked.sum() < LEAST_RIVAL_CLICKS or champion.head is None:
        return judge(judged.labels, ours, None)
    lessons = lessons_of(champion, judged.where(unseen))
    return judge(clicked, ours[unseen], champion.head.predict(lessons.rows, lessons.goal))
