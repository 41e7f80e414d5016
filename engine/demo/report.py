"""The demo's report as text (pure)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from datetime import date
from pathlib import Path
from typing import Any

from engine.demo.outcomes import Comparison, Estimate

BAR_WIDTH = 40
NAME_WIDTH = 48


@dataclass(frozen=True)
class CampaignLedger:
    """What became of one campaign's audience, occurrence by occurrence: `reasons` counts every user exactly once.

    `audience` is counted from the data, apart from the engine's own tables; `planned` are decisions to send.
    """

    name: str
    occurrences: int
    audience: int
    planned: int
    sent: int
    reasons: dict[str, int]

    @property
    def expected(self) -> int:
        """Users that must be accounted for: audience × occurrences."""
        return self.audience * self.occurrences

    @property
    def accounted(self) -> int:
        """Users that are."""
        return self.sent + sum(self.reasons.values())


@dataclass(frozen=True)
class CapCheck:
    """A cap beside the most that any user got under it, counted from the gateway's journal."""

    rule: str
    limit: int
    largest: int


@dataclass(frozen=True)
class Spacing:
    """Gaps and quiet hours, counted from the journal."""

    gap_hours: float
    smallest_gap_hours: float | None
    quiet_hours: str
    sent_in_quiet_hours: int
    sent_twice: int
    violations: int


@dataclass(frozen=True)
class Chance:
    """Shares of what was decided by a keyed hash, beside what was asked for."""

    holdout: float
    holdout_asked: float
    exploration: float
    exploration_asked: float


@dataclass(frozen=True)
class Aftermath:
    """What the data says happened after the pushes, beside the two baselines."""

    bought: Comparison
    popular_item: str
    shopped: Comparison
    popular_hour: int
    example: str | None = None


@dataclass(frozen=True)
class LateBinding:
    """What new purchases changed about planned pushes. changed: pushes that were planned again, of which `items` got
    another item and `windows` another window; ended: closed by it. saved: sent with another item since theirs was
    bought meanwhile (such a push never leaves), `saved_bought` of them bought. bought: of all others with another item,
    how often it was bought, beside the item that was planned first (None: there are none)."""

    planned: int
    changed: int
    items: int
    windows: int
    ended: int
    saved: int
    saved_bought: int
    bought: Comparison | None


@dataclass(frozen=True)
class Report:
    """Everything the demo prints at its end."""

    households: int
    events_ingested: int
    first_day: date
    last_day: date
    timezone: str
    campaigns: tuple[CampaignLedger, ...]
    local_hours: dict[int, int]
    caps: tuple[CapCheck, ...]
    spacing: Spacing
    chance: Chance
    late: LateBinding
    aftermath: Aftermath | None
    worker_restarts: int
    seconds: dict[str, float]

    @property
    def adds_up(self) -> bool:
        """Whether every user of every audience ended in exactly one reason, at every occurrence."""
        return all(ledger.accounted == ledger.expected for ledger in self.campaigns)


def render(report: Report) -> str:
    """The report as plain text, at most 100 columns wide."""
    parts = [
        _heading(report),
        _ledger(report),
        _hours(report),
        _caps(report),
        _chance(report),
        _late(report),
        _after(report),
    ]
    return "\n\n".join("\n".join(lines) for lines in parts) + "\n"


def _heading(report: Report) -> list[str]:
    first, last = (f"{day:%a %d %b %Y}".replace(" 0", " ") for day in (report.first_day, report.last_day))
    took = sum(report.seconds.values())
    stages = ", ".join(f"{name} {seconds:.0f} s" for name, seconds in report.seconds.items())
    lines = [
        f"{report.households:,} households, {report.events_ingested:,} purchases ingested; {first} to {last},"
        f" {report.timezone}",
        f"took {took:.0f} s: {stages}",
    ]
    if report.worker_restarts:
        lines.append(f"the worker died and was started again: {report.worker_restarts} ×")
    return lines


def _ledger(report: Report) -> list[str]:
    campaigns = report.campaigns
    lost = Counter[str]()
    for campaign in campaigns:
        lost.update(campaign.reasons)
    rows: list[tuple[str, list[int]]] = [
        ("audience × occurrences", [c.expected for c in campaigns]),
        ("planned", [c.planned for c in campaigns]),
        ("sent", [c.sent for c in campaigns]),
        *((f"not sent: {reason}", [c.reasons.get(reason, 0) for c in campaigns]) for reason, _ in lost.most_common()),
    ]
    accounted, expected = (sum(values) for values in zip(*((c.accounted, c.expected) for c in campaigns), strict=True))
    verdict = "it adds up" if report.adds_up else "IT DOES NOT ADD UP"
    return [
        f"{'What became of everybody':<{NAME_WIDTH}}"
        + "".join(f"{c.name:>14}" for c in campaigns)
        + f"{'together':>11}",
        *(f"  {name:<{NAME_WIDTH - 2}}" + "".join(f"{n:>14,}" for n in row) + f"{sum(row):>11,}" for name, row in rows),
        f"  sent + not sent = {accounted:,} of {expected:,}: {verdict}",
    ]


