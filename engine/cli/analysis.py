"""Commands for analysts: decisions as files (`export`), a past period under other rules (`simulate`)."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from engine.cli.campaigns import AsJson, opened

if TYPE_CHECKING:
    from engine.planning.period import Change
    from engine.planning.sides import Side
    from engine.planning.simulate import Simulation

export_app = typer.Typer(no_args_is_help=True, help="Files for analysts.")

stdout = Console(highlight=False)
stderr = Console(stderr=True, highlight=False)

DAY = ["%Y-%m-%d"]
MINUTE = [*DAY, "%Y-%m-%dT%H:%M", "%Y-%m-%d %H:%M"]


def register(app: typer.Typer) -> None:
    """Add this module's commands to `app`."""
    app.add_typer(export_app, name="export")
    app.command("simulate")(simulate)


@export_app.command("decisions")
def decisions(
    file: Path = typer.Argument(
        help="The Parquet file to write; an existing one is replaced when the new one is whole."
    ),
    begin: datetime | None = typer.Option(
        None, "--from", formats=DAY, help="First UTC date of occurrences; default: all."
    ),
    end: datetime | None = typer.Option(None, "--to", formats=DAY, help="The date after the last one."),
    campaign: str | None = typer.Option(None, help="Only this campaign's decisions."),
    *,
    columns: bool = typer.Option(False, "--columns", help="Print what each column means, and write nothing."),
    as_json: bool = AsJson,
) -> None:
    """Write every decision to a Parquet file: arm, propensity, choice, value, price, reason, and what became of it.

    One row is one revision of a decision; rows with `last` say what held. Decisions about users who were held out are
    among them: arm holdout. An interrupted export leaves no file.
    """
    from engine.planning.export import COLUMNS, Wanted, export_decisions

    if columns:
        for name, (kind, meaning) in COLUMNS.items():
            typer.echo(f"{name:<21} {kind!s:<22} {meaning}")
        return
    wanted = Wanted(begin.date() if begin else None, end.date() if end else None, campaign)
    with opened() as runtime, Progress(console=stderr, transient=True) as bar:
        task = bar.add_task("exporting", total=None)
        done = 0

        def tell(_rows: int, left: int) -> None:
            nonlocal done
            done += 1
            bar.update(task, completed=done, total=done + left)

        rows = export_decisions(runtime.database, file, wanted, tell)
    if as_json:
        typer.echo(json.dumps({"file": str(file), "rows": rows, "bytes": file.stat().st_size}))
    else:
        stdout.print(
            f"{rows:,} rows to {file}; horae export decisions --columns FILE says what they mean", markup=False
        )


# --- simulate --------------------------------------------------------------------------------------------------------


def simulate(
    begin: datetime = typer.Option(..., "--from", formats=MINUTE, help="Runs opened from here on (UTC)."),
    end: datetime = typer.Option(..., "--to", formats=MINUTE, help="… and before this."),
    caps: list[str] | None = typer.Option(
        None,
        help="Instead of the caps there were: LIMIT/PER or LIMIT/PER/SCOPE, as in `horae caps add`; none; repeatable.",
    ),
    *,
    rolling: bool = typer.Option(False, "--rolling", help="day and week of --caps as the last 24 hours and 7 days."),
    min_gap: str | None = typer.Option(None, help="Least time between two pushes to a user: 4h, or none."),
    quiet_hours: str | None = typer.Option(None, help="Local hours in which nothing leaves: 20:00-10:00."),
    capacity: str | None = typer.Option(None, help="Pushes of each campaign per UTC quarter-hour, or none."),
    pushes_per_stock: str | None = typer.Option(None, help="Most pushes about an item for each piece in stock; none."),
    as_json: bool = AsJson,
) -> None:
    """Plan a past period again over its receipts, under other rules, and put it beside what was really planned.

    Receipts keep each user's choice and the five best alternatives: stricter rules are answered exactly, looser ones as
    a lower bound. Pushes give way to better ones as in reality; stock and budgets are those of then. What late binding
    did is followed where the simulation planned the very push that it changed; what it would have done with another
    cannot be known, as receipts hold no events: how many those are is said. Nothing is written.
    """
    from engine.planning.simulate import simulate as play

    change = _change(
        caps,
        rolling=rolling,
        given={"min_gap": min_gap, "quiet_hours": quiet_hours, "pushes_per_stock": pushes_per_stock},
        capacity=capacity,
    )
    with opened() as runtime, Progress(console=stderr, transient=True) as bar:
        task = bar.add_task("planning again", total=None)

        def tell(done: int, total: int) -> None:
            bar.update(task, completed=done, total=total)

        found = play(runtime.database, change, begin.replace(tzinfo=UTC), end.replace(tzinfo=UTC), tell)
    if as_json:
        typer.echo(json.dumps(_as_dict(found), indent=2))
    else:
        _print(found)


