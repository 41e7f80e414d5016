"""`horae bench score`: candidates, feature rows and CTR, 50 rows a user, beside the yardstick.

One process, one thread. The state is loaded untimed, as a worker holds it; timed is what every run does with it.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable

from engine.bench.loads import END
from engine.bench.report import Options, Report, Tell
from engine.bench.scratch import scratch_database
from engine.bench.shop import build_shop
from engine.bench.yardstick import BATCH_ROWS, yardstick_model, yardstick_rows, yardstick_seconds
from engine.clock import monotonic
from engine.config import read_settings
from engine.features import schema
from engine.features.state import State
from engine.learning.scoring import Scorer, load_scorer

USERS, ROUNDS = 10_000, 7
ROWS_A_USER = 50
BOUNDS = {"score_per_yardstick_ratio": "<= 2"}


def run(options: Options, tell: Tell) -> Report:
    """Run the bench."""
    load, figures = measure_score(options.users or USERS, options.repeats or ROUNDS, tell, options.seed)
    return Report("score", load, figures, BOUNDS)


def measure_score(
    users: int = USERS, rounds: int = ROUNDS, say: Callable[[str], None] = lambda _: None, seed: int = 1
) -> tuple[dict[str, object], dict[str, float]]:
    """Run the bench on a shop of `users` users: (load, figures). Scoring and yardstick alternate; medians."""
    say(f"making a shop of {users:,} users")
    with scratch_database(read_settings(), "score") as database:
        described = build_shop(database, users, seed, say)
        with database.snapshot() as snapshot:
            scorer = load_scorer(snapshot.connection)
            state = scorer.state(snapshot, (0, 1024), END, scorer.catalogue(snapshot, END))
    yardstick, batch = yardstick_model(), yardstick_rows(BATCH_ROWS)
    scored, bound = [], []
    rows = 0
    for number in range(rounds):
        say(f"round {number + 1} of {rounds}")
        seconds, rows = _score(scorer, state)
        scored.append(seconds)
        bound.append(yardstick_seconds(yardstick, batch, rows))
    described |= {"rows_a_user": ROWS_A_USER, "features": schema.COUNT, "rounds": rounds}
    return described, {
        "score_per_yardstick_ratio": statistics.median(s / b for s, b in zip(scored, bound, strict=True)),
        "score_us_per_row": statistics.median(scored) / rows * 1e6,
        "yardstick_us_per_row": statistics.median(bound) / rows * 1e6,
        "users_per_s": users / statistics.median(scored),
    }


def _score(scorer: Scorer, state: State) -> tuple[float, int]:
    started = monotonic()
    found = scorer.candidates(state, ROWS_A_USER)
    scorer.goal(state, found.user, found.item, found.related)
    return monotonic() - started, len(found)
