"""Command: why a user got what they got, or nothing (`explain`)."""

from __future__ import annotations

import json
import math
from typing import TYPE_CHECKING

import typer
from rich.console import Console
from rich.table import Table

from engine.cli.campaigns import AsJson, opened

if TYPE_CHECKING:
    from engine.planning.explain import Explanation, Option

stdout = Console(highlight=False)
stderr = Console(stderr=True, highlight=False)

_COLOURS = {"agrees": "green", "differs": "bold red"}
_CLOSE = 1e-6
"""Alternatives are remembered as float32: nearer than this share, two values are equal."""


def register(app: typer.Typer) -> None:
    """Add this module's command to `app`."""
    app.command("explain")(explain)


def explain(
    user: str = typer.Argument(help="The user's id, as it was ingested."),
    campaign: str | None = typer.Option(None, help="Only this campaign's latest decision."),
    run: int | None = typer.Option(None, help="The decisions of this run; default: the latest about the user."),
    *,
    as_json: bool = AsJson,
) -> None:
    """Say why a user got what they got, or nothing: by the decision's receipt, checked by computing it again.

    What was chosen and why, the best alternatives and what stood in the way of each, what would have been chosen
    without it, and what became of the push. It says whether all of it agrees with what was stored; exit code 1 if not.
    """
    from engine.planning.explain import explain as explain_decisions
    from engine.planning.explain import plain

    with opened() as runtime, stderr.status("explaining …"):
        found = explain_decisions(runtime.database, runtime.gateways, user, campaign, run)
    if as_json:
        typer.echo(json.dumps([plain(one) for one in found], indent=2, default=str, ensure_ascii=False))
    else:
        for one in found:
            _print(one)
    if any(one.verdict.startswith("differs") for one in found):
        raise typer.Exit(1)


def _print(one: Explanation) -> None:
    head = f"{one.user} · {one.campaign} · {one.occurrence} · run {one.run}, decided {one.as_of:%Y-%m-%d %H:%M:%S} UTC"
    stdout.print(head, style="bold", markup=False, soft_wrap=True)
    if one.because is not None:
        item = f", item {one.because.item}" if one.because.item else ""
        at = f"{one.because.happened_at:%Y-%m-%d %H:%M:%S} UTC"
        stdout.print(f"  due {one.because.trigger}: it happened {at}{item}", markup=False, soft_wrap=True)
    stdout.print(f"  {_outcome(one)}", markup=False, soft_wrap=True)
    stdout.print(f"  {_arm(one)}", markup=False, soft_wrap=True)
    _print_score(one)
    _print_alternatives(one)
    for without in one.without:
        chosen = "still nothing" if without.chosen is None else _shown(without.chosen)
        told = without.chosen is not None and not without.today
        gain = "" if not told else ", no gain" if abs(without.gain) < _CLOSE else f", {without.gain:+.4g} in value"
        today = " (scored on today's profiles)" if without.today else ""
        stdout.print(f"  without {without.constraint}: {chosen}{gain}{today}", markup=False, soft_wrap=True)
    if one.variant is not None:
        experiment, _, arm = one.variant.partition(":")
        stdout.print(f"  message: variant {arm} of {experiment}, which the user keeps", markup=False, soft_wrap=True)
    _print_fate(one)
    differing = [check for check in one.checks if check.outcome != "agrees"]
    stdout.print(
        f"  computed again: {one.verdict}", style=_COLOURS.get(one.verdict.split(":")[0], "yellow"), markup=False
    )
    for check in differing:
        stdout.print(f"    {check.name} {check.outcome}: {check.detail}", markup=False, soft_wrap=True)
    stdout.print()


def _outcome(one: Explanation) -> str:
    if one.chosen is None:
        return f"nothing: {_REASONS.get(one.reason, one.reason)} [{one.reason}]"
    price = f", less {one.chosen.price:.4g} for scarce capacity" if one.chosen.price > 0 else ""
    return f"planned: {_shown(one.chosen)}{price}"


def _shown(option: Option) -> str:
    what = f'"{option.title or option.item}"' if option.item is not None else "the message"
    value = "" if math.isnan(option.value) else f", value {option.value:.4g}"
    return f"{what} on {option.local:%a %d %b at %H:%M} local{value}"


def _arm(one: Explanation) -> str:
    if one.propensity is None or one.options is None:
        return f"arm {one.arm}, {one.zone}"
    said = f"arm {one.arm}, chosen with probability {one.propensity:.4g} out of {one.options} options, {one.zone}"
    return said + (f"; exploiting would have chosen {_shown(one.exploit)}" if one.exploit else "")


def _print_score(one: Explanation) -> None:
    if one.score is None:
        return
    parts = one.score
    hour = f" = {parts.recomputed:.4g} × {parts.hour:.4g} for the hour" if parts.hour and parts.recomputed else ""
    cost = 0.0 if one.chosen is None else parts.score * parts.worth - one.chosen.value
    less = f" − {cost:.4g} for disturbing" if cost > 0 and len(one.revisions) == 1 else ""
    stdout.print(f"  score {parts.score:.4g}{hour} ({parts.regime}); × {parts.worth:g}{less} = value", markup=False)
    for reason in parts.reasons:
        stdout.print(f"    {reason.text}", markup=False, soft_wrap=True)


def _print_alternatives(one: Explanation) -> None:
    if not one.alternatives:
        return
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 2))
    table.add_column("instead" if one.chosen else "nearest", overflow="fold")
    table.add_column("local")
    for name in ("value", "price"):
        table.add_column(name, justify="right")
    table.add_column("what stood in the way", overflow="fold")
    for option in one.alternatives:
        why = option.bound or _beside(option, one.chosen)
        title = option.title or option.item or "the message"
        table.add_row(title, f"{option.local:%a %H:%M}", f"{option.value:.4g}", f"{option.price:.4g}", why)
    stdout.print(table)


def _beside(option: Option, chosen: Option | None) -> str:
    if chosen is None:
        return "nothing: it was free"
    return "worth less" if option.net < chosen.net * (1 - _CLOSE) else "nothing: worth the same"


def _print_fate(one: Explanation) -> None:
    if len(one.revisions) > 1:
        for revision in one.revisions:
            at = f" {revision.item or ''} at {revision.send_at:%Y-%m-%d %H:%M} UTC" if revision.send_at else ""
            stdout.print(f"  revision {revision.revision}: {revision.reason}{at}", markup=False)
    if one.fate is None:
        return
    when = f" at {one.fate.at:%Y-%m-%d %H:%M:%S} UTC" if one.fate.at else ""
    why = f" ({one.fate.reason})" if one.fate.reason else ""
    did = "".join(f"; {name} {at:%m-%d %H:%M}" for name, at in one.fate.events)
    stdout.print(f"  became: {one.fate.state}{why}{when}{did}", markup=False)


_REASONS = {
    "holdout": "the user is held out, to measure what pushes do",
    "explored_nothing": "exploring drew nothing",
    "not_eligible": "the user is not in the audience",
    "no_consent": "there is no consent to pushes",
    "no_device": "no device can be reached",
    "no_candidate": "there was no item to offer",
    "not_worth": "nothing was worth more than it costs",
    "capped": "a frequency cap is used up",
    "gap": "it would come too close to another push",
    "quiet_hours": "no window was open outside quiet hours",
    "capacity": "capacity went to pushes of higher value",
    "budget": "the budget or stock went to pushes of higher value",
    "expired": "the item or the offer ends before a window opens",
    "too_late": "its time was over",
    "already_planned": "another push of this occurrence was there first",
    "failed_input": "a score was no number",
    "displaced": "a push that is worth more took its place",
}
