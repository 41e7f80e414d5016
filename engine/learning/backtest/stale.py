"""The staleness curve: the same model, fed with features and candidates that are some days old."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import numpy as np

from engine.learning import dataset, evaluation
from engine.learning.backtest import rivals
from engine.learning.backtest.log import Log
from engine.learning.backtest.rivals import Trained
from engine.learning.backtest.sending import rounded
from engine.learning.backtest.snapshots import Steps, Taken, recently_bought
from engine.learning.timeline import ATTRIBUTION


def stale_measures(log: Log, models: Trained, learned: Steps) -> dict[str, Any]:
    """Measures of the full model by age of what it is fed, in days: {"0": {"ndcg_10", "hr_10", "ap", "ne", …}, …}.

    Mean of the test weeks, over users active at that age.
    """
    ages = {timedelta(days=age): age for age in log.spec.stale}
    due = sorted((test - age, test, days) for test in log.weeks.test for age, days in ages.items())
    steps = Steps(log, learned.blend)
    found: dict[int, list[dict[str, float]]] = {}
    walked = steps.walk(sorted({instant for instant, _, _ in due}))
    for taken in walked:
        chances: np.ndarray | None = None
        for instant, test, days in due:
            if instant == taken.instant:
                chances = rivals.trained(models, taken)["full"] if chances is None else chances
                found.setdefault(days, []).append(_measured(log, taken, chances, test.timestamp()))
    return {
        str(days): {key: rounded(float(np.mean([week[key] for week in weeks]))) for key in weeks[0]}
        for days, weeks in sorted(found.items())
    }


def _measured(log: Log, taken: Taken, chances: np.ndarray, tau: float) -> dict[str, float]:
    """Judged by what happened in the window after τ."""
    proposals = taken.proposals
    state, items = proposals.state, len(proposals.state.catalogue)
    rows = (log.events.at >= tau) & (log.events.at < tau + ATTRIBUTION.total_seconds())
    after = log.events.where(rows)
    wanted = dataset.taken_after(after, state, log.goal, tau + ATTRIBUTION.total_seconds())
    if log.spec.new_only:
        wanted = np.setdiff1d(wanted, recently_bought(state), assume_unique=True)
    labels = np.isin(proposals.keys, wanted)
    _, ndcg, hit = evaluation.ranking(proposals.candidates.user, proposals.keys, chances, wanted, items)
    classified = evaluation.classification(labels, chances) if len(labels) else {}
    return {
        "ndcg_10": evaluation.mean(ndcg),
        "hr_10": evaluation.mean(hit),
        **{key: classified.get(key, float("nan")) for key in ("auc", "ap", "ne", "ece", "predicted_per_actual")},
    }
