"""A decision computed again and compared with what was stored: one check for each thing that it rested on.

A check *agrees*, *differs* or is *not comparable*; together they give the verdict.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal

import numpy as np

from engine.campaigns.audience import REFUSALS
from engine.campaigns.rules import workspace_caps
from engine.features.schema import NAMES
from engine.planning import arms, chance, receipt, windows, worth
from engine.planning.allocation import NOTHING
from engine.planning.case import PLANNED, Case
from engine.planning.occasions import stretches_of
from engine.planning.opening import LIBRARY
from engine.planning.receipt import Receipt
from engine.planning.remembered import Solved
from engine.planning.rescoring import ScoreParts
from engine.planning.worth import Weights
from engine.store.tables import DECISION_REASONS

Outcome = Literal["agrees", "differs", "not comparable"]
AGREES, DIFFERS, UNKNOWN = "agrees", "differs", "not comparable"

_SETTINGS = ("value_click", "margin", "cost_disturb", "fatigue", "priority")
"""Settings of a campaign, in the order of Weights."""

_CLOSE = 1e-6
"""Alternatives are remembered as float32: nearer than this share, two values are equal."""


@dataclass(frozen=True)
class Check:
    """One thing computed again. detail: both values where they differ, the reason where it cannot be compared."""

    name: str
    outcome: str
    detail: str = ""


def checks_of(case: Case, o: int, solved: Solved, parts: ScoreParts | None) -> list[Check]:
    """The checks of the decision of occurrence `o` against its receipt."""
    stored, row = case.receipts[o], case.rows[o][0]
    if stored is None:
        return []
    found = [_versions(case, o, stored), _arm(case, o, row, stored)]
    if row.send_at is not None:
        found += [_score(parts), _value(case, o, row, parts), _price(case, o, row), _instant(case, o, row, stored)]
    if not np.isnan(row.propensity if row.propensity is not None else np.nan):
        found.append(_propensity(case, o, row, stored))
    found.append(_constraints(case, o, stored, solved))
    found.append(_choice(case, o, row, solved))
    return found


def verdict(stored: Receipt | None, checks: list[Check]) -> str:
    """agrees, differs, or not comparable and why."""
    if stored is None:
        return f"{UNKNOWN}: the receipt is gone (retention or erasure), or of a version that cannot be read"
    wrong = [check.name for check in checks if check.outcome == DIFFERS]
    versions = next((check for check in checks if check.name == "versions" and check.outcome == UNKNOWN), None)
    if versions is not None:
        return f"{UNKNOWN}: {versions.detail}"
    if wrong:
        return f"{DIFFERS}: {', '.join(wrong)}"
    return AGREES


def _compare(name: str, stored: float | None, again: float, *, share: float = 0.0) -> Check:
    if stored is None:
        return Check(name, UNKNOWN, "nothing was stored")
    equal = stored == again if share == 0.0 else abs(stored - again) <= share * max(abs(stored), abs(again))
    return Check(name, AGREES) if equal else Check(name, DIFFERS, f"stored {stored!r}, again {again!r}")


def _versions(case: Case, o: int, stored: Receipt) -> Check:
    here = ".".join(map(str, LIBRARY))
    if stored.library != here:
        return Check("versions", UNKNOWN, f"decided by Horae {stored.library}, and this is {here}")
    spec = case.spec
    given = (stored.model, stored.policy, stored.campaign)
    fixed = (spec.model_version or 0, spec.policy_version, spec.occasions[o].version)
    return Check("versions", AGREES) if given == fixed else Check("versions", DIFFERS, f"receipt {given}, run {fixed}")


def _arm(case: Case, o: int, row: Any, stored: Receipt) -> Check:
    occasion, users = case.spec.occasions[o], np.array([case.user.id], np.int64)
    campaigns = np.array([occasion.campaign_id], np.int64)
    held = arms.held_out(case.secret, users, campaigns, (case.policy.holdout, np.array([occasion.holdout])))[0, 0]
    explores = arms.explores(case.secret, case.spec.seed, users, np.array([occasion.exploration]))[0, 0]
    if DECISION_REASONS[row.reason] in REFUSALS:
        return Check("arm", AGREES)
    if explores and not held and stored.options == 1:  # other pushes left nothing to draw from, or nothing ever was
        return Check("arm", AGREES if row.arm != arms.HOLDOUT else DIFFERS)
    return _compare("arm", row.arm, arms.HOLDOUT if held else arms.EXPLORE if explores else arms.EXPLOIT)


def _score(parts: ScoreParts | None) -> Check:
    if parts is None or parts.recomputed is None:
        return Check("score", UNKNOWN, (parts.missing if parts else None) or "no score was stored")
    if parts.regime == "click":
        return _compare("score", parts.score, parts.recomputed)
    within = parts.hour is not None and 0 < parts.hour <= 1 + _CLOSE
    detail = "" if within else f"stored {parts.score!r}, the model gives {parts.recomputed!r} in the best hour"
    return Check("score", AGREES if within else DIFFERS, detail)


def _value(case: Case, o: int, row: Any, parts: ScoreParts | None) -> Check:
    stored = case.receipts[o]
    if parts is None or stored is None:
        return Check("value", UNKNOWN, "no score was stored")
    definition = case.spec.occasions[o].definition
    if definition.cost_disturb and (not len(stored.features) or np.isnan(stored.features).all()):
        return Check("value", UNKNOWN, "the receipt does not say how the user answered pushes")
    again = parts.score * definition.value_click + parts.score * definition.margin
    again = (again - _disturbing(case, o, row, stored)) * definition.priority
    found = _compare("value", row.value, again, share=1e-12)
    if found.outcome == DIFFERS and definition.cost_disturb and case.displaced:
        return Check("value", UNKNOWN, "pushes that were displaced since counted as fatigue")
    return found


def _disturbing(case: Case, o: int, row: Any, stored: Receipt) -> float:
    """The cost of disturbing, from the answers in the feature row and the user's other pushes."""
    definition = case.spec.occasions[o].definition
    if not definition.cost_disturb:
        return 0.0
    answers = [
        float(stored.features[NAMES.index(f"user_push_{kind}_7d")]) for kind in ("dismissals", "opens", "clicks")
    ]
    known = np.nan_to_num(np.array(answers, np.float32))
    ones = [np.array([getattr(definition, name)]) for name in _SETTINGS]
    annoyed = worth.annoyance(known[:1], known.sum(keepdims=True))
    sends = case.standing.sends(1, case.caps, len(workspace_caps(case.policy)))
    micros = np.array([[[round(row.send_at.timestamp() * 1e6)]]], np.int64)
    return float(worth.disturbing(Weights(*ones), annoyed, worth.tiredness(sends, micros))[0, 0, 0])


