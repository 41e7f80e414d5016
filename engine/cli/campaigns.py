"""Commands: what marketers define (`campaign`), and the workspace's rules (`caps`, `workspace`)."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer
from rich.console import Console
from rich.table import Table

from engine.cli.asking import agreed, os_user

if TYPE_CHECKING:
    from datetime import datetime

    from engine.campaigns.policy import Cap, Policy
    from engine.campaigns.review import Defined
    from engine.campaigns.store import State
    from engine.campaigns.telling import Whole
    from engine.runtime import Runtime

AUTHOR = os_user()

campaign_app = typer.Typer(no_args_is_help=True, help="Define campaigns, look at them, pause and cancel them.")
caps_app = typer.Typer(no_args_is_help=True, help="The workspace's frequency caps: how many pushes a user may get.")
workspace_app = typer.Typer(no_args_is_help=True, help="The workspace's zone, quiet hours, minimum gap and holdout.")

AsJson = typer.Option(False, "--json", help="Print JSON.")

stdout = Console(highlight=False)
stderr = Console(stderr=True, highlight=False)


def register(app: typer.Typer) -> None:
    """Add this module's commands to `app`."""
    app.add_typer(campaign_app, name="campaign")
    app.add_typer(caps_app, name="caps")
    app.add_typer(workspace_app, name="workspace")


@contextmanager
def opened() -> Iterator[Runtime]:
    """The runtime of this command, closed after it."""
    from engine.runtime import open_runtime

    runtime = open_runtime()
    try:
        yield runtime
    finally:
        runtime.close()


# --- campaign --------------------------------------------------------------------------------------------------------


@campaign_app.command("create")
def create(
    files: list[Path] = typer.Argument(help="YAML files, one campaign each; see: horae campaign schema"),
    draft: bool = typer.Option(False, "--draft", help="New ones wait for: horae campaign launch NAME"),
    as_json: bool = AsJson,
) -> None:
    """Create campaigns, or change them: under an existing name a different definition becomes its next version.

    All files are checked before anything is stored. Running it again with the same files changes nothing.
    """
    from engine.campaigns.loading import load
    from engine.campaigns.review import define
    from engine.clock import business_now

    definitions = [load(file) for file in files]
    with opened() as runtime, runtime.database.begin() as connection:
        now = business_now(connection)
        made = [define(connection, one, now, runtime.gateways, AUTHOR, draft=draft) for one in definitions]
    _print_defined(made, now, as_json=as_json)


@campaign_app.command("list")
def list_all(as_json: bool = AsJson) -> None:
    """List all campaigns with their state and when they are due next."""
    from engine.campaigns import store
    from engine.campaigns.schedule import described
    from engine.campaigns.telling import due_next, summary
    from engine.clock import business_now

    with opened() as runtime, runtime.database.begin() as connection:
        now, found = business_now(connection), store.get_all(connection)
        phases = {stored.id: store.phase(connection, stored) for stored in found}
    if as_json:
        _print_json([{**summary(stored, now), "phase": phases[stored.id]} for stored in found])
        return
    table = Table("campaign", "class", "state", "version", box=None, pad_edge=False)
    table.add_column("due", overflow="fold")
    table.add_column("next", no_wrap=True)
    table.add_column("gateway")
    for stored in found:
        one, following = stored.definition, due_next(stored, now)
        table.add_row(
            *(stored.name, one.class_, phases[stored.id], str(stored.version)),
            *(described(one), following[0] if following else "–", one.gateway),
        )
    stdout.print(table if found else "There are no campaigns yet. Create one from a file: horae campaign create FILE")


@campaign_app.command("show")
def show(
    name: str = typer.Argument(help="The campaign's name."),
    version: int | None = typer.Option(None, help="An earlier version of its definition."),
    as_json: bool = AsJson,
) -> None:
    """Show a campaign: its definition, its audience as it is now, when it is due next, its versions."""
    from engine.campaigns.telling import whole
    from engine.clock import business_now

    with opened() as runtime, runtime.database.begin() as connection:
        told = whole(connection, runtime.gateways, name, business_now(connection), version=version)
    if as_json:
        _print_json(told.as_dict())
        return
    _print_campaign(told)
    if told.phase == "scheduled":
        stdout.print("scheduled: none of its occurrences has begun")
    if told.triggers:
        counted = ", ".join(f"{count:,} {state}" for state, count in told.triggers.items())
        stdout.print(f"triggers of the last 7 days: {counted}")
    if len(told.versions) > 1:
        stdout.print("versions: " + ", ".join(f"{number} ({at:%Y-%m-%d %H:%M})" for number, at, _ in told.versions))


