"""Commands: saved audiences (`audiences`)."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from engine.cli.asking import agreed
from engine.cli.campaigns import AUTHOR, AsJson, opened

if TYPE_CHECKING:
    from engine.campaigns.audience_store import Saved
    from engine.campaigns.saved_audience import SavedAudience

audiences_app = typer.Typer(no_args_is_help=True, help="Saved audiences: rules under a name, for any campaign.")

Name = typer.Argument(metavar="NAME", help="The audience's name.")
FILE = typer.Argument(metavar="FILE", help="A YAML file with name, description and rules; see: horae audiences schema")

stdout = Console(highlight=False)
stderr = Console(stderr=True, highlight=False)


def register(app: typer.Typer) -> None:
    """Add this module's commands to `app`."""
    app.add_typer(audiences_app, name="audiences")


@audiences_app.command("create")
def create(file: Path = FILE, as_json: bool = AsJson) -> None:
    """Save an audience. A campaign, or another audience, uses it by the condition {audience: NAME}."""
    from engine.campaigns import audience_store

    audience = _load(file)
    with opened() as runtime, runtime.database.begin() as connection:
        saved = audience_store.create(connection, audience, AUTHOR)
    _told(saved, "saved", as_json=as_json)


@audiences_app.command("edit")
def edit(file: Path = FILE, as_json: bool = AsJson) -> None:
    """Make a definition the next version of the audience of its name. What is planned keeps the version it used."""
    from engine.campaigns import audience_store

    audience = _load(file)
    with opened() as runtime, runtime.database.begin() as connection:
        before = audience_store.get(connection, audience.name).version
        saved = audience_store.edit(connection, audience, AUTHOR)
    _told(saved, "unchanged" if saved.version == before else "changed", as_json=as_json)


@audiences_app.command("list")
def list_all(as_json: bool = AsJson) -> None:
    """List the saved audiences and what uses them."""
    from engine.campaigns import audience_store

    with opened() as runtime, runtime.database.begin() as connection:
        found = audience_store.get_all(connection)
        using = {one.name: audience_store.users_of(connection, one.name) for one in found}
    if as_json:
        _print_json([{**_plain(one), "used_by": using[one.name]} for one in found])
        return
    table = Table("audience", "version", "changed", "by", "used by", "description", box=None, pad_edge=False)
    for one in found:
        changed, by = f"{one.changed_at:%Y-%m-%d %H:%M}", one.author or "–"
        used, said = ", ".join(using[one.name]) or "nothing", one.definition.description
        table.add_row(one.name, str(one.version), changed, by, used, said)
    stdout.print(table if found else "There are no audiences yet. Save one from a file: horae audiences create FILE")


@audiences_app.command("show")
def show(
    name: str = Name, version: int | None = typer.Option(None, help="An earlier version."), as_json: bool = AsJson
) -> None:
    """Show an audience: its rules, its versions, what uses it."""
    import yaml

    from engine.campaigns import audience_store

    with opened() as runtime, runtime.database.begin() as connection:
        saved = audience_store.get(connection, name)
        definition = saved.definition
        if version is not None:
            definition = audience_store.get_version(connection, name, version)
        history, using = audience_store.versions(connection, name), audience_store.users_of(connection, name)
    shown = definition.model_dump(mode="json", exclude_none=True)
    if as_json:
        told = [{"version": number, "at": at.isoformat(), "author": by} for number, at, by in history]
        _print_json({**_plain(saved), "definition": shown, "versions": told, "used_by": using})
        return
    stdout.print(f"{name}, version {version or saved.version} of {saved.version}", style="bold", markup=False)
    stdout.print(f"used by: {', '.join(using) or 'nothing'}\n", markup=False)
    text = yaml.safe_dump(shown, sort_keys=False, allow_unicode=True, width=110)
    stdout.print(text, markup=False, soft_wrap=True)
    for number, at, by in history:
        stdout.print(f"version {number}: {at:%Y-%m-%d %H:%M} UTC by {by or 'Horae'}", style="dim", markup=False)


