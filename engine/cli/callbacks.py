"""Commands: what phones and browsers said of pushes (`callbacks ingest`), and the key that proves it (`rotate-key`)."""

from __future__ import annotations

import json
from pathlib import Path

import typer
from rich.console import Console

from engine.cli.campaigns import opened

callbacks_app = typer.Typer(
    no_args_is_help=True,
    help="What phones and browsers say became of a push: opened, clicked, dismissed, converted, uninstalled, received."
    " Each says it with the push_id and callback_token of the push' payload.",
)

AsJson = typer.Option(False, "--json", help="Print JSON.")

stdout = Console(highlight=False)


def register(app: typer.Typer) -> None:
    """Add this module's commands to `app`."""
    app.add_typer(callbacks_app, name="callbacks")


@callbacks_app.command("ingest")
def ingest(
    file: Path = typer.Argument(help="JSON Lines, one callback each."),
    as_json: bool = AsJson,
) -> None:
    """Take callbacks that were gathered in a file, 500 to a transaction. The same file twice changes nothing more.

    Those refused go to FILE.rejects.jsonl with line and reason. Exit code 1: some were refused.
    """
    from collections import Counter

    from engine.clock import business_now
    from engine.delivery import callback_file

    totals: Counter[str] = Counter()
    with opened() as runtime:
        with runtime.database.begin() as connection:
            now = business_now(connection)
        totals.update(callback_file.ingest(runtime.database, now, file))
    refused = sum(number for name, number in totals.items() if name.startswith("refused."))
    if as_json:
        typer.echo(json.dumps({"callbacks": sum(totals.values()), **dict(sorted(totals.items()))}))
    else:
        for name, number in sorted(totals.items()):
            stdout.print(f"{name:<26}{number:>10,}", markup=False)
        if refused:
            stdout.print(f"refused are in {callback_file.rejects_of(file)}", markup=False)
    if refused:
        raise typer.Exit(1)


@callbacks_app.command("rotate-key")
def rotate_key(
    revoke: bool = typer.Option(
        False, "--revoke", help="Take no answer any more to pushes that are out: where the key has leaked."
    ),
    as_json: bool = AsJson,
) -> None:
    """Sign callback tokens with a new key from now on. Tokens of the old key are taken until they end (30 days)."""
    from engine.delivery import callback_keys

    with opened() as runtime, runtime.database.begin() as connection:
        dropped = callback_keys.rotate(connection, revoke=revoke)
    if as_json:
        typer.echo(json.dumps({"dropped": dropped}))
    else:
        stdout.print(f"a new key signs; {dropped} old {'key was' if dropped == 1 else 'keys were'} dropped")
