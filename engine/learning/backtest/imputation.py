"""`--impute`: what may stand for missing values, compared on the test weeks.

Each strategy fills the training rows in its own way and serves a constant per column, as a trained model would: a
neighbour or a model of other rows is not at hand when one user is decided about. `none` leaves missing values to the
trees. All learn from the same rows and are judged on the same users, fewer of both than the models above: neighbours
cost the square of the rows.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from engine.clock import monotonic
from engine.learning import ctr, imputing
from engine.learning.backtest import verdict
from engine.learning.backtest.rivals import PART
from engine.learning.backtest.snapshots import Taken
from engine.learning.backtest.verdict import Board
from engine.learning.dataset import Proposals, Sample
from engine.learning.imputing import STRATEGIES, Imputer
from engine.learning.odds import corrected
from engine.learning.replay import scrambled

MOST_ROWS = 20_000
MOST_USERS = 500

_LEAST_SUCCESSES = 10


@dataclass(frozen=True)
class Filled:
    """A strategy's imputer and trees. rows: learned from · seconds: it took."""

    imputer: Imputer
    fitted: ctr.Fitted
    rows: int
    seconds: float


@dataclass(frozen=True)
class Imputed:
    """Every strategy that could learn. share: of negatives kept in its rows."""

    by_strategy: dict[str, Filled]
    share: float

    def judge(self, taken: Taken, board: Board) -> None:
        """Add a test week of at most MOST_USERS users to `board`, a name a strategy."""
        proposals = _of_some(taken.proposals)
        chances = {name: np.empty(len(proposals.labels), np.float32) for name in self.by_strategy}
        for start in range(0, len(proposals.labels), PART):
            part = np.arange(start, min(start + PART, len(proposals.labels)))
            rows = proposals.rows(part)
            for name, filled in self.by_strategy.items():
                served = filled.imputer.served(rows)
                raw = filled.fitted.booster.inplace_predict(served, validate_features=False)
                chances[name][part] = corrected(np.asarray(raw, np.float32), self.share)
        week = verdict.week_of(proposals)
        for name, values in chances.items():
            board.setdefault(name, []).append(verdict.judge(proposals, week, values, True, None))


def learn(
    train: Sample, validate: Sample, share: float, seed: int, threads: int, tell: Callable[[str], None]
) -> Imputed:
    """Trees for each strategy, on the same rows. Raises HoraeError without scikit-learn."""
    train, validate = (_some(sample, seed) for sample in (train, validate))
    found: dict[str, Filled] = {}
    for strategy in STRATEGIES:
        tell(f"imputing by {strategy}")
        started = monotonic()
        imputer = imputing.fit_imputer(strategy, train.rows, seed)
        if strategy == "drop":
            kept = imputing.complete(train.rows)
            filled = Sample(train.rows[kept], train.labels[kept])
        else:
            filled = Sample(imputer.offline(train.rows), train.labels)
        successes = int(filled.labels.sum())
        if successes < _LEAST_SUCCESSES or successes == len(filled.labels):
            continue
        served = Sample(imputer.served(validate.rows), validate.labels)
        fitted = ctr.fit(filled, served, seed, threads)
        found[strategy] = Filled(imputer, fitted, len(filled.labels), monotonic() - started)
    return Imputed(found, share)


def _some(sample: Sample, seed: int) -> Sample:
    if len(sample.labels) <= MOST_ROWS:
        return sample
    kept = np.sort(np.random.default_rng(seed).choice(len(sample.labels), MOST_ROWS, replace=False))
    return Sample(sample.rows[kept], sample.labels[kept])


def _of_some(proposals: Proposals) -> Proposals:
    """The proposals to MOST_USERS users, by hash; the others took nothing and were offered nothing."""
    order = np.argsort(scrambled(proposals.state.users), kind="stable")
    chosen = np.zeros(len(proposals.state), bool)
    chosen[order[:MOST_USERS]] = True
    rows = np.flatnonzero(chosen[proposals.candidates.user])
    wanted = proposals.taken[chosen[proposals.taken // max(len(proposals.state.catalogue), 1)]]
    return replace(proposals, candidates=proposals.candidates.at(rows), labels=proposals.labels[rows], taken=wanted)
