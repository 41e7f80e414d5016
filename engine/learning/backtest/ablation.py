"""`--ablate`: what each group of features and each source of candidates adds, by leaving it out.

Features: trees learned on the same rows without a group's columns, fewer rows than the model itself learns from.
Sources: what the others propose with their shares as they are, in the model's own order. Both are judged on the
validation week, whose purpose choosing is; trees stopped early on it, those with all features too.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from engine.features import schema
from engine.learning import ctr
from engine.learning.backtest import verdict
from engine.learning.backtest.log import Spec
from engine.learning.backtest.resampling import Draws, paired
from engine.learning.backtest.rivals import PART
from engine.learning.backtest.snapshots import Taken, recently_bought
from engine.learning.backtest.verdict import Board
from engine.learning.candidates import QUOTAS, SOURCES, Blend, Proposer
from engine.learning.dataset import Proposals, Sample
from engine.learning.odds import corrected

MOST_ROWS = 100_000
EVERYTHING = "everything"


@dataclass
class Ablated:
    """Trees by what they learned without, and what was judged. share: of negatives kept in their rows."""

    fitted: dict[str, ctr.Fitted]
    share: float
    features: Board = field(default_factory=dict)
    sources: Board = field(default_factory=dict)

    def judge(self, taken: Taken, full: ctr.Fitted, blend: Blend, spec: Spec) -> None:
        """Judge both on a snapshot; full: the model that orders what the sources propose."""
        proposals = taken.proposals
        week = verdict.week_of(proposals)
        for name, fitted in self.fitted.items():
            chances = _chances(fitted, proposals, self.share)
            self.features[name] = [verdict.judge(proposals, week, chances, True, None)]
        for name in (EVERYTHING, *SOURCES):
            found = proposals if name == EVERYTHING else _without(name, taken, blend, spec)
            chances = _chances(full, found, self.share)
            judged = verdict.judge(found, verdict.week_of(found), chances, True, None)
            self.sources[_name(name)] = [judged]

    def report(self, seed: int) -> dict[str, Any]:
        """`ablation` of the report: measures by what was left out, and how everything differs from that."""
        told = {}
        for kind, board in (("features", self.features), ("sources", self.sources)):
            found = verdict.sampled(board, Draws(verdict.everybody(board), np.random.default_rng(seed)))
            differs = verdict.differences(found, EVERYTHING)
            for name, (mean, _) in found.items():
                if name != EVERYTHING:
                    whole = found[EVERYTHING][0]["candidate_recall"]
                    differs[f"{EVERYTHING} - {name}"]["candidate_recall"] = paired(whole, mean["candidate_recall"])
            told[kind] = {"measures": verdict.table(found, list(board)), "differences": differs}
        return told


def learn(
    train: Sample, validate: Sample, share: float, seed: int, threads: int, tell: Callable[[str], None]
) -> Ablated:
    """Trees without each group of features that any row knows something of, and with all, on the same rows."""
    if len(train.labels) > MOST_ROWS:
        kept = np.sort(np.random.default_rng(seed).choice(len(train.labels), MOST_ROWS, replace=False))
        train = Sample(train.rows[kept], train.labels[kept], None if train.group is None else train.group[kept])
    found = {}
    for group in (EVERYTHING, *schema.GROUPS):
        columns = slice(0, 0) if group == EVERYTHING else schema.SLICES[group]
        if group != EVERYTHING and np.isnan(train.rows[:, columns]).all():
            continue
        tell(f"leaving out {group}" if group != EVERYTHING else "with all features")
        fitted = ctr.fit(_blank(train, columns), _blank(validate, columns), seed, threads)
        found[_name(group)] = fitted
    return Ablated(found, share)


def _name(left_out: str) -> str:
    return EVERYTHING if left_out == EVERYTHING else f"without {left_out}"


def _blank(sample: Sample, columns: slice) -> Sample:
    rows = sample.rows.copy()
    rows[:, columns] = np.nan
    return replace(sample, rows=rows)


def _without(source: str, taken: Taken, blend: Blend, spec: Spec) -> Proposals:
    """What would have been proposed without a source, and what became of that."""
    proposals = taken.proposals
    recent = recently_bought(taken.state) if spec.new_only else None
    proposer = Proposer(taken.neighbours, blend)
    found = proposer.propose(taken.state, spec.candidates, without=recent, quotas=replace(QUOTAS, **{source: 0.0}))
    fewer = replace(proposals, candidates=found, labels=np.zeros(len(found), bool))
    return replace(fewer, labels=np.isin(fewer.keys, proposals.taken))


def _chances(fitted: ctr.Fitted, proposals: Proposals, share: float) -> np.ndarray:
    """Chances by these trees, float32[n]; rows are made a part at a time."""
    chances = np.empty(len(proposals.labels), np.float32)
    for start in range(0, len(chances), PART):
        part = np.arange(start, min(start + PART, len(chances)))
        chances[part] = corrected(fitted.chance(proposals.rows(part)), share)
    return chances
