"""Commands about people: what is held, what they want, erasure (`users`), and who changed what (`audit`)."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import typer
from rich.console import Console
from rich.table import Table

from engine.cli.asking import agreed
from engine.cli.campaigns import AUTHOR, AsJson, opened

users_app = typer.Typer(no_args_is_help=True, help="What is held about a user, and what they want.")

stdout = Console(highlight=False)
stderr = Console(stderr=True, highlight=False)

UserId = typer.Argument(metavar="ID", help="The user's id, as it was ingested.")


def register(app: typer.Typer) -> None:
    """Add this module's commands to `app`."""
    app.add_typer(users_app, name="users")
    app.command("audit")(audit_log)


@users_app.command("export")
def export(
    user: str = UserId,
    out: Path | None = typer.Option(None, help="The file to write, for its owner alone; default: standard output."),
) -> None:
    """Write everything that is held about a user, as one JSON object: rows of every table, receipts decoded."""
    from engine.privacy.export import export_user

    with opened() as runtime:
        found = export_user(runtime.database, user, AUTHOR)
    written = json.dumps(found, indent=2, ensure_ascii=False, default=str)
    if out is None:
        typer.echo(written)
        return
    _write_private(out, written + "\n")
    rows = sum(len(each) for each in found["rows"].values())
    stderr.print(f"{rows:,} rows of {len(found['rows'])} tables in {out}", markup=False)


@users_app.command("erase")
def erase(
    user: str = UserId,
    yes: bool = typer.Option(False, "--yes", "-y", help="Do not ask."),
    as_json: bool = AsJson,
) -> None:
    """Erase a user for good: rows, profiles, queues, receipts, the caps' log.

    Ledgers keep their rows under a pseudonym, events about items stay as nobody's, planned pushes end, and what comes
    in about the user later is refused. The log gateway's journal and the shop's own files are not touched.
    """
    from engine.clock import business_now
    from engine.privacy.erase import erase_user

    if not (yes or as_json or agreed(f"Erase everything about {user} for good?")):
        raise typer.Exit(1)
    with opened() as runtime:
        with runtime.database.begin() as connection:
            now = business_now(connection)
        done = erase_user(runtime, user, now, AUTHOR)
    if as_json:
        typer.echo(json.dumps({"erased": done.rows, "kept": done.kept, "caps": done.caps}))
        return
    stdout.print(f"erased: {_counts(done.rows)}", markup=False)
    stdout.print(f"kept under a pseudonym: {_counts(done.kept)}", markup=False)
    if not done.caps:
        stderr.print("the caps' Redis did not answer; it forgets within two days", style="yellow")


@users_app.command("preferences")
def preferences(
    user: str = UserId,
    topic: list[str] = typer.Option([], help="NAME=on or NAME=off; may be repeated."),
    channel: list[str] = typer.Option([], help="GATEWAY=on or GATEWAY=off; may be repeated."),
    as_json: bool = AsJson,
) -> None:
    """Show what a user wants by topic and channel, after changing what is given."""
    from engine.ingest.preferences import change_preferences

    said = [("topic", *_switched(each)) for each in topic] + [("channel", *_switched(each)) for each in channel]
    with opened() as runtime, runtime.database.begin() as connection:
        found = change_preferences(connection, user, said, AUTHOR)
    if as_json:
        typer.echo(json.dumps([{"kind": kind, "name": name, "allowed": on} for kind, name, on in found]))
        return
    table = Table("kind", "name", "allowed", box=None, pad_edge=False)
    for kind, name, on in found:
        table.add_row(kind, name, "yes" if on else "no")
    stdout.print(table if found else f"{user} has said nothing of topics and channels")


def audit_log(
    subject: str | None = typer.Option(None, help="Only about this: campaign:NAME, policy, all, gateway:NAME, …"),
    actor: str | None = typer.Option(None, help="Only what this user or key did."),
    limit: int = typer.Option(50, min=1, max=10_000, help="The latest so many."),
    as_json: bool = AsJson,
) -> None:
    """Show who changed what: campaigns, the workspace's rules, stops, erasures."""
    from engine.audit import read

    with opened() as runtime, runtime.database.begin() as connection:
        found = read(connection, subject=subject, actor=actor, most=limit)
    if as_json:
        typer.echo(json.dumps([vars(one) for one in found], indent=2, ensure_ascii=False, default=str))
        return
    table = Table("at (UTC)", "who", "did", "to", box=None, pad_edge=False)
    table.add_column("before → after", overflow="fold")
    for one in found:
        changed = " → ".join(json.dumps(each, ensure_ascii=False) for each in (one.before, one.after) if each)
        table.add_row(f"{one.at:%Y-%m-%d %H:%M:%S}", one.actor, one.action, one.subject, changed)
    stdout.print(table if found else "Nothing was changed yet", markup=False)


def _write_private(path: Path, written: str) -> None:
    from engine.errors import BadInput

    try:
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except OSError as error:
        raise BadInput(f"{path} cannot be written: {error.strerror}") from error
    with os.fdopen(handle, "w", encoding="utf-8") as file:
        file.write(written)


def _switched(pair: str) -> tuple[str, bool]:
    from engine.errors import BadInput

    name, _, value = pair.partition("=")
    if value not in ("on", "off") or not 0 < len(name) <= 64:
        raise BadInput(f"{pair!r} is not NAME=on or NAME=off")
    return name, value == "on"


def _counts(rows: dict[str, Any]) -> str:
    return ", ".join(f"{number:,} {table}" for table, number in rows.items()) or "nothing"
