"""Who gets which variant of a message under test (pure).

    message:
      title: "For you"
      body: "Have a look at {{ item.title }}"
      experiment:
        name: subject-test
        arms:
          plain: {weight: 50}                                  # the message as it is
          asking: {weight: 50, title: "Seen this, {{ user.id }}?"}

It is drawn by weighted rendezvous hashing: of a user, each arm's name gives a number u in (0, 1), a keyed hash, and the
arm with the least −ln(u) / weight wins. So arms hold shares in proportion to their weights, and the draw knows nothing
of runs, of versions or of the order of arms: a user keeps the arm for as long as the weights stay in proportion. Where
one arm's weight grows, users move into that arm only, and as many as it gains; where it shrinks, out of it only; a new
arm takes its share from the others alike. Cumulative weights over one hash point in [0, 1) would not: of three arms
or more, moving one boundary moves those after it, and with them users between arms whose weights did not change.
Sources: Thaler and Ravishankar, "Using name-based mappings to increase hit rates", 1998; Schindelhauer and Schomaker,
"Weighted distributed hash tables", 2005.
"""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass

from engine.campaigns.wording import Experiment


@dataclass(frozen=True)
class Split:
    """An experiment of one campaign, ready to draw. arms: name, weight and key of each."""

    experiment: str
    arms: tuple[tuple[str, float, bytes], ...]

    def arm(self, user_id: int) -> str:
        """The arm of a user: the same at every call, in every process and version of Horae."""
        person = user_id.to_bytes(8, "little", signed=True)
        return min(self.arms, key=lambda arm: _distance(person, arm[1], arm[2]))[0]

    def label(self, user_id: int) -> str:
        """What a push of this user is recorded under: EXPERIMENT:ARM."""
        return f"{self.experiment}:{self.arm(user_id)}"


def split_of(secret: bytes, campaign_id: int, experiment: Experiment) -> Split:
    """How `experiment` of a campaign divides users, by the workspace's secret (1–64 bytes)."""
    return Split(
        experiment.name,
        tuple(
            (name, experiment.arms[name].weight, _key(secret, f"variant|{campaign_id}|{experiment.name}|{name}"))
            for name in sorted(experiment.arms)
        ),
    )


def _key(secret: bytes, purpose: str) -> bytes:
    return hashlib.blake2b(purpose.encode(), key=secret, digest_size=32).digest()


def _distance(person: bytes, weight: float, key: bytes) -> float:
    number = int.from_bytes(hashlib.blake2b(person, key=key, digest_size=8).digest(), "little")
    return -math.log((number + 0.5) * 2.0**-64) / weight
