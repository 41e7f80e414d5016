"""Commands: sends triggered by hand (`campaign trigger`), and how runs stand (`runs`)."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer
from rich.console import Console
from rich.table import Table

from engine.cli.asking import agreed
from engine.cli.campaigns import AUTHOR, campaign_app, opened
from engine.cli.preview import reason_table, show_preview

if TYPE_CHECKING:
    from datetime import datetime

    from engine.planning.progress import Counts, RunState
    from engine.planning.trigger import Triggered
    from engine.runtime import Runtime

runs_app = typer.Typer(no_args_is_help=True, help="Planning runs: how far they are and what they decided.")

AsJson = typer.Option(False, "--json", help="Print JSON.")

stdout = Console(highlight=False)
stderr = Console(stderr=True, highlight=False)


def register(app: typer.Typer) -> None:
    """Add this module's commands to `app`; `trigger` belongs to `horae campaign`."""
    app.add_typer(runs_app, name="runs")


# --- trigger ---------------------------------------------------------------------------------------------------------


@campaign_app.command("trigger")
def trigger(
    name: str = typer.Argument(help="The campaign's name."),
    *,
    at_once: bool = typer.Option(False, "--at-once", help="Send now instead of in each user's best window."),
    users: Path | None = typer.Option(None, help="Only these users: one user_id a line, or CSV with that column."),
    data: str | None = typer.Option(None, help='Template data, a JSON object: \'{"code": "SPRING"}\'.'),
    idempotency_key: str | None = typer.Option(None, help="Repeating a request under the same key sends nothing more."),
    dry_run: bool = typer.Option(False, "--dry-run", help="Say what would be planned, and why the rest not."),
    yes: bool = typer.Option(False, "--yes", "-y", help="Do not ask."),
    as_json: bool = AsJson,
) -> None:
    """Send a campaign now, outside its schedule: for its audience or a list of users.

    Each user gets it in their best window within the campaign's horizon, or with --at-once right away. Caps, quiet
    hours, consent and holdout hold either way. It says how many users that concerns, and asks.
    """
    from engine.clock import business_now
    from engine.planning.userlist import read_user_list
    from engine.runtime import require_redis

    listed, given = None if users is None else read_user_list(users), _data(data)
    with opened() as runtime:
        # Only now: it imports XGBoost, which takes seconds, and a server that is down can be told at once.
        from engine.planning import trigger as triggers
        from engine.planning.trigger import Request

        request = Request(at_once=at_once, users=listed, data=given, key=idempotency_key)
        with runtime.database.begin() as connection:
            now = business_now(connection)
        if dry_run:
            show_preview(runtime, now, name, request, as_json=as_json)
            return
        require_redis(runtime.broker_url)  # before anything is written: nothing of it would leave
        require_redis(runtime.caps_url)
        expected = triggers.describe(runtime.database, now, name, request)
        if not as_json:
            _print_expected(expected)
        if not (yes or as_json or expected.repeated or agreed("Send it?")):
            raise typer.Exit(1)
        made = triggers.trigger(runtime.database, now, name, request, AUTHOR)
        run_id = _open(runtime, now, made)
    _print_triggered(made, run_id, as_json=as_json)


def _data(given: str | None) -> dict[str, Any]:
    from engine.errors import BadInput

    if given is None:
        return {}
    try:
        value = json.loads(given)
    except ValueError as error:
        raise BadInput(f"--data is no JSON: {error}", hint='for example --data \'{"code": "SPRING"}\'') from error
    if not isinstance(value, dict):
        raise BadInput("--data must be a JSON object", hint='for example --data \'{"code": "SPRING"}\'')
    return value


def _open(runtime: Runtime, now: datetime, made: Triggered) -> int | None:
    from engine.planning.trigger import open_run
    from engine.planning.wake import BrokerWake

    wake = BrokerWake(runtime.broker_url)
    run_id = open_run(runtime, now, made, wake)
    if wake.lost:
        stderr.print(
            "Redis does not answer any more: the request is stored, and planned as soon as a worker runs again",
            style="yellow",
            soft_wrap=True,
        )
    return run_id


def _print_expected(expected: Triggered) -> None:
    counted = ", ".join(f"{count:,} {reason}" for reason, count in expected.audience.items() if count)
    stdout.print(f"{expected.campaign}: {expected.asked:,} users ({counted or 'nobody'})", markup=False)
    if expected.unknown:
        shown = ", ".join(expected.unknown_ids) + (", …" if expected.unknown > len(expected.unknown_ids) else "")
        who = "1 listed user is" if expected.unknown == 1 else f"{expected.unknown:,} listed users are"
        stderr.print(f"warning: {who} unknown: {shown}", style="yellow", markup=False)
    if expected.unset:
        missing = ", ".join(f"data.{field}" for field in expected.unset)
        stderr.print(f"warning: the message mentions {missing}, not given by --data", style="yellow", markup=False)