def _change(caps: list[str] | None, *, rolling: bool, given: dict[str, str | None], capacity: str | None) -> Change:
    from engine.campaigns.loading import build
    from engine.campaigns.policy import Policy
    from engine.errors import BadInput
    from engine.planning.period import Change

    rules = {name: value for name, value in given.items() if value not in (None, "none")}
    checked = build(Policy, rules)
    made: dict[str, Any] = {
        name: "none" if value == "none" else getattr(checked, name)
        for name, value in given.items()
        if value is not None
    }
    if capacity is not None and capacity != "none":
        if not capacity.isdigit() or int(capacity) < 1:
            raise BadInput(f"--capacity {capacity} is no number of pushes", hint="at least 1, or none")
        made["capacity"] = int(capacity)
    elif capacity == "none":
        made["capacity"] = "none"
    if caps:
        wanted = [one for one in caps if one != "none"]
        made["caps"] = tuple(_cap(one, number, rolling=rolling) for number, one in enumerate(wanted, 1))
    if not made:
        hint = "give --caps, --min-gap, --quiet-hours, --capacity or --pushes-per-stock"
        raise BadInput("nothing is to be different", hint=hint)
    return Change(**made)


def _cap(given: str, number: int, *, rolling: bool) -> Any:
    from engine.campaigns.loading import build
    from engine.campaigns.policy import Cap, window_of
    from engine.errors import BadInput

    limit, _, rest = given.partition("/")
    per, _, scope = rest.partition("/")
    if not limit.isdigit() or not per:
        raise BadInput(f"--caps {given} is no cap", hint="LIMIT/PER or LIMIT/PER/SCOPE: 2/day, 3/7d/tag:sale; or none")
    window = window_of(per, rolling=rolling)
    return build(Cap, {"id": f"cap-{number}", "limit": int(limit), "window": window, "scope": scope or "all"})


def _as_dict(found: Simulation) -> dict[str, Any]:
    def side(one: Side) -> dict[str, Any]:
        hours = {f"{hour:02d}": count for hour, count in sorted(one.by_hour.items())}
        return {"planned": one.planned, "value": one.value, "reasons": dict(one.reasons), "by_hour": hours}

    return {
        "runs": found.runs,
        "decisions": found.decisions,
        "without_receipt": found.without_receipt,
        "late_bound": found.late_bound,
        "not_late_bound": found.not_late_bound,
        "really": side(found.really),
        "simulated": side(found.simulated),
    }


def _print(found: Simulation) -> None:
    really, simulated = found.really, found.simulated
    stdout.print(f"{found.runs} runs, {found.decisions:,} decisions, planned again; nothing was written\n")
    table = Table(box=None, pad_edge=False)
    table.add_column("")
    for heading in ("really", "simulated", "change"):
        table.add_column(heading, justify="right")
    share = f"{simulated.value / really.value - 1:+.1%}" if really.value else "–"
    table.add_row("value", f"{really.value:,.4g}", f"{simulated.value:,.4g}", share)
    for name in sorted(set(really.reasons) | set(simulated.reasons), key=lambda name: -really.reasons[name]):
        before, after = really.reasons[name], simulated.reasons[name]
        table.add_row(name, f"{before:,}", f"{after:,}", f"{after - before:+,}")
    for hour in sorted(set(really.by_hour) | set(simulated.by_hour)):
        before, after = really.by_hour[hour], simulated.by_hour[hour]
        table.add_row(f"planned at {hour:02d}:00", f"{before:,}", f"{after:,}", f"{after - before:+,}", style="dim")
    stdout.print(table)
    if found.without_receipt:
        stdout.print(
            f"{found.without_receipt:,} decisions have no receipt any more and stay as they were", style="yellow"
        )
    if found.late_bound or found.not_late_bound:
        stdout.print(
            f"late binding changed {found.late_bound:,} of these pushes in both; {found.not_late_bound:,} that it"
            " changed in reality were planned otherwise here and stay as planned",
            style="dim",
        )
