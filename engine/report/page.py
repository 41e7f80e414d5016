"""A campaign's report as one page that needs nothing else."""

from __future__ import annotations

from html import escape

from engine.drawing import charts
from engine.drawing.charts import Axes, Line
from engine.drawing.page import document, table
from engine.report.campaign import ANSWERS, Report
from engine.report.intervals import Rate

_TITLES = {"audience": "audience", "planned": "planned", "sent": "sent", "accepted": "accepted by the provider"}


def page(report: Report) -> str:
    """HTML of a report."""
    parts = [
        _lead(report),
        f"<div class=charts>{_funnel(report)}{_hours(report)}</div>",
        _arms(report),
        _variants(report),
    ]
    parts += [_uplift(report), _ends(report)]
    return document(f"Campaign {report.campaign}", parts)


def share(rate: Rate) -> str:
    """A rate for people: 12.3 % [11.0, 13.7], or – of nothing."""
    if rate.rate is None or rate.low is None or rate.high is None:
        return "–"
    return f"{100 * rate.rate:.1f} % [{100 * rate.low:.1f}, {100 * rate.high:.1f}]"


def uplift_words(report: Report) -> str:
    """What the comparison with the holdout says, in a sentence."""
    up = report.uplift
    if up.difference is None:
        nobody = "nobody was held out" if not up.held_out.n else "nobody was drawn for it"
        return f"no uplift can be measured: {nobody} (holdout: of the campaign, or of everything by workspace set)"
    found = up.difference
    points = f"{100 * found.difference:+.2f} points [{100 * found.low:+.2f}, {100 * found.high:+.2f}]"
    if found.noise:
        return f"{points}: no effect beyond chance"
    relative = f", {100 * up.relative:+.1f} %" if up.relative is not None else ""
    gained = up.gained or 0.0
    return f"{points}{relative}: {abs(gained):,.0f} users {'more' if gained > 0 else 'fewer'} than without it"


def _lead(report: Report) -> str:
    still = ""
    if report.open_windows:
        still = f" The attribution window of {report.open_windows:,} pushes is not over: conversions are still to come."
    return (
        f"<p>Occurrences from {report.first} to before {report.until} (UTC), as of {report.now:%Y-%m-%d %H:%M} UTC."
        f" A push is opened or clicked within a day of it; it converts by a {escape(report.goal)} within 7 days."
        f" Intervals are of 95 %, by user.{still}</p>"
    )


def _funnel(report: Report) -> str:
    top = max(report.funnel["audience"], 1)
    sizes = [
        (_TITLES.get(name, name), float(number), f"{number:,} · {100 * number / top:.1f} %")
        for name, number in report.funnel.items()
    ]
    return charts.sized_bars("Funnel: users × occurrences, and the share of the audience", sizes, left=160, right=110)


def _hours(report: Report) -> str:
    if not report.hours:
        return ""
    axes = Axes("local hour", "share of pushes", percent_y=True, ticks=range(0, 24, 3))
    drawn = []
    for answer, style in (("opened", "main"), ("converted", "other")):
        rates: list[tuple[int, Rate]] = [(hour.hour, getattr(hour, answer)) for hour in report.hours]
        points = [(float(hour), rate.rate or 0.0) for hour, rate in rates]
        between = [(rate.low or 0.0, rate.high or 0.0) for _, rate in rates]
        drawn.append(Line(points, answer, style, intervals=between, dots=True))
    return charts.lines("Opened and converted by the local hour of the push", drawn, axes)


def _arms(report: Report) -> str:
    if not report.arms:
        return "<h2>Arms</h2><p>No push was accepted by a provider yet.</p>"
    rows = [
        [arm.arm, f"{arm.pushes:,}", f"{arm.users:,}", *(_cell(getattr(arm, answer)) for answer in ANSWERS)]
        for arm in report.arms
    ]
    note = "<p>Exploit: the best by the model. Explore: drawn at random, so that later models can learn.</p>"
    return f"<h2>Arms</h2>{note}{table(['', 'pushes', 'users', *ANSWERS], rows)}"


def variant_words(report: Report) -> list[str]:
    """How each arm of an experiment did beside its first, a sentence each."""
    found = []
    for one in report.variants:
        base = next(other.arm for other in report.variants if other.experiment == one.experiment)
        for answer, less in (one.less or {}).items():
            if less is None or answer == "dismissed":
                continue
            points = f"{100 * less.difference:+.2f} points [{100 * less.low:+.2f}, {100 * less.high:+.2f}]"
            said = ": no difference beyond chance" if less.noise else ""
            found.append(f"{one.arm} less {base}, {answer}: {points}{said}")
    return found


def _variants(report: Report) -> str:
    if not report.variants:
        return ""
    rows = [
        [
            f"{one.experiment}: {one.arm}",
            f"{one.pushes:,}",
            f"{one.users:,}",
            *(_cell(getattr(one, answer)) for answer in ANSWERS),
        ]
        for one in report.variants
    ]
    words = "".join(f"<li>{escape(text)}</li>" for text in variant_words(report))
    note = "<p>Users keep their variant. Rates are of accepted pushes; an interval is of 95 %, by user.</p>"
    return f"<h2>Variants of the message</h2>{note}{table(['', 'pushes', 'users', *ANSWERS], rows)}<ul>{words}</ul>"


def _cell(rate: Rate) -> str:
    shown, _, between = share(rate).partition(" [")
    return f"{shown}<small>{between.rstrip(']').replace(', ', ' to ')}</small>" if between else shown


def _uplift(report: Report) -> str:
    up = report.uplift
    note = (
        f"<p><strong>{escape(uplift_words(report))}.</strong> Everybody who was drawn for the campaign beside everybody"
        " who was held out, whether a push reached them or not (intention to treat). Held out were"
        f" {100 * up.share:.1f} %; asked for were {100 * up.asked['everything']:.1f} % of everything and"
        f" {100 * up.asked['campaign']:.1f} % of this campaign.</p>"
    )
    rows = [
        [name, f"{rate.n:,}", f"{rate.hits:,}", _cell(rate), "–" if value is None else f"{value:,.2f}"]
        for name, rate, value in (
            ("drawn for it", up.users, up.value_per_user),
            ("held out", up.held_out, up.value_per_held_out),
        )
    ]
    head = ["", "users", f"with a {report.goal}", "share", "value per user"]
    return f"<h2>Uplift</h2>{note}{table(head, rows)}"


def _ends(report: Report) -> str:
    not_planned = [[f"not planned: {name.replace('_', ' ')}", f"{n:,}"] for name, n in report.not_planned.items()]
    ended = [[f"push {escape(name)}", f"{n:,}"] for name, n in report.ended.items()]
    return f"<h2>What became of everybody</h2>{table(['', 'users × occurrences'], [*ended, *not_planned])}"
