"""Far more is sent than one API process can take; and one that is killed while it answers a batch of every kind."""

from __future__ import annotations

import http.client
import json
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any
from uuid import uuid4

import psutil
import pytest
from sqlalchemy import text

from engine.ingest.fold import fold_all
from engine.ingest.replay import replay
from engine.runtime import Runtime
from tests.api_server import make_key, process, serving
from tests.chaos.senders import LOST, post

MESSAGES, CLIENTS = 100, 40
_MESSAGES = [
    {"type": "track", "userId": "NAME", "event": "view", "messageId": f"NAME-{n}", "properties": {"item_id": "i"}}
    for n in range(MESSAGES)
]
_BODY = json.dumps({"batch": _MESSAGES}).encode()
MEGABYTE = 1 << 20
MOST_GROWTH = 120
"""MB above what the process has when it has served its first batches: 64 requests of 8 MB, as Python holds them."""


@dataclass
class Storm:
    """What was sent and what came of it, by request: its user's name is the request's."""

    statuses: dict[str, int] = field(default_factory=dict)
    hints: set[str | None] = field(default_factory=set)
    """What refusals said of when to come again."""

    def send(self, line: http.client.HTTPConnection, key: str) -> int:
        """Send a batch of MESSAGES messages of a user of its own."""
        name = uuid4().hex
        line.request("POST", "/v1/batch", _BODY.replace(b"NAME", name.encode()), {"Authorization": f"Bearer {key}"})
        reply = line.getresponse()
        reply.read()
        self.statuses[name] = reply.status
        if reply.status in (429, 503):
            self.hints.add(reply.headers["retry-after"])
        return reply.status

    def counts(self) -> Counter[int]:
        """How many requests were answered so."""
        return Counter(self.statuses.values())


