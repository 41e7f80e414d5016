"""The report as one page that needs nothing else: tables, and charts as inline SVG (pure)."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from typing import Any

import numpy as np

from engine.learning.backtest.run import Result

_STYLE = """
:root{color-scheme:light dark;--ink:#1b2430;--soft:#5b6675;--line:#d9dee5;--main:#0b6bcb;--other:#c2611f;--paper:#fff}
@media(prefers-color-scheme:dark){:root{--ink:#e8ecf1;--soft:#a3adba;--line:#39424e;--main:#62aef5;--other:#f0a06a;
--paper:#161b22}}
body{font:15px/1.5 system-ui,sans-serif;color:var(--ink);background:var(--paper);margin:2rem auto;max-width:64rem;
padding:0 1rem}h1{font-size:1.6rem;margin:0}h2{font-size:1.15rem;margin:2rem 0 .5rem}p{color:var(--soft);margin:.3rem 0}
.wide{overflow-x:auto}table{border-collapse:collapse;font-variant-numeric:tabular-nums}
th,td{padding:.25rem .7rem;text-align:right;border-bottom:1px solid var(--line);white-space:nowrap}
th:first-child,td:first-child{text-align:left;padding-left:0}th{color:var(--soft);font-weight:600}
tr.best td{font-weight:650}small{color:var(--soft)}.charts{display:flex;flex-wrap:wrap;gap:2rem}figure{margin:0}
figcaption{color:var(--soft);max-width:26rem}svg text{fill:var(--soft);font:11px system-ui,sans-serif}
"""

_COLUMNS = (
    ("ndcg_10", "NDCG@10"),
    ("hr_10", "HR@10"),
    ("ap", "AP"),
    ("auc", "AUC"),
    ("ne", "NE"),
    ("ece", "ECE"),
    ("logloss", "log-loss"),
    ("rmse", "RMSE"),
    ("precision", "precision"),
    ("recall", "recall"),
    ("f1", "F1"),
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
WIDTH, HEIGHT, MARGIN = 400, 280, 44


def page(result: Result) -> str:
    """HTML of a backtest."""
    report, charts = result.report, result.charts
    parts = [
        f"<!doctype html><html lang=en><meta charset=utf-8><meta name=viewport content='width=device-width'>"
        f"<title>Horae backtest</title><style>{_STYLE}</style><h1>Horae backtest</h1>{_lead(report)}",
        _models(report),
        _differences(report),
        f"<h2>Charts</h2><div class=charts>{''.join(_charts(report, charts))}</div>",
        _windows(report),
        _figures(report),
        _snapshots(report),
    ]
    return "".join(parts) + "</html>\n"


def _lead(report: dict[str, Any]) -> str:
    tests = [week for week in report["snapshots"] if week["role"] == "test"]
    note = f"<p><strong>{escape(report['note'])}</strong></p>" if report.get("note") else ""
    if not tests:
        return note
    return (
        f"{note}<p>Goal: {escape(report.get('goal', ''))} within 7 days. {len(tests)} test weeks from"
        f" {tests[0]['instant'][:10]} to {tests[-1]['instant'][:10]},"
        f" {sum(week['rows'] for week in tests):,} proposals."
        " Missed candidates count as misses. Every model orders the same proposals.</p>"
    )


def _models(report: dict[str, Any]) -> str:
    rows = []
    for name, found in report["models"].items():
        if found is None:
            rows.append([_NAMES[name], *["not trained"][:1], *[""] * (len(_COLUMNS) - 1)])
            continue
        rows.append([_NAMES[name], *(_with_interval(found, key) for key, _ in _COLUMNS)])
    head = ["model", *(title for _, title in _COLUMNS)]
    note = "<p>Mean of the test weeks; in brackets the 95 % interval from drawing users again.</p>"
    return f"<h2>Models</h2>{note}{_table(head, rows, best=_NAMES['full'])}"


def _with_interval(found: dict[str, Any], key: str) -> str:
    value = found.get(key)
    if value is None:
        return "–"
    digits = 4
    low, high = found.get(f"{key}_lo"), found.get(f"{key}_hi")
    inside = f" <small>[{low:.{digits}f}, {high:.{digits}f}]</small>" if low is not None and high is not None else ""
    return f"{value:.{digits}f}{inside}"


def _differences(report: dict[str, Any]) -> str:
    rows = []
    keys = ("ndcg_10", "hr_10", "ap", "auc")
    for name, found in report["differences"].items():
        best, _, other = name.partition(" - ")
        cells = [_difference(found.get(key)) for key in keys]
        rows.append([f"{_NAMES[best]} − {_NAMES[other]}", *cells])
    if not rows:
        return ""
    note = "<p>In the same draws of users. Where the interval holds 0 the difference is noise.</p>"
    return f"<h2>Paired differences</h2>{note}{_table(['', 'NDCG@10', 'HR@10', 'AP', 'AUC'], rows)}"


def _difference(found: dict[str, Any] | None) -> str:
    if not found or found["difference"] is None:
        return "–"
    told = f"{found['difference']:+.4f} <small>[{found['difference_lo']:+.4f}, {found['difference_hi']:+.4f}]</small>"
    return told + (" <small>noise</small>" if found.get("noise") else "")


def _windows(report: dict[str, Any]) -> str:
    told = report.get("sending") or report["windows"]
    rows = [
        [_NAMES[name], *(_with_interval(told[name], key) for key in ("log_likelihood", "top_1", "top_3"))]
        for name in ("model", "global", "median_hour", "most_frequent_hour")
        if name in told
    ]
    if not rows:
        return ""
    head = ["16 windows of local time", "log-likelihood per visit", "in the best one", "in the best three"]
    return f"<h2>Send windows</h2><p>{told['visits']:,} visits that came later.</p>{_table(head, rows)}"


def _figures(report: dict[str, Any]) -> str:
    if "figures" not in report:
        return ""
    rows = [[escape(name), "–" if value is None else f"{value:,.4f}"] for name, value in report["figures"].items()]
    return f"<h2>Figures</h2>{_table(['figure', 'value'], rows)}"


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
    return f"<h2>Snapshots</h2>{_table(head, rows)}" if rows else ""


def _table(head: Sequence[str], rows: Sequence[Sequence[str]], best: str = "") -> str:
    body = "".join(
        f"<tr{' class=best' if row[0] == best else ''}>{''.join(f'<td>{cell}</td>' for cell in row)}</tr>"
        for row in rows
    )
    titles = "".join(f"<th>{escape(title)}</th>" for title in head)
    return f"<div class=wide><table><thead><tr>{titles}</tr></thead><tbody>{body}</tbody></table></div>"


def _charts(report: dict[str, Any], charts: dict[str, Any]) -> list[str]:
    drawn = []
    if charts.get("calibration"):
        told = [(p, o) for p, o, _ in charts["calibration"]]
        top = max(max(pair) for pair in told)
        drawn.append(
            _lines(
                "Calibration: predicted and observed rate, 15 bins of equal size; on the line is exact",
                [[(0.0, 0.0), (top, top)], told],
                ("predicted", "observed"),
            )
        )
    stale = report.get("staleness") or {}
    if len(stale) > 1:
        told = [(float(age), found["ndcg_10"]) for age, found in stale.items()]
        drawn.append(
            _lines("Staleness: NDCG@10 by age of the features", [[], told], ("days old", "NDCG@10"), zero=False)
        )
    if charts.get("importance"):
        drawn.append(_bars("Importance: share of the gain, twenty strongest features", charts["importance"]))
    if charts.get("hours"):
        curve = np.array(charts["hours"])
        series = [
            [(float(h), float(curve[d * 24 + h] / curve[d * 24 : d * 24 + 24].sum())) for h in range(24)]
            for d in (1, 0)
        ]
        drawn.append(
            _lines("Hours: everybody's visits; blue workdays, orange weekends", series, ("local hour", "share"))
        )
    if len(charts.get("shares", [])) > 1:
        order = np.argsort(charts["shares"])[::-1][:6]
        typical = np.array(charts["typical"])[order]
        series = [[(float(h), float(row[h] + row[24 + h])) for h in range(24)] for row in typical]
        drawn.append(_lines("Hours: the six commonest habits among users", [[], *series], ("local hour", "share")))
    return drawn


def _lines(
    caption: str, series: Sequence[Sequence[tuple[float, float]]], axes: tuple[str, str], zero: bool = True
) -> str:
    points = [point for line in series for point in line]
    xs, ys = [x for x, _ in points], [y for _, y in points]
    low_x, high_x = min(xs), max(*xs, min(xs) + 1e-9)
    low_y = 0.0 if zero else min(ys) - 0.1 * (max(ys) - min(ys) + 1e-4)
    high_y = max(max(ys) * 1.02 if zero else max(ys) + 0.1 * (max(ys) - min(ys) + 1e-4), low_y + 1e-9)

    def at(x: float, y: float) -> tuple[float, float]:
        return (
            MARGIN + (WIDTH - MARGIN - 8) * (x - low_x) / (high_x - low_x),
            HEIGHT - MARGIN - (HEIGHT - MARGIN - 8) * (y - low_y) / (high_y - low_y),
        )

    drawn = []
    for number, line in enumerate(series):
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in (at(*point) for point in line))
        colour = "var(--other)" if number == 0 else "var(--main)"
        fade = 1 if number < 2 else 0.75
        drawn.append(f"<polyline points='{path}' fill=none stroke='{colour}' stroke-width=2 opacity={fade} />")
        if number == 1 and len(line) <= 15:
            drawn += [f"<circle cx={x:.1f} cy={y:.1f} r=3 fill='var(--main)' />" for x, y in (at(*p) for p in line)]
    for share in (0.0, 0.5, 1.0):
        x, y = low_x + share * (high_x - low_x), low_y + share * (high_y - low_y)
        px, py = at(x, y)
        drawn.append(f"<text x={px:.1f} y={HEIGHT - MARGIN + 15} text-anchor=middle>{x:.3g}</text>")
        drawn.append(f"<text x={MARGIN - 6} y={py + 4:.1f} text-anchor=end>{y:.3g}</text>")
    return _figure(caption, drawn, axes)


def _figure(caption: str, drawn: Sequence[str], axes: tuple[str, str]) -> str:
    frame = (
        f"<path d='M{MARGIN},8V{HEIGHT - MARGIN}H{WIDTH - 8}' fill=none stroke='var(--line)' />"
        f"<text x={WIDTH / 2} y={HEIGHT - 8} text-anchor=middle>{escape(axes[0])}</text>"
        f"<text x={MARGIN + 6} y=18>{escape(axes[1])}</text>"
    )
    return (
        f"<figure><svg width={WIDTH} height={HEIGHT} role=img aria-label='{escape(caption, quote=True)}'>{frame}"
        f"{''.join(drawn)}</svg><figcaption>{escape(caption)}</figcaption></figure>"
    )


def _bars(caption: str, shares: Sequence[tuple[str, float]]) -> str:
    top, step = max(share for _, share in shares), 17
    drawn = []
    for row, (name, share) in enumerate(shares):
        y = 4 + row * step
        drawn.append(f"<text x=178 y={y + 11} text-anchor=end>{escape(name)}</text>")
        drawn.append(f"<rect x=184 y={y} width={170 * share / top:.1f} height=12 fill='var(--main)' />")
        drawn.append(f"<text x={188 + 170 * share / top:.1f} y={y + 11}>{100 * share:.1f} %</text>")
    height = 8 + step * len(shares)
    label = escape(caption, quote=True)
    return (
        f"<figure><svg width={WIDTH} height={height} role=img aria-label='{label}'>{''.join(drawn)}</svg>"
        f"<figcaption>{escape(caption)}</figcaption></figure>"
    )
