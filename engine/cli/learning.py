"""`horae train` and `horae models`: learn, and look at what was learned."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn
from rich.table import Table

from engine.cli.campaigns import AUTHOR

if TYPE_CHECKING:
    from engine.learning.registry import Entry
    from engine.learning.training import TrainReport

out = Console(highlight=False, soft_wrap=True)
err = Console(stderr=True, highlight=False, soft_wrap=True)

AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]
Version = Annotated[int, typer.Argument(help="A version, as `horae models list` shows it.", show_default=False)]

SHOWN = (
    ("ndcg_10", "NDCG@10"),
    ("hr_10", "HR@10"),
    ("auc", "AUC"),
    ("ap", "AP"),
    ("ne", "NE"),
    ("ece", "ECE"),
    ("predicted_per_actual", "predicted / actual"),
)
RIVALS = (("model", "this model"), ("own_history", "own history"), ("popularity", "popularity"))

_STEP = 0.05
"""Share of the whole between two lines of progress where there is no terminal."""


def register(app: typer.Typer) -> None:
    """Add this module's commands to `app`."""
    app.command()(train)
    group = typer.Typer(help="The registered models; the champion is the one that decides.", no_args_is_help=True)
    group.command("list")(list_all)
    group.command()(show)
    group.command()(promote)
    group.command()(rollback)
    app.add_typer(group, name="models")


def train(
    goal: Annotated[str, typer.Option(metavar="TYPE", help="The event type that counts as success.")] = "purchase",
    seed: Annotated[int, typer.Option(help="The same seed and events give the same model.")] = 1,
    threads: Annotated[int, typer.Option(min=1, help="Threads for growing trees.")] = 2,
    as_json: AsJson = False,
) -> None:
    """Learn from the events so far, and let the model decide from the next run on.

    Learns which items users take up next, out of their own history, what is related to it and what is popular, and
    when each user acts. Tests itself on the newest week whose outcomes are known, beside two baselines that need no
    model. A model that ranks no better than popularity, is off in its chances or is worse than the champion is
    registered but does not decide.

    Until a thousand clicks on pushes are known it scores by goal and window; from then on a head on top scores clicks
    by item and window (`horae models show` says which).

    With too little history (four weeks are needed) nothing is registered, exit code 1; planning then goes by own
    history, popularity and everybody's hours.
    """
    from engine.clock import business_now
    from engine.learning.training import Options
    from engine.learning.training import train as run
    from engine.runtime import open_runtime

    runtime = open_runtime()
    try:
        with runtime.database.begin() as connection:
            now = business_now(connection)
        with progress_bar() as told:
            report = run(runtime.database, now, told, Options(goal, seed, threads))
    finally:
        runtime.close()
    if as_json:
        typer.echo(json.dumps(asdict(report)))
    else:
        _show_report(report)
    raise typer.Exit(0 if report.promoted else 1)


def list_all(as_json: AsJson = False) -> None:
    """List the models, newest first."""
    from engine.learning import registry

    entries = _registry(registry.entries)
    if as_json:
        typer.echo(json.dumps({"models": [_as_json(entry) for entry in entries]}))
        return
    if not entries:
        out.print("no models yet; make one with: horae train")
        return
    table = Table(box=None, pad_edge=False)
    for column in ("version", "state", "regime", "as of", "NDCG@10", "predicted / actual", "size"):
        table.add_column(column, justify="left" if column in {"state", "regime", "as of"} else "right")
    for entry in entries:
        measured = entry.metrics.get("model", {})
        table.add_row(
            str(entry.version),
            entry.state,
            entry.regime,
            f"{entry.as_of:%Y-%m-%d %H:%M} UTC",
            _number(measured.get("ndcg_10")),
            _number((measured or entry.metrics.get("after", {})).get("predicted_per_actual")),
            f"{entry.size / 1024:,.0f} KiB",
        )
    out.print(table)


def show(version: Version, as_json: AsJson = False) -> None:
    """Show a model: its regime, how it was made, what it was worth on its test week, what fewer trees would cost."""
    from engine.learning import registry
    from engine.learning.explaining import REGIMES

    entry = _registry(lambda connection: registry.entry(connection, version))
    if as_json:
        typer.echo(json.dumps(_as_json(entry)))
        return
    out.print(f"model {entry.version} · {entry.state} · as of {entry.as_of:%Y-%m-%d %H:%M} UTC")
    out.print(f"regime {entry.regime}: {REGIMES[entry.regime]}")
    out.print(f"sha256 {entry.sha256} · {entry.size / 1024:,.0f} KiB")
    out.print("made with " + ", ".join(f"{name} {number}" for name, number in sorted(entry.libraries.items())))
    _show_metrics(entry.metrics)


def promote(version: Version, as_json: AsJson = False) -> None:
    """Let a model decide from the next run on, an older one too; the champion before it is retired.

    Running workers need no restart; what is being planned ends with the model it was begun with.
    """
    from engine.learning import registry

    _registry(lambda connection: registry.promote(connection, version, AUTHOR))
    _say_champion(version, as_json)


def rollback(as_json: AsJson = False) -> None:
    """Go back to the champion before the present one, from the next run on; once more goes back one further."""
    from engine.learning import registry

    _say_champion(_registry(lambda connection: registry.rollback(connection, AUTHOR)), as_json)


def _say_champion(version: int, as_json: bool) -> None:
    if as_json:
        typer.echo(json.dumps({"champion": version}))
    else:
        out.print(f"model {version} is the champion")


