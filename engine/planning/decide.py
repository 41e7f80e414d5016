"""One block of users, every occurrence of a run: who gets what, when, or nothing, and why (pure).

The order is fixed: who is out before anything is weighed (audience, consent, device, holdout), what could be sent
(offers × windows, caps, expiry), the arms, the best sets, and for everybody exactly one reason. Everything is arrays
over users; nothing depends on how users are cut into blocks.

Shapes: n users, O occurrences, K offers, W windows. A choice is k · W + w, or NOTHING.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from engine.planning import allocation, arms, chance, inbox, limits, receipt, windows, worth
from engine.planning.allocation import NOTHING, Problem
from engine.planning.inbox import Rivals
from engine.planning.limits import Rules, Sends
from engine.planning.offers import MISSING
from engine.planning.prices import JITTER, Prices
from engine.planning.worth import Weights
from engine.store.tables import DECISION_REASONS

REASON = {name: code for code, name in enumerate(DECISION_REASONS)}
NOT_ASKED, OPEN = -2, -1
"""Instead of a reason: not in the audience of the occurrence; nothing decided yet."""

TIE = 1e-9
"""Values are compared with this share of a keyed hash on top: only equal ones notice (float32 has steps of 6e-8)."""


@dataclass(frozen=True)
class Terms:
    """What is the same for all users of a run; arrays over its occurrences.

    campaigns int64[O]; holdout float64[O] (NaN: transactional, none), exploration float64[O], once bool[O] (an item
    once per period). `model`, `regime` (of features.logged), `policy`, `library` (this code's
    version) and versions int32[O] (of the campaigns) go into receipts.
    """

    secret: bytes
    seed: int
    campaigns: np.ndarray
    versions: np.ndarray
    holdout: np.ndarray
    everywhere: float
    exploration: np.ndarray
    once: np.ndarray
    displaces: np.ndarray
    weights: Weights
    rules: Rules
    prices: Prices
    model: int
    regime: int
    policy: int
    library: tuple[int, int, int]


@dataclass(frozen=True)
class Kept:
    """Planned pushes that are planned again: slot float64[n, O], the start of each one's window, at float64[n, O], its
    instant (NaN: none); earliest: no other instant before it, epoch seconds; still bool[O]: the window must stay."""

    slot: np.ndarray
    at: np.ndarray
    earliest: float
    still: np.ndarray


@dataclass(frozen=True)
class People:
    """A block of users. users int64[n], sorted; reason int8[n, O] (NOT_ASKED, OPEN or known already); group int32[n]:
    the row of `table` that has their windows; sends: theirs, in order; rivals: those planned pushes that may be
    displaced; kept: where each user's planned pushes of these occurrences are now (of a refresh)."""

    users: np.ndarray
    reason: np.ndarray
    group: np.ndarray
    table: windows.Table
    sends: Sends
    rivals: Rivals
    kept: Kept | None = None


@dataclass(frozen=True)
class Goods:
    """What they could get; all [n, O, K], score [n, O, K, W].

    place int32, positions in the catalogue (MISSING, NO_ITEM); related float32, the item-to-item score; item int64, ids
    (with the same marks); category int32; since, until float64, availability in epoch seconds; score float32, which
    stands for click and goal; annoyed float64[n]: P(dismissed or opted out) of a push.
    """

    place: np.ndarray
    related: np.ndarray
    item: np.ndarray
    category: np.ndarray
    since: np.ndarray
    until: np.ndarray
    score: np.ndarray
    annoyed: np.ndarray


@dataclass(frozen=True)
class Options:
    """Every (offer, window): code uint8[n, O, K, W] (receipt codes), value float64[n, O, K, W] (−inf: no such option),
    price float64[n, O, W] of the instant, charge float64[n, O, K] of the offer (budget, stock), at float64[n, O, W],
    ties float64[n, O, K, W], failed bool[n, O] (there are options, and no score of theirs is a number), and the
    problem that weighs them."""

    code: np.ndarray
    value: np.ndarray
    price: np.ndarray
    charge: np.ndarray
    at: np.ndarray
    ties: np.ndarray
    failed: np.ndarray
    problem: Problem


