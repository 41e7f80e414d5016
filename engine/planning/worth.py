"""What a push is worth: v = (P(click)·value_click + P(goal)·margin − cost of disturbing) · priority (pure).

The cost of disturbing is the campaign's `cost_disturb` × the probability that the user dismisses the push or opts out,
which rises with every other push around the same time (fatigue). "Send nothing" is worth 0: a push whose value less the
prices of what it uses up is not positive is never sent.

One score stands for both probabilities where a model tells only one.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from engine.planning.limits import Sends, rounds

DISTURBED = 0.02
"""P(dismissed or opted out) of a user who never answered a push. An assumption, not a measurement: it gives way to the
user's own answers."""

ANSWERS = 20.0
"""How many answers DISTURBED weighs as much as."""

HALF_LIFE = 86_400e6
"""After so many microseconds a push tires half as much."""


@dataclass(frozen=True)
class Weights:
    """The settings of a run's campaigns, float64[O] each: value_click, margin, cost_disturb, fatigue, priority."""

    click: np.ndarray
    goal: np.ndarray
    disturb: np.ndarray
    fatigue: np.ndarray
    priority: np.ndarray


def values(weights: Weights, click: np.ndarray, goal: np.ndarray, disturbing: np.ndarray) -> np.ndarray:
    """float64[n, O, K, W]: the value of each option from the probabilities click, goal float32[n, O, K, W] and the cost
    of disturbing float64[n, O, W]. NaN where a probability is not finite."""
    gain: np.ndarray = click.astype(np.float64) * _of(weights.click)
    gain += goal.astype(np.float64) * _of(weights.goal)
    gain -= disturbing[:, :, None, :]
    gain *= _of(weights.priority)
    gain[~np.isfinite(gain)] = np.nan
    return gain


def disturbing(weights: Weights, annoyed: np.ndarray, recent: np.ndarray) -> np.ndarray:
    """The cost of disturbing, float64[n, O, W]: annoyed float64[n], P(dismissed or opted out) of a single push; recent
    float64[n, O, W], pushes around each instant (`tiredness`)."""
    factor = 1.0 + weights.fatigue[None, :, None] * recent
    chance = np.minimum(annoyed[:, None, None] * factor, 1.0)
    cost: np.ndarray = weights.disturb[None, :, None] * chance
    return cost


def annoyance(dismissed: np.ndarray, answers: np.ndarray) -> np.ndarray:
    """float64[n]: the share of a user's answers (opens, clicks, dismissals; decayed counts) that dismissed, shrunk
    towards DISTURBED. NaN counts as none."""
    bad, given = np.nan_to_num(dismissed.astype(np.float64)), np.nan_to_num(answers.astype(np.float64))
    share: np.ndarray = (bad + DISTURBED * ANSWERS) / (np.maximum(given, bad) + ANSWERS)
    return share


def tiredness(sends: Sends, at: np.ndarray) -> np.ndarray:
    """float64[n, O, W]: the user's other pushes, sent and planned, around each instant at int64[n, O, W]
    (microseconds), each counting 2^(−distance / HALF_LIFE)."""
    flat = at.reshape(len(at), -1)
    total = np.zeros(flat.shape)
    for rows, index in rounds(sends.offsets):
        apart = np.abs(flat[rows] - sends.at[index][:, None])
        total[rows] += np.exp2(-apart / HALF_LIFE)
    return total.reshape(at.shape)


def _of(values_of: np.ndarray) -> np.ndarray:
    return values_of[None, :, None, None]
