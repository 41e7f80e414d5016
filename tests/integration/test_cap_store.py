"""Reservations on a real Valkey: races, repeats, releases, losses."""

from __future__ import annotations

import threading
import uuid
from collections.abc import Collection, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, date, datetime, timedelta

import pytest
import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from engine.delivery.epoch import current_epoch, move_epoch
from engine.delivery.limits import Attempt, Entry, Limit, Limits, Reservation
from engine.delivery.reserve import CapStore, Epoch, EpochLost
from engine.errors import RedisUnavailable
from engine.localtime import zone
from engine.store.database import Database

NOON = datetime(2026, 3, 2, 12, 0, tzinfo=UTC)
TODAY = NOON.date()
WEEK = timedelta(days=8)
UTC_ZONE = zone("UTC")


@pytest.fixture
def client(redis_url: str) -> Iterator[redis.Redis]:
    opened = redis.Redis.from_url(redis_url)
    yield opened
    opened.close()


def asking(
    user: int = 1,
    *,
    push: uuid.UUID | None = None,
    fence: int = 1,
    at: datetime = NOON,
    most: int = 2,
    counts: bool = True,
) -> Reservation:
    daily = Limits((Limit("daily", most, "local_day"),))
    return Reservation(user, push or uuid.uuid4(), fence, ("channel:log",), Attempt(at, UTC_ZONE), daily, counts)


def nothing_sent(users: Collection[int]) -> Mapping[int, Sequence[Entry]]:
    return dict.fromkeys(users, ())


def granted(caps: CapStore, epoch: Epoch, *asked: Reservation) -> list[bool]:
    return [refusal is None for refusal in caps.reserve(epoch, asked, nothing_sent)]


def test_160_concurrent_reservations_against_a_cap_of_2_admit_exactly_2(database: Database, redis_url: str) -> None:
    everyone = threading.Barrier(16)

    def ten_times(_: int) -> int:
        caps = CapStore(redis.Redis.from_url(redis_url))
        epoch = current_epoch(database, caps, WEEK)
        everyone.wait()
        return sum(sum(granted(caps, epoch, asking(most=2))) for _ in range(10))

    with ThreadPoolExecutor(16) as threads:
        assert sum(threads.map(ten_times, range(16))) == 2


def test_the_last_place_under_a_cap_is_given_once_also_within_one_pipeline(
    database: Database, client: redis.Redis
) -> None:
    caps = CapStore(client)
    epoch = current_epoch(database, caps, WEEK)

    assert granted(caps, epoch, *(asking(most=1) for _ in range(5))) == [True, False, False, False, False]


def test_a_repeat_changes_nothing_and_a_release_frees_the_place(database: Database, client: redis.Redis) -> None:
    caps = CapStore(client)
    epoch = current_epoch(database, caps, WEEK)
    first, second = asking(most=1), asking(most=1)

    assert granted(caps, epoch, first, first, second, first) == [True, True, False, True]
    assert caps.release(epoch, [(1, first.push_id, 1)]) == 1
    assert caps.release(epoch, [(1, first.push_id, 1)]) == 0
    assert granted(caps, epoch, second, first) == [True, False]


def test_a_cap_of_zero_admits_nothing_and_a_push_that_does_not_count_takes_no_place(
    database: Database, client: redis.Redis
) -> None:
    caps = CapStore(client)
    epoch = current_epoch(database, caps, WEEK)

    assert granted(caps, epoch, asking(most=0)) == [False]
    assert granted(caps, epoch, asking(most=1, counts=False), asking(most=1, counts=False)) == [True, True]
    assert granted(caps, epoch, asking(most=1), asking(most=1, counts=False)) == [True, False]


def test_a_zombie_cannot_release_what_a_later_claim_has_taken_over(database: Database, client: redis.Redis) -> None:
    caps = CapStore(client)
    epoch = current_epoch(database, caps, WEEK)
    push = uuid.uuid4()

    assert granted(caps, epoch, asking(push=push, fence=1, most=1), asking(push=push, fence=2, most=1)) == [True, True]
    assert caps.release(epoch, [(1, push, 1)]) == 0
    assert granted(caps, epoch, asking(push=push, fence=1, most=1), asking(most=1)) == [True, False]
    assert caps.release(epoch, [(1, push, 2)]) == 1


def test_a_later_attempt_moves_its_place_to_the_later_instant(database: Database, client: redis.Redis) -> None:
    caps = CapStore(client)
    epoch = current_epoch(database, caps, WEEK)
    push, tomorrow = uuid.uuid4(), NOON + timedelta(days=1)

    assert granted(caps, epoch, asking(push=push, most=1), asking(push=push, fence=2, at=tomorrow, most=1)) == [
        True,
        True,
    ]
    assert granted(caps, epoch, asking(at=tomorrow, most=1)) == [False]