@dataclass(frozen=True)
class Choice:
    """arm int8[n, O], chosen and best (what exploiting does) int32[n, O], options int64[n, O] (|A|), drawable
    bool[n, O]: whether exploring could have drawn the chosen one, beside uint8[n, O, K, W]: codes as they are beside
    the user's other pushes of the run, displaced bool[n, D]: the rivals that give way."""

    arm: np.ndarray
    chosen: np.ndarray
    best: np.ndarray
    options: np.ndarray
    drawable: np.ndarray
    beside: np.ndarray
    displaced: np.ndarray


def screen(terms: Terms, people: People) -> People:
    """People with the reasons that need no scores: holdout, and no window left."""
    reason = people.reason.copy()
    held = arms.held_out(terms.secret, people.users, terms.campaigns, (terms.everywhere, terms.holdout))
    reason[(reason == OPEN) & held] = REASON["holdout"]
    why = people.table.why[people.group]
    for name in ("too_late", "expired", "quiet_hours"):
        reason[(reason == OPEN) & (why == name)] = REASON[name]
    return replace(people, reason=reason)


def weigh(terms: Terms, people: People, goods: Goods) -> Options:
    """Values, prices and what forbids each option, for the occurrences in which a user is still OPEN."""
    table, group = people.table, people.group
    slots = table.slot[group]
    draw = chance.uniform(
        chance.key_of(terms.secret, "instant", terms.seed),
        people.users[:, None, None],
        terms.campaigns[None, :, None],
        slots.astype(np.int64),
    )
    at = windows.instants(table.first[group], table.length[group], draw)
    there = table.cell[group] >= 0
    if people.kept is not None:
        at, there = _kept_instants(people.kept, slots, at, there)
    day = table.day[group]
    exists = (goods.item != MISSING)[..., None] & there[:, :, None, :]
    exists &= (people.reason == OPEN)[:, :, None, None]
    micros = np.round(at * 1e6).astype(np.int64)
    disturbing = worth.disturbing(terms.weights, goods.annoyed, worth.tiredness(people.sends, micros))
    value = worth.values(terms.weights, goods.score, goods.score, disturbing)
    known = exists & ~np.isnan(value)
    value[~known] = -np.inf
    failed = exists.any((2, 3)) & ~known.any((2, 3))
    room = limits.room(terms.rules, people.sends, micros, day)
    code = _codes(terms.rules, goods, at, room)
    price, charge = terms.prices.at(at), terms.prices.of_offers(goods.item)
    allowed = (code == receipt.FREE) & np.isfinite(value)
    ties = _ties(terms, people, goods.item, slots)
    if terms.prices.highest():
        jitter = jitters(terms.secret, terms.seed, people.users, (terms.campaigns, slots))
        value_at_prices = np.where(allowed, value, 0.0) * jitter[:, :, None, :]
    else:
        value_at_prices = value
    net = np.where(allowed, value_at_prices - price[:, :, None, :] - charge[..., None], -np.inf) * ties
    problem = Problem(net, goods.item, goods.category, micros, day, terms.once, terms.rules, room)
    return Options(code, value, price, charge, at, ties, failed, problem)


def jitters(secret: bytes, seed: int, users: np.ndarray, where: tuple[np.ndarray, np.ndarray]) -> np.ndarray:
    """Factors near 1 on values that are weighed against prices, float64[n, O, W], of campaigns int64[O] and slots
    float64[n, O, W] (`where`): the same in the program that made the prices.

    At its prices many users are indifferent; without the factor all of them would want the same window.
    """
    campaigns, slots = where
    key = chance.key_of(secret, "jitter", seed)
    drawn = chance.uniform(key, users[:, None, None], campaigns[None, :, None], slots.astype(np.int64))
    factors: np.ndarray = 1.0 + JITTER * (drawn - 0.5)
    return factors


