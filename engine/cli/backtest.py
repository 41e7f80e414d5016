"""`horae backtest`: what Horae would have decided on the log so far, and what users then did."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from engine.cli.learning import progress_bar
from engine.errors import BadInput

if TYPE_CHECKING:
    from engine.learning.backtest.log import Spec
    from engine.learning.backtest.run import Result
    from engine.learning.walk import Progress

out = Console(highlight=False, soft_wrap=True)
err = Console(stderr=True, highlight=False, soft_wrap=True)

PRESETS = ("complete-journey",)
_SHOWN = (
    ("ndcg_10", "NDCG@10"),
    ("hr_10", "HR@10"),
    ("ap", "AP"),
    ("auc", "AUC"),
    ("ne", "NE"),
    ("ece", "ECE"),
    ("candidate_recall", "recall"),
)
_WAYS = ("model", "global", "median_hour", "most_frequent_hour")
_WINDOWS = (("log_likelihood", "log-likelihood"), ("top_1", "in the best window"), ("top_3", "in the best three"))


def register(app: typer.Typer) -> None:
    """Add this module's command to `app`."""
    app.command()(backtest)


def backtest(
    begin: Annotated[
        datetime | None,
        typer.Option("--from", metavar="DAY", formats=["%Y-%m-%d"], help="The first weekly snapshot."),
    ] = None,
    until: Annotated[
        datetime | None,
        typer.Option("--to", metavar="DAY", formats=["%Y-%m-%d"], help="The last one; its labels are 7 days more."),
    ] = None,
    goal: Annotated[str, typer.Option(metavar="TYPE", help="The event type that counts as success.")] = "purchase",
    candidates: Annotated[int, typer.Option(min=10, help="Items proposed to each user.")] = 100,
    stale: Annotated[
        str, typer.Option(metavar="DAYS", help="Decide on features so many days old, too; '' for none.")
    ] = "0,1,7,28",
    new_only: Annotated[
        bool, typer.Option("--new-only", help="Only items that the user has not bought for 30 days.")
    ] = False,
    impute: Annotated[
        bool, typer.Option("--impute", help="Also compare what may stand for missing values (drop, mean, KNN, …).")
    ] = False,
    ablate: Annotated[
        bool, typer.Option("--ablate", help="Also say what each group of features and each candidate source adds.")
    ] = False,
    late: Annotated[
        str,
        typer.Option(
            metavar="HOURS", help="Also say what choosing again so many hours later is worth (late binding): 18,66."
        ),
    ] = "",
    preset: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="A published protocol in a store of its own: complete-journey."),
    ] = None,
    home: Annotated[
        Path | None, typer.Option(help="Directory of the preset's store; what it holds is thrown away.")
    ] = None,
    seed: Annotated[int, typer.Option(help="The same seed and events give the same figures.")] = 1,
    threads: Annotated[int, typer.Option(min=1, help="Threads for growing trees.")] = 2,
    html: Annotated[Path | None, typer.Option(metavar="FILE", help="Also write a report to open in a browser.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Test on the log what Horae would have decided, before trusting it with a push.

    Weekly snapshots: the model learns on the older ones, stops early on the next, and decides on the newest (four
    where there are enough), from events before each instant only. Beside it stand popularity, own history, item to
    item, ALS, counts and a logistic regression; intervals come from drawing users again, and a difference whose
    interval holds 0 is noise. Send windows are tested beside everybody's curve and the one-hour rules of vendors, also
    on logs without items. No model is registered, nothing that is planned changes, and
    the report is kept for the console's page of models.

    Without enough history it says what is missing and tests what needs no training; where nothing at all can be tested
    the exit code is 1.

    Examples: `horae backtest`, `horae backtest --from 2026-03-02 --to 2026-06-22 --html report.html`,
    `horae backtest --goal push_open --json`
    """
    from engine.learning.backtest.log import Spec

    first, last = (None if day is None else day.date() for day in (begin, until))
    if first and last and first > last:
        raise BadInput(f"--from {first} lies after --to {last}")
    spec = Spec(goal, first, last, candidates, _ages(stale), new_only, impute, ablate, seed, threads)
    spec = replace(spec, late=_hours(late))
    _check(html, impute)
    with progress_bar() as told:
        result = _run(spec, preset, home, told)
    if html is not None:
        from engine.learning.backtest.page import page

        html.write_text(page(result), encoding="utf-8")
    if as_json:
        typer.echo(json.dumps(result.report, allow_nan=False))
    else:
        _show(result.report)
        if html is not None:
            out.print(f"report: {html}")
    raise typer.Exit(0 if result.tested else 1)


def _check(html: Path | None, impute: bool) -> None:
    """Say now what would fail at the end of minutes."""
    if html is not None and not html.absolute().parent.is_dir():
        raise BadInput(f"--html {html}: there is no directory {html.absolute().parent}")
    if impute:
        from engine.learning.imputing import require

        require()


def _run(spec: Spec, preset: str | None, home: Path | None, told: Progress) -> Result:
    from engine.runtime import open_runtime

    if preset is not None:
        if preset not in PRESETS:
            raise BadInput(f"no preset {preset!r}", hint=f"there is: {', '.join(PRESETS)}")
        from engine.config import read_settings
        from engine.demo import benchmark

        return benchmark.run(home or read_settings().home / "complete-journey", spec, told)
    from engine.clock import business_now
    from engine.learning.backtest.kept import keep
    from engine.learning.backtest.page import page
    from engine.learning.backtest.run import backtest as run

    runtime = open_runtime()
    try:
        with runtime.database.begin() as connection:
            now = business_now(connection)
        result = run(runtime.database, now, spec, told)
        if result.tested:
            with runtime.database.begin() as connection:
                keep(connection, now, result.report, page(result))
        return result
    finally:
        runtime.close()


def _ages(told: str) -> tuple[int, ...]:
    try:
        ages = tuple(sorted({int(age) for age in told.split(",") if age.strip()}))
    except ValueError:
        raise BadInput(f"--stale {told}: whole days, as in 0,1,7,28") from None
    if any(age < 0 for age in ages):
        raise BadInput(f"--stale {told}: features cannot come from the future")
    return ages


def _hours(told: str) -> tuple[int, ...]:
    try:
        hours = tuple(sorted({int(hour) for hour in told.split(",") if hour.strip()}))
    except ValueError:
        raise BadInput(f"--late {told}: whole hours, as in 18,66") from None
    if any(not 0 < hour < 168 for hour in hours):
        raise BadInput(f"--late {told}: more than 0 hours and less than a week after each Monday")
    return hours


def _show(report: dict[str, Any]) -> None:
    if report.get("note"):
        out.print(report["note"])
    tests = [week["instant"][:10] for week in report["snapshots"] if week["role"] == "test"]
    if not tests:
        return
    out.print(f"test weeks from {', '.join(tests)}; goal: {report['goal']} within 7 days")
    if any(report["models"].values()):
        out.print(_table(_SHOWN, report["models"]))
    for name, found in report["differences"].items():
        out.print(f"{_words(name)}: {_differs(found, 'ndcg_10', 'NDCG@10')}; {_differs(found, 'ap', 'AP')}")
    for age, found in report["staleness"].items():
        differs = "" if age == "0" else f", {_differs(found['differences'], 'ndcg_10', 'than the freshest')}"
        out.print(f"features {age} days old: NDCG@10 {_number(found['ndcg_10'])}{differs}")
    for hours, found in report.get("late_binding", {}).items():
        of = found["touched_only"]
        out.print(
            f"chosen again {hours} hours later: {found['touched']:.1%} of users had events meanwhile, for"
            f" {found['changed'] or 0:.1%} of them another item is best; of theirs the first is taken by"
            f" {_number(of['fixed_hr_1'])} as planned, {_number(of['bound_hr_1'])} bound late"
            f" ({_differs({'hr_1': of['difference_hr_1']}, 'hr_1', 'hit rate')})"
        )
    windows = {
        name: found for name, found in report["windows"].items() if name not in {"visits", "users", "differences"}
    }
    if windows:
        out.print(_table(_WINDOWS, windows))
    if "imputation" in report:
        out.print(_table(_SHOWN, report["imputation"]["strategies"], "missing values"))
    for found in report.get("ablation", {}).values():
        for name, differs in found["differences"].items():
            told = (("ndcg_10", "NDCG@10"), ("ap", "AP"))
            out.print(f"{name}: {'; '.join(_differs(differs, key, title) for key, title in told)}")
    for name, value in report.get("figures", {}).items():
        out.print(f"{name} {_number(value)}")


def _table(columns: Sequence[tuple[str, str]], rows: Mapping[str, Any], title: str = "") -> Table:
    table = Table(box=None, pad_edge=False)
    table.add_column(title)
    for _, heading in columns:
        table.add_column(heading, justify="right")
    for name, found in rows.items():
        cells = ["not trained"] if found is None else [_number(found[key]) for key, _ in columns]
        table.add_row(_words(name), *cells)
    return table


def _words(name: str) -> str:
    return name.replace("_", " ")


def _differs(differences: Mapping[str, Any], key: str, title: str) -> str:
    told = differences.get(key)
    if not told or told["difference_lo"] is None:
        return f"{title} –"
    low, high = told["difference_lo"], told["difference_hi"]
    return f"{title} {told['difference']:+.4f} [{low:+.4f}, {high:+.4f}]{', noise' if told['noise'] else ''}"


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.4f}"