def _print_triggered(made: Triggered, run_id: int | None, *, as_json: bool) -> None:
    if as_json:
        typer.echo(json.dumps({**asdict(made), "run": run_id}, indent=2, default=str))
        return
    if made.repeated:
        stdout.print(f"Already triggered with this key: occurrence {made.occurrence_id}. Nothing more is sent.")
        return
    until = f"{made.ends_at:%Y-%m-%d %H:%M} UTC"
    stdout.print(f"Triggered: occurrence {made.occurrence_id}; it may leave until {until}.")
    follow = f"horae runs show {run_id}" if run_id else "horae runs list"
    stdout.print(f"Workers plan it now (horae up runs them). Follow it: {follow}")


# --- runs ------------------------------------------------------------------------------------------------------------


@runs_app.command("list")
def list_all(
    limit: int = typer.Option(20, min=1, max=10_000, help="How many, newest first."), as_json: bool = AsJson
) -> None:
    """List planning runs, newest first: state, shards and users planned, rate."""
    from engine.planning.progress import list_runs

    with opened() as runtime, runtime.database.begin() as connection:
        found = list_runs(connection, limit)
    if as_json:
        typer.echo(json.dumps([_as_dict(one) for one in found], indent=2, default=str))
        return
    table = Table("run", "state", "as of (UTC)", "campaigns", box=None, pad_edge=False)
    for column in ("shards", "users", "users/s", "left"):
        table.add_column(column, justify="right")
    for one in found:
        table.add_row(*_run_cells(one))
    stdout.print(table if found else "There are no runs yet. They open when a campaign is due, or is triggered.")


@runs_app.command("show")
def show(
    run_id: int = typer.Argument(metavar="RUN", help="As `horae runs list` shows."), as_json: bool = AsJson
) -> None:
    """Show a run: how far it is, what it decided for how many users and why, and where its pushes are."""
    from engine.planning.progress import count_run, get_run

    with opened() as runtime, runtime.database.begin() as connection:
        one, counts = get_run(connection, run_id), count_run(connection, run_id)
    if as_json:
        typer.echo(json.dumps({**_as_dict(one), **asdict(counts)}, indent=2, default=str))
        return
    _print_run(one, counts)


def _run_cells(one: RunState) -> list[str]:
    return [
        str(one.id),
        one.state,
        f"{one.as_of:%Y-%m-%d %H:%M}",
        ", ".join(one.campaigns),
        f"{one.shards_done}/{one.shards_total}",
        f"{one.users_done:,}/{one.users_total:,}",
        f"{one.rate:,.0f}" if one.rate else "–",
        f"{one.seconds_left:,.0f} s" if one.seconds_left is not None else "–",
    ]


def _as_dict(one: RunState) -> dict[str, Any]:
    return {**asdict(one), "seconds_left": one.seconds_left}


def _print_run(one: RunState, counts: Counts) -> None:
    model = f"model {one.model_version}" if one.model_version else "no model yet (baseline)"
    stdout.print(f"run {one.id}, {one.state}, as of {one.as_of:%Y-%m-%d %H:%M:%S} UTC", style="bold")
    stdout.print(f"campaigns: {', '.join(one.campaigns)}", markup=False)
    left = f", {one.seconds_left:,.0f} s left" if one.seconds_left is not None else ""
    rate = f", {one.rate:,.0f} users/s{left}" if one.rate else ""
    stdout.print(f"shards {one.shards_done}/{one.shards_total}, users {one.users_done:,}/{one.users_total:,}{rate}")
    stdout.print(f"{model}, policy {one.policy_version}, seed {one.seed}")
    if one.error:
        stdout.print(f"error: {one.error}", style="red", markup=False)
    if counts.without_zone:
        stdout.print(f"{counts.without_zone:,} users have no zone and live by the default zone", style="dim")
    if counts.reasons:
        stdout.print()
        stdout.print(reason_table(counts.reasons))
        arms = ", ".join(f"{name} {count:,}" for name, count in counts.arms.items())
        stdout.print(f"\narms: {arms}; revised: {counts.revised:,}")
    if counts.pushes:
        stdout.print("pushes: " + ", ".join(f"{state} {count:,}" for state, count in sorted(counts.pushes.items())))
