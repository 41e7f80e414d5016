"""`horae bench allocate`: what the planner's allocation is worth beside the exact optimum, and how fast it is.

The allocation proper, as a run does it but without a store: prices from a sample, every user's best set at these
prices, proposals, settlement with refill. Its value is put beside that of the linear program over all users at once,
solved by HiGHS: an upper bound, as fractions of pushes are allowed in it. Beside it, in the same markets: greedy per
user (each user's best set, then capacity by value), greedy over all pushes by value, and first come first served.

In the program capacity counts pushes per quarter-hour at the very instants that users have; caps and gap are
constraints of every set of pushes that exclude each other. The scenario "thin" is beside the bound: there a
quarter-hour takes a dozen pushes and into which one a user's window falls is chance, which prices cannot know.
"""

from __future__ import annotations

import resource
import statistics
from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import numpy as np

from engine.bench.market import SCENARIOS, Market, market
from engine.bench.program import Proposed, columns_of, favourites, greedy, lp_value, violations
from engine.bench.report import Options, Report, Tell
from engine.planning import decide, record
from engine.planning.allotment import Incumbents, Proposals, Terms, allot
from engine.planning.decide import Goods, People
from engine.planning.prices import SAMPLE_USERS, Prices, solve_prices
from engine.planning.pricing import sample_of
from engine.planning.record import Decided

USERS, OFFERS = 3_000, 8
TIMED_USERS, TIMED_ROUNDS = 50_000, 3
BLOCK = 6_000
SHARDS = (1, 16)

BOUNDS = {"value_per_lp_ratio": ">= 0.995", "violations": "= 0", "allocate_50k_s": "<= 5"}


def run(options: Options, tell: Tell) -> Report:
    """Run the bench."""
    users = options.users or USERS
    figures: dict[str, float] = {}
    worst: list[dict[str, float]] = []
    broken = 0
    for scenario in SCENARIOS:
        tell(f"{scenario}: {users:,} users")
        found, wrong = compare(market(scenario, users, OFFERS, options.seed))
        figures |= {f"{method}, {scenario}": ratio for method, ratio in found.items()}
        broken += wrong
        if scenario != "thin":
            worst.append(found)
    tell(f"{TIMED_USERS:,} users on one core")
    seconds = statistics.median(_timed(options.seed, options.repeats or TIMED_ROUNDS))
    figures = {
        "value_per_lp_ratio": min(min(v for k, v in each.items() if k.startswith("horae")) for each in worst),
        "violations": broken,
        "allocate_50k_s": seconds,
        "greedy_per_user_ratio": min(each["greedy per user"] for each in worst),
        "greedy_over_all_ratio": min(each["greedy over all"] for each in worst),
        "first_come_ratio": min(each["first come first served"] for each in worst),
    } | figures
    load = {"seed": options.seed, "users": users, "offers": OFFERS, "windows": 7, "campaigns": 2, "caps": 2}
    return Report("allocate", load | {"timed_users": TIMED_USERS}, figures, BOUNDS)


def compare(here: Market) -> tuple[dict[str, float], int]:
    """The value of each method over the program's, and how many rules were broken."""
    people, goods, options = _weighed(here, slice(None), here.terms.prices)
    columns = columns_of(here, options)
    bound = lp_value(here, columns)
    found: dict[str, float] = {}
    wrong = 0
    for shards in SHARDS:
        plan = allocate(here, shards)
        wrong += violations(here, plan)
        found[f"horae, {shards} shard{'s' if shards > 1 else ''}"] = plan.value.sum() / bound
    for name, plan in (
        ("greedy per user", favourites(here, decide.choose(here.terms, people, goods, options), options)),
        ("greedy over all", greedy(here, columns, np.lexsort((columns.user, -columns.value)))),
        ("first come first served", greedy(here, columns, np.lexsort((-columns.value, columns.user)))),
    ):
        wrong += violations(here, plan)
        found[name] = plan.value.sum() / bound
    return found, wrong


def _timed(seed: int, rounds: int) -> Iterator[float]:
    here = market("random", TIMED_USERS, OFFERS, seed)
    for _ in range(rounds):
        began = _cpu_seconds()
        allocate(here, -(-TIMED_USERS // BLOCK))
        yield _cpu_seconds() - began


def _cpu_seconds() -> float:
    """Seconds of one core that this process has used: what else the machine does is no part of them."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


# --- the allocation, as a run does it --------------------------------------------------------------------------------


def allocate(here: Market, shards: int) -> Proposed:
    """What a run over the market would publish, planned in `shards` parts."""
    users = len(here.people.users)
    prices = _prices(here)
    edges = np.linspace(0, users, shards + 1).astype(int)
    parts = [_decided(here, slice(low, high), prices) for low, high in pairwise(edges)]
    row = np.concatenate([part.row[part.planned] + low for part, low in zip(parts, edges[:-1], strict=True)])
    proposals = Proposals(
        np.zeros((len(row), 16), np.uint8),
        *(
            np.concatenate([getattr(part, name)[part.planned] for part in parts])
            for name in ("occurrence", "user", "item", "send_at", "value", "price")
        ),
    )
    alternatives = np.concatenate([part.alternatives[part.planned] for part in parts])
    terms = Terms(here.terms.secret, here.terms.seed, here.occasions)
    result = allot(terms, here.capacities, proposals, lambda at: _known(alternatives[at]), _nobody, _begin(here))
    send_at, value, item = (getattr(proposals, name).copy() for name in ("send_at", "value", "item"))
    send_at[result.moved], value[result.moved] = result.to["send_at"], result.to["value"]
    item[result.moved] = result.to["item"]
    stays = np.ones(len(row), bool)
    stays[result.refused] = False
    return Proposed(row[stays], proposals.occurrence[stays], item[stays], send_at[stays], value[stays])


def _begin(here: Market) -> Any:
    return here.occasions[0].starts_at


def _weighed(here: Market, rows: slice, prices: Prices) -> tuple[People, Goods, decide.Options]:
    people, goods = here.part(rows)
    return people, goods, decide.weigh(here.with_prices(prices), people, goods)


def _decided(here: Market, rows: slice, prices: Prices) -> Decided:
    people, goods, options = _weighed(here, rows, prices)
    terms = here.with_prices(prices)
    choice = decide.choose(terms, people, goods, options)
    return record.record(terms, record.Weighed(people, goods, options, choice), 0.0)


def _prices(here: Market) -> Prices:
    """As a run has them, from the first users: their order says nothing about them."""
    users = len(here.people.users)
    some = min(SAMPLE_USERS, users)
    people, _, options = _weighed(here, slice(0, some), here.terms.prices)
    sample = sample_of(here.terms, people, options.problem)
    return solve_prices(sample, here.capacities, some / users)


def _known(alternatives: np.ndarray) -> list[np.ndarray]:
    return [row[np.isfinite(row["slot"])] for row in alternatives]


def _nobody() -> Incumbents:
    none = np.zeros(0, np.int64)
    return Incumbents(none, none, np.zeros((0, 3), np.int64), np.zeros(0))
