"""Charts as inline SVG, in the colours of the page they stand in (pure)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

import numpy as np

WIDTH, HEIGHT = 460, 290
LEFT, RIGHT, TOP, BOTTOM = 58, 16, 26, 44

Point = tuple[float, float]


@dataclass(frozen=True)
class Line:
    """One line of a chart. points: in order of x · label: in the legend, none where empty · style: a class of the page
    ("main", "other", "faint", "soft") · low, high: an interval of y at each point · dots: marked points."""

    points: Sequence[Point]
    label: str = ""
    style: str = "main"
    intervals: Sequence[Point] = ()
    dots: bool = False


@dataclass(frozen=True)
class Axes:
    """What the axes say. percent: y is a share · ticks: of x, where they are not to be chosen · zero: y begins at 0."""

    x: str
    y: str
    percent_x: bool = False
    percent_y: bool = False
    ticks: Sequence[float] = ()
    zero: bool = True


def lines(caption: str, drawn: Sequence[Line], axes: Axes) -> str:
    """A chart of lines."""
    xs = [x for line in drawn for x, _ in line.points]
    ys = [y for line in drawn for _, y in line.points] + [y for line in drawn for pair in line.intervals for y in pair]
    low_x, high_x = min(xs), max(*xs, min(xs) + 1e-9)
    marks_y = _marks(0.0 if axes.zero else min(ys), max(ys))
    low_y, high_y = marks_y[0], marks_y[-1]

    def at(x: float, y: float) -> Point:
        return (
            LEFT + (WIDTH - LEFT - RIGHT) * (x - low_x) / (high_x - low_x),
            HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * (y - low_y) / (high_y - low_y),
        )

    parts = []
    for y in marks_y:
        _, py = at(low_x, y)
        parts.append(f"<path class=grid d='M{LEFT},{py:.1f}H{WIDTH - RIGHT}'/>")
        parts.append(f"<text x={LEFT - 8} y={py + 4:.1f} text-anchor=end>{_number(y, axes.percent_y)}</text>")
    for x in axes.ticks or _marks(low_x, high_x):
        if low_x <= x <= high_x:
            px, _ = at(x, low_y)
            parts.append(
                f"<text x={px:.1f} y={HEIGHT - BOTTOM + 17} text-anchor=middle>{_number(x, axes.percent_x)}</text>"
            )
    for line in drawn:
        placed = [at(*point) for point in line.points]
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in placed)
        parts.append(f"<polyline class='line {line.style}' points='{path}'/>")
        for (x, _), (low, high) in zip(line.points, line.intervals, strict=False):
            (px, bottom), (_, top) = at(x, low), at(x, high)
            parts.append(f"<path class='line {line.style}' d='M{px:.1f},{bottom:.1f}V{top:.1f}'/>")
        if line.dots:
            parts += [f"<circle class='dot {line.style}' cx={x:.1f} cy={y:.1f} r=3.5 />" for x, y in placed]
    return _figure(caption, parts, HEIGHT, axes, [(line.label, line.style) for line in drawn if line.label])


def bars(caption: str, shares: Sequence[tuple[str, float]]) -> str:
    """Shares of a whole, one bar each."""
    return sized_bars(caption, [(name, share, f"{100 * share:.1f} %") for name, share in shares], left=190, right=54)


def sized_bars(caption: str, sizes: Sequence[tuple[str, float, str]], *, left: int, right: int) -> str:
    """One bar each: (name, size, what stands behind it); `left` and `right`: room for the texts."""
    top, step = max(max((size for _, size, _ in sizes), default=0.0), 1e-12), 19
    parts = []
    for row, (name, size, said) in enumerate(sizes):
        y, width = 4 + row * step, (WIDTH - left - right) * size / top
        parts.append(f"<text x={left - 8} y={y + 12} text-anchor=end>{escape(name)}</text>")
        parts.append(f"<rect class=main x={left} y={y + 2} width={max(width, 0.5):.1f} height=12 rx=2 />")
        parts.append(f"<text x={left + width + 6:.1f} y={y + 12}>{escape(said)}</text>")
    return _figure(caption, parts, 8 + step * len(sizes), None, [])


def _figure(
    caption: str, parts: Sequence[str], height: int, axes: Axes | None, legend: Sequence[tuple[str, str]]
) -> str:
    if axes is not None:
        named = (
            f"<text x={(LEFT + WIDTH - RIGHT) / 2} y={HEIGHT - 8} text-anchor=middle>{escape(axes.x)}</text>"
            f"<text x=4 y=14>{escape(axes.y)}</text>"
        )
        parts = [named, *parts]
    keys = "".join(f"<span><i class={style}></i>{escape(label)}</span>" for label, style in legend)
    shown = f"<div class=legend>{keys}</div>" if keys else ""
    return (
        f"<figure><svg viewBox='0 0 {WIDTH} {height}' role=img aria-label='{escape(caption, quote=True)}'>"
        f"{''.join(parts)}</svg>{shown}<figcaption>{escape(caption)}</figcaption></figure>"
    )


def _marks(low: float, high: float) -> list[float]:
    """Round numbers from below `low` to above `high`, four to seven of them."""
    span = max(high - low, abs(high) * 1e-3, 1e-6)
    power = 10.0 ** np.floor(np.log10(span / 4))
    step = next(power * factor for factor in (1, 2, 2.5, 5, 10) if span / (power * factor) <= 5)
    first, last = np.floor(low / step + 1e-9), np.ceil(high / step - 1e-9)
    return [float(step * number) for number in np.arange(first, max(last, first + 1) + 1)]


def _number(value: float, percent: bool) -> str:
    return f"{100 * value:.4g} %" if percent else f"{value:.4g}"
