"""From decisions to what clicks are learned from: pushes planned, sent and answered on a real store."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from random import Random

import numpy as np
import pytest
from sqlalchemy import text

from engine import clock
from engine.campaigns import store
from engine.campaigns.definition import Campaign
from engine.config import Settings
from engine.delivery.dispatch import dispatch_due
from engine.embedded import Addresses
from engine.features import schema
from engine.features.state import PUSHED
from engine.ingest.fold import fold_all
from engine.ingest.replay import replay
from engine.learning.pushes import Pushes, read_pushes
from engine.learning.scoring import load_scorer
from engine.localtime import local_hours
from engine.planning import receipt
from engine.runtime import Runtime
from engine.store.database import Database
from engine.store.partitions import ensure_ahead, ensure_partitions
from engine.store.tables import EVENT_TYPES
from tests.learning_store import ZONE, Shop
from tests.planning_shop import Workers

SENT = EVENT_TYPES["push_sent"]


@pytest.fixture(scope="module")
def sent(
    shared_database: Database, servers: Addresses, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Runtime, Shop]:
    """A shop that planned a campaign at its end, and sent all of its pushes in the day after."""
    redis_url = servers.redis_url.rsplit("/", 1)[0] + "/6"
    home = tmp_path_factory.mktemp("home")
    settings = Settings(home=home, database_url=shared_database.libpq_url, redis_url=redis_url)
    runtime = Runtime(settings, shared_database, redis_url, redis_url, redis_url)
    shop = Shop()
    shop.write(runtime.database)
    ensure_ahead(runtime.database, shop.end)
    definition = {
        "name": "daily",
        "class": "marketing",
        "schedule": {"once": f"{shop.end:%Y-%m-%dT%H:%M}", "zone": "UTC"},
        "items": "personalised",
        "horizon": "24h",
        "overflow": "drop",  # what passes is not moved into another window, of which no feature row is known
        "exploration": 0.2,
        "message": {"title": "Hello", "body": "{{ item.id }}"},
    }
    with runtime.database.begin() as connection:
        clock.start_virtual(connection, shop.end)
        store.create(connection, Campaign.model_validate(definition), shop.end)
    Workers(runtime).tick(shop.end)
    for quarter in range(1, 105):
        now = shop.end + timedelta(minutes=15 * quarter)
        with runtime.database.begin() as connection:
            clock.step_virtual(connection, now)
        if quarter % 2 == 0:
            dispatch_due(runtime, now, rng=Random(1))
    fold_all(runtime.database)
    return runtime, shop


def respond(
    database: Database, pushes: Pushes, kind: str, after: timedelta, *, named: bool, item: bool = False
) -> None:
    """The users of these pushes do something so long after them; named: it says which push it answers."""
    ensure_partitions(database, "events", datetime.fromtimestamp(pushes.at.min(), UTC).date(),
                      datetime.fromtimestamp(pushes.at.max(), UTC).date() + timedelta(days=9))  # fmt: skip
    with database.begin() as connection:
        for user, about, at in zip(pushes.user.tolist(), pushes.item.tolist(), pushes.at.tolist(), strict=True):
            instant = datetime.fromtimestamp(at, UTC) + after
            connection.execute(
                text(
                    "INSERT INTO events (key, user_id, item_id, event_type, occurred_at, received_at, push_id)"
                    " SELECT gen_random_uuid(), :user, CAST(:item AS bigint), :type, :at, :at, CASE WHEN :named THEN"
                    " (SELECT push_id FROM deliveries WHERE user_id = :user AND item_id = :about) END"
                ),
                {"user": user, "item": about if item else None, "about": about, "type": EVENT_TYPES[kind],
                 "at": instant, "named": named},
            )  # fmt: skip


@pytest.fixture
def answered(sent: tuple[Runtime, Shop]) -> Iterator[tuple[Runtime, Shop]]:
    """The same, for a test that adds responses, which are taken away again."""
    yield sent
    with sent[0].database.begin() as connection:
        connection.execute(text("DELETE FROM events WHERE received_at > :end"), {"end": sent[1].end})


def read(database: Database, now: datetime) -> Pushes:
    with database.snapshot() as snapshot:
        return read_pushes(snapshot, now, EVENT_TYPES["purchase"])


def test_what_was_decided_is_what_is_learned_from_and_a_replay_computes_it_again(sent: tuple[Runtime, Shop]) -> None:
    runtime, shop = sent
    pushes = read(runtime.database, shop.end + timedelta(days=9))
    with runtime.database.begin() as connection:
        delivered = connection.execute(text("SELECT count(*) FROM deliveries WHERE state = 'accepted'")).scalar_one()
        stored = connection.execute(text("SELECT * FROM decisions WHERE push_id IS NOT NULL")).all()

    assert len(pushes) == delivered > 70
    assert not pushes.labels.any()
    # profiles hold the pushes by now: the state as of the decision is folded anew from what came before it
    window_of = {row.user_id: row.window_start.timestamp() for row in stored}
    hour = local_hours(
        np.array([window_of[user] for user in pushes.user.tolist()]), np.zeros(len(pushes), np.int64), [ZONE]
    )
    (as_of,) = {receipt.decode(row.receipt).as_of for row in stored}
    assert {receipt.decode(row.receipt).regime for row in stored} == {"baseline"}
    with runtime.database.snapshot() as snapshot:
        scorer = load_scorer(snapshot.connection)
        instant = datetime.fromtimestamp(as_of, UTC)
        catalogue = scorer.catalogue(snapshot, instant)
        state = scorer.state(snapshot, (0, 1024), instant, catalogue)
    user, item = np.searchsorted(state.users, pushes.user), catalogue.positions(pushes.item)
    again = scorer.features(state, user, item, hour.astype(np.int64) // 3)
    assert np.array_equal(again, pushes.rows, equal_nan=True)


def test_pushes_that_were_sent_are_in_the_profiles_as_a_replay_of_the_log_finds_them(
    sent: tuple[Runtime, Shop],
) -> None:
    runtime, shop = sent
    now = shop.end + timedelta(days=2)

    assert replay(runtime.database, rebuild=False).differing == 0
    with runtime.database.snapshot() as snapshot:
        scorer = load_scorer(snapshot.connection)
        state = scorer.state(snapshot, (0, 1024), now, scorer.catalogue(snapshot, now))
        delivered: dict[int, int] = dict(
            snapshot.connection.execute(
                text("SELECT user_id, count(*) FROM deliveries WHERE state = 'accepted' GROUP BY 1")
            ).all()
        )
    of_user = dict(zip(schema.group_names("user"), state.user_block.T, strict=True))
    got = np.array([delivered.get(user, 0) for user in state.users.tolist()])
    assert np.array_equal(np.isfinite(of_user["user_pushes_7d"]), got > 0)
    assert np.nanmax(of_user["user_hours_since_push"]) < 48
    pushed = state.hours.rung == PUSHED
    assert state.hours.count[pushed].sum() == got.sum()
    assert set(np.unique(state.hours.user[pushed])) == set(np.flatnonzero(got))


def test_a_click_is_credited_to_the_push_it_names_or_the_last_before_it_within_a_day(
    answered: tuple[Runtime, Shop],
) -> None:
    runtime, shop = answered
    later = shop.end + timedelta(days=9)
    pushes = read(runtime.database, later)
    groups = [pushes.where(np.arange(len(pushes)) % 6 == number) for number in range(6)]
    hour, day = timedelta(hours=1), timedelta(days=1)
    respond(runtime.database, groups[0], "push_click", hour, named=True)
    respond(runtime.database, groups[1], "push_open", hour, named=False)
    respond(runtime.database, groups[2], "push_click", day + hour, named=False)  # too late
    respond(runtime.database, groups[3], "push_click", -hour, named=False)  # before it
    respond(runtime.database, groups[4], "purchase", 3 * day, named=False, item=True)

    found = read(runtime.database, later)

    group = np.arange(len(found)) % 6
    assert np.array_equal(found.clicked, group == 0)
    assert np.array_equal(found.opened, np.isin(group, [0, 1]))
    assert np.array_equal(found.labels, found.clicked)
    assert np.array_equal(found.converted, group == 4)
    assert found.matured.all()


def test_a_push_whose_day_is_not_over_teaches_nothing_yet(sent: tuple[Runtime, Shop]) -> None:
    runtime, shop = sent
    everything = read(runtime.database, shop.end + timedelta(days=9))
    half = float(np.median(everything.at))

    now = datetime.fromtimestamp(half, UTC) + timedelta(days=1)

    found = read(runtime.database, now)
    assert np.array_equal(found.at, everything.at[everything.at <= half])
    assert not found.matured.any()


def test_a_machine_that_opens_everything_at_once_and_rows_of_another_schema_are_left_out(
    answered: tuple[Runtime, Shop],
) -> None:
    runtime, shop = answered
    later = shop.end + timedelta(days=9)
    pushes = read(runtime.database, later)
    machine = pushes.where(np.zeros(25, np.int64))
    respond(runtime.database, machine, "push_open", timedelta(hours=1), named=False)
    flip = text(  # a bit of the schema's code
        "UPDATE decisions SET receipt = set_byte(receipt, 4, get_byte(receipt, 4) # 1)"
        " WHERE user_id = :user AND push_id IS NOT NULL"
    )
    with runtime.database.begin() as connection:
        connection.execute(flip, {"user": int(pushes.user[1])})

    found = read(runtime.database, later)

    with runtime.database.begin() as connection:
        connection.execute(flip, {"user": int(pushes.user[1])})

    assert (len(found), found.others) == (len(pushes) - 2, 2)
    assert not set(pushes.user[:2].tolist()) & set(found.user.tolist())
