"""Callbacks: what phones say of a push, proven by the push' own token; what is refused, and that it harms nothing."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import pytest
from sqlalchemy import text
from typer.testing import CliRunner

from engine.cli.app import app
from engine.delivery import callback_keys
from engine.delivery.callback_token import TOKEN_LIFE
from engine.delivery.callbacks import MOST_AT_ONCE, Answer, accept, summary
from engine.delivery.dispatch import dispatch_due
from engine.errors import BadInput
from engine.ingest.fold import fold_all
from engine.runtime import Runtime
from engine.store import counters
from tests.delivery_store import NOON, DeliveryShop, journal

LATER = NOON + timedelta(minutes=20)


@pytest.fixture
def payload(runtime: Runtime, shop: DeliveryShop) -> dict[str, str]:
    """What a phone has of a push to ada about bread that was delivered at NOON."""
    return sent(runtime, shop, "ada", item="bread")


def sent(runtime: Runtime, shop: DeliveryShop, user: str, **push: Any) -> dict[str, str]:
    if not shop.occurrences:
        shop.campaign()
    shop.push(user, **push)
    assert dispatch_due(runtime, NOON) == {"accepted": 1}
    line = journal(runtime.settings.journal_path)[-1]
    return {"push_id": line["push_id"], "callback_token": line["callback_token"]}


def events(runtime: Runtime) -> list[tuple[Any, ...]]:
    query = """
        SELECT t.name, u.external_id, i.external_id, e.occurred_at, e.push_id::text, e.value FROM events e
        JOIN event_types t ON t.id = e.event_type JOIN users u ON u.id = e.user_id LEFT JOIN items i ON i.id = e.item_id
        ORDER BY e.occurred_at, t.name"""
    with runtime.database.begin() as connection:
        return [tuple(row) for row in connection.execute(text(query))]


def one(runtime: Runtime, callback: object, now: Any = LATER) -> Answer:
    [answer] = accept(runtime.database, now, [callback])
    return answer


def test_each_word_becomes_an_event_of_the_push_and_of_its_user_once(
    runtime: Runtime, payload: dict[str, str], shop: DeliveryShop
) -> None:
    words = ("received", "opened", "clicked", "dismissed", "converted", "uninstalled")
    batch = [
        {**payload, "event": word, "at": (NOON + timedelta(minutes=n)).isoformat()} for n, word in enumerate(words)
    ]

    assert summary(accept(runtime.database, LATER, batch)) == {"accepted": 6}
    assert summary(accept(runtime.database, LATER, [*batch, batch[1]])) == {"repeated": 7}

    found = events(runtime)
    names = ["push_received", "push_open", "push_click", "push_dismiss", "purchase", "unsubscribe"]
    assert [(name, user, item) for name, user, item, *_ in found] == [(name, "ada", "bread") for name in names]
    assert {row[4] for row in found} == {payload["push_id"]}
    assert [row[3] for row in found] == [NOON + timedelta(minutes=n) for n in range(6)]
    with runtime.database.begin() as connection:
        counted = counters.read(connection)["callbacks"]
    assert (counted["opened:accepted"], counted["opened:repeated"]) == (1, 2)


def test_answers_reach_profiles_and_mark_their_users_for_a_new_plan(runtime: Runtime, payload: dict[str, str]) -> None:
    one(runtime, {**payload, "event": "opened"})
    one(runtime, {**payload, "event": "received"})

    fold_all(runtime.database)

    with runtime.database.begin() as connection:
        kinds = set(connection.execute(text("SELECT event_type FROM user_profiles")).scalars())
        rungs = set(connection.execute(text("SELECT rung FROM user_hour_profiles")).scalars())
        changed = connection.execute(text("SELECT count(*) FROM changed_users")).scalar_one()
    assert kinds == {7, 11, 12}, "opened, sent, received"
    assert rungs == {0, 3}, "an answer and a push sent; a phone's receipt says nothing of hours"
    assert changed == 1


def test_a_conversion_may_be_the_event_that_the_shops_own_log_brings(runtime: Runtime, payload: dict[str, str]) -> None:
    order = {**payload, "event": "converted", "id": "order-7", "item_id": "rye", "value": 3.5}
    assert one(runtime, order).status == "accepted"
    assert one(runtime, order).status == "repeated"
    assert one(runtime, {**order, "id": "order-8"}).status == "accepted"
    assert one(runtime, {**payload, "event": "converted", "event_type": "booking"}).status == "accepted"

    assert sorted((name, item, value) for name, _, item, _, _, value in events(runtime)) == [
        ("booking", "bread", None), ("purchase", "rye", 3.5), ("purchase", "rye", 3.5)
    ]  # fmt: skip


def test_what_is_refused_says_why_and_stops_no_other(
    runtime: Runtime, payload: dict[str, str], shop: DeliveryShop
) -> None:
    other = sent(runtime, shop, "bob")
    token = payload["callback_token"]
    with runtime.database.begin() as connection:
        key = callback_keys.signing_key(connection)
    stranger = uuid4()
    planned, ended = shop.push("cyd", send_at=NOON + timedelta(hours=1)), shop.push("dan", item="gone")
    shop.sql("UPDATE users SET consent = false WHERE external_id = 'dan'")
    shop.sql("UPDATE campaigns SET state = 'cancelled'")
    dispatch_due(runtime, NOON)
    opened = {**payload, "event": "opened"}
    cases: list[tuple[object, str]] = [
        ("opened", "malformed"),
        ({**opened, "push_id": "x"}, "malformed"),
        ({"push_id": payload["push_id"], "event": "opened"}, "malformed"),
        ({**opened, "event": None}, "malformed"),
        ({**opened, "event": ["opened"]}, "malformed"),
        ({**opened, "at": "yesterday"}, "malformed"),
        ({**opened, "at": "2026-03-02T12:00:00"}, "malformed"),
        ({**opened, "user_id": "a\x00b"}, "malformed"),
        ({**payload, "event": "converted", "value": float("nan")}, "malformed"),
        ({**payload, "event": "converted", "event_type": "push_click"}, "malformed"),
        ({**opened, "event": "opend"}, "unknown_event"),
        ({**opened, "callback_token": other["callback_token"]}, "forged"),
        ({**opened, "callback_token": ("A" if token[5] != "A" else "B").join((token[:5], token[6:]))}, "forged"),
        ({**opened, "callback_token": "€" * 28}, "forged"),
        ({**opened, "user_id": "bob"}, "foreign_push"),
        ({**opened, "push_id": str(stranger), "callback_token": key.sign(stranger, NOON)}, "unknown_push"),
        ({**opened, "push_id": str(ended), "callback_token": key.sign(ended, NOON)}, "not_delivered"),
        ({**opened, "at": (NOON - timedelta(hours=1)).isoformat()}, "before_delivery"),
        ({**opened, "at": (LATER + timedelta(minutes=6)).isoformat()}, "from_the_future"),
    ]
    answers = accept(runtime.database, LATER, [*(callback for callback, _ in cases), {**opened, "user_id": "ada"}])

    assert [answer.reason for answer in answers[:-1]] == [reason for _, reason in cases]
    assert all(answer.detail for answer in answers[:-1])
    assert answers[-1].status == "accepted"
    assert [row[0] for row in events(runtime)] == ["push_open"]
    assert planned in {row["push_id"] for row in shop.deliveries()} or planned in {row["id"] for row in shop.hot()}


def test_before_it_has_been_sent_no_push_has_answers_and_under_way_it_has(runtime: Runtime, shop: DeliveryShop) -> None:
    shop.campaign()
    with runtime.database.begin() as connection:
        key = callback_keys.signing_key(connection)

    def opened(push: UUID) -> Answer:
        return one(runtime, {"push_id": str(push), "callback_token": key.sign(push, NOON), "event": "opened"})

    assert opened(shop.push("u1")).reason == "before_delivery"
    assert opened(shop.push("u2", state="sending", lease_until=LATER)).status == "accepted"
    assert opened(shop.push("u3", in_doubt=True)).status == "accepted"


def test_phones_clocks_may_be_wrong_by_minutes(runtime: Runtime, payload: dict[str, str]) -> None:
    early, late = NOON - timedelta(minutes=4), LATER + timedelta(minutes=4)

    assert one(runtime, {**payload, "event": "opened", "at": early.isoformat()}).status == "accepted"
    assert one(runtime, {**payload, "event": "clicked", "at": late.isoformat()}).status == "accepted"

    assert [row[3] for row in events(runtime)] == [NOON, LATER]


def test_a_token_ends_and_its_key_may_be_changed_or_revoked(runtime: Runtime, payload: dict[str, str]) -> None:
    opened = {**payload, "event": "opened"}
    assert one(runtime, opened, NOON + TOKEN_LIFE).reason == "expired"

    with runtime.database.begin() as connection:
        assert callback_keys.rotate(connection) == 0
    assert one(runtime, opened).status == "accepted", "the old key still verifies"
    with runtime.database.begin() as connection:
        assert callback_keys.rotate(connection, revoke=True) == 2
    assert one(runtime, {**payload, "event": "clicked"}).reason == "forged"


def test_an_uninstalled_app_buries_the_device_it_names(
    runtime: Runtime, payload: dict[str, str], shop: DeliveryShop
) -> None:
    shop.device("ada", "hers", "fcm")
    shop.device("bob", "his", "fcm")

    for token in ("his", "hers"):
        one(runtime, {**payload, "event": "uninstalled", "device_token": token})

    with runtime.database.begin() as connection:
        found = connection.execute(text("SELECT token, dead_at, dead_reason FROM devices ORDER BY token")).all()
    assert [tuple(row) for row in found] == [("hers", LATER, "uninstalled"), ("his", None, None)]


def test_a_test_push_answers_and_counts_nowhere(runtime: Runtime, shop: DeliveryShop) -> None:
    from engine.delivery import trial

    shop.campaign(items={"kind": "none"})
    shop.user("ada")
    trial.send_test(runtime, NOON, "bread", trial.Wanted("ada"))
    line = journal(runtime.settings.journal_path)[-1]

    callback = {"push_id": line["push_id"], "callback_token": line["callback_token"], "event": "opened"}
    assert one(runtime, callback).status == "test"
    assert events(runtime) == []


def test_a_call_is_bounded(runtime: Runtime) -> None:
    with pytest.raises(BadInput, match="501 callbacks"):
        accept(runtime.database, NOON, [{}] * (MOST_AT_ONCE + 1))


def test_a_file_of_callbacks_is_ingested_with_what_was_refused(
    runtime: Runtime, payload: dict[str, str], shop: DeliveryShop, tmp_path: Path
) -> None:
    path = tmp_path / "callbacks.jsonl"
    lines = [json.dumps({**payload, "event": "opened", "at": NOON.isoformat()}), "not json", json.dumps({"push_id": 1})]
    path.write_text("\n".join(lines) + "\n")
    environment = {
        "HORAE_HOME": str(runtime.settings.home),
        "HORAE_DATABASE_URL": runtime.database.libpq_url,
        "HORAE_REDIS_URL": runtime.redis_url,
    }

    def horae(*arguments: str) -> Callable[..., Any]:
        return CliRunner().invoke(app, list(arguments), env=environment)  # type: ignore[return-value]

    result: Any = horae("callbacks", "ingest", str(path), "--json")

    assert result.exit_code == 1, result.output
    assert json.loads(result.stdout) == {"callbacks": 3, "accepted": 1, "refused.malformed": 2}
    again: Any = horae("callbacks", "ingest", str(path), "--json")
    assert json.loads(again.stdout)["repeated"] == 1
    refused = [json.loads(line) for line in (tmp_path / "callbacks.jsonl.rejects.jsonl").read_text().splitlines()]
    assert [(row["line"], row["reason"]) for row in refused] == [(2, "malformed"), (3, "malformed")]
    rotated: Any = horae("callbacks", "rotate-key", "--json")
    assert json.loads(rotated.stdout) == {"dropped": 0}
