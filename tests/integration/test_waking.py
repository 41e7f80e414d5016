"""Wake-ups without ids wait once, whoever sends them, until their task begins."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import redis

from engine.planning.wake import QUEUES, BrokerWake, Marks

TASK = "horae.refresh"


@pytest.fixture
def broker(redis_url: str) -> Iterator[redis.Redis]:
    client = redis.Redis.from_url(redis_url)
    yield client
    client.close()


def waiting(broker: redis.Redis) -> int:
    return int(broker.llen(QUEUES[TASK]))


def test_many_processes_that_ask_for_a_look_send_one_message(broker: redis.Redis, redis_url: str) -> None:
    processes = [BrokerWake(redis_url) for _ in range(3)]
    for _ in range(5):
        for wake in processes:
            wake(TASK)

    assert waiting(broker) == 1
    assert not any(wake.lost for wake in processes)


def test_what_comes_after_the_task_began_asks_anew(broker: redis.Redis, redis_url: str) -> None:
    wake, worker = BrokerWake(redis_url), Marks(redis_url)
    wake(TASK)
    worker.begun(TASK)
    wake(TASK)
    wake(TASK)

    assert waiting(broker) == 2


def test_wake_ups_with_ids_are_all_sent(broker: redis.Redis, redis_url: str) -> None:
    wake = BrokerWake(redis_url)
    wake("horae.plan_shard", 1, 1)
    wake("horae.plan_shard", 1, 2)

    assert int(broker.llen("plan")) == 2


def test_a_message_that_could_not_be_sent_keeps_nobody_from_sending(redis_url: str) -> None:
    marks, sent = Marks(redis_url), []

    def fail() -> None:
        raise OSError("no broker")

    with pytest.raises(OSError, match="no broker"):
        marks.once(TASK, fail)
    marks.once(TASK, lambda: sent.append(TASK))

    assert sent == [TASK]


def test_a_mark_whose_message_was_lost_goes_by_itself(broker: redis.Redis, redis_url: str) -> None:
    BrokerWake(redis_url)(TASK)

    [mark] = broker.keys("horae.woken.*")
    assert 0 < broker.pttl(mark) <= 2_000
