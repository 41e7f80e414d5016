"""What a model is worth on a test week, beside what needs no model."""

from __future__ import annotations

import numpy as np

from engine.features.state import P_120D, State
from engine.learning import evaluation, windows
from engine.learning.dataset import Proposals
from engine.learning.ranking import best_rows
from engine.learning.window_fit import Visits
from engine.learning.windows import WindowModel

Metrics = dict[str, float]


def measure_model(proposals: Proposals, chances: np.ndarray) -> Metrics:
    """The model's measures: `chances` float32[n], of each candidate of the test week."""
    measured = evaluation.classification(proposals.labels, chances)
    return measured | _ranking(proposals, proposals.candidates.user, proposals.keys, chances)


def measure_popularity(proposals: Proposals) -> Metrics:
    """The same for proposing everybody what everybody takes up, by decayed popularity."""
    state, found = proposals.state, proposals.candidates
    popularity = state.catalogue.popularity
    at = np.flatnonzero(state.catalogue.available)
    top = at[best_rows(np.zeros(len(at), np.int64), popularity[at], evaluation.CUTOFF)]
    user = np.repeat(np.arange(len(state)), len(top))
    item = np.tile(top, len(state))
    scores = popularity[found.item]
    return _ordering(proposals, scores) | _ranking(
        proposals, user, user * len(state.catalogue) + item, popularity[item]
    )


def measure_own_history(proposals: Proposals) -> Metrics:
    """The same for proposing users their own items, decayed with a half-life of 120 days."""
    state = proposals.state
    interest = state.interest[:, P_120D]
    scores = np.append(interest, np.float32(0))[state.pairs.find(proposals.keys)]
    open_items = state.catalogue.available[state.pair_item]
    keys = state.pairs.keys[open_items]
    return _ordering(proposals, scores) | _ranking(proposals, keys // len(state.catalogue), keys, interest[open_items])


def measure_windows(model: WindowModel, state: State, visits: Visits) -> dict[str, Metrics]:
    """The window model's measures on later visits, beside everybody's curve for everybody."""
    curves = windows.curves(model, state.hours, len(state)).preference.astype(np.float64)
    everybody = np.broadcast_to(model.cells, curves.shape)
    return {
        "model": evaluation.windows(curves[visits.user], visits.cell),
        "everybody": evaluation.windows(everybody[visits.user], visits.cell),
    }


def _ordering(proposals: Proposals, scores: np.ndarray) -> Metrics:
    return {
        "auc": evaluation.auc(proposals.labels, scores),
        "ap": evaluation.average_precision(proposals.labels, scores),
    }


def _ranking(proposals: Proposals, user: np.ndarray, keys: np.ndarray, scores: np.ndarray) -> Metrics:
    _, ndcg, hit = evaluation.ranking(user, keys, scores, proposals.taken, len(proposals.state.catalogue))
    return {"ndcg_10": evaluation.mean(ndcg), "hr_10": evaluation.mean(hit)}
