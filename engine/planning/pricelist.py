"""What capacity cost in a run, for people: the prices that every push had to be worth more than."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime

import numpy as np
from sqlalchemy import Connection, text

from engine.planning.prices import QUARTER, Prices
from engine.planning.runspec import RunSpec, read_run

MOST_ITEMS = 20
"""Items that are listed, the dearest first."""


@dataclass(frozen=True)
class Rate:
    """A campaign's or a gateway's rate. kind: campaign | gateway; quarters: (instant a UTC quarter-hour begins, price),
    from the first to the last that had a price, those between without one too."""

    kind: str
    name: str
    quarters: tuple[tuple[datetime, float], ...]

    @property
    def scarce(self) -> int:
        """How many quarter-hours had a price."""
        return sum(price > 0 for _, price in self.quarters)

    @property
    def dearest(self) -> tuple[datetime, float]:
        """The quarter-hour with the highest price."""
        return max(self.quarters, key=lambda quarter: quarter[1])


@dataclass(frozen=True)
class PriceList:
    """Prices of a run, in the unit of values. budgets: by campaign; items: (id, title, price), the dearest first."""

    rates: tuple[Rate, ...]
    budgets: tuple[tuple[str, float], ...]
    items: tuple[tuple[str, str | None, float], ...]

    @property
    def anything(self) -> bool:
        """Whether anything was scarce."""
        return bool(self.rates or self.budgets or self.items)


NOTHING_SCARCE = PriceList((), (), ())


def price_list(connection: Connection, run_id: int) -> PriceList:
    """What was scarce for run `run_id`, which exists, and at which price; nothing while it has no prices yet."""
    stored = connection.execute(text("SELECT prices FROM runs WHERE id = :run"), {"run": run_id}).scalar_one()
    if not stored:
        return NOTHING_SCARCE
    prices, spec = Prices.from_json(stored), read_run(connection, run_id)
    return PriceList(_rates(prices, spec), _budgets(prices, spec), _items(connection, prices))


def _rates(prices: Prices, spec: RunSpec) -> tuple[Rate, ...]:
    found = []
    for row, kind, name in _rows(prices, spec):
        priced = np.flatnonzero(prices.table[row] > 0)
        if len(priced):
            span = range(int(priced[0]), int(priced[-1]) + 1)
            quarters = [(_begin(prices.first + quarter), float(prices.table[row, quarter])) for quarter in span]
            found.append(Rate(kind, name, tuple(quarters)))
    return tuple(found)


def _rows(prices: Prices, spec: RunSpec) -> list[tuple[int, str, str]]:
    """(row of the table, kind, name): the first row of `of` is of campaigns, the second of gateways."""
    found: dict[int, tuple[str, str]] = {}
    for kind, of in zip(("campaign", "gateway"), prices.of, strict=False):
        for occasion, row in zip(spec.occasions, of.tolist(), strict=True):
            if row >= 0:
                definition = occasion.definition
                found[row] = (kind, definition.name if kind == "campaign" else definition.gateway)
    return [(row, *found[row]) for row in sorted(found)]


def _begin(quarter: int) -> datetime:
    return datetime.fromtimestamp(quarter * QUARTER, UTC)


def _budgets(prices: Prices, spec: RunSpec) -> tuple[tuple[str, float], ...]:
    found = {
        occasion.definition.name: float(prices.budget[of])
        for occasion, of in zip(spec.occasions, prices.budget_of.tolist(), strict=True)
        if of >= 0 and prices.budget[of] > 0
    }
    return tuple(sorted(found.items()))


def _items(connection: Connection, prices: Prices) -> tuple[tuple[str, str | None, float], ...]:
    at = np.argsort(-prices.stock, kind="stable")[:MOST_ITEMS]
    price = {int(prices.stock_items[n]): float(prices.stock[n]) for n in at if prices.stock[n] > 0}
    known = connection.execute(
        text("SELECT id, external_id, title FROM items WHERE id = ANY(:ids)"), {"ids": sorted(price)}
    )
    found = [(row.external_id, row.title, price[row.id]) for row in known]
    return tuple(sorted(found, key=lambda one: -one[2]))
