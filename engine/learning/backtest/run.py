"""`horae backtest`: learn on the older weeks of the log, decide on the newer ones, and report with intervals."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import numpy as np

from engine.clock import monotonic
from engine.features import schema
from engine.learning import ctr, dataset
from engine.learning.backtest import logistic, resampling, rivals, sending
from engine.learning.backtest.log import Log, Spec, read_log
from engine.learning.backtest.rivals import MODELS, TRAINED, Trained
from engine.learning.backtest.sending import rounded
from engine.learning.backtest.snapshots import Steps, Taken
from engine.learning.backtest.stale import stale_measures
from engine.learning.backtest.verdict import Scored, compared, curve_of, week_of
from engine.learning.dataset import Sample
from engine.learning.material import TooLittleData
from engine.learning.walk import LESSONS
from engine.learning.window_fit import Lesson, fit, lesson, relearned
from engine.learning.windows import WindowModel
from engine.store.database import Database

Progress = Callable[[str, float], None]

LEAST_POSITIVES = 100
"""Successes in the training weeks that a model needs, as `horae train` does; a tenth of them to validate."""

_TRAINED, _TESTED = 0.6, 0.9


@dataclass(frozen=True)
class Result:
    """report: what `--json` prints · charts: what `--html` draws beside it."""

    report: dict[str, Any]
    charts: dict[str, Any] = field(default_factory=dict)


@dataclass
class _Seconds:
    features: float = 0.0
    training: float = 0.0
    testing: float = 0.0


def backtest(database: Database, now: datetime, spec: Spec, tell: Progress) -> Result:
    """Test what Horae would have decided, on events before `now` (aware). Raises UnknownName for the goal.

    Where the log is too small for a model or for any test, the report says so in `note` and holds what is possible.
    """
    tell("reading events", 0.0)
    try:
        with database.snapshot() as snapshot:
            log = read_log(snapshot, now, spec)
    except TooLittleData as too_little:
        return Result(_nothing(str(too_little)))
    return run(log, tell)


def run(log: Log, tell: Progress) -> Result:
    """The backtest of a log in memory."""
    seconds = _Seconds()
    learned = _Learning(log, tell, seconds)
    note = learned.learn()
    scored, window_sums, snapshots = _test(log, learned, tell, seconds)
    tell("resampling users", _TESTED)
    report: dict[str, Any] = {"snapshots": learned.snapshots + snapshots}
    report |= compared(scored) if scored.weeks else {"models": dict.fromkeys(MODELS), "differences": {}}
    report["windows"] = window_sums
    report["staleness"] = {}
    if log.spec.stale and learned.models is not None:
        tell("features that are days old", _TESTED + 0.05)
        report["staleness"] = stale_measures(log, learned.models, learned.steps)
    report["seconds"] = {name: round(value, 3) for name, value in vars(seconds).items()}
    report["goal"] = log.spec.goal
    report["note"] = note
    return Result(report, _charts(learned, scored))


def _nothing(why: str) -> dict[str, Any]:
    empty: dict[str, Any] = {"snapshots": [], "models": dict.fromkeys(MODELS), "differences": {}}
    return empty | {"windows": {}, "staleness": {}, "note": f"{why}: planning goes by own history and popularity"}


class _Learning:
    """What is learned before the tests."""

    def __init__(self, log: Log, tell: Progress, seconds: _Seconds) -> None:
        self._log, self._tell, self._seconds = log, tell, seconds
        self.models: Trained | None = None
        self.windows: WindowModel | None = None
        self.thresholds: dict[str, float] = {}
        self.snapshots: list[dict[str, Any]] = []
        self.steps = Steps(log)
        self._lessons: list[Lesson] = []

    def learn(self) -> str | None:
        """Train on the training weeks; why nothing could be trained, or None."""
        weeks = self._log.weeks
        if weeks.validate is None:
            return "too few weeks to train on: models that need training are left out"
        started = monotonic()
        rng = np.random.default_rng(self._log.spec.seed)
        full: list[Sample] = []
        counts: list[Sample] = []
        instants = (*weeks.train, weeks.validate)
        taken: Taken | None = None
        for number, taken in enumerate(self.steps.walk(instants)):
            self._tell(f"features as of {taken.instant:%Y-%m-%d}", 0.05 + 0.4 * number / len(instants))
            self.snapshots.append(described(taken, "validate" if number == len(weeks.train) else "train"))
            labels = taken.proposals.labels
            kept = np.flatnonzero(labels | (rng.random(len(labels)) < self.steps.negative_share))
            rows = taken.proposals.rows(kept)
            users = taken.proposals.candidates.user[kept].astype(np.int64)
            full.append(Sample(rows, labels[kept].astype(np.float32), users))
            counts.append(Sample(rivals.count_columns(taken, rows, kept), full[-1].labels))
            if number >= len(instants) - LESSONS:
                self._lessons.append(lesson(taken.proposals.state.hours, len(taken.proposals.state), taken.visits))
        assert taken is not None
        self._seconds.features = monotonic() - started
        state = taken.proposals.state
        self.windows = fit(state.hours, len(state), self._lessons)
        positives = sum(float(sample.labels.sum()) for sample in full[:-1])
        if positives < LEAST_POSITIVES or full[-1].labels.sum() < LEAST_POSITIVES / 10:
            return f"only {positives:.0f} successes to train on: models that need training are left out"
        self._train(full, counts)
        self.thresholds = self._capacity(taken)
        return None

    def _train(self, full: list[Sample], counts: list[Sample]) -> None:
        started, spec = monotonic(), self._log.spec
        validate = full.pop()
        train = dataset.joined(full)

        def grown(trees: int) -> None:
            self._tell(f"growing tree {trees}", 0.5 + 0.1 * min(trees / 300, 1))

        fitted = ctr.fit(train, validate, spec.seed, spec.threads, grown)
        self._seconds.training = monotonic() - started
        self._tell("training its rivals", _TRAINED)
        newest = counts.pop()
        few = rivals.fit_counts(dataset.joined(counts), newest, spec.seed, spec.threads)
        simple = logistic.fit(train.rows, train.labels, spec.seed)
        self.models = Trained(fitted, few, simple, self.steps.negative_share)

    def _capacity(self, taken: Taken) -> dict[str, float]:
        """The score above which as many proposals of the validation week lie as were taken."""
        scores = rivals.untrained(taken) | (rivals.trained(self.models, taken) if self.models else {})
        share = 1 - taken.proposals.labels.mean()
        return {name: float(np.quantile(values, share)) for name, values in scores.items()}


def described(taken: Taken, role: str) -> dict[str, Any]:
    """A snapshot in the report."""
    proposals = taken.proposals
    rows, positives = len(proposals.labels), int(proposals.labels.sum())
    told = {
        "instant": taken.instant.isoformat(),
        "role": role,
        "users": len(proposals.state),
        "rows": rows,
        "positives": positives,
        "base_rate": rounded(positives / rows) if rows else None,
        "candidate_recall": rounded(proposals.recall),
    }
    if role == "test":
        by_source = taken.recall_by_source()
        told["candidate_recall_by_source"] = {name: rounded(share) for name, share in by_source.items()}
    return told


def _test(
    log: Log, learned: _Learning, tell: Progress, seconds: _Seconds
) -> tuple[Scored, dict[str, Any], list[dict[str, Any]]]:
    started = monotonic()
    everyone = np.unique(log.events.user[log.events.user >= 0])
    weights = resampling.draws(len(everyone), log.spec.seed)
    scored = Scored(weights)
    sums: dict[str, Mapping[str, np.ndarray]] = {}
    visits = np.zeros(weights.shape[1])
    described_weeks = []
    tests = log.weeks.test
    for number, taken in enumerate(learned.steps.walk(tests)):
        tell(f"testing {taken.instant:%Y-%m-%d}", _TRAINED + 0.3 * number / len(tests))
        described_weeks.append(described(taken, "test"))
        user = np.searchsorted(everyone, taken.proposals.state.users)
        if len(taken.proposals.labels):
            scores = rivals.untrained(taken) | (rivals.trained(learned.models, taken) if learned.models else {})
            week = {
                name: week_of(taken, values, user, learned.thresholds.get(name, np.inf), name in TRAINED)
                for name, values in scores.items()
            }
            scored.add(week)
        found, seen = _windows(learned, taken, user, weights)
        visits = visits + seen
        sums = {
            name: {key: value + sums[name][key] for key, value in by.items()} if name in sums else by
            for name, by in found.items()
        }
    seconds.testing = monotonic() - started
    return scored, window_report(sums, visits), described_weeks


def _windows(
    learned: _Learning, taken: Taken, user: np.ndarray, weights: np.ndarray
) -> tuple[dict[str, Mapping[str, np.ndarray]], np.ndarray]:
    state = taken.proposals.state
    if learned.windows is None:
        learned.windows = fit(state.hours, len(state), [])
    model = relearned(learned.windows, state.hours, len(state))
    found: dict[str, Mapping[str, np.ndarray]] = {}
    seen = np.zeros(weights.shape[1])
    for name, preference in sending.curves(model, state.hours, len(state)).items():
        found[name], seen = sending.samples(preference, taken.visits, user, weights)
    return found, seen


def window_report(sums: Mapping[str, Mapping[str, np.ndarray]], visits: np.ndarray) -> dict[str, Any]:
    """The windows of the report, from sums over visits by way of choosing and measure in every draw."""
    if not sums or not visits[0]:
        return {}
    report: dict[str, Any] = {}
    ratio = {name: {key: value / np.maximum(visits, 1e-9) for key, value in by.items()} for name, by in sums.items()}
    for name, by in ratio.items():
        report[name] = {}
        for key, values in by.items():
            report[name] |= sending.interval(key, values)
    report["visits"] = int(visits[0])
    report["differences"] = {
        f"model - {name}": {
            key: sending.interval("difference", ratio["model"][key] - ratio[name][key]) for key in sending.MEASURES
        }
        for name in sending.RIVALS
    }
    return report


def _charts(learned: _Learning, scored: Scored) -> dict[str, Any]:
    charts: dict[str, Any] = {"calibration": curve_of(scored, "full") if learned.models else []}
    if learned.models is not None:
        gain = learned.models.full.booster.get_score(importance_type="total_gain")
        total = sum(float(np.sum(value)) for value in gain.values()) or 1.0
        names = {f"f{at}": name for at, name in enumerate(schema.NAMES)}
        ranked = sorted(((float(np.sum(value)) / total, names.get(key, key)) for key, value in gain.items()))
        charts["importance"] = [(name, share) for share, name in reversed(ranked[-20:])]
        charts["trees"] = learned.models.full.trade_off()
    if learned.windows is not None:
        charts["hours"] = learned.windows.curve.tolist()
        charts["typical"] = learned.windows.mixtures[0].curves.tolist()
        charts["shares"] = learned.windows.mixtures[0].share.tolist()
    return charts
