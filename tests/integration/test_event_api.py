"""The event API over HTTP: Segment's messages, items, devices, callbacks; retries, bad messages, limits, kills."""

from __future__ import annotations

import gzip
import http.client
import json
import threading
import time
from contextlib import closing
from datetime import UTC, datetime, timedelta
from uuid import uuid4

import hypothesis.strategies as st
import pytest
from hypothesis import given, settings
from segment.analytics.client import Client
from sqlalchemy import text

from engine.clock import machine_now
from engine.delivery.dispatch import dispatch_due
from engine.ingest.fold import fold_all
from tests.api_server import Api, make_key, module_runtime, process, serving
from tests.delivery_store import NOON, DeliveryShop, journal
from tests.running import wait_for


@pytest.fixture(scope="module")
def api(shared_database, servers, tmp_path_factory):
    redis_url = servers.redis_url.rsplit("/", 1)[0] + "/8"
    runtime = module_runtime(shared_database, redis_url, tmp_path_factory.mktemp("api"), api_concurrency=8)
    with serving(runtime) as running:
        yield running


@pytest.fixture(scope="module")
def key(api: Api) -> str:
    return make_key(api.runtime.database, "write", rate=1_000_000)


@pytest.fixture
def name() -> str:
    """A user of this test's own, in a store that the module shares."""
    return f"u{uuid4().hex[:12]}"


EVENTS = """
    SELECT t.name AS type, i.external_id AS item, e.value, e.quantity, e.occurred_at AS at, e.attributes
    FROM events e JOIN event_types t ON t.id = e.event_type JOIN users u ON u.id = e.user_id
    LEFT JOIN items i ON i.id = e.item_id WHERE u.external_id = :user ORDER BY e.occurred_at, e.value"""


def events(api: Api, user: str):
    return query(api.runtime.database, EVENTS, user=user)


def query(database, sql: str, **given):
    with database.begin() as connection:
        return connection.execute(text(sql), given).all()


def iso(at: datetime) -> str:
    return at.isoformat()


def test_a_tracked_event_is_durable_and_queued_when_it_is_answered(api: Api, key: str, name: str) -> None:
    reply = api.ask("/v1/track", {"userId": name, "event": "Test Drive", "properties": {"sku": "car", "seats": 5}}, key)

    assert (reply.status, reply.json) == (202, {"success": True})
    [event] = events(api, name)
    assert (event.type, event.item, event.attributes) == ("Test Drive", "car", {"seats": 5})
    assert abs(event.at - machine_now()) < timedelta(minutes=1)
    waiting = "SELECT count(*) FROM unfolded_events e JOIN users u ON u.id = e.user_id WHERE external_id = :user"
    assert query(api.runtime.database, waiting, user=name)[0][0] == 1


def test_commerce_events_become_ours_and_an_order_one_purchase_per_product(api: Api, key: str, name: str) -> None:
    now = machine_now()
    tracked = [
        ("Application Opened", {}),
        ("Products Searched", {"query": "milk"}),
        ("Product Viewed", {"product_id": "milk", "price": 1.5}),
        ("product added", {"sku": "milk", "quantity": 2, "price": 1.5}),
        (
            "Order Completed",
            {
                "order_id": "o1",
                "total": 9.0,
                "products": [
                    {"product_id": "milk", "price": 1.5, "quantity": 2},
                    {"product_id": "bread", "price": 6, "quantity": 1, "brand": "Own"},
                ],
            },
        ),
        ("view", {"item_id": "bread"}),
    ]
    batch = [
        {"type": "track", "userId": name, "event": word, "properties": held, "messageId": f"{name}{n}",
         "timestamp": iso(now - timedelta(minutes=10 - n))}
        for n, (word, held) in enumerate(tracked)
    ]  # fmt: skip
    assert api.ask("/v1/batch", {"batch": batch}, key).json == {"success": True, "accepted": 6, "rejected": []}

    found = [(event.type, event.item, event.value, event.quantity) for event in events(api, name)]
    assert found == [
        ("app_open", None, None, None),
        ("search", None, None, None),
        ("view", "milk", 1.5, None),
        ("add_to_cart", "milk", 3.0, 2),
        ("purchase", "milk", 3.0, 2),
        ("purchase", "bread", 6.0, 1),
        ("view", "bread", None, None),
    ]
    assert events(api, name)[5].attributes == {"brand": "Own", "order_id": "o1", "price": 6}