@contextmanager
def measured(pid: int, found: list[int]) -> Iterator[None]:
    """Note the bytes that a process has in memory, over and over."""
    done = threading.Event()

    def look() -> None:
        while not done.wait(0.05):
            found.append(psutil.Process(pid).memory_info().rss)

    thread = threading.Thread(target=look, daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join(10)


def connected(port: int) -> http.client.HTTPConnection:
    """A connection to the API, which lasts as long as it answers."""
    return http.client.HTTPConnection("127.0.0.1", port, timeout=60)


def weather(runtime: Runtime, home: Path, seconds: float) -> None:
    """Ten times what the process can take, for `seconds`, from many clients that never wait."""
    free, bound = make_key(runtime.database, "write", rate=10**9), make_key(runtime.database, "write", rate=20)
    storm, calm, memory = Storm(), Storm(), list[int]()
    with process(runtime.database.libpq_url, runtime.redis_url, home, HORAE_API_CONCURRENCY="6") as (running, url):
        port = int(url.rsplit(":", 1)[1])

        def calm_client() -> int:
            with closing(connected(port)) as line:
                return max(calm.send(line, free) for _ in range(10))

        begun = time.monotonic()
        with ThreadPoolExecutor(3) as pool:
            assert set(pool.map(lambda _: calm_client(), range(3))) == {202}
        sustained = len(calm.statuses) / (time.monotonic() - begun)
        before = psutil.Process(running.pid).memory_info().rss
        until = time.monotonic() + seconds
        wanted = 10 * sustained * seconds

        def client(number: int) -> None:
            with closing(connected(port)) as line:
                while time.monotonic() < until:
                    storm.send(line, free if number % 4 else bound)

        with measured(running.pid, memory), ThreadPoolExecutor(CLIENTS) as pool:
            list(pool.map(client, range(CLIENTS)))
        assert running.poll() is None
    counts = storm.counts()
    third = len(memory) // 3
    first, last = max(memory[:third]), max(memory[-third:])
    print(
        f"sustained {sustained * MESSAGES:,.0f} events/s; offered {sum(counts.values()) / wanted * 10:.1f} times"
        f" that for {seconds:.0f} s: {dict(counts)}; MB before {before / MEGABYTE:.0f}, most in the first third"
        f" {first / MEGABYTE:.0f}, in the last {last / MEGABYTE:.0f}"
    )

    assert set(counts) == {202, 429, 503}, "taken, or told to come again, and nothing else"
    assert all(hint is not None and int(hint) >= 1 for hint in storm.hints), storm.hints
    assert last <= first + 20 * MEGABYTE, "memory is flat"
    assert max(memory) <= before + MOST_GROWTH * MEGABYTE
    stored = count_by_user(runtime)
    for name, status in {**calm.statuses, **storm.statuses}.items():
        assert stored.pop(name, 0) == (MESSAGES if status == 202 else 0), "whole where it was taken, else not there"
    assert stored == {}
    fold_all(runtime.database)
    assert replay(runtime.database, rebuild=False).differing == 0


def count_by_user(runtime: Runtime) -> dict[str, int]:
    query = "SELECT external_id, count(*) FROM events e JOIN users u ON u.id = e.user_id GROUP BY 1"
    with runtime.database.begin() as connection:
        return {row[0]: row[1] for row in connection.execute(text(query))}


def test_ten_times_what_can_be_taken_is_taken_or_told_to_come_again_in_the_same_memory(
    runtime: Runtime, tmp_path: Path
) -> None:
    weather(runtime, tmp_path, seconds=6)


@pytest.mark.soak
def test_a_storm_of_minutes_leaves_the_memory_as_it_was(runtime: Runtime, tmp_path: Path) -> None:
    weather(runtime, tmp_path, seconds=180)


# --- killed while it answers -----------------------------------------------------------------------------------------

Broken = Callable[[str], Any]

BROKEN: dict[str, Broken] = {
    "not an object": lambda _: 7,
    "type: not one of": lambda user: {"type": "trak", "userId": user},
    "both missing": lambda _: {"type": "track", "event": "view"},
    "event: missing": lambda user: {"type": "track", "userId": user, "event": " "},
    "userId: neither text": lambda _: {"type": "track", "userId": [1], "event": "view"},
    "NUL": lambda user: {"type": "track", "userId": f"{user}\0", "event": "view"},
    "not an ISO 8601": lambda user: {"type": "track", "userId": user, "event": "view", "timestamp": "soon"},
    "value: not a number": lambda user: {"type": "track", "userId": user, "event": "x", "properties": {"value": "?"}},
    "products: not objects": lambda user: {
        "type": "track", "userId": user, "event": "Order Completed", "properties": {"products": [1]}
    },
    "larger than": lambda user: {"type": "track", "userId": user, "event": "x", "properties": {"y": "z" * 33_000}},
    "timezone": lambda user: {"type": "identify", "userId": user, "traits": {"timezone": "Mars"}},
    "previousId": lambda user: {"type": "alias", "userId": user},
}  # fmt: skip


def fuzzed(rng: Random, name: str) -> tuple[list[Any], dict[int, str], int]:
    """A batch in which valid and broken messages of user `name` alternate by chance; what each broken one is refused
    for, by place; and the events that the others are."""
    batch: list[Any] = []
    refused: dict[int, str] = {}
    events = 0
    for _ in range(rng.randrange(20, 60)):
        if rng.random() < 0.4:
            why = rng.choice(sorted(BROKEN))
            refused[len(batch)] = why
            batch.append(BROKEN[why](name))
            continue
        kind = rng.choice(["track", "page", "identify", "order"])
        message: dict[str, Any] = {"type": kind, "userId": name, "messageId": uuid4().hex, "event": "view"}
        if kind == "order":
            message |= {"type": "track", "event": "Order Completed"}
            message["properties"] = {"products": [{"sku": f"i{n}", "price": 1} for n in range(3)]}
        events += {"track": 1, "page": 1, "identify": 0, "order": 3}[kind]
        batch.append(message)
    return batch, refused, events


@pytest.mark.parametrize("seed", [0, pytest.param(1, marks=pytest.mark.soak), pytest.param(2, marks=pytest.mark.soak)])
def test_each_message_of_a_batch_whose_answer_a_kill_took_is_accepted_once_or_refused_with_its_reason(
    runtime: Runtime, tmp_path: Path, seed: int
) -> None:
    rng = Random(seed)
    key = make_key(runtime.database, "write", rate=10**9)
    batches = [fuzzed(rng, f"u{n}") for n in range(80)]
    answers: dict[int, Any] = {}

    def send(port: int, number: int) -> int:
        status, _, said = post(port, key, json.dumps({"batch": batches[number][0]}).encode())
        if status == 202:
            answers[number] = said
        return status

    with process(runtime.database.libpq_url, runtime.redis_url, tmp_path) as (running, url):
        port = int(url.rsplit(":", 1)[1])
        assert send(port, 0) == 202
        with ThreadPoolExecutor(6) as pool:
            sent = [pool.submit(send, port, number) for number in range(len(batches))]
            while len(answers) < 20 + 15 * seed:
                time.sleep(0.002)
            running.kill()
            lost = [number for number, one in enumerate(sent) if one.result() == LOST]
    assert lost, "the process was killed while it answered"
    half = count_by_user(runtime)
    for number in answers:
        assert half.get(f"u{number}", 0) == batches[number][2], "what was answered is there"
    for number in lost:
        assert half.get(f"u{number}", 0) in (0, batches[number][2]), "a batch's events are there together, or not yet"

    with serving(runtime) as api, ThreadPoolExecutor(4) as pool:
        again = list(pool.map(lambda number: send(api.port, number), range(len(batches))))
    assert set(again) == {202}
    for number, (batch, refused, _) in enumerate(batches):
        said = answers[number]
        assert said["accepted"] == len(batch) - len(refused)
        assert {one["index"]: refused[one["index"]] in one["reason"] for one in said["rejected"]} == dict.fromkeys(
            refused, True
        )
    assert count_by_user(runtime) == {f"u{n}": events for n, (_, _, events) in enumerate(batches) if events}
    print(f"seed {seed}: {len(batches) - len(lost)} batches answered before the kill, {len(lost)} sent again")
