"""Send windows learned from pushes: what users answer, not when the shop used to send."""

from __future__ import annotations

import numpy as np

from engine.features.state import PUSHED, Hours
from engine.learning import answering, crediting, windows
from engine.learning.answering import Answers
from engine.learning.crediting import Sent
from engine.learning.window_fit import Visits, fit, lesson

DAY = 86_400.0
USERS, DAYS = 600, 120
EVENING, NIGHT = 18, 21
SENT_HOURS = (6, 7, 8, 12, 13, 14)
OPEN, SEND, SESSION = 7, 11, 6


class MailingShop:
    """A shop that sends a push a day between 06 and 09 or 12 and 15, and now and then at any hour.

    Two thirds of the users answer evenings best, a third nights; nobody likes the hours at which the shop sends.
    """

    def __init__(self, explored: float, sessions: float, seed: int = 3) -> None:
        rng = np.random.default_rng(seed)
        self.best = np.where(np.arange(USERS) % 3 < 2, EVENING, NIGHT)
        user = np.repeat(np.arange(USERS), DAYS)
        usual = np.array(SENT_HOURS)[rng.integers(0, len(SENT_HOURS), len(user))]
        hour = np.where(rng.random(len(user)) < explored, rng.integers(0, 24, len(user)), usual)
        day = np.tile(np.arange(DAYS), USERS)
        at = (day * 24 + hour) * 3600 + rng.integers(0, 3000, len(user))
        liked = (hour >= self.best[user]) & (hour < self.best[user] + 3)
        opens = rng.random(len(user)) < np.where(liked, 0.3, 0.05)
        came = rng.random(len(user)) < sessions
        visit_hour = (self.best[user] + rng.integers(0, 3, len(user))) % 24
        self.user = np.concatenate([user, user[opens], user[came]])
        self.at = np.concatenate(
            [at, at[opens] + rng.integers(10, 3000, opens.sum()), (day * 24 + visit_hour)[came] * 3600.0]
        )
        self.kind = np.repeat([SEND, OPEN, SESSION], [len(user), opens.sum(), came.sum()])
        self.now = DAYS * DAY

    def hours(self, until: float) -> Hours:
        """The hour profiles of what happened before; day 0 is a Monday, so days 5 and 6 of each week are weekend."""
        rows = self.at < until
        rung = np.select([self.kind == SEND, self.kind == OPEN], [PUSHED, 0], 1)[rows]
        key = (self.user[rows] * 4 + rung) * windows.WEEK_HOURS + self._week_hour(self.at[rows])
        age = (until - self.at[rows]) / DAY
        keys, of = np.unique(key, return_inverse=True)
        counts = [np.bincount(of, weight) for weight in (np.exp2(-age / 120), np.exp2(-age / 30), np.ones(len(age)))]
        per_user = 4 * windows.WEEK_HOURS
        return Hours(
            (keys // per_user).astype(np.int32),
            (keys % per_user // windows.WEEK_HOURS).astype(np.int16),
            (keys % windows.WEEK_HOURS).astype(np.int16),
            *counts,
        )

    def sent(self) -> Sent:
        """The pushes and whether they were answered."""
        pushes, opens = self.kind == SEND, self.kind == OPEN
        user, at = self.user[pushes], self.at[pushes]
        hit = crediting.answered(user, at, self.user[opens], self.at[opens], 3 * 3600.0)
        return Sent(user, at, self._week_hour(at) // 3, hit)

    def preference(self) -> np.ndarray:
        """What `fit` makes of it: the windows' rate of each user beside their best, float64[U, 16]."""
        sent, lessons = self.sent(), []
        for weeks in (3, 2, 1):
            then = self.now - weeks * 7 * DAY
            rows = (self.kind != SEND) & (self.at >= then) & (self.at < then + 7 * DAY)
            visits = Visits(self.user[rows], self._week_hour(self.at[rows]))
            later = crediting.tally_of(sent, np.arange(USERS), then, then + 7 * DAY)
            lessons.append(lesson(self.hours(then), USERS, visits, later))
        hours = self.hours(self.now)
        model = fit(hours, USERS, lessons, crediting.everybodys(sent, self.now))
        return windows.curves(model, hours, USERS).rate

    def _week_hour(self, at: np.ndarray) -> np.ndarray:
        weekend = (at // DAY) % 7 >= 5
        return (weekend * 24 + at % DAY // 3600).astype(np.int64)


def test_a_shop_that_sends_in_the_morning_learns_from_a_little_exploration_that_evenings_are_answered() -> None:
    shop = MailingShop(explored=0.05, sessions=0.0)

    rate = shop.preference()[:, :8]

    opens = np.bincount(shop.at[shop.kind == OPEN].astype(np.int64) % 86_400 // 10_800, minlength=8)
    assert opens.argmax() in {2, 4}, "counted without exposure, mornings or noons would seem best"
    assert (np.isin(rate.argmax(axis=1), [6, 7])).mean() > 0.95
    assert rate[:, [2, 4]].mean() < 0.5


def test_what_users_do_of_themselves_tells_evening_from_night_where_their_pushes_cannot() -> None:
    alone, helped = MailingShop(0.02, sessions=0.0), MailingShop(0.02, sessions=0.1)

    blind, seeing = (shop.preference()[:, :8].argmax(axis=1) * 3 == shop.best for shop in (alone, helped))

    assert blind.mean() < 0.85
    assert seeing.mean() > 0.9


def test_a_users_own_answers_outweigh_everybodys_as_they_add_up() -> None:
    everybody = np.full(16, 1 / 16)
    answers = Answers(np.full(16, 1000.0), np.where(np.arange(16) == 3, 100.0, 20.0))
    sent = np.zeros((3, 16))
    sent[:, [3, 6]] = np.array([0.0, 5.0, 200.0])[:, None]
    own = answering.Tally(sent, np.where(np.arange(16) == 6, sent * 0.3, 0.0))

    rates = answering.posterior(answers, np.repeat(everybody[None], 3, 0), everybody, own)

    assert rates[0, 3] > rates[0, 6]
    assert rates[2, 6] > rates[2, 3]
    assert rates[0, 6] < rates[1, 6] < rates[2, 6] < 0.3


def test_a_response_belongs_to_the_last_push_before_it_and_to_none_that_is_long_gone() -> None:
    user, at = np.array([1, 1, 2, 3]), np.array([0.0, 100.0, 50.0, 0.0])
    told_user, told_at = np.array([1, 2, 3, 4]), np.array([150.0, 40.0, 99_999.0, 5.0])

    assert crediting.last_before(user, at, told_user, told_at).tolist() == [1, -1, 3, -1]
    assert crediting.answered(user, at, told_user, told_at, 3600).tolist() == [False, True, False, False]


def test_accounts_that_open_as_no_person_does_are_machines() -> None:
    rng = np.random.default_rng(1)
    person = np.sort(rng.uniform(0, 90 * DAY, 40))
    quick = np.arange(40) * 1.0
    busy = np.sort(rng.uniform(0, 2 * DAY, 60))
    users = np.repeat([1, 2, 3, 4], [40, 40, 60, 40])
    at = np.concatenate([person, quick, busy, person])
    sent = np.repeat([1, 4], [60, 20])  # user 4 opened twice what was sent

    assert crediting.robots(users, at, np.full(len(at), OPEN), sent).tolist() == [2, 3, 4]


def test_prompted_responses_are_no_more_than_the_pushes_that_can_have_prompted_them() -> None:
    sent, responses = np.zeros((1, 48)), np.zeros((1, 48))
    sent[0, 9], responses[0, [9, 10, 20]] = 3.0, [2.0, 2.0, 4.0]

    found = answering.prompted(responses, sent)
    tally = answering.tally(found, sent)

    assert found[0, [9, 10, 20]].tolist() == [2.0, 2.0, 0.0]
    assert tally.sent[0, 3] == 3.0
    assert tally.answered[0, 3] == 3.0
    assert tally.answered.sum() == 3.0