def _registry(ask: Callable[[Any], Any]) -> Any:
    from engine.runtime import open_runtime

    runtime = open_runtime()
    try:
        with runtime.database.begin() as connection:
            return ask(connection)
    finally:
        runtime.close()


def _as_json(entry: Entry) -> dict[str, Any]:
    instants = {name: getattr(entry, name) for name in ("as_of", "created_at", "promoted_at")}
    return asdict(entry) | {name: at and at.isoformat() for name, at in instants.items()}


def _show_report(report: TrainReport) -> None:
    if report.version is None:
        out.print(f"no model: {report.reason}")
        out.print("planning goes on by own history, popularity and everybody's hours; run horae train again later")
        return
    out.print(f"model {report.version} " + ("is the champion" if report.promoted else f"({report.reason})"))
    _show_metrics(report.metrics)


def _show_metrics(metrics: Mapping[str, Any]) -> None:
    if metrics.get("warm"):
        _show_warm(metrics)
    if "model" not in metrics:
        return
    instants = metrics["instants"]
    out.print(
        f"{metrics['trees']} trees on {metrics['rows']:,} rows of {len(instants) - 2} weeks; tested on the"
        f" {metrics['attribution_days']} days from {instants[-1][:10]}, {metrics['users']:,} users;"
        f" goal: {metrics['goal']}"
    )
    table = Table(box=None, pad_edge=False)
    table.add_column("on the test week")
    for _, name in RIVALS:
        table.add_column(name, justify="right")
    for key, name in SHOWN:
        table.add_row(name, *(_number(metrics[rival].get(key)) for rival, _ in RIVALS))
    out.print(table)
    windows = metrics["windows"]
    out.print(
        f"candidates held {_number(metrics['candidate_recall'])} of what was taken; a visit fell into the user's best"
        f" window of 16 with {_number(windows['model']['top_1'])}, into everybody's with"
        f" {_number(windows['everybody']['top_1'])}"
    )
    _show_answers(metrics.get("answers"))
    _show_trade_off("trees", metrics["trees"], metrics["trade_off"])
    _show_clicks(metrics.get("clicks"))
    if reason := metrics.get("gate", {}).get("reason"):
        out.print(f"the gate refused it: {reason}")


def _show_answers(answers: Mapping[str, Any] | None) -> None:
    """Pushes answered within three hours, by the window they were sent in: workdays, then weekends."""
    if not answers or not any(answers["answered"]):
        return
    for day, first in (("workdays", 0), ("weekends", 8)):
        rates = [
            f"{3 * number:02}–{3 * number + 3:02} {answered / sent:.1%}"
            for number in range(8)
            for sent, answered in ((answers["sent"][first + number], answers["answered"][first + number]),)
            if sent >= 1
        ]
        out.print(f"pushes answered within 3 hours, on {day}: " + (" · ".join(rates) or "none sent"))


def _show_warm(metrics: Mapping[str, Any]) -> None:
    before, after = metrics["before"], metrics["after"]
    out.print(
        f"warm update of the {metrics['updated']} trees on the newest matured days: NE {_number(before['ne'])} →"
        f" {_number(after['ne'])}, predicted / actual {_number(before['predicted_per_actual'])} →"
        f" {_number(after['predicted_per_actual'])}, on users it did not learn from"
    )
    if reason := metrics["gate"]["reason"]:
        out.print(f"the gate refused it: {reason}")


def _show_trade_off(what: str, served: int, points: Sequence[Mapping[str, float]]) -> None:
    """What fewer trees would cost beside the best number: the fewest within 0.1 % are served."""
    least = min(point["logloss"] for point in points)
    told = [
        f"{point['trees']:.0f}: {point['logloss'] / least - 1:+.2%}" + (" (served)" if point["trees"] == served else "")
        for point in points
    ]
    out.print(f"NE by number of {what}, beside the best: " + " · ".join(told))


def _show_clicks(clicks: Mapping[str, Any] | None) -> None:
    if clicks is None:
        return
    out.print(
        f"pushes whose clicks are known: {clicks['pushes']:,}, opened {clicks['opened']:,}, clicked"
        f" {clicks['clicked']:,}; of {clicks['matured']:,} a week old {clicks['converted']:,} led to the goal"
    )
    if clicks["reason"] is not None:
        out.print(f"no click head: {clicks['reason']}")
    if "judged" not in clicks:
        return
    judged, head = clicks["judged"], clicks["head"]
    out.print(
        f"click head on the newest pushes: AUC {_number(judged['auc'])}, NE {_number(judged['ne'])}, predicted / actual"
        f" {_number(judged['predicted_per_actual'])}; log-odds = {head['bias']:.2f} + {head['taste']:.2f} · goal +"
        f" {head['hour']:.2f} · window" + (f" + {head['trees']} trees" if head["trees"] else ", trees did not help")
    )
    if head["trees"]:
        _show_trade_off("trees of the head", head["trees"], clicks["trade_off"])


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"


@contextmanager
def progress_bar() -> Iterator[Callable[[str, float], None]]:
    """A progress bar on stderr, lines of text where that is no terminal; yields told(what, share)."""
    if not err.is_terminal:
        said = -1.0

        def line(what: str, share: float) -> None:
            nonlocal said
            if share >= said + _STEP:
                said = share
                err.print(f"{share:4.0%} {what}")

        yield line
        return
    columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeElapsedColumn())
    with Progress(*columns, console=err, transient=True) as shown:
        bar = shown.add_task("starting", total=1.0)

        def told(what: str, share: float) -> None:
            shown.update(bar, completed=share, description=what)

        yield told