@campaign_app.command("launch")
def launch(name: str = typer.Argument(help="The campaign's name."), as_json: bool = AsJson) -> None:
    """Launch a draft: from now on it becomes due by its schedule or trigger."""
    from engine.campaigns import store
    from engine.clock import business_now

    with opened() as runtime, runtime.database.begin() as connection:
        stored = store.launch(connection, name, business_now(connection), AUTHOR)
    if as_json:
        _print_json({"name": stored.name, "state": stored.state, "version": stored.version})
    else:
        stdout.print(f"{stored.name} is launched")


@campaign_app.command("pause")
def pause(name: str = typer.Argument(help="The campaign's name."), as_json: bool = AsJson) -> None:
    """Pause a campaign: nothing of it is planned or sent until it is resumed."""
    _move(name, "paused", "paused: nothing of it leaves until horae campaign resume", as_json=as_json)


@campaign_app.command("resume")
def resume(name: str = typer.Argument(help="The campaign's name."), as_json: bool = AsJson) -> None:
    """Resume a paused campaign. Of the occurrences it missed only the latest runs, if its time is not over."""
    _move(name, "running", "running", as_json=as_json)


@campaign_app.command("cancel")
def cancel(
    name: str = typer.Argument(help="The campaign's name."),
    yes: bool = typer.Option(False, "--yes", "-y", help="Do not ask."),
    as_json: bool = AsJson,
) -> None:
    """Cancel a campaign for good: what is planned is not sent, nothing more is planned."""
    if not (yes or as_json or agreed(f"Cancel {name} for good?")):
        raise typer.Exit(1)
    _move(name, "cancelled", "cancelled for good: nothing more of it leaves", as_json=as_json)


@campaign_app.command("schema")
def schema() -> None:
    """Print what a campaign's definition holds, as JSON Schema with a description of every field."""
    from engine.campaigns.definition import Campaign

    _print_json(Campaign.model_json_schema(by_alias=True))


# --- caps ------------------------------------------------------------------------------------------------------------


@caps_app.command("add")
def add_cap(
    limit: int = typer.Option(help="The most pushes per user; 0 allows none."),
    per: str = typer.Option(help="day, week (the user's own calendar, from Monday), or a duration: 24h, 7d, PT24H."),
    scope: str = typer.Option("all", help="all, channel:GATEWAY, campaign:NAME, tag:NAME or category:ITEM CATEGORY."),
    rolling: bool = typer.Option(False, "--rolling", help="day and week as the last 24 hours and 7 days."),
    as_json: bool = AsJson,
) -> None:
    """Add a frequency cap. Every cap must hold; a campaign says whether it obeys caps and counts toward them."""
    from engine.campaigns import policy_store
    from engine.campaigns.loading import build
    from engine.campaigns.policy import Cap, window_of
    from engine.campaigns.review import scope_warning
    from engine.delivery.gateways import known_gateways

    cap = build(Cap, {"scope": scope, "limit": limit, "window": window_of(per, rolling=rolling)})
    with opened() as runtime, runtime.database.begin() as connection:
        version, added = policy_store.add_cap(connection, cap, AUTHOR)
        warning = scope_warning(connection, cap.scope, runtime.gateways, known_gateways())
    if warning is not None:
        _warn(f"{added.id}: {warning}")
    if as_json:
        _print_json({"policy": version, "cap": _cap(added)})
    else:
        stdout.print(f"{added.id}: {added}")
    if added.limit == 0:
        _warn(f"{added.id} is a cap of 0: it allows no push at all")