def _price(case: Case, o: int, row: Any) -> Check:
    if case.prices is None:
        return _compare("price", row.price, 0.0)
    occurrences = len(case.spec.occasions)
    at = np.full((1, occurrences, 1), row.send_at.timestamp())
    item = np.full((1, occurrences, 1), -1 if row.item_id is None else row.item_id, np.int64)
    again = case.prices.at(at) + case.prices.of_offers(item)
    return _compare("price", row.price, float(again[0, o, 0]))


def _instant(case: Case, o: int, row: Any, stored: Receipt) -> Check:
    if case.user.updated_at > row.created_at:
        return Check("instant", UNKNOWN, "the user's record, and with it perhaps their zone, was changed since")
    occasion = case.spec.occasions[o]
    as_of = datetime.fromtimestamp(stored.as_of, row.send_at.tzinfo)
    found, _, _ = stretches_of(occasion, case.policy, (case.user.zone, case.user.quiet), as_of)
    slot = row.window_start.timestamp()
    here = next((stretch for stretch in found if stretch.slot == slot), None)
    if here is None:
        return Check("instant", DIFFERS, f"no window of {case.user.zone} begins at {row.window_start.isoformat()}")
    key = chance.key_of(case.secret, "instant", case.spec.seed)
    draw = chance.uniform(key, np.array(case.user.id), np.array(occasion.campaign_id), np.array(int(slot)))
    again = windows.instants(np.array(here.first), np.array(here.length), draw)
    return _compare("instant", row.send_at.timestamp(), float(np.round(again, 6)))


def _propensity(case: Case, o: int, row: Any, stored: Receipt) -> Check:
    share = case.spec.occasions[o].exploration if stored.options > 1 else 0.0
    slot = row.window_start.timestamp() if row.window_start is not None else np.nan
    best = stored.exploit_slot
    same = bool(np.isnan(slot) and np.isnan(best)) or (slot == best and (row.item_id or -1) == stored.exploit_item)
    again = arms.propensity(np.array(share), np.array(stored.options), np.array(same))
    return _compare("propensity", row.propensity, float(again), share=1e-12)


def _constraints(case: Case, o: int, stored: Receipt, solved: Solved) -> Check:
    """What forbids each alternative by itself. What stood beside another push of the run depends on the choice."""
    kept = len(stored.alternatives)
    codes, again = stored.alternatives["code"], solved.barred[0, o, 1 : 1 + kept]
    alone = ~np.isin(codes, (receipt.BESIDE, receipt.GAP)) | (again == codes)
    wrong = np.flatnonzero((codes != again) & alone)
    first = solved.barred[0, o, 0]
    if case.remembered.there[0, o, 0] and first != receipt.FREE:
        return Check("constraints", DIFFERS, f"the choice itself is forbidden now: code {first}")
    if len(wrong):
        shown = ", ".join(f"{codes[at]} was stored, {again[at]} now" for at in wrong.tolist())
        return Check("constraints", DIFFERS, f"of the alternatives: codes {shown}")
    return Check("constraints", AGREES)


def _choice(case: Case, o: int, row: Any, solved: Solved) -> Check:
    """Whether the pushes chosen are worth what the best set of what is remembered is worth."""
    del o
    if row.arm != arms.EXPLOIT or (row.reason != PLANNED and row.send_at is None and not solved.chosen.any()):
        return Check("choice", AGREES)
    net = case.at_prices - case.remembered.price

    def worth(chosen: np.ndarray) -> float:
        at = np.maximum(chosen, 0)[..., None]
        return float(np.where(chosen >= 0, np.take_along_axis(net, at, 2)[..., 0], 0.0).sum())

    real = np.where(case.remembered.there[:, :, 0], 0, NOTHING)
    got, best = worth(real), worth(solved.chosen)
    if got >= best - _CLOSE * max(abs(best), abs(got)):
        return Check("choice", AGREES)
    if case.prices is not None and case.prices.highest():
        paid = np.take_along_axis(net, np.zeros((*real.shape, 1), np.int64), 2)[..., 0]
        if (paid[real >= 0] <= 0).any():
            return Check("choice", AGREES, "bid for capacity left over, below its price")
    return Check("choice", DIFFERS, f"chosen is worth {got:.6g}, the best that is remembered {best:.6g}")
