"""`horae demo`: everything, on real data, in minutes."""

from __future__ import annotations

import json
import signal
from pathlib import Path

import typer


def register(app: typer.Typer) -> None:
    """Add this module's commands to `app`."""
    app.command()(demo)


def demo(
    days: int = typer.Option(4, min=1, max=14, help="How many days of the data to live through."),
    households: int | None = typer.Option(None, min=50, help="Only the first so many households: quicker."),
    home: Path | None = typer.Option(None, help="Its data directory; default HORAE_HOME/demo. Emptied at the start."),
    as_json: bool = typer.Option(False, "--json", help="Print the report as one JSON object."),
) -> None:
    """Run Horae on real purchases, through several virtual days, and report what happened. Three minutes at most.

    Starts PostgreSQL and Valkey from wheels in a directory of its own, ingests the Complete Journey purchases of 2,469
    households up to a Sunday in October, trains, starts workers and beat as `horae up` does, runs two campaigns under
    caps and quiet hours on a virtual clock, and looks up in the data what came after each push.

    Ctrl-C stops its workers and beat at any moment; the servers stay up until `horae down`. Run it again as often as
    you like: it begins anew each time.
    """
    from rich.console import Console

    from engine.config import read_settings
    from engine.demo.report import as_dict, next_steps, render
    from engine.demo.run import Options, run

    for number in (signal.SIGTERM, signal.SIGHUP):  # as Ctrl-C: nothing of it may be left running
        signal.signal(number, signal.default_int_handler)
    directory = (home or read_settings().home / "demo").absolute()
    console = Console(stderr=True, highlight=False, soft_wrap=True)
    try:
        report = run(Options(directory, days, households), console)
    except KeyboardInterrupt:
        console.print(f"stopped; workers and beat have ended, the servers are up: HORAE_HOME={directory} horae down")
        raise
    if as_json:
        typer.echo(json.dumps(as_dict(report), indent=2, default=str))
    else:
        typer.echo(render(report))
        here = Path.cwd()
        typer.echo(next_steps(directory.relative_to(here) if directory.is_relative_to(here) else directory))
    if not report.adds_up:
        raise typer.Exit(1)
