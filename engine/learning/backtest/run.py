"""`horae backtest`: learn on the older weeks of the log, decide on the newer ones, and report with intervals."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Any

import numpy as np

from engine.clock import monotonic
from engine.features import schema
from engine.learning.backtest import learned as learning
from engine.learning.backtest import rivals, sending, verdict
from engine.learning.backtest.latebinding import LateBinding
from engine.learning.backtest.learned import Learned, Seconds, described
from engine.learning.backtest.log import Log, Spec, read_log
from engine.learning.backtest.resampling import Draws, paired
from engine.learning.backtest.rivals import MODELS, TRAINED
from engine.learning.backtest.sending import Sent
from engine.learning.backtest.snapshots import Steps, Taken, wanted_after
from engine.learning.backtest.verdict import Board
from engine.learning.imputing import STRATEGIES
from engine.learning.material import TooLittleData
from engine.learning.timeline import ATTRIBUTION
from engine.learning.walk import Progress
from engine.learning.window_fit import fit, relearned
from engine.store.database import Database

_READ, _LEARNED, _TESTED = 0.02, 0.5, 0.9
"""Shares of the whole that are done after reading, learning and testing."""


@dataclass(frozen=True)
class Result:
    """report: what `--json` prints · charts: what `--html` draws beside it."""

    report: dict[str, Any]
    charts: dict[str, Any] = field(default_factory=dict)

    @property
    def tested(self) -> bool:
        """Whether anything could be tested."""
        return any(week["role"] == "test" for week in self.report["snapshots"])


def backtest(database: Database, now: datetime, spec: Spec, tell: Progress) -> Result:
    """Test what Horae would have decided, on events before `now` (aware). Raises UnknownName for the goal.

    Where the log is too small for a model or for any test, the report says so in `note` and holds what is possible.
    """
    tell("reading events", 0.0)
    try:
        with database.snapshot() as snapshot:
            log = read_log(snapshot, now, spec)
    except TooLittleData as too_little:
        return Result(_nothing(spec, f"{too_little}: planning goes by own history, popularity and everybody's hours"))
    return run(log, tell)


def run(log: Log, tell: Progress) -> Result:
    """The backtest of a log in memory."""
    seconds = Seconds()
    learned = learning.learn(log, _part(tell, _READ, _LEARNED), seconds)
    tested = _Tests(log, learned)
    started = monotonic()
    for taken, share in tested.walk():
        tell(f"testing {taken.instant:%Y-%m-%d}", _LEARNED + (_TESTED - _LEARNED) * share)
        tested.take(taken)
    seconds.testing = monotonic() - started
    tell("resampling users", _TESTED)
    return Result(tested.report(seconds, lambda share: tell("resampling users", share)), tested.charts())


def _nothing(spec: Spec, why: str) -> dict[str, Any]:
    empty: dict[str, Any] = {"snapshots": [], "models": dict.fromkeys(MODELS), "differences": {}}
    return empty | {"windows": {}, "staleness": {}, "seconds": {}, "goal": spec.goal, "note": why}


def _part(tell: Progress, begin: float, end: float) -> Progress:
    return lambda what, share: tell(what, begin + (end - begin) * share)


class _Tests:
    """The test weeks: what each model would have ranked first, and how windows foretold visits.

    A second walk through the log, over the test weeks and the older instants that stale features are as of.
    """

    def __init__(self, log: Log, learned: Learned) -> None:
        self._log, self._learned = log, learned
        ages = [timedelta(days=age) for age in log.spec.stale] if learned.models else []
        self._stale = [(test - age, test, age.days) for test in log.weeks.test for age in ages]
        self._late = LateBinding(log)
        self._board: Board = {}
        self._aged: dict[int, Board] = {}
        self._imputed: Board = {}
        self._sent: list[Sent] = []
        self._snapshots: list[dict[str, Any]] = []

    def walk(self) -> Iterator[tuple[Taken, float]]:
        """The snapshots, oldest first, and how much is done."""
        instants = sorted({*self._log.weeks.test} | {instant for instant, _, _ in self._stale} | self._late.instants)
        for number, taken in enumerate(Steps(self._log, self._learned.blend).walk(instants)):
            yield taken, number / len(instants)

    def take(self, taken: Taken) -> None:
        """Judge one snapshot."""
        models = self._learned.models
        scores = rivals.trained(models, taken) if models and len(taken.proposals.labels) else {}
        for instant, test, days in self._stale:
            if instant == taken.instant and scores:
                self._judge_aged(taken, scores["full"], test, days)
        if scores:
            self._late.take(taken, scores["full"])
        if taken.instant not in self._log.weeks.test:
            return
        self._snapshots.append(described(taken, "test", self._log))
        self._send(taken)
        if not len(taken.proposals.labels):
            return
        week = verdict.week_of(taken.proposals)
        for name, values in (rivals.untrained(taken) | scores).items():
            threshold = self._learned.thresholds.get(name)
            judged = verdict.judge(taken.proposals, week, values, name in TRAINED, threshold)
            self._board.setdefault(name, []).append(judged)
        if self._learned.imputed:
            self._learned.imputed.judge(taken, self._imputed)

    def _judge_aged(self, taken: Taken, chances: np.ndarray, test: datetime, days: int) -> None:
        """The model on what was known `days` before a test week, by what happened in that week."""
        proposals = taken.proposals
        since = test.timestamp()
        wanted = wanted_after(self._log, taken.state, since + ATTRIBUTION.total_seconds(), since)
        of_week = replace(proposals, labels=np.isin(proposals.keys, wanted), taken=wanted)
        judged = verdict.judge(of_week, verdict.week_of(of_week), chances, True, self._learned.thresholds.get("full"))
        self._aged.setdefault(days, {"full": []})["full"].append(judged)

    def _send(self, taken: Taken) -> None:
        state = taken.state
        if not len(state):
            return
        if self._learned.windows is None:
            self._learned.windows = fit(state.hours, len(state), [])
        model = relearned(self._learned.windows, state.hours, len(state))
        self._sent.append(sending.judge(model, state, taken.visits))

    def report(self, seconds: Seconds, tell: Callable[[float], None]) -> dict[str, Any]:
        """What `--json` prints."""
        spec, learned = self._log.spec, self._learned
        draws = Draws(_everybody(self._board, *self._aged.values(), sent=self._sent), np.random.default_rng(spec.seed))
        found = verdict.sampled(self._board, draws)
        tell(_TESTED + 0.05)
        report: dict[str, Any] = {
            "snapshots": learned.snapshots + self._snapshots,
            "models": verdict.table(found, MODELS),
            "differences": {},
            "windows": sending.report(self._sent, draws),
            "staleness": self._staleness(draws),
        }
        if found:
            report["differences"] = verdict.differences(found, "full" if "full" in found else "own_history")
        if self._imputed:
            filled = verdict.sampled(self._imputed, draws)
            report["imputation"] = {
                "strategies": verdict.table(filled, STRATEGIES),
                "differences": verdict.differences(filled, "none"),
                "learned": self._learned_by_strategy(),
            }
        if learned.ablated:
            report["ablation"] = learned.ablated.report(spec.seed)
        if self._log.spec.late:
            report["late_binding"] = self._late.report(draws)
        report["seconds"] = {name: round(value, 3) for name, value in vars(seconds).items()}
        return report | {"goal": spec.goal, "note": learned.note}

    def _staleness(self, draws: Draws) -> dict[str, Any]:
        """Measures of the full model by age of what it is fed, and the paired difference to the freshest."""
        told: dict[str, Any] = {}
        fresh = None
        for days, board in sorted(self._aged.items()):
            mean, spread = verdict.sampled(board, draws)["full"]
            fresh = fresh or mean
            told[str(days)] = verdict.table({"full": (mean, spread)}, ("full",))["full"]
            told[str(days)]["differences"] = {key: paired(mean[key], fresh[key]) for key in verdict.PAIRED}
        return told

    def _learned_by_strategy(self) -> dict[str, Any]:
        assert self._learned.imputed is not None
        found = self._learned.imputed.by_strategy
        return {name: {"rows": filled.rows, "seconds": round(filled.seconds, 2)} for name, filled in found.items()}

    def charts(self) -> dict[str, Any]:
        """What `--html` draws."""
        learned = self._learned
        charts: dict[str, Any] = {}
        if learned.models is not None and self._board:
            charts["calibration"] = verdict.calibration_curve(self._board["full"])
            gain = learned.models.full.booster.get_score(importance_type="total_gain")
            total = sum(float(np.sum(value)) for value in gain.values()) or 1.0
            names = {f"f{at}": name for at, name in enumerate(schema.NAMES)}
            ranked = sorted(((float(np.sum(value)) / total, names.get(key, key)) for key, value in gain.items()))
            charts["importance"] = [(name, share) for share, name in reversed(ranked[-20:])]
            charts["trees"] = learned.models.full.trade_off()
        if learned.windows is not None:
            mixture = learned.windows.mixtures[0]
            charts["hours"] = learned.windows.curve.tolist()
            charts["typical"], charts["shares"] = mixture.curves.tolist(), mixture.share.tolist()
        return charts


def _everybody(*boards: Board, sent: list[Sent]) -> np.ndarray:
    found = [verdict.everybody(board) for board in boards] + [week.ids for week in sent]
    return np.unique(np.concatenate(found)) if found else np.zeros(0, np.int64)
