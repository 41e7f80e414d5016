"""`horae bench freshness`: how soon an event shows in decisions, while the service is busy with many others.

`horae up` runs as a person would run it (API, workers, beat), on a shop whose campaign has planned a push for every
user. Clients send 200 events a second in small batches, a fifth of them about one item, and `horae ingest` takes in
files of history. Beside that single events are sent whose effect is known, see engine.bench.probing: views, after which
the viewed item is recommended, and a purchase of the item of a planned push, which ends that push or makes it about
another item. `freshness_p99_s` is the 99th percentile of the slower of the two, counted from the answer 202.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from datetime import timedelta
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from sqlalchemy import text

from engine.access.keys import create_key
from engine.bench.loads import END, RetailLoad, retail_load
from engine.bench.probing import (
    PATIENCE_SECONDS,
    Api,
    Planned,
    Shown,
    Watch,
    connected,
    purchase_probe,
    steadily,
    view_probe,
)
from engine.bench.report import Options, Report, Tell
from engine.bench.scratch import scratch_database
from engine.bench.service import Ingesting, running_service, wait_for
from engine.bench.shop import build_shop
from engine.campaigns import store
from engine.campaigns.definition import Campaign
from engine.clock import machine_now, monotonic
from engine.config import read_settings
from engine.errors import Unavailable
from engine.store.database import Database

USERS = 10_000
PLAN_SECONDS = 240.0
HOT_SHARE = 0.2
BOUNDS = {"freshness_p99_s": "<= 1", "not_shown": "= 0"}


@dataclass(frozen=True)
class Load:
    """What happens: seconds that are measured and seconds before; events a second, how many in a batch, from how many
    clients; probes a second of each kind, and from how many clients; rows of a file of history."""

    seconds: float = 90.0
    warming: float = 30.0
    events_per_s: float = 200.0
    batch: int = 10
    clients: int = 2
    probes_per_s: float = 3.0
    probers: int = 4
    file_rows: int = 1_000_000

    @property
    def probes(self) -> int:
        """How many users of each kind the probes need."""
        return int((self.seconds + self.warming) * self.probes_per_s) + self.probers


def run(options: Options, tell: Tell) -> Report:
    """Run the bench."""
    return measure(options.users or USERS, options.seed, Load(), tell)


def measure(users: int, seed: int, load: Load, tell: Tell) -> Report:
    """Measure a shop of `users` users. Raises Unavailable where the service does not start, plan or answer."""
    tell(f"making a shop of {users:,} users")
    end = END + timedelta(days=(machine_now() - END).days)
    with (
        tempfile.TemporaryDirectory(prefix="horae-bench-") as folder,
        scratch_database(read_settings(), "freshness") as database,
    ):
        home = Path(folder)
        made = build_shop(database, users, seed, tell, end)
        with database.begin() as connection:
            key = create_key(connection, "bench", ["read", "write"], author="bench", rate=10**9)
            store.create(connection, _campaign(), machine_now())
        shop = retail_load(users, seed)
        with running_service(home, database) as port:
            tell("planning a push for every user")
            pushes = _planned(database, seed)
            if len(pushes) < 2 * load.probes:
                raise Unavailable(f"{len(pushes)} pushes were planned, and {2 * load.probes} are needed")
            viewers = {push.user for push in pushes[: load.probes]}
            past = _History(shop, np.array([name in viewers for name in shop.user_ids.to_pylist()], bool)[shop.user])
            with Ingesting(home, database, lambda number: past.write(home, load.file_rows, number)) as files:
                tell(f"{load.events_per_s:.0f} events a second for {load.warming + load.seconds:.0f} s")
                shown, rates = _measured(database, _Clients(port, key, shop, load), pushes)
                files.check()
    figures = _figures(shown) | rates
    return Report("freshness", {"shop": made, "pushes": len(pushes), **asdict(load)}, figures, BOUNDS)


def _campaign() -> Campaign:
    """Due in 20 minutes: planned at once, and nothing of it is frozen or leaves while it is measured."""
    soon = (machine_now() + timedelta(minutes=20)).replace(microsecond=0)
    definition = {
        "name": "for-you",
        "class": "marketing",
        "schedule": {"once": soon.isoformat()},
        "horizon": "2d",
        "items": "personalised",
        "message": {"title": "For you", "body": "{{ item.title }}"},
    }
    return Campaign.model_validate(definition)


_PUSHES = text("""
    SELECT p.id, p.user_id, u.external_id, p.item_id, i.external_id
    FROM pushes p JOIN users u ON u.id = p.user_id JOIN items i ON i.id = p.item_id
    WHERE p.state = 'planned' ORDER BY (
        SELECT count(*) FROM user_item_profiles o WHERE o.slot = u.slot AND o.user_id = u.id
    ) > :own, hashtext(u.external_id || :seed)
