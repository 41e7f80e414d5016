"""`horae ingest`: files into the store, and profiles from events."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

if TYPE_CHECKING:
    from engine.ingest.layout import Kind
    from engine.ingest.options import Options
    from engine.ingest.run import Progress as FileProgress
    from engine.ingest.summary import Summary

out = Console(highlight=False, soft_wrap=True)
err = Console(stderr=True, highlight=False, soft_wrap=True)

Files = Annotated[
    list[Path], typer.Argument(help=".csv, .jsonl, .ndjson (also with .gz) or .parquet", show_default=False)
]
Mapped = Annotated[
    list[str] | None,
    typer.Option("--map", metavar="THEIRS=OURS", help="A column of theirs that is one of ours; repeatable."),
]
Zone = Annotated[
    str | None, typer.Option(metavar="ZONE", help="Of times without an offset, e.g. Europe/Berlin. Without: refused.")
]
Rejects = Annotated[
    Path | None, typer.Option(metavar="FOLDER", help="Where FILE.rejects.jsonl goes; default: beside FILE.")
]
AsJson = Annotated[bool, typer.Option("--json", help="Print the summary as one JSON object.")]


def register(app: typer.Typer) -> None:
    """Add this module's commands to `app`."""
    group = typer.Typer(
        help="Bring users, items, devices, events and promotions from files into the store. Safe to repeat: what is"
        " known already is not taken twice. Rows that cannot be taken go to FILE.rejects.jsonl, each with its line and"
        " the reason.",
        no_args_is_help=True,
    )
    group.command()(users)
    group.command()(items)
    group.command()(events)
    group.command()(promotions)
    group.command()(devices)
    group.command()(replay)
    app.add_typer(group, name="ingest")


def users(
    files: Files,
    mapping: Mapped = None,
    rejects: Rejects = None,
    as_json: AsJson = False,
) -> None:
    """Create or change users.

    Columns: user_id (required), timezone (an IANA name such as Europe/Berlin), country, locale, consent (true or
    false; without it a user gets no push through any gateway but the log), preferences (a JSON object such as
    {"topics": {"deals": false}, "channels": {"fcm": true}}). Every other column becomes an attribute.

    What a file does not mention stays as it is; an empty value empties it. Users without a time zone live by the
    workspace's.
    """
    _ingest("users", files, _options("users", mapping, rejects), as_json)


def items(
    files: Files,
    mapping: Mapped = None,
    timezone: Zone = None,
    rejects: Rejects = None,
    as_json: AsJson = False,
) -> None:
    """Create or change items.

    Columns: item_id (required), title, category, brand, price, available_from, available_until (ISO 8601 times), stock
    (empty: unlimited). Every other column becomes an attribute.

    What a file does not mention stays as it is; an empty value empties it. A change keeps the version before it.
    """
    _ingest("items", files, _options("items", mapping, rejects, timezone=timezone), as_json)


def events(
    files: Files,
    mapping: Mapped = None,
    types: Annotated[
        list[str] | None,
        typer.Option("--type", metavar="THEIRS=OURS", help="An event type of theirs that is one of ours."),
    ] = None,
    timezone: Zone = None,
    source: Annotated[
        str, typer.Option(metavar="NAME", help="The system whose event ids these are, where several count their own.")
    ] = "",
    rejects: Rejects = None,
    as_json: AsJson = False,
) -> None:
    """Record events and fold them into the profiles.

    Columns: event_type and occurred_at (an ISO 8601 time) are required, and user_id or item_id; event_id, value,
    quantity, push_id. Every other column becomes an attribute.

    Types that mean something to Horae: view, search, add_to_cart, purchase, rating, app_open, push_open, push_click,
    push_dismiss, unsubscribe, push_sent (of pushes that another system sent; Horae knows its own). Others are kept and
    counted. Events with an event_id are one event if their ids are equal, others if all their values are. Unknown users
    and items are made as stubs, which `horae ingest users` and `items` complete later. Times before 2000 and after now
    are refused.
    """
    options = _options("events", mapping, rejects, types=types, timezone=timezone, source=source)
    _ingest("events", files, options, as_json)


def promotions(
    files: Files,
    mapping: Mapped = None,
    timezone: Zone = None,
    rejects: Rejects = None,
    as_json: AsJson = False,
) -> None:
    """Record promotions that are known beforehand: what is promoted soon is bought more, and the model learns how much.

    Columns: item_id, kind (advert, placement or discount), starts_at, ends_at (required); weight, how strong it is (a
    share of shops, a number of products, a share of the price; empty: 1, and 0 withdraws it); announced_at, since when
    it was known (empty: now).

    A promotion is one by item, kind and start; announcing it again replaces it from then on. What was known at a past
    instant stays known, so that no model learns from what was announced later.
    """
    _ingest("promotions", files, _options("promotions", mapping, rejects, timezone=timezone), as_json)


