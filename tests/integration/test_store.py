"""The database's transactions, snapshots, clocks and partitions, on a real PostgreSQL."""

from __future__ import annotations

import threading
from datetime import UTC, date, datetime, timedelta

import pytest
from sqlalchemy import text

from engine import clock
from engine.errors import BadInput, StoreUnavailable
from engine.ingest.erased import erased_among, lock_erasure, name_hash
from engine.store.bulk import fetch
from engine.store.database import Database
from engine.store.partitions import ensure_ahead, ensure_partitions
from engine.store.slots import shard_ranges, slot_of
from engine.store.tables import SLOTS
from tests.running import wait_for


def test_a_database_that_does_not_answer_is_a_clear_error():
    database = Database("postgresql://nobody@127.0.0.1:1/none")
    with pytest.raises(StoreUnavailable, match=r"127\.0\.0\.1:1/none does not answer"), database.begin():
        pass


def test_a_password_never_shows_in_the_error():
    database = Database("postgresql://nobody:hush@127.0.0.1:1/none")
    with pytest.raises(StoreUnavailable) as caught, database.begin():
        pass
    assert "hush" not in str(caught.value)


def test_a_transaction_that_raises_leaves_nothing(database):
    def fail() -> None:
        with database.begin() as connection:
            connection.execute(text("INSERT INTO ticks (name, at) VALUES ('x', now())"))
            raise RuntimeError("stop")

    with pytest.raises(RuntimeError):
        fail()
    with database.begin() as connection:
        assert connection.execute(text("SELECT count(*) FROM ticks")).scalar_one() == 0


def test_intake_that_waits_for_an_erasure_sees_whom_it_erased(database):
    found: list[set[str]] = []

    def take_in() -> None:
        with database.begin() as connection:
            found.append(erased_among(connection, ["gone", "there"]))

    waiting = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted"
    intake = threading.Thread(target=take_in)
    with database.begin() as connection:
        lock_erasure(connection)
        intake.start()
        wait_for(lambda: fetch(connection, waiting) == [(1,)], "the intake to wait")
        secret = bytes(connection.execute(text("SELECT hash_key FROM workspace")).scalar_one())
        gone = {"hash": name_hash(secret, "gone")}
        connection.execute(text("INSERT INTO erased_users (name_hash, pseudonym) VALUES (:hash, -1)"), gone)
    intake.join(30)
    assert found == [{"gone"}]


def test_arrow_reads_see_the_snapshot_of_their_transaction(database):
    with database.snapshot() as snapshot:
        before = snapshot.connection.execute(text("SELECT count(*) FROM ticks")).scalar_one()
        with database.begin() as connection:
            connection.execute(text("INSERT INTO ticks (name, at) VALUES ('later', now())"))
        seen = snapshot.arrow("SELECT count(*) AS n FROM ticks")["n"][0].as_py()

    assert (before, seen) == (0, 0)


def test_the_server_notices_that_a_client_is_gone_in_seconds(database):
    with database.begin() as connection:
        setting = text("SELECT current_setting('client_connection_check_interval'), current_setting('timezone')")
        assert tuple(connection.execute(setting).one()) == ("10s", "UTC")
        idle = connection.execute(text("SELECT current_setting('tcp_keepalives_idle')")).scalar_one()
        assert idle == ("10" if database.url.host else "0"), "keepalives are TCP's, not a socket's"


def test_business_time_is_the_machines_until_it_is_made_virtual(database):
    start = datetime(2017, 10, 2, 4, tzinfo=UTC)
    with database.begin() as connection:
        assert abs(clock.business_now(connection) - clock.machine_now()) < timedelta(minutes=1)
        clock.start_virtual(connection, start)
        assert clock.business_now(connection) == start


@pytest.mark.parametrize("minutes", [-1, 16])
def test_the_virtual_clock_steps_forward_by_a_quarter_of_an_hour_at_most(database, minutes):
    start = datetime(2017, 10, 2, 4, tzinfo=UTC)
    with database.begin() as connection:
        clock.start_virtual(connection, start)
        clock.step_virtual(connection, start + timedelta(minutes=15))
        with pytest.raises(BadInput, match="cannot step"):
            clock.step_virtual(connection, start + timedelta(minutes=15 + minutes))


def test_a_clock_that_is_not_virtual_cannot_be_stepped(database):
    with database.begin() as connection, pytest.raises(BadInput):
        clock.step_virtual(connection, clock.machine_now())


def test_partitions_are_made_once_however_many_make_them(database):
    made: list[str] = []
    threads = [
        threading.Thread(
            target=lambda: made.extend(ensure_partitions(database, "events", date(2017, 1, 15), date(2017, 3, 2)))
        )
        for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert sorted(made) == ["events_2017_01", "events_2017_02", "events_2017_03"]


def test_partitions_ahead_cover_the_coming_week(database):
    now = datetime(2026, 12, 30, 12, tzinfo=UTC)
    ensure_ahead(database, now)
    with database.begin() as connection:
        for day in ("2026-12-29", "2027-01-06"):
            connection.execute(
                text(
                    "INSERT INTO decisions (date, occurrence_id, user_id, revision, run_id, shard, arm, reason)"
                    " VALUES (:day, 1, 1, 0, 1, 0, 0, 0)"
                ),
                {"day": day},
            )
    assert ensure_ahead(database, now) == []


def test_slots_are_fixed_and_shards_cover_them_all():
    assert slot_of("user-1") == slot_of("user-1")
    assert {slot_of(f"u{n}") for n in range(20_000)} == set(range(SLOTS))
    for width in (1, 64, 100, 1024):
        covered = [slot for start, stop in shard_ranges(width) for slot in range(start, stop)]
        assert covered == list(range(SLOTS))