@audiences_app.command("count")
def count(
    name: str = Name,
    gateway: str | None = typer.Option(None, help="What a push would go through; absent: push, or the log."),
    as_json: bool = AsJson,
) -> None:
    """Count whom an audience holds now, and whom of them a push can reach, with why not the others."""
    from engine.campaigns import audience_store
    from engine.clock import business_now
    from engine.errors import UnknownName, did_you_mean

    with opened() as runtime, runtime.database.begin() as connection:
        saved, now, known = audience_store.get(connection, name), business_now(connection), runtime.gateways
        through = gateway or next((one for one in ("push", *known) if one in known and known[one].needs_device), "log")
        if through not in known:
            hint = did_you_mean(through, known) or f"configured: {', '.join(sorted(known))}"
            raise UnknownName(f"there is no gateway {through!r}", hint=hint)
        needs = known[through].needs_device
        found = audience_store.count(connection, saved.definition.rules, now, through, needs_device=needs)
    if as_json:
        _print_json({"audience": name, "version": saved.version, "gateway": through, **asdict(found)})
        return
    stdout.print(f"{name}: {found.users:,} users; {found.reachable:,} can be reached through {through}", markup=False)
    for reason, number in found.reasons.items():
        if number:
            stdout.print(f"  {number:,} {reason.replace('_', ' ')}", markup=False)


@audiences_app.command("export")
def export(
    name: str = Name,
    file: Path = typer.Argument(metavar="FILE", help="A .csv or .parquet file."),
    fields: str = typer.Option(
        "", help="Beside user_id, by commas: country, locale, timezone, consent, attributes.NAME."
    ),
    as_json: bool = AsJson,
) -> None:
    """Write the ids of the users whom an audience holds now to a file, with the fields asked for."""
    from engine.campaigns import audience_store
    from engine.campaigns.audience_export import export as write
    from engine.clock import business_now

    wanted = [field.strip() for field in fields.split(",") if field.strip()]
    with opened() as runtime:
        with runtime.database.begin() as connection:
            saved, now = audience_store.get(connection, name), business_now(connection)
        with Progress(console=stderr, transient=True) as bar:
            task = bar.add_task("writing", total=None)
            rows = write(
                runtime.database, saved.definition.rules, file, now, wanted,
                lambda _, done, total: bar.update(task, completed=done, total=total),
            )  # fmt: skip
    if as_json:
        _print_json({"audience": name, "version": saved.version, "file": str(file), "users": rows})
    else:
        stdout.print(f"{rows:,} users written to {file}", markup=False, soft_wrap=True)


@audiences_app.command("delete")
def delete(
    name: str = Name, yes: bool = typer.Option(False, "--yes", "-y", help="Do not ask."), as_json: bool = AsJson
) -> None:
    """Delete an audience that no campaign and no other audience uses."""
    from engine.campaigns import audience_store

    if not (yes or as_json or agreed(f"Delete audience {name}?")):
        raise typer.Exit(1)
    with opened() as runtime, runtime.database.begin() as connection:
        audience_store.remove(connection, name, AUTHOR)
    if as_json:
        _print_json({"audience": name, "deleted": True})
    else:
        stdout.print(f"audience {name} is deleted", markup=False)


@audiences_app.command("schema")
def schema() -> None:
    """Print what an audience's definition holds, as JSON Schema with a description of every field."""
    from engine.campaigns.saved_audience import SavedAudience

    _print_json(SavedAudience.model_json_schema(by_alias=True))


# --- inside ----------------------------------------------------------------------------------------------------------


def _load(file: Path) -> SavedAudience:
    from engine.campaigns.loading import load_as
    from engine.campaigns.saved_audience import SavedAudience

    return load_as(SavedAudience, file, "horae audiences schema")


def _told(saved: Saved, outcome: str, *, as_json: bool) -> None:
    if as_json:
        _print_json({**_plain(saved), "outcome": outcome})
    else:
        stdout.print(f"audience {saved.name} {outcome}: version {saved.version}", markup=False)


def _plain(saved: Saved) -> dict[str, Any]:
    return {
        "name": saved.name,
        "version": saved.version,
        "description": saved.definition.description,
        "changed_at": saved.changed_at.isoformat(),
        "author": saved.author,
    }


def _print_json(value: Any) -> None:
    typer.echo(json.dumps(value, indent=2, ensure_ascii=False, default=str))