def _kept_instants(kept: Kept, slots: np.ndarray, at: np.ndarray, there: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The instants and which windows there are, for pushes that are planned already: in its own window a push stays
    where it is, and into another it moves only from `earliest` on."""
    own = slots == kept.slot[:, :, None]
    at = np.where(own, kept.at[:, :, None], at)
    elsewhere = (at >= kept.earliest) & ~kept.still[None, :, None]
    return at, there & (own | elsewhere)


def choose(terms: Terms, people: People, goods: Goods, options: Options) -> Choice:
    """The arms and their choices."""
    best = _bids(terms, options, allocation.best_sets(options.problem))
    contest = inbox.Contest(terms.rules, terms.displaces, people.sends, people.rivals)
    best, displaced = inbox.compete(
        contest, options.problem, best, lambda rows, room: _net(terms, goods, options, (rows, room))
    )
    free = (options.code == receipt.FREE) & np.isfinite(options.value)
    count = free.sum((2, 3)) + 1
    explores = arms.explores(terms.secret, terms.seed, people.users, terms.exploration)
    explores &= (people.reason == OPEN) & (count > 1)
    arm = np.where(people.reason == REASON["holdout"], arms.HOLDOUT, np.where(explores, arms.EXPLORE, arms.EXPLOIT))
    chosen = best.copy()
    rows = np.flatnonzero(explores.any(1))
    if len(rows):
        chosen[rows], count[rows] = _explore(terms, people.users[rows], options, (rows, explores[rows], free[rows]))
        # Beside an explored push, exploiting means the best that fits there.
        best[rows] = np.where(explores[rows], best[rows], chosen[rows])
        displaced[rows] = False
    drawable = (chosen == NOTHING) | _at(free, chosen)
    return Choice(arm.astype(np.int8), chosen, best, count, drawable, _beside(options, chosen), displaced)


def _at(values: np.ndarray, choice: np.ndarray) -> np.ndarray:
    """values[n, O, K, W] of the choices int32[n, O]; of NOTHING those of the first option."""
    flat = values.reshape(*choice.shape, -1)
    found: np.ndarray = np.take_along_axis(flat, np.maximum(choice, 0)[..., None].astype(np.int64), 2)[..., 0]
    return found


def _net(terms: Terms, goods: Goods, options: Options, given: tuple[np.ndarray, limits.Room]) -> np.ndarray:
    """What the options of some users (rows) are worth in another room, float64[len(rows), O, K, W]."""
    rows, room = given
    few = Goods(*(getattr(goods, name)[rows] for name in Goods.__dataclass_fields__))
    code = _codes(terms.rules, few, options.at[rows], room)
    value = options.value[rows]
    net = value - options.price[rows][:, :, None, :] - options.charge[rows][..., None]
    out: np.ndarray = np.where((code == receipt.FREE) & np.isfinite(value), net, -np.inf) * options.ties[rows]
    return out


def outcome(people: People, options: Options, choice: Choice) -> tuple[np.ndarray, np.ndarray]:
    """(reason int8[n, O], code uint8[n, O]): one reason for each, and what stood in the way of the nearest miss."""
    n, occurrences = people.reason.shape
    flat_value = options.value.reshape(n, occurrences, -1)
    flat_code = choice.beside.reshape(n, occurrences, -1)
    is_free = (flat_code == receipt.FREE) & np.isfinite(flat_value)
    nearest = np.argmax(np.where(is_free.any(2)[..., None], np.where(is_free, flat_value, -np.inf), flat_value), 2)
    code = np.take_along_axis(flat_code, nearest[..., None], 2)[..., 0]
    value = np.take_along_axis(flat_value, nearest[..., None], 2)[..., 0]
    windows_count = options.price.shape[2]
    price = np.take_along_axis(options.price, (nearest % windows_count)[..., None], 2)[..., 0]
    charge = np.take_along_axis(options.charge, (nearest // windows_count)[..., None], 2)[..., 0]
    code = np.where((code == receipt.FREE) & (value <= 0), receipt.WORTHLESS, code)
    dear = (code == receipt.FREE) & (value - price - charge <= 0)
    code = np.where(dear, np.where(charge > price, receipt.BUDGET, receipt.PRICE), code)
    names = np.full(256, REASON["capped"], np.int8)
    for known, name in (
        (receipt.EXPIRED, "expired"),
        (receipt.GAP, "gap"),
        (receipt.PRICE, "capacity"),
        (receipt.BUDGET, "budget"),
        (receipt.WORTHLESS, "not_worth"),
        (receipt.FREE, "not_worth"),
    ):
        names[known] = REASON[name]
    nothing = np.where(options.failed, REASON["failed_input"], REASON["no_candidate"])
    reason = np.where(np.isfinite(flat_value).any(2), names[code], nothing)
    reason = np.where(choice.arm == arms.EXPLORE, REASON["explored_nothing"], reason)
    reason = np.where(choice.chosen >= 0, REASON["planned"], reason)
    settled = people.reason != OPEN
    reason = np.where(settled, people.reason, reason).astype(np.int8)
    return reason, np.where(settled | (choice.chosen >= 0), receipt.FREE, code).astype(np.uint8)


def _codes(rules: Rules, goods: Goods, at: np.ndarray, room: limits.Room) -> np.ndarray:
    shape = (*goods.item.shape, at.shape[2])
    by_window = np.zeros(at.shape, np.uint8)
    full = limits.full(rules, room)
    about_items = rules.about_items()
    for r in reversed(range(len(rules.rules))):
        if r not in about_items:
            by_window[full[r]] = receipt.FIRST_CAP + r
    by_window[~room.gap_free] = receipt.GAP
    code = np.broadcast_to(by_window[:, :, None, :], shape).copy()
    for r in about_items:
        of = (goods.category == rules.rules[r].category)[..., None] & full[r][:, :, None, :]
        code[of & (code == receipt.FREE)] = receipt.FIRST_CAP + r
    instants = at[:, :, None, :]
    code[(instants < goods.since[..., None]) | (instants >= goods.until[..., None])] = receipt.EXPIRED
    return code


def _ties(terms: Terms, people: People, item: np.ndarray, slots: np.ndarray) -> np.ndarray:
    """Factors next to 1 by keyed hash, float64[n, O, K, W]."""
    key = chance.key_of(terms.secret, "ties", terms.seed)
    who = chance.hashes(key, people.users[:, None, None], terms.campaigns[None, :, None], item)
    when = chance.hashes(key, slots.astype(np.int64))
    mixed = chance.mix(who[..., None] ^ when[:, :, None, :])
    return 1.0 + TIE * ((mixed >> np.uint64(11)).astype(np.float64) * 2.0**-53)


def _bids(terms: Terms, options: Options, best: np.ndarray) -> np.ndarray:
    """The best sets, and what is worth sending but not at its price: capacity that is left in the end goes to it."""
    highest = terms.prices.highest()
    if not highest:
        return best
    problem = options.problem
    deserves = np.isfinite(problem.net) & (options.value > 0)
    out = (best == NOTHING) & deserves.any((2, 3))
    rows = np.flatnonzero(out.any(1))
    if not len(rows):
        return best
    lifted = np.where(deserves[rows], problem.net[rows] + highest, -np.inf)
    lifted[~out[rows]] = -np.inf
    best = best.copy()
    best[rows] = allocation.best_sets(replace(problem.of(rows), net=lifted), best[rows])
    return best


def _explore(
    terms: Terms, users: np.ndarray, options: Options, who: tuple[np.ndarray, np.ndarray, np.ndarray]
) -> tuple[np.ndarray, np.ndarray]:
    """Explored choices first, one occurrence after the other; then the user's other occurrences beside them."""
    rows, explores, free = who
    problem = options.problem.of(rows)
    count = free.sum((2, 3)) + 1
    fixed = np.full(explores.shape, NOTHING, np.int32)
    key = chance.key_of(terms.secret, "explored", terms.seed)
    for o in range(explores.shape[1]):
        taken, items = allocation.taken_of(problem, fixed)
        feasible = free[:, o] & ~allocation.beside(problem, o, taken, items)
        feasible &= explores[:, o][:, None, None]
        draw = chance.uniform(key, users, np.full(len(users), terms.campaigns[o]))
        pick = arms.explored(feasible.reshape(len(rows), -1), draw)
        fixed[:, o] = np.where(explores[:, o], pick, NOTHING)
        count[:, o] = np.where(explores[:, o], feasible.sum((1, 2)) + 1, count[:, o])
    net = np.where(explores[:, :, None, None], -np.inf, problem.net)
    return allocation.best_sets(replace(problem, net=net), fixed), count


def _beside(options: Options, chosen: np.ndarray) -> np.ndarray:
    """Codes of the options beside the user's other chosen pushes."""
    code = options.code
    several = np.flatnonzero((chosen >= 0).any(1)) if chosen.shape[1] > 1 else np.zeros(0, np.int64)
    if not len(several):
        return code
    code = code.copy()
    problem = options.problem.of(several)
    for o in range(chosen.shape[1]):
        others = chosen[several].copy()
        others[:, o] = NOTHING
        taken, items = allocation.taken_of(problem, others)
        blocked = allocation.beside(problem, o, taken, items)
        too_close = limits.gap_clash(problem.rules, o, problem.at[:, o], taken)[:, None, :]
        stands = np.where(too_close, np.uint8(receipt.GAP), np.uint8(receipt.BESIDE))
        part = code[several, o]
        code[several, o] = np.where(blocked & (part == receipt.FREE), stands, part)
    return code