def test_clocks_that_are_wrong_are_corrected_by_when_the_message_was_sent(api: Api, key: str, name: str) -> None:
    wrong = datetime(2031, 5, 1, 12, tzinfo=UTC)
    message = {"type": "track", "userId": name, "event": "e", "timestamp": iso(wrong - timedelta(hours=2))}

    assert api.ask("/v1/batch", {"batch": [message], "sentAt": iso(wrong)}, key).json["accepted"] == 1

    [event] = events(api, name)
    assert abs(event.at - (machine_now() - timedelta(hours=2))) < timedelta(minutes=1)


def test_a_retry_is_the_same_event_and_its_first_acceptance_stands(api: Api, key: str, name: str) -> None:
    now = machine_now()
    with_id = {"type": "track", "userId": name, "event": "a", "messageId": f"m-{name}", "timestamp": iso(now)}
    without = {"type": "track", "userId": name, "event": "b", "timestamp": iso(now)}
    seen = []
    for delay in (1, 3_600):
        sent = {"batch": [with_id, without], "sentAt": iso(now + timedelta(seconds=delay))}
        assert api.ask("/v1/batch", sent, key).json["accepted"] == 2
        seen.append(events(api, name))

    assert len(seen[0]) == 2
    assert seen[1] == seen[0]


def test_what_has_neither_an_id_nor_a_time_happens_each_time(api: Api, key: str, name: str) -> None:
    for _ in range(2):
        api.ask("/v1/track", {"userId": name, "event": "again"}, key)

    assert len(events(api, name)) == 2


def test_history_is_taken_as_it_is(api: Api, key: str, name: str) -> None:
    at = datetime(2024, 2, 29, 8, tzinfo=UTC)
    message = {"type": "track", "userId": name, "event": "e", "timestamp": iso(at), "sentAt": iso(machine_now())}

    assert api.ask("/v1/import", {"batch": [message]}, key).json["accepted"] == 1

    assert [event.at for event in events(api, name)] == [at]


def test_people_are_what_identify_says_and_where_their_device_is(api: Api, key: str, name: str) -> None:
    traits = {"country": "DE", "consent": True, "email": "x@example.org", "preferences": {"topics": {"deals": False}}}
    told = {"userId": name, "traits": traits, "context": {"timezone": "Europe/Berlin"}, "messageId": f"i-{name}"}
    look = "SELECT timezone, tz_source, country, consent, attributes, stub FROM users WHERE external_id = :user"

    assert api.ask("/v1/identify", told, key).status == 202
    first = query(api.runtime.database, look, user=name)
    api.ask("/v1/identify", {"userId": name, "traits": {"country": "FR"}}, key)
    assert api.ask("/v1/identify", told, key).status == 202  # a retry that comes late changes nothing back

    assert [tuple(row) for row in first] == [("Europe/Berlin", "device", "DE", True, {"email": "x@example.org"}, False)]
    assert query(api.runtime.database, look, user=name)[0].country == "FR"
    api.ask("/v1/identify", {"userId": name, "traits": {"timezone": "Asia/Tokyo"}}, key)
    api.ask("/v1/track", {"userId": name, "event": "e", "context": {"timezone": "Europe/Paris"}}, key)
    assert tuple(query(api.runtime.database, look, user=name)[0])[:2] == ("Asia/Tokyo", "explicit")


