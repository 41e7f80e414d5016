"""The console script: its sub-commands and how errors reach the person.

Exit codes: 0 done, 1 done but with something refused (rejected rows, a missed bound), 2 a clear error and nothing
changed, 130 interrupted.
"""

from __future__ import annotations

import importlib
import logging
import sys

import typer
from rich.console import Console

from engine import __version__
from engine.errors import HoraeError

app = typer.Typer(
    name="horae",
    help="Horae: the right item, at the right hour, never too often. Start with: horae demo",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

COMMAND_MODULES = (
    *("servers", "ingest", "learning", "backtest", "campaigns", "audiences", "approvals", "planning", "preview"),
    *("explain", "analysis", "delivery", "callbacks", "reports", "metrics", "devices", "privacy", "api", "bench"),
    "demo",
)
"""Modules of engine.cli; each adds its commands in `register(app)`. They import their rooms inside the commands, so
that `horae --help` stays quick."""

stderr = Console(stderr=True)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"horae {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: bool = typer.Option(False, "--version", callback=_print_version, is_eager=True, help="Print the version."),
) -> None:
    del version  # its callback has spoken


for _name in COMMAND_MODULES:
    importlib.import_module(f"engine.cli.{_name}").register(app)


def main() -> None:
    """Run the command line; errors of Horae become one line on stderr and exit code 2."""
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(name)s: %(message)s")
    try:
        app()
    except HoraeError as error:
        stderr.print(f"[bold red]error:[/] {_escape(error.message)}", highlight=False, soft_wrap=True)
        if error.hint:
            stderr.print(f"[dim]→ {_escape(error.hint)}[/]", highlight=False, soft_wrap=True)
        sys.exit(2)
    except KeyboardInterrupt:
        stderr.print("interrupted; what was committed stays, the rest was left undone", highlight=False)
        sys.exit(130)


def _escape(text: str) -> str:
    return text.replace("[", r"\[")