@caps_app.command("list")
def list_caps(as_json: bool = AsJson) -> None:
    """List the caps with their ids."""
    from engine.campaigns import policy_store

    with opened() as runtime, runtime.database.begin() as connection:
        version, policy = policy_store.current_policy(connection)
    if as_json:
        _print_json({"policy": version, "caps": [_cap(cap) for cap in policy.caps]})
        return
    table = Table("id", "scope", "limit", "window", "in words", box=None, pad_edge=False)
    for cap in policy.caps:
        table.add_row(cap.id, cap.scope, str(cap.limit), cap.window, str(cap))
    stdout.print(table if policy.caps else "There are no caps. Add one: horae caps add --limit 2 --per day")


@caps_app.command("remove")
def remove_cap(
    cap_id: str = typer.Argument(metavar="ID", help="As `horae caps list` shows."), as_json: bool = AsJson
) -> None:
    """Remove a cap by its id."""
    from engine.campaigns import policy_store

    with opened() as runtime, runtime.database.begin() as connection:
        version, removed = policy_store.remove_cap(connection, cap_id, AUTHOR)
    if as_json:
        _print_json({"policy": version, "cap": _cap(removed)})
    else:
        stdout.print(f"removed {removed.id}: {removed}")


@caps_app.command("gateway")
def gateway_limits(
    name: str = typer.Argument(metavar="GATEWAY", help="log, webhook, …"),
    per_quarter: str | None = typer.Option(
        None, help="The most pushes in each UTC quarter of an hour, all campaigns together; or none."
    ),
    per_minute: str | None = typer.Option(
        None, help="The most messages in any minute, kept as they leave; or none (FCM: its quota of 600,000)."
    ),
    per_device_day: str | None = typer.Option(
        None, help="The most marketing pushes a device gets on a local day (some providers allow 2); or none."
    ),
    as_json: bool = AsJson,
) -> None:
    """Say what a gateway's provider takes. Plans keep to it: the most valuable pushes get the places there are."""
    from engine.campaigns import policy_store

    with opened() as runtime, runtime.database.begin() as connection:
        version, rule = policy_store.set_gateway(
            connection,
            name,
            {"per_quarter": per_quarter, "per_minute": per_minute, "per_device_day": per_device_day},
            runtime.gateways,
            AUTHOR,
        )
    if as_json:
        _print_json({"policy": version, "gateway": None if rule is None else rule.model_dump(mode="json")})
    else:
        stdout.print(str(rule) if rule else f"{name}: no limit", markup=False)


# --- workspace -------------------------------------------------------------------------------------------------------


@workspace_app.command("show")
def show_workspace(as_json: bool = AsJson) -> None:
    """Show the workspace's rules."""
    from engine.campaigns import policy_store
    from engine.clock import business_now

    with opened() as runtime, runtime.database.begin() as connection:
        version, policy = policy_store.current_policy(connection)
        now = business_now(connection)
    _print_policy(version, policy, now, as_json=as_json)


@workspace_app.command("set")
def set_workspace(
    timezone: str | None = typer.Option(None, help="Zone of users who have none: an IANA name."),
    quiet_hours: str | None = typer.Option(None, help="Local hours in which nothing leaves: 22:00-08:00, or none."),
    min_gap: str | None = typer.Option(None, help="Least time between two pushes to a user: 4h, or none."),
    holdout: float | None = typer.Option(None, help="Share of users who get no marketing push at all: 0 … 1."),
    pushes_per_stock: str | None = typer.Option(None, help="Most pushes about an item for each piece in stock; none."),
    keep_events: str | None = typer.Option(None, help="Drop events after so many days (93 or more), or none: never."),
    keep_deliveries: str | None = typer.Option(None, help="The same of deliveries (93 or more)."),
    keep_decisions: str | None = typer.Option(None, help="The same of decisions and their receipts (62 or more)."),
    as_json: bool = AsJson,
) -> None:
    """Change the workspace's rules; each change is a new version of its policy, and runs keep the one they used."""
    from engine.campaigns import policy_store
    from engine.campaigns.review import unfitting
    from engine.clock import business_now

    given = {"default_timezone": timezone, "quiet_hours": quiet_hours, "min_gap": min_gap, "holdout": holdout}
    given |= {"pushes_per_stock": pushes_per_stock, "keep_events_days": keep_events}
    given |= {"keep_deliveries_days": keep_deliveries, "keep_decisions_days": keep_decisions}
    changes = {name: None if value == "none" else value for name, value in given.items() if value is not None}
    with opened() as runtime, runtime.database.begin() as connection:
        version, policy = policy_store.change_rules(connection, changes, AUTHOR)
        now = business_now(connection)
        unfit = unfitting(connection, now, runtime.gateways)
    _print_policy(version, policy, now, as_json=as_json)
    for line in unfit:
        _warn(line)


