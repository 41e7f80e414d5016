"""The click head: what it learns on top of the goal, how it is stored, and that explanations add up."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime

import numpy as np
import pytest
import xgboost

from engine.features import schema
from engine.learning import head
from engine.learning.candidates import Blend
from engine.learning.explaining import explain_rows, reasons
from engine.learning.head import Head, Lessons
from engine.learning.model import Model, digest, pack, unpack
from engine.learning.related import nothing
from engine.learning.scoring import Baseline, Learned
from engine.learning.windows import WEEK_HOURS, with_everybody

RATE, SENT, TASTE = (schema.NAMES.index(name) for name in ("window_rate", "user_pushes_7d", "pair_purchases_45d"))


def pushes(n: int, seed: int = 1, *, tiring: bool = True) -> Lessons:
    """Pushes whose clicks follow the goal and the window, less where many were sent of late."""
    rng = np.random.default_rng(seed)
    rows = np.full((n, schema.COUNT), np.nan, np.float32)
    rows[:, RATE], rows[:, SENT] = rng.uniform(0.05, 1, n), rng.integers(0, 12, n)
    rows[:, TASTE] = rng.exponential(1, n)
    goal = rng.uniform(0.02, 0.3, n).astype(np.float32)
    tired = 0.35 * rows[:, SENT] if tiring else 0.0
    margin = 0.5 + np.log(goal / (1 - goal)) + np.log(rows[:, RATE]) - tired
    return Lessons(rows, goal, rng.random(n) < 1 / (1 + np.exp(-margin)), rng.random(n) < 0.5)


@pytest.fixture(scope="module")
def tired() -> head.Fitted:
    fitted = head.fit(pushes(40_000), seed=1, threads=1)
    assert fitted is not None
    return fitted


def test_trees_stay_where_pushes_tire_people_and_never_make_more_of_them_better(tired: head.Fitted) -> None:
    lessons = pushes(1, seed=2)
    row = np.repeat(lessons.rows, 12, axis=0)
    row[:, SENT] = np.arange(12)
    chances = tired.head.predict(row, np.repeat(lessons.goal, 12))

    assert tired.head.trees is not None
    assert tired.report["trees_ne"] < 0.99 * tired.report["linear_ne"]
    assert np.all(np.diff(chances) <= 0)
    assert chances[0] > 2 * chances[11]
    assert 0.9 < tired.report["judged"]["predicted_per_actual"] < 1.1


def test_where_goal_and_window_tell_it_all_the_head_has_three_numbers_and_no_trees() -> None:
    fitted = head.fit(pushes(40_000, tiring=False), seed=1, threads=1)

    assert fitted is not None
    assert fitted.head.trees is None
    assert fitted.head.taste == pytest.approx(1, abs=0.1)
    assert fitted.head.hour == pytest.approx(1, abs=0.1)
    assert fitted.head.bias == pytest.approx(0.5, abs=0.2)


def test_the_fewest_trees_within_a_thousandth_are_served_and_what_fewer_cost_is_told(tired: head.Fitted) -> None:
    told = {point["trees"]: point["logloss"] for point in tired.report["trade_off"]}
    served = tired.report["head"]["trees"]

    assert served in told
    assert told[served] <= min(told.values()) * 1.001
    assert len(told) > 2


def test_pushes_without_a_click_in_some_part_teach_nothing() -> None:
    quiet = pushes(200)

    assert head.fit(replace(quiet, clicked=np.zeros(200, bool)), 1, 1) is None


def a_model(click_head: Head | None) -> Model:
    rng = np.random.default_rng(4)
    rows = rng.random((400, schema.COUNT)).astype(np.float32)
    rows[:, schema.SLICES["window"]] = np.nan
    booster = xgboost.train(
        {"objective": "binary:logistic", "max_depth": 3, "seed": 1, "nthread": 1},
        xgboost.DMatrix(rows, (rows[:, TASTE] > 0.6).astype(np.float32)),
        8,
    )
    windows, now = with_everybody(np.ones(WEEK_HOURS)), datetime(2026, 9, 1, tzinfo=UTC)
    return Model(booster, 0.3, nothing(np.array([1])), Blend(), windows, now, calibration=(0.9, 0.2), head=click_head)


@pytest.mark.parametrize("trees", [True, False])
def test_contributions_of_a_click_score_add_up_to_its_margin(tired: head.Fitted, *, trees: bool) -> None:
    click_head = replace(tired.head, calibration=(1.1, -0.1), trees=tired.head.trees if trees else None)
    model, rows = a_model(click_head), pushes(30, seed=5).rows
    bare = rows.copy()
    bare[:, schema.SLICES["window"]] = np.nan

    told = explain_rows(model, rows, most=3)

    scores = click_head.predict(rows, model.predict(bare))
    for explanation, score in zip(told, scores, strict=True):
        total = explanation.base + explanation.rest + sum(reason.contribution for reason in explanation.reasons)
        assert total == pytest.approx(explanation.margin, abs=1e-4)
        assert explanation.margin == pytest.approx(np.log(score / (1 - score)), abs=1e-4)
        assert (explanation.score, explanation.regime) == (score, "click")
        assert "clicks" in explanation.meaning
    assert any(reason.feature == "window_rate" for explanation in told for reason in explanation.reasons)


def test_reasons_say_what_and_how_much_and_which_way_in_every_regime(tired: head.Fitted) -> None:
    row = pushes(1, seed=6).rows[0]
    row[SENT], row[RATE] = 11, 0.25
    baseline, goal, click = Baseline(9), Learned(1, a_model(None)), Learned(2, a_model(tired.head))

    looked, taken, clicked = (reasons(scorer, row, top=4) for scorer in (baseline, goal, click))

    assert [scorer.regime for scorer in (baseline, goal, click)] == ["baseline", "goal", "click"]
    assert looked == ()
    assert taken[-1].text == "the window is 25% as good as the user's best (score × 0.25)"
    sent = next(reason for reason in clicked if reason.feature == "user_pushes_7d")
    assert sent.text.startswith("pushes sent to the user, half-life 7 days: 11 – speaks against it (odds × 0.")
    assert (len(clicked), sent.value) == (3, 11.0)


@pytest.mark.parametrize("trees", [True, False])
def test_a_click_model_comes_back_from_its_artifact_as_it_was(tired: head.Fitted, *, trees: bool) -> None:
    model = a_model(tired.head if trees else replace(tired.head, trees=None))
    rows = pushes(50, seed=7)
    artifact = pack(model)

    back = unpack(artifact, digest(artifact))

    assert (back.regime, back.head is not None) == ("click", True)
    assert back.head is not None
    assert model.head is not None
    assert np.array_equal(back.head.predict(rows.rows, rows.goal), model.head.predict(rows.rows, rows.goal))
    one_by_one = [back.head.predict(rows.rows[at : at + 1], rows.goal[at : at + 1]) for at in range(50)]
    assert np.array_equal(np.concatenate(one_by_one), model.head.predict(rows.rows, rows.goal))
    assert pack(back) == artifact


def test_a_warm_update_leaves_the_old_head_as_it_is_and_follows_the_news(tired: head.Fitted) -> None:
    fresh = pushes(4_000, seed=9)
    busier = replace(fresh, clicked=fresh.clicked | (np.random.default_rng(3).random(4_000) < 0.05))

    for old in (tired.head, replace(tired.head, trees=None)):
        before = old.predict(fresh.rows, fresh.goal)
        new = head.warm(old, busier, seed=1, threads=1)

        assert np.array_equal(old.predict(fresh.rows, fresh.goal), before)
        assert new.predict(fresh.rows, fresh.goal).mean() > before.mean()