def test_a_device_that_travels_moves_its_users_hours(api: Api, key: str, name: str) -> None:
    hour = "SELECT p.* FROM user_hour_profiles p JOIN users u ON u.id = p.user_id WHERE u.external_id = :user"
    at = {"timestamp": iso(machine_now() - timedelta(hours=1))}
    api.ask("/v1/track", {"userId": name, "event": "view", "context": {"timezone": "Europe/Berlin"}, **at}, key)
    fold_all(api.runtime.database)
    before = query(api.runtime.database, hour, user=name)
    api.ask("/v1/track", {"userId": name, "event": "x", "context": {"timezone": "Asia/Tokyo"}}, key)
    after = query(api.runtime.database, hour, user=name)

    assert len(before) == len(after) == 1
    assert tuple(before[0]) != tuple(after[0])
    assert query(api.runtime.database, "SELECT timezone FROM users WHERE external_id = :user", user=name) == [
        ("Asia/Tokyo",)
    ]


def test_who_was_anonymous_is_known_by_both_names_from_then_on(api: Api, key: str, name: str) -> None:
    someone = f"anon-{name}"
    batch = [
        {"type": "track", "anonymousId": someone, "event": "before"},
        {"type": "identify", "userId": name, "anonymousId": someone},
        {"type": "track", "anonymousId": someone, "event": "in the same batch"},
        {"type": "alias", "previousId": f"old-{name}", "userId": name},
    ]
    assert api.ask("/v1/batch", {"batch": batch}, key).json["accepted"] == 4
    api.ask("/v1/screen", {"anonymousId": someone, "name": "Home", "properties": {"tab": 1}}, key)
    api.ask("/v1/page", {"anonymousId": f"old-{name}", "name": "Start"}, key)
    api.ask("/v1/group", {"userId": name, "groupId": 7, "traits": {"plan": "pro"}}, key)

    assert [event.type for event in events(api, someone)] == ["before"]
    assert [(e.type, e.attributes) for e in events(api, name)] == [
        ("in the same batch", None),
        ("screen", {"name": "Home", "tab": 1}),
        ("page", {"name": "Start"}),
        ("group", {"group_id": "7", "plan": "pro"}),
    ]


BAD = [
    (None, "not an object"),
    ({"type": "trak", "userId": "u"}, "type"),
    ({"type": "track", "event": "e"}, "both missing"),
    ({"type": "track", "userId": "u"}, "event"),
    ({"type": "track", "userId": {"a": 1}, "event": "e"}, "userId"),
    ({"type": "track", "userId": "u\0", "event": "e"}, "NUL"),
    ({"type": "track", "userId": "u" * 600, "event": "e"}, "userId"),
    ({"type": "track", "userId": "u", "event": "e" * 200}, "event_type"),
    ({"type": "track", "userId": "u", "event": "e", "timestamp": "yesterday"}, "ISO 8601"),
    ({"type": "track", "userId": "u", "event": "e", "timestamp": "2999-01-01T00:00:00Z"}, "future"),
    ({"type": "track", "userId": "u", "event": "e", "timestamp": "1999-01-01T00:00:00Z"}, "before 2000"),
    ({"type": "track", "userId": "u", "event": "e", "properties": {"value": "much"}}, "not a number"),
    ({"type": "track", "userId": "u", "event": "e", "properties": {"push_id": "p"}}, "UUID"),
    ({"type": "track", "userId": "u", "event": "e", "properties": {"x": "a\0b"}}, "NUL"),
    ({"type": "track", "userId": "u", "event": "e", "properties": {"x": "y" * 40_000}}, "larger"),
    ({"type": "track", "userId": "u", "event": "e", "properties": json.loads("[" * 40 + "]" * 40)}, "not an object"),
    ({"type": "identify", "userId": "u", "traits": {"timezone": "Mars/Olympus"}}, "timezone"),
    ({"type": "alias", "userId": "u"}, "previousId"),
]