""")

OWN_ITEMS = 10
"""Of users whose views are followed, at most (item, type) pairs: an item viewed three times is then surely among the
best of their own."""


def _planned(database: Database, seed: int) -> list[Planned]:
    """The planned pushes, once the workers have published them: first those of users with OWN_ITEMS, by chance."""

    def published() -> bool:
        with database.begin() as connection:
            return bool(connection.execute(text("SELECT count(*) FROM runs WHERE state = 'published'")).scalar_one())

    wait_for(published, PLAN_SECONDS, lambda: "no plan was published")
    with database.begin() as connection:
        return [Planned(*row) for row in connection.execute(_PUSHES, {"seed": str(seed), "own": OWN_ITEMS})]


@dataclass(frozen=True)
class _History:
    """Events of the shop's users from a month ago until two days ago, too old to change what is planned. without:
    bool, the shop's events whose users have none of it: an item that they view must be among the best of their own."""

    shop: RetailLoad
    without: np.ndarray

    def write(self, home: Path, rows: int, number: int) -> Path:
        """A file of so many."""
        shop, file = self.shop, home / f"history-{number}.parquet"
        rng = np.random.default_rng([shop.seed, 91, number])
        at = rng.choice(np.flatnonzero(~self.without), rows)
        last = np.datetime64((machine_now() - timedelta(days=2)).replace(tzinfo=None), "us")
        instants = np.sort(last - rng.integers(0, 28 * 86_400_000_000, rows))
        item, value = shop.item[at], shop.value[at]
        columns = {
            "user_id": shop.user_ids.take(pa.array(shop.user[at])),
            "item_id": shop.item_ids.take(pa.array(item, mask=item < 0)),
            "event_type": pa.array(shop.event_type[at], pa.string()),
            "occurred_at": pa.array(instants, pa.timestamp("us", "UTC")),
            "value": pa.array(value, mask=np.isnan(value)),
        }
        pq.write_table(pa.table(columns), file)
        return file


# --- the clients -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Clients:
    port: int
    key: str
    shop: RetailLoad
    load: Load

    def send_steadily(self, number: int, users: Sequence[str], until: float) -> int:
        """Send batches as client `number` does; how many events."""
        load, rng = self.load, np.random.default_rng([self.shop.seed, 92, number])
        names, items = self.shop.event_type, self.shop.item_ids
        hot = items[0].as_py()
        sent = 0

        def batch(_number: int) -> None:
            nonlocal sent
            at = rng.integers(0, len(self.shop.user), load.batch)
            messages = []
            for row in at.tolist():
                about = int(self.shop.item[row])
                item = hot if rng.random() < HOT_SHARE else items[about].as_py() if about >= 0 else None
                properties = {} if item is None else {"item_id": item}
                user = users[int(rng.integers(len(users)))]
                messages.append({"type": "track", "userId": user, "event": names[row], "properties": properties})
            api.post("/v1/batch", {"batch": messages})
            sent += len(messages)

        with connected(self.port, self.key) as api:
            steadily(batch, load.events_per_s / load.batch, until, number, load.clients)
        return sent

    def probe(self, kind: str, number: int, watch: Watch, pushes: Sequence[Planned], until: float) -> list[_Timed]:
        """Probe as client `number` of this kind does: each push, or its user, once."""
        load, rng = self.load, np.random.default_rng([self.shop.seed, 93, number])
        items = self.shop.item_ids.to_pylist()
        found: list[_Timed] = []

        def one(at: int) -> None:
            began = monotonic()
            found.append(_Timed(began, self._probed(kind, api, watch, pushes[at], (items, rng))))

        with connected(self.port, self.key) as api:
            steadily(one, load.probes_per_s, until, number, load.probers)
        return found

    @staticmethod
    def _probed(
        kind: str, api: Api, watch: Watch, push: Planned, goods: tuple[Sequence[str], np.random.Generator]
    ) -> Shown:
        return view_probe(api, push.user, *goods) if kind == "views" else purchase_probe(api, watch, push)


@dataclass(frozen=True)
class _Timed:
    began: float
    shown: Shown


KINDS = ("views", "purchase")


def _measured(
    database: Database, clients: _Clients, pushes: Sequence[Planned]
) -> tuple[dict[str, list[Shown]], dict[str, float]]:
    """What the probes of each kind saw, and the rates at which events and rows of files were taken meanwhile."""
    load = clients.load
    own = {kind: pushes[number * load.probes : (number + 1) * load.probes] for number, kind in enumerate(KINDS)}
    probed = {push.user for some in own.values() for push in some}
    others = [name for name in clients.shop.user_ids.to_pylist() if name not in probed]
    start = monotonic() + load.warming
    until = start + load.seconds
    with Watch(database).looking() as watch, ThreadPoolExecutor(load.clients + 2 * load.probers) as threads:
        senders = [threads.submit(clients.send_steadily, number, others, until) for number in range(load.clients)]
        probers = {
            kind: [threads.submit(clients.probe, kind, number, watch, some, until) for number in range(load.probers)]
            for kind, some in own.items()
        }
        time.sleep(max(0.0, start - monotonic()))
        rows = _history_rows(database)
        time.sleep(max(0.0, until - monotonic()))
        rows = _history_rows(database) - rows
        sent = sum(sender.result() for sender in senders)
        found = {
            kind: [one.shown for each in some for one in each.result() if one.began >= start]
            for kind, some in probers.items()
        }
    taken = monotonic() - start + load.warming
    return found, {"events_per_s": sent / taken, "file_rows_per_s": rows / load.seconds}


def _history_rows(database: Database) -> int:
    with database.begin() as connection:
        old = text("SELECT count(*) FROM events WHERE received_at - occurred_at > interval '1 day'")
        rows: int = connection.execute(old).scalar_one()
    return rows


def _figures(found: Mapping[str, Sequence[Shown]]) -> dict[str, float]:
    figures: dict[str, float] = {}
    for kind, shown in found.items():
        for share in (50, 95, 99):
            figures[f"{kind}_p{share}_s"] = float(np.percentile([one.answered for one in shown], share))
        figures[f"{kind}_p99_from_sending_s"] = float(np.percentile([one.sent for one in shown], 99))
        folded = [one.folded for one in shown if one.folded is not None]
        if folded:
            figures |= {f"{kind}_folded_p{share}_s": float(np.percentile(folded, share)) for share in (50, 99)}
        figures[f"{kind}_probes"] = len(shown)
    every = [one.answered for shown in found.values() for one in shown]
    worst = max(figures[f"{kind}_p99_s"] for kind in found)
    return {"freshness_p99_s": worst, "not_shown": sum(took >= PATIENCE_SECONDS for took in every), **figures}
