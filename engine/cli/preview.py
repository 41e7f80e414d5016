"""Command: the plan of a campaign without writing it (`preview`, and `campaign trigger --dry-run`)."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from engine.cli.campaigns import AsJson, opened

if TYPE_CHECKING:
    from datetime import datetime

    from engine.planning.preview import Preview
    from engine.planning.trigger import Request
    from engine.runtime import Runtime

stdout = Console(highlight=False)
stderr = Console(stderr=True, highlight=False)


def register(app: typer.Typer) -> None:
    """Add this module's command to `app`."""
    app.command("preview")(preview)


def preview(
    name: str = typer.Argument(metavar="CAMPAIGN", help="The campaign's name."),
    users: Path | None = typer.Option(None, help="Only these users: one user_id a line, or CSV with that column."),
    sample: int | None = typer.Option(None, min=1, help="Plan about so many users only, chosen by hash; it says so."),
    *,
    at_once: bool = typer.Option(False, "--at-once", help="As if sent now instead of in each user's best window."),
    as_json: bool = AsJson,
) -> None:
    """Say what would be planned if a campaign were triggered now: for whom, when, with what, and why the rest not.

    It is the plan itself, bit for bit, without writing it: run it before `horae campaign trigger`.
    """
    from engine.clock import business_now
    from engine.planning.trigger import Request
    from engine.planning.userlist import read_user_list

    listed = None if users is None else read_user_list(users)
    with opened() as runtime:
        with runtime.database.begin() as connection:
            now = business_now(connection)
        show_preview(runtime, now, name, Request(at_once=at_once, users=listed), sample, as_json=as_json)


def show_preview(
    runtime: Runtime, now: datetime, name: str, request: Request, sample: int | None = None, *, as_json: bool
) -> None:
    """Plan `request` without writing, with a progress bar, and print what would happen."""
    from engine.planning.preview import preview as make_preview
    from engine.planning.trigger import spec_of

    spec = spec_of(runtime.database, now, name, request)
    with Progress(console=stderr, transient=True) as bar:
        task = bar.add_task("planning", total=None)

        def tell(seen: int, total: int) -> None:
            bar.update(task, completed=seen, total=max(total, 1))

        found = make_preview(runtime.database, runtime.gateways, spec, tell, sample)
    if as_json:
        typer.echo(json.dumps(_as_dict(name, found), indent=2, default=str))
    else:
        _print(name, found)


def reason_table(reasons: dict[str, int]) -> Table:
    """Users per reason, with their share."""
    total = sum(reasons.values())
    table = Table("decision", box=None, pad_edge=False)
    table.add_column("users", justify="right")
    table.add_column("share", justify="right")
    for name, count in sorted(reasons.items(), key=lambda pair: -pair[1]):
        table.add_row(name, f"{count:,}", f"{count / max(total, 1):.1%}")
    table.add_row("together", f"{total:,}", "", style="dim")
    return table


def _as_dict(name: str, found: Preview) -> dict[str, Any]:
    counted = {"planned": found.planned, "eligible": found.eligible}
    return {"campaign": name, "dry_run": True, **asdict(found), **counted}


def _print(name: str, found: Preview) -> None:
    if found.sample is not None:
        some, total = found.sample
        stdout.print(f"a SAMPLE of {some:,} of {total:,} users, with their share of every capacity", style="yellow")
    stdout.print(
        f"{name}: {found.asked:,} users → {found.eligible:,} eligible → {found.planned:,} would get a push;"
        " nothing was written\n",
        markup=False,
        soft_wrap=True,
    )
    if found.refused is not None:
        stdout.print(f"nobody can be scored: {found.refused}\n", style="red", markup=False, soft_wrap=True)
    elif not found.asked:
        stdout.print("nobody is in its audience; see: horae campaign show", style="yellow")
        return
    stdout.print(reason_table(found.reasons))
    if found.without_zone:
        stdout.print(f"{found.without_zone:,} users have no zone and live by the default zone", style="dim")
    if not found.planned:
        return
    unit = {"click": "clicks", "goal": "goals reached"}.get(found.regime)
    said = (
        f"expected {unit} {found.expected:,.1f}" if unit else f"scores add up to {found.expected:,.1f} (no model yet)"
    )
    stdout.print(f"\n{said}; value {found.value:,.4g}")
    stdout.print("\nplanned by local hour:")
    most = max(found.by_hour.values())
    for hour, count in found.by_hour.items():
        stdout.print(f"  {hour:02d}:00  {count:>8,}  {'█' * max(1, round(40 * count / most))}")
    _print_costs(found)
    stdout.print("\nfor example:")
    for one in found.examples:
        what = f'"{one.title or one.item}"' if one.item else "the message"
        what += f" ({one.variant})" if one.variant else ""
        stdout.print(
            f"  {one.user}: {what} on {one.local:%a %d %b at %H:%M} local, value {one.value:.4g}",
            markup=False,
            soft_wrap=True,
        )


def _print_costs(found: Preview) -> None:
    if not found.costs:
        return
    some = "" if found.cost_users >= found.asked else f" (estimated from {found.cost_users:,} users)"
    stdout.print(f"\nwhat each constraint costs, solved again without it{some}:")
    table = Table(box=None, pad_edge=False)
    table.add_column("  constraint", no_wrap=True)
    for heading in ("value lost", "of the plan", "users", "left with nothing"):
        table.add_column(heading, justify="right")
    for one in found.costs:
        share = f"{one.value / found.value:.1%}" if found.value > 0 else "–"
        table.add_row(f"  {one.constraint}", f"{one.value:,.4g}", share, f"{one.users:,}", f"{one.left_out:,}")
    stdout.print(table)
