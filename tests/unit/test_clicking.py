"""Whether a model gets a click head: enough clicks, honest chances, not worse than the one that decides."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import numpy as np
import pytest
import xgboost

from engine.features import schema
from engine.learning import head
from engine.learning.candidates import Blend
from engine.learning.clicking import with_clicks
from engine.learning.head import Head
from engine.learning.model import Model
from engine.learning.pushes import Pushes
from engine.learning.related import nothing
from engine.learning.windows import WEEK_HOURS, with_everybody

NOW = datetime(2026, 9, 1, tzinfo=UTC)
RATE, TASTE = (schema.NAMES.index(name) for name in ("window_rate", "pair_purchases_45d"))


@pytest.fixture(scope="module")
def model() -> Model:
    """A goal model that knows one thing: who bought an item buys it again."""
    rng = np.random.default_rng(4)
    rows = np.full((4_000, schema.COUNT), np.nan, np.float32)
    rows[:, TASTE] = rng.exponential(1, 4_000)
    booster = xgboost.train(
        {"objective": "binary:logistic", "max_depth": 3, "seed": 1, "nthread": 1},
        xgboost.DMatrix(rows, (rng.random(4_000) < 1 / (1 + np.exp(2 - rows[:, TASTE]))).astype(np.float32)),
        20,
    )
    windows = with_everybody(np.ones(WEEK_HOURS))
    return Model(booster, 1.0, nothing(np.array([1])), Blend(), windows, NOW)


def pushes(n: int = 20_000, *, drift: float = 0.0) -> Pushes:
    """Pushes of the last month, clicked by taste and window; `drift`: log-odds by which the newest fifth differ."""
    rng = np.random.default_rng(6)
    rows = np.full((n, schema.COUNT), np.nan, np.float32)
    rows[:, TASTE], rows[:, RATE] = rng.exponential(1, n), rng.uniform(0.05, 1, n)
    newest = np.arange(n) >= n * 0.8
    margin = -1.5 + 0.8 * rows[:, TASTE] + np.log(rows[:, RATE]) + drift * newest
    clicked = rng.random(n) < 1 / (1 + np.exp(-margin))
    at = NOW.timestamp() - 86_400 * np.linspace(30, 1, n)
    user, nobody = rng.integers(0, 500, n), np.zeros(n, bool)
    return Pushes(user, np.zeros(n, np.int64), at, rows, clicked, clicked, nobody, nobody, others=3)


def test_a_thousand_clicks_make_a_head_and_fewer_do_not(model: Model) -> None:
    enough, few = with_clicks(model, pushes(), None, 1, 1), with_clicks(model, pushes(2_000), None, 1, 1)

    assert (enough.model.regime, enough.report["reason"], enough.report["left_out"]) == ("click", None, 3)
    assert few.model.regime == "goal"
    assert few.report["clicked"] < 1_000
    assert "a head needs 1,000" in few.report["reason"]


def test_a_head_that_is_off_on_the_newest_pushes_is_left_out_or_where_clicks_decide_already_the_model_refused(
    model: Model,
) -> None:
    changed = pushes(drift=-1.5)  # half of the clicks stay away: what was learned before is too high by far
    scoring = replace(model, head=Head(-1.0, 1.0, 1.0), as_of=NOW - timedelta(days=1))

    first, later = with_clicks(model, changed, model, 1, 1), with_clicks(model, changed, scoring, 1, 1)

    assert (first.model.regime, first.objection) == ("goal", None)
    assert "times the successes" in first.report["reason"]
    assert later.objection is not None
    assert "times the successes" in later.objection


def test_a_head_worse_than_the_champions_on_clicks_neither_knew_is_refused(model: Model) -> None:
    told = pushes()
    fitted = head.fit(head.Lessons(told.rows, model.predict(told.rows), told.clicked, told.user % 2 == 0), 1, 1)
    assert fitted is not None
    champion = replace(model, head=fitted.head, as_of=NOW - timedelta(days=7))
    shuffled = told.clicked.copy()
    shuffled[:16_000] = np.random.default_rng(1).permutation(shuffled[:16_000])  # it learns nothing from these
    blind = replace(told, clicked=shuffled, opened=shuffled)

    worse, alike = (with_clicks(model, seen, champion, 1, 1) for seen in (blind, told))

    assert worse.objection is not None
    assert "the champion's" in worse.objection
    assert worse.model.regime == "goal"
    assert (alike.objection, alike.model.regime) == (None, "click")
