"""Commands: the devices that pushes reach (`horae devices`)."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import typer
from rich.console import Console
from rich.table import Table

from engine.cli.campaigns import opened

if TYPE_CHECKING:
    from engine.delivery.devices import Registered

devices_app = typer.Typer(
    no_args_is_help=True, help="The devices that pushes reach. They come from: horae ingest devices FILE"
)

AsJson = typer.Option(False, "--json", help="Print JSON.")
Most = typer.Option(50, "--limit", min=1, max=100_000, help="How many at most.")

stdout = Console(highlight=False)


def register(app: typer.Typer) -> None:
    """Add this module's commands to `app`."""
    app.add_typer(devices_app, name="devices")


@devices_app.command("list")
def list_devices(
    user: str | None = typer.Option(None, help="One user, by user_id."),
    gateway: str | None = typer.Option(None, help="One gateway: fcm, apns, webpush, …"),
    dead: bool = typer.Option(False, "--dead", help="Only those that their provider has given up, with its reason."),
    most: int = Most,
    as_json: bool = AsJson,
) -> None:
    """List devices, latest registration first. Tokens are secrets: shown is the beginning of their SHA-256."""
    from engine.delivery.devices import find_devices
    from engine.delivery.gateways import device_gateways
    from engine.errors import UnknownName, did_you_mean

    if gateway is not None and gateway not in device_gateways():
        known = device_gateways()
        hint = did_you_mean(gateway, known) or f"known are {', '.join(known)}"
        raise UnknownName(f"there is no gateway {gateway!r} with devices", hint=hint)
    with opened() as runtime, runtime.database.begin() as connection:
        found = find_devices(connection, most, user=user, gateway=gateway, dead=dead)
    if as_json:
        _print_json([asdict(device) for device in found])
    else:
        _print_devices(found, "There is no such device.")


@devices_app.command("stale")
def stale(
    days: int = typer.Option(30, min=1, help="Not registered again for so many days."),
    most: int = Most,
    as_json: bool = AsJson,
) -> None:
    """Say how the devices of each gateway stand, and list those that have not been heard of for long.

    They are still sent to: only a provider knows that a device is gone. An app should register again each month.
    """
    from datetime import timedelta

    from engine.clock import business_now
    from engine.delivery.devices import find_devices, health

    with opened() as runtime, runtime.database.begin() as connection:
        now = business_now(connection)
        states = health(connection, now)
        found = find_devices(connection, most, before=now - timedelta(days=days))
    if as_json:
        _print_json({"gateways": [asdict(one) for one in states], "stale": [asdict(device) for device in found]})
        return
    table = Table("gateway", box=None, pad_edge=False)
    for heading in ("users", "live", "of these > 30 days", "> 270 days", "dead"):
        table.add_column(heading, justify="right")
    for one in states:
        table.add_row(one.gateway, *(f"{n:,}" for n in (one.users, one.live, one.stale, one.expired, one.dead)))
    stdout.print(table if states else "There are no devices. They come from: horae ingest devices FILE")
    if states:
        stdout.print()
        _print_devices(found, f"None was last registered more than {days} days ago.")


def _print_devices(found: list[Registered], nothing: str) -> None:
    table = Table("user", "gateway", "token", "registered (UTC)", "state", "about", box=None, pad_edge=False)
    for one in found:
        state = f"dead since {one.dead_at:%Y-%m-%d %H:%M}: {one.dead_reason or '–'}" if one.dead_at else "live"
        about = ", ".join(f"{name} {value}" for name, value in one.attributes.items())
        table.add_row(one.user_id, one.gateway, one.token, f"{one.seen_at:%Y-%m-%d %H:%M}", state, about)
    stdout.print(table if found else nothing)


def _print_json(value: Any) -> None:
    typer.echo(json.dumps(value, indent=2, ensure_ascii=False, default=str))