def test_a_user_without_a_log_is_rebuilt_from_the_ledger_before_anything_is_admitted(
    database: Database, client: redis.Redis
) -> None:
    caps = CapStore(client)
    epoch = current_epoch(database, caps, WEEK)
    sent = Entry(uuid.uuid4(), 0, NOON - timedelta(hours=1), TODAY, ("channel:log",))

    refusals = caps.reserve(epoch, [asking(1, most=1), asking(2, most=1)], lambda users: {1: [sent], 2: []})

    assert [refusal and refusal.rule for refusal in refusals] == ["daily", None]


def test_what_is_older_than_any_cap_looks_back_is_dropped(database: Database, client: redis.Redis) -> None:
    caps = CapStore(client)
    epoch = current_epoch(database, caps, WEEK)
    for day in range(30):
        at = NOON + timedelta(days=day)
        assert granted(caps, epoch, asking(at=at, most=1)) == [True]

    key = next(key for key in client.scan_iter("horae:cap:*:1"))
    assert client.eval("return #cmsgpack.unpack(redis.call('GET', KEYS[1])) / 5", 1, key) == 9  # eight days and today


def test_a_flush_is_noticed_before_anything_is_granted(database: Database, client: redis.Redis) -> None:
    caps = CapStore(client)
    before = current_epoch(database, caps, WEEK)
    assert granted(caps, before, asking(most=1)) == [True]
    client.flushdb()

    with pytest.raises(EpochLost):
        caps.reserve(before, [asking(most=1)], nothing_sent)

    after = current_epoch(database, caps, WEEK)
    assert after.number == before.number + 1
    assert after.token != before.token
    assert current_epoch(database, caps, WEEK) == after


def test_a_flush_while_a_log_is_rebuilt_is_noticed(database: Database, client: redis.Redis) -> None:
    caps = CapStore(client)
    epoch = current_epoch(database, caps, WEEK)

    def flushing_ledger(users: Collection[int]) -> Mapping[int, Sequence[Entry]]:
        client.flushdb()
        return nothing_sent(users)

    with pytest.raises(EpochLost):
        caps.reserve(epoch, [asking()], flushing_ledger)


def test_another_server_is_another_epoch_although_the_key_is_there(database: Database, client: redis.Redis) -> None:
    caps = CapStore(client)
    epoch = current_epoch(database, caps, WEEK)
    restarted = Epoch(epoch.number, "0" * 40, epoch.token, epoch.horizon)

    with pytest.raises(EpochLost):
        caps.reserve(restarted, [asking()], nothing_sent)


def test_a_longer_horizon_begins_an_epoch_and_a_shorter_one_does_not(database: Database, client: redis.Redis) -> None:
    caps = CapStore(client)
    week = current_epoch(database, caps, WEEK)
    month = current_epoch(database, caps, timedelta(days=30))

    assert month.number == week.number + 1
    assert month.horizon == timedelta(days=30)
    assert current_epoch(database, caps, WEEK) == month


def test_a_moved_epoch_keeps_its_logs(database: Database, client: redis.Redis) -> None:
    caps = CapStore(client)
    before = current_epoch(database, caps, WEEK)
    with database.begin() as connection:
        move_epoch(connection)

    after = current_epoch(database, caps, WEEK)

    assert (after.number, after.token) == (before.number + 1, before.token)


def test_two_processes_that_notice_a_loss_at_once_begin_one_epoch(database: Database, redis_url: str) -> None:
    both = threading.Barrier(4)

    def notice(_: int) -> Epoch:
        caps = CapStore(redis.Redis.from_url(redis_url))
        both.wait()
        return current_epoch(database, caps, WEEK)

    with ThreadPoolExecutor(4) as threads:
        seen = set(threads.map(notice, range(4)))

    assert len(seen) == 1


def test_where_redis_does_not_answer_nothing_is_granted(database: Database) -> None:
    caps = CapStore(redis.Redis(host="127.0.0.1", port=1, retry=Retry(NoBackoff(), 0)))

    with pytest.raises(RedisUnavailable):
        current_epoch(database, caps, WEEK)
    with pytest.raises(RedisUnavailable):
        caps.reserve(Epoch(1, "x", "y", WEEK), [asking()], nothing_sent)


def test_days_and_instants_compare_as_text_far_into_the_future(database: Database, client: redis.Redis) -> None:
    caps = CapStore(client)
    epoch = current_epoch(database, caps, WEEK)
    far = datetime(2099, 12, 31, 23, tzinfo=UTC)

    assert granted(caps, epoch, asking(at=far, most=1), asking(at=far, most=1)) == [True, False]
    assert date(2099, 12, 31).toordinal() < 10**6
