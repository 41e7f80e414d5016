"""Commands for analysts: decisions as files (`export`)."""

from __future__ import annotations

import json
from datetime import datetime
from pathlib import Path

import typer
from rich.console import Console
from rich.progress import Progress

from engine.cli.campaigns import AsJson, opened

export_app = typer.Typer(no_args_is_help=True, help="Files for analysts.")

stdout = Console(highlight=False)
stderr = Console(stderr=True, highlight=False)

DAY = ["%Y-%m-%d"]


def register(app: typer.Typer) -> None:
    """Add this module's commands to `app`."""
    app.add_typer(export_app, name="export")


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