def _hours(report: Report) -> list[str]:
    most = max(report.local_hours.values(), default=0)
    hours = range(min(report.local_hours, default=0), max(report.local_hours, default=-1) + 1)
    bars = ((hour, report.local_hours.get(hour, 0)) for hour in hours)
    return [
        "When they were sent (local hour)",
        *(f"  {hour:02d}:00  {'█' * round(BAR_WIDTH * n / most):<{BAR_WIDTH}} {n:>6,}" for hour, n in bars),
    ]


def _caps(report: Report) -> list[str]:
    spacing = report.spacing
    smallest = "–" if spacing.smallest_gap_hours is None else f"{spacing.smallest_gap_hours:.1f} h"
    return [
        _row("Never too often, counted from the journal", "rule", "worst user"),
        *(_row(f"  at most, {cap.rule}", f"{cap.limit:,}", f"{cap.largest:,}") for cap in report.caps),
        _row("  at least, between two pushes", f"{spacing.gap_hours:g} h", smallest),
        _row(f"  in quiet hours ({spacing.quiet_hours}, local)", "0", f"{spacing.sent_in_quiet_hours:,}"),
        _row("  twice for one user and occurrence", "0", f"{spacing.sent_twice:,}"),
    ]


def _row(what: str, rule: str, found: str) -> str:
    return f"{what:<{NAME_WIDTH}}{rule:>14}{found:>14}"


def _chance(report: Report) -> list[str]:
    chance = report.chance
    return [
        "Left to chance, so that it can be measured",
        f"  held out {chance.holdout:.1%} of the audience (asked for: {chance.holdout_asked:.1%});"
        f" explored with {chance.exploration:.1%} of the pushes planned (asked for: {chance.exploration_asked:.1%})",
    ]


def _late(report: Report) -> list[str]:
    late = report.late
    lines = [
        "Late binding: users who bought something were planned again, up to ten minutes before",
        f"  {late.changed:,} of {late.planned:,} planned pushes changed ({late.items:,} their item,"
        f" {late.windows:,} their window), {late.ended:,} ended",
    ]
    if late.saved:
        lines += [
            f"  {late.saved:,} had an item that was bought meanwhile: they left with another (else: not at all),",
            f"    which {late.saved_bought / late.saved:.1%} bought within 7 days",
        ]
    if late.bought is not None:
        lines.append(f"  {'':<42}{'Horae':>22}{'baseline':>22}")
        lines += _compared("bought the new item within 7 days", late.bought, "the item planned first, same pushes")
    return lines


def _after(report: Report) -> list[str]:
    after = report.aftermath
    if after is None:
        return ["Nothing was sent, so there is nothing to look back on."]
    return [
        "What the data says happened next (nobody saw these pushes: foresight is measured, not effect)",
        f"  {'':<42}{'Horae':>22}{'baseline':>22}",
        *_compared("bought the pushed item within 7 days", after.bought, f"most popular item: {after.popular_item}"),
        *_compared(
            "a trip within 3 hours after the push", after.shopped, f"most popular hour: {after.popular_hour}:00"
        ),
        f"  {after.bought.pushes:,} pushes to {after.bought.households:,} households; 95 % intervals,"
        " bootstrap by household",
        *([] if after.example is None else [f"  for example: {after.example}"]),
    ]


def _compared(what: str, found: Comparison, baseline: str) -> Iterator[str]:
    gain = found.gain
    yield f"  {what:<42}{_share(found.horae):>22}{_share(found.baseline):>22}"
    yield f"    ({baseline}; gain {100 * gain.value:+.1f} points [{100 * gain.low:+.1f}, {100 * gain.high:+.1f}])"


def _share(estimate: Estimate) -> str:
    return f"{100 * estimate.value:.1f} % [{100 * estimate.low:.1f}, {100 * estimate.high:.1f}]"


def as_dict(report: Report) -> dict[str, Any]:
    """Plain values for JSON, with what follows from them."""
    return {**asdict(report), "adds_up": report.adds_up}


def next_steps(home: Path) -> str:
    """What to try next, on the demo's own data."""
    commands = (
        ("horae runs show 3", "who was planned and who not, and why, when both campaigns competed"),
        ("horae models show 1", "what the model was worth on its test week"),
        ("horae deliveries list --user 1", "what became of every push of a household"),
        ("horae campaign trigger daily-pick --dry-run", "who would get a push now, and who not"),
        ("horae campaign test daily-pick --user 1", "one marked push, as household 1 would see it"),
        ("horae status", "what runs, how deep the queues are; `horae up` starts workers, beat and Flower"),
        ("horae down", "stop the demo's PostgreSQL and Valkey"),
    )
    width = max(len(command) for command, _ in commands)
    return "\n".join(
        [
            f"Try next, on what the demo left:  export HORAE_HOME={home}",
            *(f"  {command:<{width}}  {what}" for command, what in commands),
            f"What was sent: {home / 'journal.jsonl'}; what was ingested: {home / 'files'}",
        ]
    )
