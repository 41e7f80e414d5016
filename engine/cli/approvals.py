"""Commands: approvals of campaign versions (`campaign request-approval`, `approve`, `reject`, `approvals`)."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import TYPE_CHECKING

import typer
from rich.console import Console
from rich.table import Table

from engine.cli.campaigns import AUTHOR, AsJson, campaign_app, opened

if TYPE_CHECKING:
    from engine.campaigns.approving import Standing

Name = typer.Argument(metavar="NAME", help="The campaign's name.")
Version = typer.Option(None, help="The version that was looked at; refused where it is not the newest any more.")

stdout = Console(highlight=False)


def register(app: typer.Typer) -> None:
    """These commands belong to `horae campaign`."""
    del app


@campaign_app.command("request-approval")
def request_approval(name: str = Name, as_json: bool = AsJson) -> None:
    """Ask for an approval of a campaign's newest version."""
    from engine.campaigns import approving

    with opened() as runtime, runtime.database.begin() as connection:
        found = approving.request(connection, name, AUTHOR)
    _print(found, f"version {found.newest} of {name} waits for an approval", as_json=as_json)


@campaign_app.command("approve")
def approve(name: str = Name, version: int | None = Version, as_json: bool = AsJson) -> None:
    """Approve a campaign's newest version: a draft may be launched then, a launched one goes on with it."""
    from engine.campaigns import approving
    from engine.clock import business_now

    with opened() as runtime, runtime.database.begin() as connection:
        found = approving.approve(connection, name, business_now(connection), AUTHOR, version)
    then = f"; launch it: horae campaign launch {name}" if found.campaign_state == "draft" else ", and in force"
    _print(found, f"version {found.newest} of {name} is approved{then}", as_json=as_json)


@campaign_app.command("reject")
def reject(
    name: str = Name,
    reason: str = typer.Option(help="Why, for whoever mends it."),
    version: int | None = Version,
    as_json: bool = AsJson,
) -> None:
    """Reject a campaign's newest version; the one in force goes on."""
    from engine.campaigns import approving

    with opened() as runtime, runtime.database.begin() as connection:
        found = approving.reject(connection, name, reason, AUTHOR, version)
    _print(found, f"version {found.newest} of {name} is rejected", as_json=as_json)


@campaign_app.command("approvals")
def list_waiting(as_json: bool = AsJson) -> None:
    """List the versions that wait for an approval."""
    from engine.campaigns import approving

    with opened() as runtime, runtime.database.begin() as connection:
        found = approving.waiting(connection)
    if as_json:
        typer.echo(json.dumps([asdict(one) for one in found], indent=2, default=str))
        return
    table = Table("campaign", "state", "version", "written by", "asked by", "at (UTC)", box=None, pad_edge=False)
    for one in found:
        at = f"{one.at:%Y-%m-%d %H:%M}" if one.at else "–"
        table.add_row(
            one.name, one.campaign_state, str(one.newest), ", ".join(one.authors) or "–", one.actor or "–", at
        )
    stdout.print(table if found else "Nothing waits for an approval.")


def _print(found: Standing, said: str, *, as_json: bool) -> None:
    if as_json:
        typer.echo(json.dumps(asdict(found), indent=2, default=str))
    else:
        stdout.print(said, markup=False, soft_wrap=True)
