"""The parts of the backtest, each on its own: weeks, resampling, thresholds, the logistic rival, charts."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from itertools import pairwise
from typing import Any

import numpy as np
import pytest

from engine.drawing import charts as drawing
from engine.drawing.charts import Axes, Line
from engine.features.state import Hours
from engine.learning import evaluation, logistic, windows
from engine.learning.backtest import calendar, sending, verdict
from engine.learning.backtest.resampling import Draws, Judged, Week, interval, paired, pooled_ece
from engine.learning.timeline import MOST_TRAINING
from engine.localtime import zone

RNG = np.random.default_rng(9)
NEW_YORK = zone("America/New_York")
BEGIN, END = datetime(2026, 1, 1, 5, tzinfo=UTC), datetime(2026, 12, 31, 22, tzinfo=UTC)


# --- weeks -----------------------------------------------------------------------------------------------------------


def test_weeks_train_before_they_validate_before_they_test_and_no_label_is_seen_twice() -> None:
    found = calendar.weeks((BEGIN, END), NEW_YORK, None, None)

    assert found is not None
    assert (len(found.train), len(found.test)) == (8, 4)
    local = [instant.astimezone(NEW_YORK) for instant in found.instants]
    assert {(at.hour, at.minute) for at in local} == {(0, 0)}
    assert {(later.date() - earlier.date()).days for earlier, later in pairwise(local)} == {7}
    assert END - timedelta(days=8) < found.test[-1] <= END - timedelta(days=6.5)


def test_weeks_lie_whole_weeks_from_the_day_that_was_asked_for() -> None:
    monday, until = date(2026, 7, 6), date(2026, 9, 30)
    found = calendar.weeks((BEGIN, END), NEW_YORK, monday, until)

    assert found is not None
    days = [instant.astimezone(NEW_YORK).date() for instant in found.instants]
    assert days[0] == monday
    assert {day.weekday() for day in days} == {0}
    assert until - timedelta(days=7) < days[-1] <= until
    last_only = calendar.weeks((BEGIN, END), NEW_YORK, None, until)
    assert last_only is not None
    assert last_only.test[-1].astimezone(NEW_YORK).date() == until


def test_a_year_of_weeks_trains_on_the_newest_and_none_lies_in_the_first_week() -> None:
    whole = calendar.weeks((BEGIN, END), NEW_YORK, date(2026, 1, 1), None)

    assert whole is not None
    assert len(whole.train) == MOST_TRAINING
    early = calendar.weeks((BEGIN, BEGIN + timedelta(days=40)), NEW_YORK, date(2026, 1, 1), None)
    assert early is not None
    assert early.instants[0] >= BEGIN + timedelta(days=7)


@pytest.mark.parametrize(("first", "last"), [(date(2027, 3, 1), None), (None, date(2025, 3, 1))])
def test_bounds_outside_the_log_leave_no_week(first: date | None, last: date | None) -> None:
    assert calendar.weeks((BEGIN, END), NEW_YORK, first, last) is None


def test_a_log_of_a_week_has_nothing_to_test_on() -> None:
    assert calendar.weeks((BEGIN, BEGIN + timedelta(days=7)), NEW_YORK, None, None) is None


# --- resampling ------------------------------------------------------------------------------------------------------


def judged(seed: int, users: int = 60, rows: int = 3000, off: float = 1.0) -> Judged:
    rng = np.random.default_rng(seed)
    user = np.sort(rng.integers(0, users, rows)).astype(np.int32)
    chances = rng.beta(1, 6, rows)
    labels = rng.random(rows) < chances
    wanted = np.bincount(user[labels], minlength=users) + rng.integers(0, 3, users).astype(float)
    reached = np.bincount(user[labels], minlength=users).astype(float)
    ndcg, hit = rng.random(users), (rng.random(users) < 0.5).astype(float)
    week = Week(np.arange(users) * 7, user, labels, wanted, reached)
    scores = np.minimum(chances * off, 1).astype(np.float32)
    return Judged(week, scores, True, 0.3, ndcg * (wanted > 0), hit * (wanted > 0))


def test_the_log_itself_is_measured_exactly() -> None:
    entry = judged(1)
    labels, scores = entry.week.labels, entry.scores

    found = entry.samples(Draws(entry.week.ids, RNG))

    plain = evaluation.classification(labels, scores)
    for key in ("auc", "ap", "logloss", "ne", "brier", "predicted_per_actual"):
        assert found[key][0] == pytest.approx(plain[key], rel=1e-6), key
    assert found["ece_weekly"][0] == pytest.approx(plain["ece"], rel=1e-3)
    assert found["candidate_recall"][0] == pytest.approx(entry.week.reached.sum() / entry.week.wanted.sum())
    chosen = scores > 0.3
    assert found["precision"][0] == pytest.approx(labels[chosen].mean())
    assert found["accuracy"][0] == pytest.approx((chosen == labels).mean())


def test_a_draw_is_the_measure_of_the_log_with_its_users_repeated() -> None:
    entry = judged(2)
    draws = Draws(entry.week.ids, RNG, count=20)
    times = draws.sums(np.eye(len(entry.week.ids)), entry.week.ids)[:, 7].astype(int)
    rows = np.repeat(np.arange(len(entry.scores)), times[entry.week.user])

    found = entry.samples(draws)

    labels, scores = entry.week.labels[rows], entry.scores[rows]
    assert times.sum() == len(times)
    assert found["logloss"][7] == pytest.approx(evaluation.logloss(labels, scores), rel=1e-6)
    assert found["auc"][7] == pytest.approx(evaluation.auc(labels, scores), abs=2e-3)
    assert found["ap"][7] == pytest.approx(evaluation.average_precision(labels, scores), abs=1e-2)


def test_a_model_is_not_different_from_itself_and_clearly_from_a_miscalibrated_one() -> None:
    honest, boastful = judged(3), judged(3, off=2.0)
    draws = Draws(honest.week.ids, RNG)
    ours, theirs = honest.samples(draws), boastful.samples(draws)

    assert paired(ours["ne"], ours["ne"])["noise"]
    differs = paired(ours["ne"], theirs["ne"])
    assert differs["difference_hi"] < 0
    assert not differs["noise"]
    inside = interval("auc", ours["auc"])
    assert np.diff([inside[key] or 0.0 for key in ("auc_lo", "auc", "auc_hi")]).min() > 0


def test_calibration_of_several_weeks_is_that_of_their_rows_together() -> None:
    weeks = [judged(4), judged(5, off=1.5)]
    draws = Draws(weeks[0].week.ids, RNG, count=3)

    labels = np.concatenate([entry.week.labels for entry in weeks])
    scores = np.concatenate([entry.scores for entry in weeks])
    assert pooled_ece(weeks, draws)[0] == pytest.approx(evaluation.calibration_error(labels, scores), rel=1e-3)


def test_at_capacity_as_many_are_chosen_as_succeed_and_never_more() -> None:
    rng = np.random.default_rng(6)
    labels, scores = rng.random(500) < 0.1, rng.random(500)
    tied = np.round(scores, 1)

    assert (scores.astype(np.float32) > verdict.capacity(labels, scores)).sum() == labels.sum()
    assert (tied.astype(np.float32) > verdict.capacity(labels, tied)).sum() <= labels.sum()
    assert verdict.capacity(np.ones(3, bool), np.ones(3)) == -np.inf


# --- rivals, windows -------------------------------------------------------------------------------------------------


def test_the_logistic_rival_finds_what_made_the_labels_also_where_values_are_missing() -> None:
    rng = np.random.default_rng(7)
    rows = rng.exponential(1, (20_000, 3)).astype(np.float32)
    chance = 1 / (1 + np.exp(2 - 1.5 * np.log1p(rows[:, 0])))
    labels = (rng.random(len(rows)) < chance).astype(np.float32)
    rows[rng.random(len(rows)) < 0.2, 1] = np.nan

    model = logistic.fit(rows, labels, seed=1)

    told = model.predict(rows)
    assert np.abs(told - chance).mean() < 0.02
    assert np.isfinite(model.predict(np.full((2, 3), np.nan, np.float32))).all()
    assert np.array_equal(told[:5], np.concatenate([model.predict(row[None]) for row in rows[:5]]))


def test_one_hour_rules_put_their_trust_on_the_users_own_hour() -> None:
    hour = np.array([8, 24 + 20], np.int16)  # workdays at 8, fewer weekends at 20
    weight = np.array([30.0, 10.0])
    hours = Hours(np.zeros(2, np.int32), np.full(2, 1, np.int16), hour, weight, weight, weight)

    class TwoUsers:
        """A state of one user with visits and one without."""

        def __init__(self) -> None:
            self.hours = hours

        def __len__(self) -> int:
            return 2

    state: Any = TwoUsers()
    found = sending.curves(windows.with_everybody(np.ones(windows.WEEK_HOURS)), state)

    for shares in found.values():
        assert np.allclose(shares.sum(axis=1), 1, atol=1e-5)
    frequent, everybody = found["most_frequent_hour"][0], found["global"][0]
    assert frequent.argmax() == 8 // 3
    assert frequent[8:].argmax() == 20 // 3
    # the hour reaches into its neighbours, no farther
    assert set(np.flatnonzero(frequent > everybody)) <= {1, 2, 3, 8 + 5, 8 + 6, 8 + 7}
    median = found["median_hour"][0]
    assert {2, 8 + 2} <= set(np.flatnonzero(median > everybody)) <= {1, 2, 3, 8 + 1, 8 + 2, 8 + 3}
    assert np.allclose(found["median_hour"][1], found["global"][1])


# --- charts ----------------------------------------------------------------------------------------------------------


def test_a_chart_escapes_its_words_and_stays_inside_its_frame() -> None:
    drawn = drawing.lines(
        "a < b & c", [Line([(0.0, 1.0), (5.0, 3.0)], "<model>", intervals=[(0.5, 1.5), (2.0, 4.0)], dots=True)],
        Axes("x", "y"),
    )  # fmt: skip

    assert "<model>" not in drawn
    assert "a &lt; b &amp; c" in drawn
    points = drawn.split("points='")[1].split("'")[0].split()
    for x, y in (map(float, point.split(",")) for point in points):
        assert 0 <= x <= drawing.WIDTH
        assert 0 <= y <= drawing.HEIGHT
    assert "nan" not in drawing.lines("flat", [Line([(1.0, 0.0)])], Axes("x", "y"))