def devices(
    files: Files,
    mapping: Mapped = None,
    timezone: Zone = None,
    rejects: Rejects = None,
    as_json: AsJson = False,
) -> None:
    """Register devices, or refresh them.

    Columns: user_id and token are required, and gateway (fcm, apns, webpush) or platform (android, ios, web);
    registered_at (an ISO 8601 time), when the app last got or sent this token. Every other column becomes an attribute,
    such as app_version. A Web Push subscription's token is its endpoint, with the columns p256dh and auth beside it.

    A user may have several devices; a token belongs to the user of its newest registration. A dead device lives again
    by a newer registered_at only: rows without one make new devices and change none. Unknown users are made as stubs.
    """
    _ingest("devices", files, _options("devices", mapping, rejects, timezone=timezone), as_json)


def replay(
    check: Annotated[bool, typer.Option("--check", help="Change nothing; exit 1 where profiles differ.")] = False,
    as_json: AsJson = False,
) -> None:
    """Rebuild all profiles from the events, or check that they are what the events say.

    Ingest may go on meanwhile: files wait a moment at each of 17 slices, queued events are folded afterwards.
    """
    from engine.ingest.replay import replay as run
    from engine.runtime import open_runtime

    runtime = open_runtime()
    try:
        with slices_bar() as told:
            replayed = run(runtime.database, told, rebuild=not check)
    finally:
        runtime.close()
    if as_json:
        typer.echo(json.dumps({"profiles": replayed.profiles, "differing": replayed.differing, "rebuilt": not check}))
    else:
        done = "checked" if check else "rebuilt"
        out.print(f"{replayed.profiles:,} profiles {done}; {replayed.differing:,} differed from the events")
    if check and replayed.differing:
        raise typer.Exit(1)


def _options(
    kind: Kind,
    mapping: list[str] | None,
    rejects: Path | None,
    *,
    types: list[str] | None = None,
    timezone: str | None = None,
    source: str = "",
) -> Options:
    from engine.ingest.layout import parse_mapping
    from engine.ingest.options import Options, parse_types

    options = Options(parse_mapping(kind, mapping or []), parse_types(types or []), timezone, source, rejects)
    options.zone()
    return options


def _ingest(kind: Kind, files: list[Path], options: Options, as_json: bool) -> None:
    from engine.clock import business_now
    from engine.errors import IngestStopped
    from engine.ingest import run
    from engine.ingest.summary import Summary
    from engine.runtime import open_runtime

    ingests: dict[Kind, Callable[..., Summary]] = {
        "users": run.ingest_users,
        "items": run.ingest_items,
        "events": run.ingest_events,
        "devices": partial(run.ingest_devices, gateways=_device_gateways() if kind == "devices" else ()),
        "promotions": run.ingest_promotions,
    }
    runtime = open_runtime()
    try:
        with runtime.database.begin() as connection:
            now = business_now(connection)
        with _bar(kind, BarColumn(), DownloadColumn(), TimeRemainingColumn()) as told:
            summary = ingests[kind](runtime.database, files, now, options, lambda at: told(*_bytes(at)))
    except IngestStopped as stopped:
        if isinstance(stopped.summary, Summary):
            _show(stopped.summary, as_json)
        if not stopped.interrupted:
            raise
        err.print(f"{stopped.message}\n[dim]→ {stopped.hint}[/]")
        raise typer.Exit(130) from stopped
    finally:
        runtime.close()
    _show(summary, as_json)
    raise typer.Exit(1 if summary.refused else 0)


def _device_gateways() -> list[str]:
    from engine.delivery.gateways import device_gateways

    return device_gateways()


def _bytes(at: FileProgress) -> tuple[int, int, str]:
    return at.done, at.total, f"{at.file.name} · {at.rows:,} rows"


def _show(summary: Summary, as_json: bool) -> None:
    if as_json:
        typer.echo(json.dumps(summary.as_dict()))
        return
    table = Table(show_header=False, box=None, pad_edge=False)
    table.add_column()
    table.add_column(justify="right")
    for what, number in summary.lines():
        table.add_row(what, number)
    out.print(table)
    for file in summary.rejects_files:
        out.print(f"rejected rows, with reasons: {file}")


def slices_bar() -> AbstractContextManager[Callable[..., None]]:
    """The progress of a replay."""
    return _bar("profiles", BarColumn(), MofNCompleteColumn(), TextColumn("slices"))


@contextmanager
def _bar(name: str, *columns: object) -> Iterator[Callable[..., None]]:
    """A progress bar on stderr; yields told(done, total, [what])."""
    shown = Progress(TextColumn("{task.description}"), *columns, console=err, transient=True)  # type: ignore[arg-type]
    with shown:
        bar = shown.add_task(name, total=None)

        def _told(done: int, total: int, what: str = name) -> None:
            shown.update(bar, completed=done, total=total, description=what)

        yield _told
