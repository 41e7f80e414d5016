"""`horae bench`: measures speeds, each beside its own bound."""

from __future__ import annotations

import importlib
import json
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Table

if TYPE_CHECKING:
    from engine.bench.report import Report

BENCHES = {
    "ingest": "events a second from a file into events and profiles, beside a bare COPY of the same rows",
    "score": "candidates, feature rows and the model's goal, 50 rows a user, beside the model alone",
    "allocate": "value of the planner's allocation beside the exact linear program, and beside greedy ways",
    "caps": "reservations of caps a second, beside scripts that do nothing",
    "dispatch": "due pushes to recorded deliveries over HTTP/2, beside firebase-admin; how late they leave under load",
    "freshness": "how soon an event changes recommendations and planned pushes, under 200 events a second",
    "api": "events a second that one API process accepts durably, beside a bare COPY; how long an answer takes",
    "console": "how long each page of the console takes, in a shop with a past, over HTTP",
    "plan": "a planning run, from the database to published pushes, beside the model alone",
}
"""Modules of engine.bench, and what they measure."""

out = Console(highlight=False, soft_wrap=True)
err = Console(stderr=True, highlight=False, soft_wrap=True)


def register(app: typer.Typer) -> None:
    """Add this module's commands to `app`."""
    listed = "\n\n".join(f"{name}: {what}." for name, what in BENCHES.items())
    app.command(help=f"{(bench.__doc__ or '').strip()}\n\n{listed}")(bench)


def bench(
    name: Annotated[str, typer.Argument(help=" | ".join(BENCHES))],
    users: Annotated[int | None, typer.Option(min=100, help="Users of the load; default: the bench's own.")] = None,
    repeats: Annotated[int | None, typer.Option(min=1, help="Measurements of each thing; medians count.")] = None,
    seed: Annotated[int, typer.Option(min=0, help="Of the load.")] = 1,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
    check: Annotated[bool, typer.Option("--check", help="Exit 1 where a bound is missed.")] = False,
) -> None:
    """Measure one speed of Horae, in a database of its own that is dropped afterwards.

    What is compared alternates in the same run, so that the figure holds on a busy machine too.
    """
    from engine.bench.report import Options
    from engine.errors import UnknownName, did_you_mean

    if name not in BENCHES:
        known = f"the benches are {', '.join(BENCHES)}"
        raise UnknownName(f"there is no bench {name!r}", hint=did_you_mean(name, BENCHES) or known)
    module = importlib.import_module(f"engine.bench.{name}")
    with err.status(f"{name} …") as status:

        def tell(what: str) -> None:
            status.update(f"{name}: {what} …")
            if not err.is_terminal:
                err.print(f"{name}: {what}", markup=False)

        report: Report = module.run(Options(users, repeats, seed), tell)
    if as_json:
        typer.echo(json.dumps(report.as_dict()))
    else:
        _show(report)
    if check and report.missed():
        raise typer.Exit(1)


def _show(report: Report) -> None:
    out.print(f"{report.bench}: " + ", ".join(f"{name} {value}" for name, value in report.load.items()))
    table = Table(box=None, pad_edge=False)
    for heading, justify in (("figure", "left"), ("", "right"), ("bound", "left")):
        table.add_column(heading, justify=justify)  # type: ignore[arg-type]
    missed = report.missed()
    for name, value in report.figures.items():
        colour = "red" if name in missed else "green" if name in report.bounds else "default"
        shown = f"{value:,.0f}" if value >= 100 else f"{value:.4g}"
        table.add_row(name, f"[{colour}]{shown}[/]", report.bounds.get(name, ""))
    out.print(table)
