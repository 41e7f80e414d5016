"""Commands: the API's server (`api`), and who may use it (`admin`): keys, and users of the console."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import typer
from rich.console import Console
from rich.table import Table

from engine.cli import people
from engine.cli.campaigns import AUTHOR, AsJson, opened

if TYPE_CHECKING:
    from datetime import timedelta

admin_app = typer.Typer(no_args_is_help=True, help="Who may do what: keys of the HTTP API, users of the console.")

stdout = Console(highlight=False)
stderr = Console(stderr=True, highlight=False)


def register(app: typer.Typer) -> None:
    """Add this module's commands to `app`."""
    app.command("api")(api)
    app.add_typer(admin_app, name="admin")
    people.register(admin_app)


def api(
    host: str | None = typer.Option(None, help="Where to listen; default HORAE_API_HOST: 127.0.0.1."),
    port: int | None = typer.Option(None, help="Default HORAE_API_PORT: 8000."),
    development: bool = typer.Option(
        False,
        "--development",
        help="As under `horae up`: while there is no key, this machine needs none. Loopback only.",
    ),
) -> None:
    """Serve the HTTP API in the foreground: events in Segment's specification, /metrics, /healthz, /openapi.json.

    Every request needs a key: horae admin create-key. Put a proxy with TLS before it; run one process per core.
    """
    import ipaddress

    from engine.config import read_settings
    from engine.errors import BadInput
    from engine.runtime import open_runtime
    from engine.web import serve

    settings = read_settings()
    where = host or settings.api_host
    if development:
        try:
            loopback = where == "localhost" or ipaddress.ip_address(where).is_loopback
        except ValueError:
            loopback = False
        if not loopback:
            raise BadInput(f"--development listens on this machine only, not on {where}", hint="--host 127.0.0.1")
    runtime = open_runtime(settings, migrate=False)
    try:
        serve(runtime, where, settings.api_port if port is None else port, development=development)
    finally:
        runtime.close()


@admin_app.command("create-key")
def create_key(
    name: str = typer.Argument(help="Who will use it."),
    scope: list[str] = typer.Option(
        [], help="write (events, items, devices, callbacks; the default), read, operate or admin. May be repeated."
    ),
    role: str | None = typer.Option(
        None, help="Scopes by name: viewer (read), operator (read, operate), admin (everything)."
    ),
    expires: str | None = typer.Option(None, help="After how long it ends, such as 90d; default: never."),
    rate: int | None = typer.Option(None, help="Messages a second in the long run; default HORAE_API_RATE."),
    as_json: bool = AsJson,
) -> None:
    """Make an API key and print it. It is shown this once: the store keeps a hash."""
    from engine import clock
    from engine.access import keys
    from engine.access.roles import scopes_of

    scopes = sorted({*scope, *(scopes_of(role) if role else ())} or {"write"})
    ends = None if expires is None else clock.machine_now() + _span(expires)
    with opened() as runtime, runtime.database.begin() as connection:
        key = keys.create_key(connection, name, scopes, author=AUTHOR, rate=rate, expires_at=ends)
    if as_json:
        typer.echo(json.dumps({"key": key, "id": key.split("_")[1], "name": name, "scopes": scopes}))
    else:
        typer.echo(key)
        stderr.print("keep it: it is not shown again", style="dim")


@admin_app.command("list-keys")
def list_keys(as_json: bool = AsJson) -> None:
    """List the keys: what they may do, when they were last used, whether they still open anything."""
    from engine import clock
    from engine.access import keys
    from engine.access.roles import role_of

    with opened() as runtime, runtime.database.begin() as connection:
        found = keys.list_keys(connection)
    now = clock.machine_now()
    rows = [
        {
            "id": key.id,
            "name": key.name,
            "scopes": ", ".join(key.scopes),
            "role": role_of(key.scopes),
            "state": key.state(now),
            "expires": key.expires_at,
            "last used": key.last_used_at,
            "made by": key.created_by,
        }
        for key in found
    ]
    if as_json:
        typer.echo(json.dumps(rows, default=str))
        return
    table = Table(box=None, pad_edge=False)
    for title in rows[0] if rows else ():
        table.add_column(title)
    for row in rows:
        table.add_row(*("" if value is None else str(value)[:60] for value in row.values()))
    stdout.print(table if rows else "no keys: horae admin create-key NAME")


@admin_app.command("revoke-key")
def revoke_key(
    key_id: str = typer.Argument(metavar="ID", help="As list-keys shows it."), as_json: bool = AsJson
) -> None:
    """End a key: from the next request on it opens nothing."""
    from engine import clock
    from engine.access import keys

    with opened() as runtime, runtime.database.begin() as connection:
        ended = keys.revoke_key(connection, key_id, author=AUTHOR, now=clock.machine_now())
    if as_json:
        typer.echo(json.dumps({"id": ended.id, "name": ended.name, "state": "revoked"}))
    else:
        stdout.print(f"revoked: {ended.id} ({ended.name})", markup=False)


def _span(given: str) -> timedelta:
    from engine.campaigns.fields import parse_duration
    from engine.errors import BadInput

    try:
        span: timedelta = parse_duration(given)
    except ValueError as error:
        raise BadInput(f"--expires {given!r} {error}") from None
    return span
