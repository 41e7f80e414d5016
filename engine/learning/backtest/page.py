"""The report as one page that needs nothing else: tables, and charts as inline SVG."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from typing import Any

import numpy as np

from engine.drawing import charts as drawing
from engine.drawing.charts import Axes, Line
from engine.drawing.page import document, table
from engine.learning.backtest.run import Result

_RANKING = (
    ("ndcg_10", "NDCG@10"),
    ("hr_10", "HR@10"),
    ("ap", "AP"),
    ("auc", "AUC"),
    ("precision", "precision"),
    ("recall", "recall"),
    ("f1", "F1"),
    ("accuracy", "accuracy"),
)
_CHANCES = (
    ("ne", "NE"),
    ("ece", "ECE"),
    ("logloss", "log-loss"),
    ("brier", "Brier = MSE"),
    ("rmse", "RMSE"),
    ("predicted_per_actual", "predicted / actual"),
)
_PAIRED = (("ndcg_10", "NDCG@10"), ("hr_10", "HR@10"), ("ap", "AP"), ("auc", "AUC"), ("ne", "NE"))
_WINDOWS = (
    ("log_likelihood", "log-likelihood per visit"),
    ("top_1", "in the best one"),
    ("top_3", "in the best three"),
)
_NAMES = {
    "popularity": "popularity, all time",
    "decayed_popularity": "popularity, 7 days",
    "own_history": "own history",
    "item_to_item": "item to item",
    "als": "ALS",
    "counts_xgboost": "counts only, XGBoost",
    "logistic": "logistic regression",
    "full": "Horae's model",
    "model": "Horae's windows",
    "global": "everybody's curve",
    "median_hour": "median hour",
    "most_frequent_hour": "most frequent hour",
}


def page(result: Result) -> str:
    """HTML of a backtest."""
    report = result.report
    parts = [
        _lead(report),
        _models(report),
        _differences(report),
        _charts(report, result.charts),
        _staleness(report),
        _late_binding(report),
        _windows(report),
        _imputation(report),
        _ablation(report),
        _figures(report),
        _snapshots(report),
    ]
    return document("Horae backtest", parts)


def _lead(report: dict[str, Any]) -> str:
    tests = [week for week in report["snapshots"] if week["role"] == "test"]
    note = f"<p><strong>{escape(report['note'])}</strong></p>" if report.get("note") else ""
    if not tests:
        return note
    return (
        f"{note}<p>Goal: {escape(report.get('goal', ''))} within 7 days. {len(tests)} test weeks from"
        f" {tests[0]['instant'][:10]} to {tests[-1]['instant'][:10]},"
        f" {sum(week['rows'] for week in tests):,} proposals."
        " Every model orders the same proposals; what was bought without having been proposed counts as a miss.</p>"
    )


def _models(report: dict[str, Any]) -> str:
    if not any(report["models"].values()):
        return ""
    note = (
        "<p>Mean of the test weeks; below it the 95 % interval from drawing users again. Precision, recall and F1 are"
        " at the capacity threshold: as many proposals chosen as were taken in the validation week.</p>"
    )
    return f"<h2>Models</h2>{note}{_measures(report['models'], _NAMES['full'])}"


def _measures(found: dict[str, Any], best: str) -> str:
    """How models rank, and below it how true the chances are of those that give any."""
    ranking = [[_NAMES.get(name, name), *_cells(measured, _RANKING)] for name, measured in found.items()]
    chances = [
        [_NAMES.get(name, name), *_cells(measured, _CHANCES)]
        for name, measured in found.items()
        if measured and measured["ne"] is not None
    ]
    tables = table(["", *(title for _, title in _RANKING)], ranking, best=best)
    return tables + (table(["", *(title for _, title in _CHANCES)], chances, best=best) if chances else "")


def _cells(found: dict[str, Any] | None, columns: Sequence[tuple[str, str]]) -> list[str]:
    if found is None:
        return ["not trained", *[""] * (len(columns) - 1)]
    return [_with_interval(found, key) for key, _ in columns]


def _with_interval(found: dict[str, Any], key: str) -> str:
    value, low, high = (found.get(f"{key}{end}") for end in ("", "_lo", "_hi"))
    if value is None:
        return "–"
    inside = f"<small>{low:.4f} to {high:.4f}</small>" if low is not None and high is not None else ""
    return f"{value:.4f}{inside}"


def _differences(report: dict[str, Any]) -> str:
    if not report["differences"]:
        return ""
    note = "<p>In the same draws of users. Where the interval holds 0 the difference is noise.</p>"
    return f"<h2>Paired differences</h2>{note}{_differing(report['differences'], _PAIRED)}"


def _differing(found: dict[str, Any], columns: Sequence[tuple[str, str]]) -> str:
    rows = []
    for name, measured in found.items():
        best, _, other = name.partition(" - ")
        title = f"{_NAMES.get(best, best)} − {_NAMES.get(other, other)}"
        rows.append([title, *(_difference(measured.get(key)) for key, _ in columns)])
    return table(["", *(title for _, title in columns)], rows)


def _difference(found: dict[str, Any] | None) -> str:
    if not found or found["difference"] is None or found["difference_lo"] is None:
        return "–"
    noise = " noise" if found["noise"] else ""
    inside = f"{found['difference_lo']:+.4f} to {found['difference_hi']:+.4f}{noise}"
    return f"{found['difference']:+.4f}<small>{inside}</small>"


def _staleness(report: dict[str, Any]) -> str:
    rows = [
        [
            f"{age} days",
            *(_with_interval(found, key) for key in ("ndcg_10", "ap", "ne")),
            "" if age == "0" else _difference(found["differences"]["ndcg_10"]),
        ]
        for age, found in report["staleness"].items()
    ]
    if not rows:
        return ""
    note = "<p>The same model, fed with features and candidates that are some days old.</p>"
    head = ["age of the features", "NDCG@10", "AP", "NE", "NDCG@10 less the freshest"]
    return f"<h2>Staleness</h2>{note}{table(head, rows)}"


def _late_binding(report: dict[str, Any]) -> str:
    rows = [
        [
            f"{hours} hours",
            f"{100 * found['touched']:.1f} %",
            f"{100 * (found['changed'] or 0):.1f} %",
            *(_with_interval(found["touched_only"], key) for key in ("fixed_hr_1", "bound_hr_1")),
            _difference(found["touched_only"]["difference_hr_1"]),
        ]
        for hours, found in report.get("late_binding", {}).items()
    ]
    if not rows:
        return ""
    note = (
        "<p>Items chosen on Monday at midnight, beside items chosen again so much later with the events since, by what"
        " the same users took from then on. Hit rates are of users with events in between: only they are bound again."
        "</p>"
    )
    head = ["chosen again after", "users with events", "of them, another item", "first item taken: fixed", "bound late",
            "difference"]  # fmt: skip
    return f"<h2>Late binding</h2>{note}{table(head, rows)}"


def _windows(report: dict[str, Any]) -> str:
    told = report["windows"]
    rows = [
        [_NAMES[name], *(_with_interval(told[name], key) for key, _ in _WINDOWS)]
        for name in ("model", "global", "median_hour", "most_frequent_hour")
        if name in told
    ]
    if not rows:
        return ""
    note = f"<p>{told['visits']:,} visits of {told['users']:,} users, later than anything the curves were made of.</p>"
    head = ["16 windows of local time", *(title for _, title in _WINDOWS)]
    differ = _differing(told["differences"], _WINDOWS)
    return f"<h2>Send windows</h2>{note}{table(head, rows, best=_NAMES['model'])}{differ}"


def _imputation(report: dict[str, Any]) -> str:
    if "imputation" not in report:
        return ""
    note = (
        "<p>Trees on the same rows, missing values filled in different ways; served is a constant per column. “none”"
        " leaves them to the trees, as Horae does. Fewer rows and users than above: neighbours are slow.</p>"
    )
    found = report["imputation"]
    differ = _differing(found["differences"], _PAIRED)
    return f"<h2>Missing values</h2>{note}{_measures(found['strategies'], 'none')}{differ}"


def _ablation(report: dict[str, Any]) -> str:
    if "ablation" not in report:
        return ""
    notes = {
        "features": "Trees on the same rows, without one group of features; fewer rows than above.",
        "sources": "What the other sources propose, in the model's order. AP and AUC are about fewer proposals then.",
    }
    parts = ["<h2>What each part adds</h2>"]
    for kind, found in report["ablation"].items():
        columns = _PAIRED if kind == "features" else (*_PAIRED[:2], ("candidate_recall", "candidate recall"))
        parts.append(f"<p>{notes[kind]} On the validation week.</p>{_differing(found['differences'], columns)}")
    return "".join(parts)


def _figures(report: dict[str, Any]) -> str:
    if "figures" not in report:
        return ""
    rows = [[escape(name), "–" if value is None else f"{value:,.4f}"] for name, value in report["figures"].items()]
    note = (
        "<p>Of the published protocol. ece: over the four test weeks together; ece_weekly: the mean of each week's"
        " own, which holds a week's chance too. Times and memory: of a training and a warm update, each in a process"
        " of its own.</p>"
    )
    return f"<h2>Figures</h2>{note}{table(['figure', 'value'], rows)}"


def _snapshots(report: dict[str, Any]) -> str:
    rows = [
        [
            week["instant"][:10],
            week["role"],
            f"{week['users']:,}",
            f"{week['rows']:,}",
            f"{week['positives']:,}",
            "–" if week["candidate_recall"] is None else f"{week['candidate_recall']:.3f}",
        ]
        for week in report["snapshots"]
    ]
    head = ["week from", "", "users", "proposals", "taken", "candidate recall"]
    return f"<h2>Snapshots</h2>{table(head, rows)}" if rows else ""


def _charts(report: dict[str, Any], charts: dict[str, Any]) -> str:
    drawn = []
    if charts.get("calibration"):
        told = [(p, o) for p, o, _ in charts["calibration"]]
        top = max(max(pair) for pair in told)
        drawn.append(
            drawing.lines(
                "Calibration: predicted and observed rate in 15 bins of equal size",
                [Line([(0.0, 0.0), (top, top)], "exact", "soft"), Line(told, "Horae's model", dots=True)],
                Axes("predicted", "observed", percent_x=True, percent_y=True),
            )
        )
    stale = report.get("staleness") or {}
    if len(stale) > 1:
        told = [(float(age), found["ndcg_10"]) for age, found in stale.items()]
        between = [(found["ndcg_10_lo"], found["ndcg_10_hi"]) for found in stale.values()]
        axes = Axes("days old", "NDCG@10", ticks=[age for age, _ in told], zero=False)
        caption = "Staleness: NDCG@10 by age of the features, with 95 % intervals (see the table for paired ones)"
        drawn.append(drawing.lines(caption, [Line(told, intervals=between, dots=True)], axes))
    if charts.get("importance"):
        drawn.append(drawing.bars("Importance: share of the gain, the strongest features", charts["importance"]))
    drawn += _hours(charts)
    return f"<h2>Charts</h2><div class=charts>{''.join(drawn)}</div>" if drawn else ""


def _hours(charts: dict[str, Any]) -> list[str]:
    if not charts.get("hours"):
        return []
    axes = Axes("local hour", "share of visits", percent_y=True, ticks=range(0, 24, 3))
    curve = np.array(charts["hours"]).reshape(2, 24)
    curve /= curve.sum(axis=1, keepdims=True)
    days = [
        Line(list(enumerate(curve[day].tolist())), label, style)
        for day, label, style in ((0, "workdays", "main"), (1, "weekends", "other"))
    ]
    drawn = [drawing.lines("Hours: when everybody comes", days, axes)]
    if len(charts["shares"]) > 1:
        order = np.argsort(charts["shares"])[::-1][:6]
        typical = np.array(charts["typical"])[order].reshape(-1, 2, 24).sum(axis=1)
        habits = [
            Line(list(enumerate(row.tolist())), "", "faint" if number else "main") for number, row in enumerate(typical)
        ]
        drawn.append(drawing.lines("Hours: six typical habits of users, the commonest in full colour", habits, axes))
    return drawn