def test_bad_messages_are_named_with_reasons_and_harm_no_other(api: Api, key: str, name: str) -> None:
    batch: list = []
    for bad, _ in BAD:
        batch += [bad, {"type": "track", "userId": name, "event": "good"}]

    reply = api.ask("/v1/batch", {"batch": batch}, key).json

    assert reply["accepted"] == len(BAD) == len(events(api, name))
    assert [one["index"] for one in reply["rejected"]] == list(range(0, len(batch), 2))
    for one, (_, said) in zip(reply["rejected"], BAD, strict=True):
        assert said in one["reason"]
    assert query(api.runtime.database, "SELECT 1 FROM users WHERE external_id = 'u'") == []
    assert api.ask("/v1/track", BAD[3][0], key).status == 400


def test_what_only_the_store_can_refuse_harms_no_other_message(api: Api, key: str, name: str) -> None:
    """A thousand new event types are too many; the message that brings one too many is refused, no other."""
    with api.runtime.database.begin() as connection:
        fill = "INSERT INTO event_types SELECT n, 'filler ' || n FROM generate_series(20000, 21000) n"
        connection.execute(text(fill))
    batch = [{"type": "track", "userId": name, "event": kind} for kind in ("view", "one too many", "purchase")]

    reply = api.ask("/v1/batch", {"batch": batch}, key).json
    with api.runtime.database.begin() as connection:
        connection.execute(text("DELETE FROM event_types WHERE id >= 20000"))

    assert (reply["accepted"], [one["index"] for one in reply["rejected"]]) == (2, [1])
    assert {event.type for event in events(api, name)} == {"view", "purchase"}


def test_bodies_beyond_the_limits_are_refused_before_they_are_held(api: Api, key: str) -> None:
    bomb = gzip.compress(b'{"batch": [' + b" " * 50_000_000 + b"]}")
    deep = b'{"userId":"u","event":"e","properties":' + b'{"a":' * 60 + b"1" + b"}" * 61
    packed = {"Content-Encoding": "gzip"}

    assert api.ask("/v1/batch", b" " * 600_000, key).status == 413
    assert api.ask("/v1/batch", bomb, key, packed).status == 413
    assert api.ask("/v1/batch", gzip.compress(b'{"batch": []}')[:-9], key, packed).status == 400
    assert api.ask("/v1/batch", b"{}", key, packed).status == 400
    assert api.ask("/v1/batch", b"{}", key, {"Content-Encoding": "br"}).status == 415
    assert api.ask("/v1/batch", b"{", key).status == 400
    assert api.ask("/v1/batch", b"[]", key).status == 400
    assert "deep" in api.ask("/v1/track", deep, key).json["title"]


def test_who_comes_while_the_house_is_full_is_sent_away_at_once(api: Api, key: str) -> None:
    held = [http.client.HTTPConnection("127.0.0.1", api.port, timeout=30) for _ in range(8)]
    for connection in held:  # a body that is announced and does not come
        connection.putrequest("POST", "/v1/batch")
        connection.putheader("Authorization", f"Bearer {key}")
        connection.putheader("Content-Length", "20")
        connection.endheaders()
    until = time.monotonic() + 10
    while (reply := api.ask("/metrics")).status != 503 and time.monotonic() < until:
        time.sleep(0.02)

    assert (reply.status, reply.headers["Retry-After"]) == (503, "1")
    assert api.ask("/healthz").status == 200
    for connection in held:
        connection.close()
    while api.ask("/metrics").status == 503:
        time.sleep(0.02)


