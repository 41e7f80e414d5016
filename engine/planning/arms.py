"""The arms of an experiment, drawn before anything is allocated (pure).

Holdout is sticky: a user's draw depends on the workspace's secret, the user and (for a campaign's own holdout) the
campaign, never on a run. Exploration is drawn anew per run. As the draw comes before allocation, the probability of
every choice is known exactly: p(a) = ε/|A| + (1 − ε)·1[a = a*], with A the user's feasible (offer, window) pairs and
nothing, and a* what exploiting would have chosen. Of several pushes to one user each one's probability is given the
others': A and a* are then what fits beside those drawn before.
"""

from __future__ import annotations

import numpy as np

from engine.planning import chance
from engine.store.tables import ARMS

EXPLOIT, EXPLORE, HOLDOUT = (ARMS.index(name) for name in ("exploit", "explore", "holdout"))


def held_out(secret: bytes, users: np.ndarray, campaigns: np.ndarray, shares: tuple[float, np.ndarray]) -> np.ndarray:
    """bool[n, O]: users (int64[n]) held out of each campaign (int64[O]); shares: of everything, of each campaign [O].

    The global share does not apply where the campaign's share is NaN (transactional sends have no holdout).
    """
    everywhere, own = shares
    of_all = chance.uniform(chance.key_of(secret, "holdout"), users)[:, None] < everywhere
    draw = chance.uniform(chance.key_of(secret, "campaign holdout"), campaigns[None, :], users[:, None])
    return np.where(np.isnan(own), False, of_all | (draw < own))


def explores(secret: bytes, seed: int, users: np.ndarray, shares: np.ndarray) -> np.ndarray:
    """bool[n, O]: who explores, by each occurrence's share [O]; one draw a user, so that a user.s pushes of a run
    with one share explore together."""
    return chance.uniform(chance.key_of(secret, "explore", seed), users)[:, None] < shares


def explored(feasible: np.ndarray, draw: np.ndarray) -> np.ndarray:
    """int64[n]: one of the feasible options (bool[n, options]) or nothing (−1), uniformly by `draw` in [0, 1)."""
    count = feasible.sum(1)
    pick = np.floor(draw * (count + 1)).astype(np.int64)
    place = np.cumsum(feasible, 1)
    chosen = np.argmax(feasible & (place == pick[:, None] + 1), 1)
    return np.where(pick < count, chosen, -1)


def propensity(
    share: np.ndarray, options: np.ndarray, is_best: np.ndarray, drawable: np.ndarray | bool = True
) -> np.ndarray:
    """float64: the probability of a choice. share: of users who explore; options: |A|, nothing included; is_best:
    exploiting makes it; drawable: it is in A (what takes the place of a planned push is not)."""
    p: np.ndarray = np.where(drawable, share / options, 0.0) + np.where(is_best, 1.0 - share, 0.0)
    return p