# --- printing --------------------------------------------------------------------------------------------------------


def _move(name: str, to: State, said: str, *, as_json: bool) -> None:
    from engine.campaigns import store

    with opened() as runtime, runtime.database.begin() as connection:
        stored = store.set_state(connection, name, to, AUTHOR)
    if as_json:
        _print_json({"name": stored.name, "state": stored.state, "version": stored.version})
    else:
        stdout.print(f"{stored.name} is {said}")


def _print_json(value: Any) -> None:
    typer.echo(json.dumps(value, indent=2, ensure_ascii=False, default=str))


def _warn(text: str) -> None:
    stderr.print(f"warning: {text}", style="yellow", markup=False, soft_wrap=True)


def _print_defined(made: list[Defined], now: datetime, *, as_json: bool) -> None:
    from engine.campaigns.telling import due_next, summary

    if as_json:
        rows = [
            {**summary(one.created.stored, now), "outcome": one.created.outcome, "warnings": list(one.warnings)}
            for one in made
        ]
        _print_json(rows)
        return
    for one in made:
        stored = one.created.stored
        said = {"created": "created", "unchanged": "unchanged", "edited": f"changed: now version {stored.version}"}
        following = due_next(stored, now)
        due = f"; next due {following[0]}" if following else ""
        stdout.print(f"campaign {stored.name} {said[one.created.outcome]} ({stored.state}{due})", markup=False)
        for warning in one.warnings:
            _warn(f"{stored.name}: {warning}")


def _print_campaign(told: Whole) -> None:
    import yaml

    from engine.campaigns.schedule import described
    from engine.campaigns.telling import due_next

    stored = told.stored
    people = ", ".join(f"{count:,} {reason}" for reason, count in (told.audience or {}).items() if count) or "nobody"
    following = ", ".join(due_next(stored, told.now)) or "none"
    stdout.print(f"{stored.name}, version {stored.version}, {stored.state}", style="bold", markup=False)
    stdout.print(f"due: {described(stored.definition)}; next {following}", markup=False)
    stdout.print(f"audience now: {people}\n", markup=False)
    text = yaml.safe_dump(told.definition, sort_keys=False, allow_unicode=True, width=110)
    stdout.print(text, markup=False, soft_wrap=True)


def _cap(cap: Cap) -> dict[str, Any]:
    return {**cap.model_dump(mode="json"), "in_words": str(cap)}


def _print_policy(version: int, policy: Policy, now: datetime, *, as_json: bool) -> None:
    from engine.campaigns.fields import hours_text, in_words

    if as_json:
        _print_json({"policy": version, "now": now.isoformat(), **policy.model_dump(mode="json")})
        return
    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_row("zone of users without one", policy.default_timezone)
    table.add_row("quiet hours", hours_text(policy.quiet_hours) if policy.quiet_hours else "none")
    table.add_row("minimum gap", in_words(policy.min_gap) if policy.min_gap else "none")
    table.add_row("global holdout", f"{policy.holdout:.1%}")
    table.add_row("caps", "; ".join(map(str, policy.caps)) or "none")
    table.add_row("gateways", "; ".join(map(str, policy.gateways)) or "no limits")
    table.add_row("pushes per piece in stock", str(policy.pushes_per_stock or "no limit"))
    for what in ("events", "deliveries", "decisions"):
        days = getattr(policy, f"keep_{what}_days")
        table.add_row(f"{what} are kept", f"{days:,} days" if days else "for ever")
    table.add_row("business time", f"{now:%Y-%m-%d %H:%M:%S} UTC")
    table.add_row("policy version", str(version))
    stdout.print(table)