def test_items_and_devices_are_created_and_changed(api: Api, key: str, name: str) -> None:
    items = [{"item_id": f"i-{name}", "title": "Tea", "price": 3.5, "taste": "smoky"}, {"title": "nothing"}, 7]
    assert api.ask("/v1/items", {"items": items}, key).json == {
        "success": True, "created": 1, "updated": 0, "unchanged": 0,
        "rejected": [{"index": 1, "reason": "item_id: missing"}, {"index": 2, "reason": "not an object"}],
    }  # fmt: skip
    assert api.ask("/v1/items", {"item_id": f"i-{name}", "price": 3.0}, key).json["updated"] == 1
    look = "SELECT title, price, attributes FROM items WHERE external_id = :item"
    assert [tuple(row) for row in query(api.runtime.database, look, item=f"i-{name}")] == [
        ("Tea", 3.0, {"taste": "smoky"})
    ]

    device = {"user_id": name, "token": f"t-{name}", "platform": "android"}
    reply = api.ask("/v1/devices", [device, {**device, "platform": "abacus"}], key).json
    assert (reply["created"], [one["index"] for one in reply["rejected"]]) == (1, [1])
    look = "SELECT gateway, token FROM devices JOIN users u ON u.id = user_id WHERE u.external_id = :user"
    assert [tuple(row) for row in query(api.runtime.database, look, user=name)] == [("fcm", f"t-{name}")]


def test_phones_answer_with_the_token_of_their_push_and_nobody_else_can(runtime) -> None:
    shop = DeliveryShop(runtime.database)
    shop.campaign()
    shop.push("ada", item="bread")
    with runtime.database.begin() as connection:
        connection.execute(text("UPDATE workspace SET business_now = :at"), {"at": NOON + timedelta(minutes=5)})
    assert dispatch_due(runtime, NOON) == {"accepted": 1}
    line = journal(runtime.settings.journal_path)[-1]
    token = line["callback_token"]
    key = make_key(runtime.database, "write")
    with serving(runtime) as api:
        path = f"/v1/callbacks/{line['push_id']}"
        asked = api.ask(path, headers={"Origin": "https://shop.example"}, method="OPTIONS")
        assert (asked.status, asked.headers["Access-Control-Allow-Origin"]) == (204, "*")
        assert api.ask(path, {"event": "opened", "callback_token": token}).json["status"] == "accepted"
        assert api.ask(path, {"event": "opened", "callback_token": token}).json["status"] == "repeated"
        forged = api.ask(path, {"event": "clicked", "callback_token": token[:-2] + "xx"})
        assert (forged.status, forged.json["reason"]) == (400, "forged")
        foreign = api.ask(f"/v1/callbacks/{uuid4()}", {"event": "clicked", "callback_token": token})
        assert (foreign.status, foreign.json["reason"]) == (400, "forged")
        assert api.ask(path, b" " * 20_000).status == 413
        assert api.ask("/v1/callbacks", {"callbacks": []}).status == 401
        batch = [{"push_id": line["push_id"], "callback_token": token, "event": "clicked"}, 5]
        answers = api.ask("/v1/callbacks", {"callbacks": batch}, key).json["answers"]
        assert [one["status"] for one in answers] == ["accepted", "refused"]
    found = query(runtime.database, "SELECT event_type FROM events ORDER BY 1")
    assert [row[0] for row in found] == [7, 8]


def test_segments_own_python_client_works_unmodified(servers, database, redis_url, tmp_path, name: str) -> None:
    home = tmp_path / "home"
    home.mkdir()
    key = make_key(database, "write")
    failed: list = []
    with process(database.libpq_url, redis_url, home) as (_, url):
        for packed in (False, True):
            client = Client(key, host=url, gzip=packed, on_error=lambda error, _: failed.append(error), max_retries=1)
            client.identify(name, {"country": "DE", "consent": True}, context={"timezone": "Europe/Berlin"})
            for number in range(150):
                client.track(
                    name, "Product Viewed", {"product_id": f"p{number % 7}", "price": number}, anonymous_id="an"
                )
            client.page(name, "Shop", "Start", {"url": "/"})
            client.screen(name, "Shop", "Home")
            client.group(name, "g1", {"plan": "pro"})
            client.alias("before", name)
            client.flush()
            client.join()
    assert failed == []
    counted = "SELECT t.name, count(*) FROM events e JOIN event_types t ON t.id = e.event_type GROUP BY 1 ORDER BY 1"
    assert [tuple(row) for row in query(database, counted)] == [("group", 2), ("page", 2), ("screen", 2), ("view", 300)]
    look = "SELECT external_id, timezone, tz_source, country FROM users"
    assert [tuple(row) for row in query(database, look)] == [(name, "Europe/Berlin", "device", "DE")]
    aliases = query(database, "SELECT alias FROM identities ORDER BY 1")
    assert [row[0] for row in aliases] == ["an", "before"]


