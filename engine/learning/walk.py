"""Walks through the instants of a timeline and collects what a model learns from and is tested on."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime

import numpy as np

from engine.learning import crediting, ctr, dataset, tastes
from engine.learning.answering import Answers, Tally
from engine.learning.blending import fit_blend
from engine.learning.candidates import Blend, Proposer
from engine.learning.dataset import Proposals, Sample
from engine.learning.material import Material
from engine.learning.replay import Moment, Replay
from engine.learning.tastes import Tastes
from engine.learning.timeline import ATTRIBUTION
from engine.learning.window_fit import Lesson, Visits, lesson

Progress = Callable[[str, float], None]
"""Told what is being done, and how much of the whole is done (0 … 1)."""

MOST_USERS = 20_000
"""Users learned from at each instant."""

LESSONS = 3
"""Weeks that the window model is fitted on: the newest before the test week."""


@dataclass(frozen=True)
class Walked:
    """What the walk collected.

    final: what is known now · test, visits: the test week · lessons, for the window model · blend, of the sources ·
    negative_share, of the samples · tastes, as of now · answers: what pushes met with.
    """

    train: Sample
    validate: Sample
    test: Proposals
    visits: Visits
    lessons: tuple[Lesson, ...]
    blend: Blend
    negative_share: float
    final: Moment
    tastes: Tastes
    answers: Answers


class Walk:
    """One walk; `run` does it."""

    def __init__(self, material: Material, seed: int, tell: Progress, threads: int = 1) -> None:
        """`seed` draws the negatives and begins the factors."""
        self._material, self._tell, self._seed, self._threads = material, tell, seed, threads
        self._replay = Replay(material.events, material.items[material.now.timestamp()].ids, material.share)
        self._rng = np.random.default_rng(seed)
        self._blend: Blend | None = None
        self._negative_share = 1.0
        self._sent = crediting.sent_pushes(material.events, material.now.timestamp())

    def run(self, done_from: float, done_until: float) -> Walked:
        """Walk; progress goes from `done_from` to `done_until`."""
        line = self._material.timeline
        samples, lessons = [], []
        for number, instant in enumerate((*line.train, line.validate)):
            self._announce(instant, done_from + (done_until - done_from) * number / (len(line.instants) + 1))
            moment = self._moment(instant)
            proposals = self._propose(moment, instant)
            samples.append(dataset.sample(proposals, self._negative_share, self._rng))
            if number > len(line.train) - LESSONS:
                visits, answers = self._visits(moment, instant), self._answers(moment, instant)
                lessons.append(lesson(moment.state.hours, len(moment.state), visits, answers))
        self._announce(line.test, done_until - (done_until - done_from) * 2 / (len(line.instants) + 1))
        moment = self._moment(line.test)
        test, visits = self._propose(moment, line.test), self._visits(moment, line.test)
        final = self._moment(self._material.now)
        validate = samples.pop()
        return Walked(
            train=dataset.joined(samples),
            validate=validate,
            test=test,
            visits=visits,
            lessons=tuple(lessons),
            blend=self._blend or Blend(),
            negative_share=self._negative_share,
            final=final,
            tastes=tastes.learn(final, self._seed, self._threads),
            answers=crediting.everybodys(self._sent, self._material.now.timestamp()),
        )

    def _moment(self, instant: datetime) -> Moment:
        tau = instant.timestamp()
        return self._replay.at(tau, self._material.items[tau], MOST_USERS)

    def _announce(self, instant: datetime, share: float) -> None:
        self._tell(f"features as of {instant:%Y-%m-%d}", share)

    def _propose(self, moment: Moment, instant: datetime) -> Proposals:
        """Candidates and outcomes; the first instant decides the blend and the share of negatives for all."""
        until = (instant + ATTRIBUTION).timestamp()
        collaborative = tastes.learn(moment, self._seed, self._threads).collaborate(moment.state)
        taken = dataset.taken_after(self._material.events, moment.state, self._material.goal, until)
        if self._blend is None:
            first = dataset.propose(moment, Proposer(moment.neighbours, Blend()), collaborative, taken)
            self._blend = fit_blend(first.state, first.candidates, first.labels)
            self._negative_share = ctr.negative_share(int(first.labels.sum()), len(first.labels))
        return dataset.propose(moment, Proposer(moment.neighbours, self._blend), collaborative, taken)

    def _answers(self, moment: Moment, instant: datetime) -> Tally:
        since = instant.timestamp()
        return crediting.tally_of(self._sent, moment.state.users, since, since + ATTRIBUTION.total_seconds())

    def _visits(self, moment: Moment, instant: datetime) -> Visits:
        return dataset.visits_after(self._material.events, moment.state, (instant + ATTRIBUTION).timestamp())
