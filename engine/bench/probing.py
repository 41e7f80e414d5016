"""The clients of `horae bench freshness`: a shop's steady events, and probes that measure how soon one event shows.

A probe of kind `views` reads a user's recommendations, sends views of an item that is not among them, and asks until it
is. A probe of kind `purchase` buys the item of a user's planned push and looks at the store until that push is no
longer planned with that item. Both count from the answer 202 to the last event, and from the moment it was sent.
"""

from __future__ import annotations

import http.client
import json
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
from sqlalchemy import text

from engine.clock import monotonic
from engine.errors import Unavailable
from engine.store.database import Database

VIEWS = 3
LOOK_SECONDS = 0.01
"""Between two looks at the store or at recommendations: how finely freshness is measured."""

PATIENCE_SECONDS = 20.0
"""What does not show by then has not shown; less than the server keeps an idle connection."""

_PLANNED = text("SELECT id, item_id FROM pushes WHERE id = ANY(:ids) AND state = 'planned'")
_WAITING = text("SELECT DISTINCT user_id FROM unfolded_events WHERE user_id = ANY(:users)")


class Planned(NamedTuple):
    """A planned push: its id, its user's id and name, its item's id and name."""

    push: Any
    user_id: int
    user: str
    item_id: int
    item: str


@dataclass(frozen=True)
class Shown:
    """When one probe's event showed: seconds since the answer, since it was sent, and until it was in profiles
    (None: not looked at)."""

    answered: float
    sent: float
    folded: float | None = None


@dataclass
class Api:
    """A client's connection to the API."""

    port: int
    key: str
    _connection: http.client.HTTPConnection = field(init=False)

    def __post_init__(self) -> None:
        self._connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)

    def post(self, path: str, body: object) -> None:
        """Send a body that must be accepted whole. Raises Unavailable where it is not."""
        status, told = self._ask("POST", path, json.dumps(body).encode())
        if status != 202 or told.get("rejected"):
            raise Unavailable(f"the API answered {status}: {told}")

    def recommended(self, user: str, n: int) -> list[str]:
        """The items that are recommended. Raises Unavailable."""
        status, told = self._ask("GET", f"/v1/users/{user}/recommendations?n={n}&reasons=0", None)
        if status != 200:
            raise Unavailable(f"the API answered {status}: {told}")
        return [item["item"] for item in told["items"]]

    def close(self) -> None:
        """Hang up."""
        self._connection.close()

    def _ask(self, method: str, path: str, body: bytes | None) -> tuple[int, Any]:
        self._connection.request(method, path, body, {"Authorization": f"Bearer {self.key}"})
        answer = self._connection.getresponse()
        return answer.status, json.loads(answer.read())


def steadily(work: Callable[[int], object], per_second: float, until: float, first: int = 0, step: int = 1) -> None:
    """Call work(number) for first, first + step, … at number / per_second from now on, until the monotonic clock says
    `until`. What takes longer is made up for: the load does not go by the answers."""
    began = monotonic()
    number = first
    while (due := began + number / per_second) < until:
        time.sleep(max(0.0, due - monotonic()))
        work(number)
        number += step


def view_probe(api: Api, user: str, items: Sequence[str], rng: np.random.Generator) -> Shown:
    """Views of an item must recommend it. items: those that may be viewed. Raises Unavailable."""
    before = set(api.recommended(user, MOST_RECOMMENDED))
    item = next(name for name in (items[at] for at in rng.integers(0, len(items), 100)) if name not in before)
    for _ in range(VIEWS):
        sent = monotonic()
        api.post("/v1/track", {"userId": user, "event": "Product Viewed", "properties": {"product_id": item}})
    answered = monotonic()
    while item not in api.recommended(user, MOST_RECOMMENDED):
        if monotonic() > answered + PATIENCE_SECONDS:
            break
        time.sleep(LOOK_SECONDS)
    shown = monotonic()
    return Shown(shown - answered, shown - sent)


MOST_RECOMMENDED = 50


def purchase_probe(api: Api, watch: Watch, push: Planned) -> Shown:
    """A purchase of its item must end a planned push, or make it about another item. Raises Unavailable."""
    sent = monotonic()
    bought = {"product_id": push.item, "price": 9.5, "quantity": 1}
    api.post("/v1/track", {"userId": push.user, "event": "Order Completed", "properties": {"products": [bought]}})
    answered = monotonic()
    folded, shown = watch.until_changed(push)
    return Shown(shown - answered, shown - sent, folded - answered)


class Watch:
    """Looks at planned pushes for all probes at once, so that looking costs the same however many wait."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._asked: dict[Any, _Asked] = {}
        self._lock = threading.Lock()

    def until_changed(self, push: Planned) -> tuple[float, float]:
        """The monotonic instants at which the user's events were in the profiles, and at which the push was no longer
        planned with its item."""
        asked = _Asked(push)
        with self._lock:
            self._asked[push.push] = asked
        asked.done.wait(PATIENCE_SECONDS)
        with self._lock:
            self._asked.pop(push.push, None)
        now = monotonic()
        return asked.folded or now, asked.shown or now

    @contextmanager
    def looking(self) -> Iterator[Watch]:
        """Look, in a thread of its own, until the end."""
        ended = threading.Event()
        thread = threading.Thread(target=self._look, args=(ended,), name="bench-watch", daemon=True)
        thread.start()
        try:
            yield self
        finally:
            ended.set()
            thread.join()

    def _look(self, ended: threading.Event) -> None:
        with self._database.apart() as connection:
            while not ended.wait(LOOK_SECONDS):
                with self._lock:
                    asked = list(self._asked.values())
                if not asked:
                    continue
                users = [one.push.user_id for one in asked if one.folded is None]
                waiting = set(connection.execute(_WAITING, {"users": users}).scalars()) if users else set()
                given = {"ids": [one.push.push for one in asked]}
                planned = {(row.id, row.item_id) for row in connection.execute(_PLANNED, given)}
                now = monotonic()
                for one in asked:
                    if one.folded is None and one.push.user_id not in waiting:
                        one.folded = now
                    if (one.push.push, one.push.item_id) not in planned:
                        one.shown = now
                        one.done.set()


@dataclass
class _Asked:
    push: Planned
    folded: float | None = None
    shown: float | None = None
    done: threading.Event = field(default_factory=threading.Event)


@contextmanager
def connected(port: int, key: str) -> Iterator[Api]:
    """A client of the API."""
    with closing(Api(port, key)) as api:
        yield api