def test_clients_that_know_only_200_get_it(api: Api, key: str, name: str) -> None:
    message = {"userId": name, "event": "e"}

    assert api.ask("/v1/track", message, key, {"User-Agent": "analytics-python/1.4.0"}).status == 200
    assert api.ask("/v1/track", message, key, {"User-Agent": "Dart/3.5"}).status == 202


def test_a_device_is_registered_by_the_token_that_segments_mobile_clients_send(api: Api, key: str, name: str) -> None:
    def tracked(number: int, device: object) -> dict:
        context = {"device": device, "os": {"name": "iOS"}}
        return {"type": "track", "userId": name, "event": "e", "messageId": f"{name}{number}", "context": context}

    devices = [
        {"id": "B5372DB0", "manufacturer": "Apple", "type": "ios", "token": f"{name}-ff15bc0c"},
        {"type": "ios", "token": f"{name}-ff15bc0c"},
        {"type": "android", "token": f"{name}-droid"},
        {"type": "toaster", "token": f"{name}-bread"},
        {"token": f"{name}-untyped"},
        {"type": "ios", "token": "\0"},
        {"type": ["ios"], "token": 7},
        "a phone",
    ]
    reply = api.ask("/v1/batch", {"batch": [tracked(n, one) for n, one in enumerate(devices)]}, key)

    assert reply.json["accepted"] == len(devices), "a strange device is no reason to refuse what happened"
    look = "SELECT gateway, token FROM devices d JOIN users u ON u.id = d.user_id WHERE external_id = :user ORDER BY 1"
    found = query(api.runtime.database, look, user=name)
    assert [tuple(row) for row in found] == [("apns", f"{name}-ff15bc0c"), ("fcm", f"{name}-droid")]


def test_web_pages_may_ask_where_their_origin_is_named_and_nowhere_else(
    api: Api, key: str, name: str, redis_url: str, tmp_path
) -> None:
    asks = {"Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "authorization,content-type"}
    shop, other = {"Origin": "https://shop.example"}, {"Origin": "https://evil.example"}
    named = module_runtime(
        api.runtime.database, redis_url, tmp_path / "home", api_origins="https://shop.example, https://m.shop.example"
    )
    with serving(named) as opened:
        allowed = opened.ask("/v1/track", headers={**shop, **asks}, method="OPTIONS")
        refused = opened.ask("/v1/track", headers={**other, **asks}, method="OPTIONS")
        told = opened.ask("/v1/track", {"userId": name, "event": "e"}, key, shop)
        from_push = opened.ask("/v1/callbacks/x", headers={**other, **asks}, method="OPTIONS")
    closed = api.ask("/v1/track", {"userId": name, "event": "e"}, key, shop)

    assert (allowed.status, allowed.headers["Access-Control-Allow-Origin"]) == (200, "https://shop.example")
    assert (refused.status, refused.headers["Access-Control-Allow-Origin"]) == (400, None)
    assert (told.status, told.headers["Access-Control-Allow-Origin"]) == (202, "https://shop.example")
    assert (from_push.status, from_push.headers["Access-Control-Allow-Origin"]) == (204, "*")
    assert (closed.status, closed.headers["Access-Control-Allow-Origin"]) == (202, None)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)
