"""What a backtest learns before its first test: the models, the windows, and what counts as chosen."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from engine.clock import monotonic
from engine.learning import ctr, dataset, logistic
from engine.learning.backtest import ablation, imputation, rivals, verdict
from engine.learning.backtest.ablation import Ablated
from engine.learning.backtest.imputation import Imputed
from engine.learning.backtest.log import Log
from engine.learning.backtest.resampling import rounded
from engine.learning.backtest.rivals import Trained
from engine.learning.backtest.snapshots import Steps, Taken
from engine.learning.candidates import Blend
from engine.learning.dataset import Sample
from engine.learning.walk import LESSONS, Progress
from engine.learning.window_fit import Lesson, fit, lesson
from engine.learning.windows import WindowModel

LEAST_POSITIVES = 100
"""Successes in the training weeks that a model needs, as `horae train` does; a tenth of them to validate."""

MOST_ROWS = 1_000_000
"""Rows to train on: of a larger shop a share of both successes and failures, so that memory stays bounded."""


@dataclass
class Seconds:
    """Where the time went."""

    features: float = 0.0
    training: float = 0.0
    testing: float = 0.0


@dataclass
class Learned:
    """models: None where nothing could be trained, `note` says why · windows: None without a week to learn them from ·
    thresholds: what counts as chosen, by model · snapshots: of the report.
    """

    blend: Blend = field(default_factory=Blend)
    models: Trained | None = None
    windows: WindowModel | None = None
    imputed: Imputed | None = None
    ablated: Ablated | None = None
    thresholds: dict[str, float] = field(default_factory=dict)
    snapshots: list[dict[str, Any]] = field(default_factory=list)
    note: str | None = None


def learn(log: Log, tell: Progress, seconds: Seconds) -> Learned:
    """Walk through the training weeks and train on them; progress goes from 0 to 1."""
    learned = Learned(note=f"{log.lacking}: only send windows are tested" if log.lacking else None)
    if log.weeks.validate is None:
        learned.note = learned.note or "too few weeks to train on: models that need training are left out"
        return learned
    lessons: list[Lesson] = []
    instants = (*log.weeks.train, log.weeks.validate)
    samples, steps = _Samples(log, len(instants)), Steps(log)
    started, taken = monotonic(), None
    for number, taken in enumerate(steps.walk(instants)):
        tell(f"features as of {taken.instant:%Y-%m-%d}", 0.6 * number / len(instants))
        learned.snapshots.append(described(taken, "validate" if number == len(log.weeks.train) else "train", log))
        if number >= len(instants) - LESSONS:
            lessons.append(lesson(taken.state.hours, len(taken.state), taken.visits))
        if not log.lacking:
            samples.add(taken, steps.negative_share)
    assert taken is not None
    seconds.features = monotonic() - started
    learned.windows = fit(taken.state.hours, len(taken.state), lessons)
    learned.blend = steps.blend or Blend()
    if not log.lacking:
        learned.note = samples.too_few()
    if learned.note is None:
        samples.train(learned, steps.negative_share, lambda what, share: tell(what, 0.6 + 0.4 * share), seconds)
        learned.thresholds = _capacity(learned.models, taken)
        if learned.models and learned.ablated:
            learned.ablated.judge(taken, learned.models.full, learned.blend, log.spec)
    return learned


class _Samples:
    """Rows of the weeks to learn from, and of what the counts-only model sees of them."""

    def __init__(self, log: Log, weeks: int) -> None:
        self._spec, self._most = log.spec, MOST_ROWS / weeks
        self._rng = np.random.default_rng(log.spec.seed)
        self._full: list[Sample] = []
        self._counts: list[Sample] = []

    def add(self, taken: Taken, negative_share: float) -> None:
        """The successes of a week and a share of the rest."""
        labels = taken.proposals.labels
        chosen = np.flatnonzero(labels | (self._rng.random(len(labels)) < negative_share))
        if len(chosen) > self._most:
            chosen = chosen[self._rng.random(len(chosen)) < self._most / len(chosen)]
        rows = taken.proposals.rows(chosen)
        users = taken.proposals.candidates.user[chosen].astype(np.int64)
        self._full.append(Sample(rows, labels[chosen].astype(np.float32), users))
        self._counts.append(Sample(rivals.count_columns(taken, rows, chosen), self._full[-1].labels))

    def too_few(self) -> str | None:
        """Why these are too few to train on; None where they are enough."""
        positives = int(sum(sample.labels.sum() for sample in self._full[:-1]))
        validating = int(self._full[-1].labels.sum())
        if positives >= LEAST_POSITIVES and validating >= LEAST_POSITIVES / 10:
            return None
        return (
            f"only {positives} successes among the proposals to train on and {validating} to validate,"
            f" {LEAST_POSITIVES} and {LEAST_POSITIVES // 10} are needed: models that need training are left out"
        )

    def train(self, learned: Learned, share: float, tell: Progress, seconds: Seconds) -> None:
        """Train the model and its rivals into `learned`; the rows are given up on the way."""
        spec, started = self._spec, monotonic()
        validate = self._full.pop()
        train = dataset.joined(self._full)

        def grown(trees: int) -> None:
            tell(f"growing tree {trees}", 0.6 * min(trees / 300, 1))

        full = ctr.fit(train, validate, spec.seed, spec.threads, grown)
        seconds.training = monotonic() - started
        tell("training its rivals", 0.6)
        counts = rivals.fit_counts(dataset.joined(self._counts[:-1]), self._counts[-1], spec.seed, spec.threads)
        simple = logistic.fit(train.rows, train.labels, spec.seed)
        learned.models = Trained(full, counts, simple, share)
        if spec.impute:
            learned.imputed = imputation.learn(
                train, validate, share, spec.seed, spec.threads, lambda what: tell(what, 0.8)
            )
        if spec.ablate:
            learned.ablated = ablation.learn(
                train, validate, share, spec.seed, spec.threads, lambda what: tell(what, 0.9)
            )


def _capacity(models: Trained | None, taken: Taken) -> dict[str, float]:
    """The capacity threshold of each model on the validation week."""
    scores = rivals.untrained(taken) | (rivals.trained(models, taken) if models else {})
    return {name: verdict.capacity(taken.proposals.labels, values) for name, values in scores.items()}


def described(taken: Taken, role: str, log: Log) -> dict[str, Any]:
    """A snapshot in the report."""
    proposals = taken.proposals
    rows, positives = len(proposals.labels), int(proposals.labels.sum())
    told: dict[str, Any] = {
        "instant": taken.instant.isoformat(),
        "role": role,
        "users": len(proposals.state),
        "rows": rows,
        "positives": positives,
        "base_rate": rounded(positives / rows) if rows else None,
        "candidate_recall": rounded(proposals.recall),
        "visits": len(taken.visits.user),
    }
    if role == "test" and not log.lacking:
        recall = taken.recall_by_source(log.spec.candidates)
        told["candidate_recall_by_source"] = {name: rounded(value) for name, value in recall.items()}
    return told
