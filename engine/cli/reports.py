"""Command: what a campaign led to (`horae report`)."""

from __future__ import annotations

import json
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

import typer
from rich.console import Console
from rich.table import Table

from engine.cli.campaigns import AsJson, opened

if TYPE_CHECKING:
    from engine.report.campaign import Report

DAY = ["%Y-%m-%d"]

stdout = Console(highlight=False)


def register(app: typer.Typer) -> None:
    """Add this module's commands to `app`."""
    app.command("report")(report)


def report(
    campaign: str = typer.Argument(help="The campaign's name."),
    begin: datetime | None = typer.Option(
        None, "--from", formats=DAY, help="First UTC date of occurrences; default: 30 days back."
    ),
    end: datetime | None = typer.Option(None, "--to", formats=DAY, help="The date after the last one; default: now."),
    goal: str = typer.Option("purchase", help="The event type that counts as a conversion."),
    html: Path | None = typer.Option(None, "--html", help="Also write a page with pictures to this file."),
    as_json: bool = AsJson,
) -> None:
    """Say what a campaign led to: funnel, opens and conversions by arm and local hour, uplift against the holdout.

    Opens and clicks come by callbacks, or as events push_open and push_click. Intervals are of 95 %, by user.
    """
    from engine.clock import business_now
    from engine.errors import BadInput
    from engine.report.campaign import report as read
    from engine.report.page import page

    with opened() as runtime:
        with runtime.database.begin() as connection:
            now = business_now(connection)
        found = read(
            runtime.database, now, campaign, begin.date() if begin else None, end.date() if end else None, goal
        )
    if html is not None:
        try:
            html.write_text(page(found), encoding="utf-8")
        except OSError as error:
            raise BadInput(f"{html} cannot be written: {error.strerror or error}") from error
    if as_json:
        typer.echo(json.dumps(found.as_dict(), indent=2, ensure_ascii=False, default=str))
        return
    _print(found)
    if html is not None:
        stdout.print(f"\nwith pictures: {html}", markup=False)


def _print_variants(found: Report) -> None:
    from engine.report.campaign import ANSWERS
    from engine.report.page import share, variant_words

    if not found.variants:
        return
    table = Table("variant", "pushes", *ANSWERS, box=None, pad_edge=False)
    for one in found.variants:
        rates = (share(getattr(one, answer)) for answer in ANSWERS)
        table.add_row(f"{one.experiment}: {one.arm}", f"{one.pushes:,}", *rates)
    stdout.print()
    stdout.print(table)
    for sentence in variant_words(found):
        stdout.print(f"  {sentence}", markup=False, soft_wrap=True)


def _print(found: Report) -> None:
    from engine.report.campaign import ANSWERS
    from engine.report.page import share, uplift_words

    stdout.print(f"{found.campaign}: occurrences from {found.first} to before {found.until} (UTC)\n", markup=False)
    top = max(found.funnel["audience"], 1)
    for name, number in found.funnel.items():
        bar = "█" * round(40 * number / top)
        stdout.print(f"  {name:<10}{number:>12,}  {100 * number / top:5.1f} %  {bar}", markup=False)
    for name, number in sorted(found.not_planned.items(), key=lambda pair: -pair[1]):
        stdout.print(f"    not planned: {name.replace('_', ' '):<22}{number:>12,}", markup=False)
    for name, number in sorted(found.ended.items(), key=lambda pair: -pair[1]):
        if name != "accepted":
            stdout.print(f"    push {name:<30}{number:>12,}", markup=False)
    if found.arms:
        arms = Table("arm", "pushes", *ANSWERS, box=None, pad_edge=False)
        for arm in found.arms:
            arms.add_row(arm.arm, f"{arm.pushes:,}", *(share(getattr(arm, answer)) for answer in ANSWERS))
        stdout.print()
        stdout.print(arms)
        _print_variants(found)
        hours = Table("local hour", "pushes", "opened", "clicked", "converted", box=None, pad_edge=False)
        for hour in found.hours:
            rates = (share(rate) for rate in (hour.opened, hour.clicked, hour.converted))
            hours.add_row(f"{hour.hour:02}:00", f"{hour.pushes:,}", *rates)
        stdout.print()
        stdout.print(hours)
    up = found.uplift
    stdout.print(f"\nUplift in users with a {found.goal}: {uplift_words(found)}", markup=False, soft_wrap=True)
    stdout.print(f"  drawn for it {up.users.n:,}: {share(up.users)}; held out {up.held_out.n:,}: {share(up.held_out)}",
                 markup=False, soft_wrap=True)  # fmt: skip
    if found.open_windows:
        stdout.print(f"  the 7 days of {found.open_windows:,} pushes are not over: conversions are still to come")