WORDS = st.sampled_from(["track", "identify", "page", "screen", "alias", "group", "view", "Order Completed", "fuzz"])
TIMES = st.sampled_from(["2026-01-01T00:00:00Z", "2026-01-01", "1066-10-14", "0001-01-01T00:00:00+14:00", "soon", ""])
PROPERTIES = st.dictionaries(st.sampled_from(["value", "price", "quantity", "sku", "products", "revenue", "x"]), JSON)
MESSAGES = st.fixed_dictionaries(
    {},
    optional={
        "type": WORDS | JSON, "userId": st.text(max_size=5) | JSON, "anonymousId": st.text(max_size=5) | JSON,
        "event": WORDS | JSON, "properties": PROPERTIES | JSON,
        "traits": JSON | st.fixed_dictionaries({"timezone": JSON, "consent": JSON}),
        "timestamp": TIMES | JSON, "sentAt": TIMES | JSON, "context": st.fixed_dictionaries({"timezone": JSON}) | JSON,
        "previousId": JSON, "groupId": JSON, "name": JSON,
    },
)  # fmt: skip


@settings(max_examples=60)
@given(messages=st.lists(MESSAGES | JSON, min_size=1, max_size=6))
def test_each_message_of_any_batch_is_accepted_or_refused_and_never_lost(api: Api, key: str, messages: list) -> None:
    mark = uuid4().hex
    batch = []
    for number, message in enumerate(messages):
        batch += [message, {"type": "track", "userId": mark, "event": "view", "messageId": f"{mark}{number}"}]

    reply = api.ask("/v1/batch", {"batch": batch}, key)

    assert reply.status == 202, reply.body
    refused = [one["index"] for one in reply.json["rejected"]]
    assert all(one["reason"] for one in reply.json["rejected"])
    assert len(refused) == len(set(refused)) == len(batch) - reply.json["accepted"]
    assert all(place % 2 == 0 for place in refused)
    assert len(events(api, mark)) == len(messages)


def test_what_was_answered_outlives_a_kill_and_what_is_sent_again_is_not_doubled(runtime, tmp_path) -> None:
    key = make_key(runtime.database, "write", rate=1_000_000)
    stop = threading.Event()
    answered: list[str] = []
    sent: list[dict] = []

    def send(port: int, stop: threading.Event) -> None:
        with closing(http.client.HTTPConnection("127.0.0.1", port, timeout=20)) as connection:
            while not stop.is_set():
                ids = [uuid4().hex for _ in range(20)]
                batch = {"batch": [{"type": "track", "userId": i[:2], "event": "view", "messageId": i} for i in ids]}
                sent.append(batch)
                try:
                    connection.request("POST", "/v1/batch", json.dumps(batch), {"Authorization": f"Bearer {key}"})
                    if connection.getresponse().read().startswith(b'{"success":true,"accepted":20'):
                        answered.extend(ids)
                except (OSError, http.client.HTTPException):
                    return

    with process(runtime.database.libpq_url, runtime.redis_url, tmp_path) as (running, url):
        threads = [threading.Thread(target=send, args=(int(url.rsplit(":", 1)[1]), stop)) for _ in range(3)]
        for thread in threads:
            thread.start()
        wait_for(lambda: len(answered) > 200, "answers")
        running.kill()
        stop.set()
        for thread in threads:
            thread.join(30)
    kept = query(runtime.database, "SELECT count(*) FROM events")[0][0]
    assert kept >= len(answered)
    with serving(runtime) as api:
        for batch in sent:
            assert api.ask("/v1/batch", batch, key).json["accepted"] == 20
    everything = {message["messageId"] for batch in sent for message in batch["batch"]}
    counts = query(runtime.database, "SELECT (SELECT count(*) FROM events), (SELECT count(*) FROM unfolded_events)")
    assert tuple(counts[0]) == (len(everything), len(everything))
    assert set(answered) <= everything
