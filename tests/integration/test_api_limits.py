"""What one client, with or without a key, may cost the API: connections, heads, slow requests, bodies, values."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from contextlib import ExitStack, closing

import pytest

from engine.web import connections, gate
from engine.web.events import MOST_ROWS
from tests.api_server import Api, make_key, module_runtime, serving
from tests.running import wait_for


@pytest.fixture(scope="module")
def api(shared_database, servers, tmp_path_factory) -> Iterator[Api]:
    runtime = module_runtime(
        shared_database, servers.redis_url.rsplit("/", 1)[0] + "/11", tmp_path_factory.mktemp("limits")
    )
    with serving(runtime) as running:
        yield running


@pytest.fixture(scope="module")
def viewer(api: Api) -> str:
    return make_key(api.runtime.database, "read")


@pytest.fixture(scope="module")
def writer(api: Api) -> str:
    return make_key(api.runtime.database, "write", rate=1_000_000)


def connect(api: Api) -> socket.socket:
    return socket.create_connection(("127.0.0.1", api.port), timeout=20)


def until_closed(line: socket.socket) -> bytes:
    """What comes until the other side closes; it fails where that does not happen."""
    got = b""
    try:
        while piece := line.recv(65_536):
            got += piece
    except ConnectionResetError:
        pass
    return got


def test_a_head_without_an_end_is_cut_off(api: Api) -> None:
    with closing(connect(api)) as line:
        line.sendall(b"GET /healthz HTTP/1.1\r\nHost: x\r\nX-Long: ")
        answer = b""
        try:
            for _ in range(100):
                line.sendall(b"a" * 100_000)
        except OSError:
            pass
        answer = until_closed(line)
    assert answer.startswith(b"HTTP/1.1 431") or not answer  # a reset may overtake the answer

    with closing(connect(api)) as line:
        line.sendall(b"GET /healthz HTTP/1.1\r\nHost: x\r\nX-Long: " + b"a" * connections.LARGEST_HEAD)
        assert until_closed(line).startswith(b"HTTP/1.1 431")
    assert api.ask("/healthz").status == 200


@pytest.mark.parametrize(
    "sent",
    [b"", b"GET /healthz HT", b"POST /v1/track HTTP/1.1\r\nHost: x\r\nContent-Length: 100000\r\n\r\n{"],
    ids=["nothing", "half a head", "a body nobody may send"],
)
def test_who_holds_a_connection_without_asking_anything_is_left(api: Api, monkeypatch, sent: bytes) -> None:
    monkeypatch.setattr(connections.Bounded, "arrival", 0.3)
    with closing(connect(api)) as line:
        line.sendall(sent)
        assert until_closed(line) == b"" or sent.startswith(b"POST")
    assert api.ask("/healthz").status == 200


def test_a_server_that_stops_waits_little_for_a_body_that_does_not_come(api: Api, writer: str) -> None:
    with serving(api.runtime) as stopping:
        line = connect(stopping)
        head = f"POST /v1/batch HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {writer}\r\nContent-Length: 9000\r\n"
        line.sendall(f"{head}Expect: 100-continue\r\n\r\n".encode())
        assert line.recv(100).startswith(b"HTTP/1.1 100"), "it waits for the body"
    with closing(line):
        assert until_closed(line) == b"", "left, before it would have been told that the body is late"


def test_one_connection_too_many_is_told_to_come_again(api: Api, monkeypatch) -> None:
    monkeypatch.setattr(connections.Bounded, "most", 5)
    with ExitStack() as held:
        lines = [held.enter_context(closing(connect(api))) for _ in range(12)]
        refused = until_closed(lines[-1])
        monkeypatch.setattr(connections.Bounded, "most", 1_000)
        assert api.ask("/healthz").status == 200
    assert refused.startswith(b"HTTP/1.1 503")
    assert b"retry-after: 1" in refused


def test_bodies_take_a_bounded_room_together_and_give_it_back(api: Api, writer: str, monkeypatch) -> None:
    monkeypatch.setattr(gate, "MOST_HELD", 100_000)
    message = {"type": "track", "userId": "u", "event": "view"}
    small, large = {"batch": [message]}, {"batch": [message] * 1_500}
    head = (
        f"POST /v1/batch HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {writer}\r\n"
        "Content-Length: 50000\r\nExpect: 100-continue\r\n\r\n"
    )
    with ExitStack() as held:
        for _ in range(2):
            line = held.enter_context(closing(connect(api)))
            line.sendall(head.encode())
            assert line.recv(100).startswith(b"HTTP/1.1 100"), "it is being read"
            line.sendall(b" " * 49_000)
        assert api.ask("/healthz").status == 200, "what was sent before is there"
        refused = api.ask("/v1/batch", large, writer)
        assert (refused.status, refused.headers["Retry-After"]) == (503, "1")
    wait_for(lambda: api.ask("/v1/batch", small, writer).status == 202, "room again", 20)
    assert api.ask("/v1/batch", {"batch": [message] * 1_000}, writer).status == 202


def test_faults_without_number_are_told_by_the_first_and_hold_nobody_up(api: Api, viewer: str, writer: str) -> None:
    """A list with a million wrong users took the whole process for minutes, and gigabytes."""
    operator = make_key(api.runtime.database, "operate")
    users = b'{"users":[' + b"[]," * 1_000_000 + b"[]]}"
    conditions = json.dumps({"name": "c", "audience": {"all": [0] * 100_000}}).encode()

    wrong = api.ask("/v1/campaigns/any/preview", users, viewer)
    many = api.ask("/v1/campaigns", conditions, operator)
    rows = api.ask("/v1/items", b"[" + b"{}," * MOST_ROWS + b"{}]", writer)
    messages = api.ask("/v1/batch", b'{"batch":[' + b"0," * MOST_ROWS + b"0]}", writer)
    unknown = api.ask("/v1/campaigns", {f"field{n}": 0 for n in range(5_000)}, operator)

    assert (wrong.status, len(wrong.json["errors"])) == (422, 1)
    assert (many.status, many.json["title"]) == (422, "it holds more than 20,000 values")
    assert (rows.status, messages.status) == (413, 413)
    assert (unknown.status, len(unknown.json["errors"])) == (422, 100)


@pytest.mark.parametrize(
    "headers",
    ["Content-Length: 2\r\nContent-Length: 3", "Content-Length: 2\r\nTransfer-Encoding: chunked", "Content-Length: -2",
     "Content-Length: 2, 2", "Transfer-Encoding: chunked\r\nX:\0"],
    ids=["two lengths", "length and chunks", "a negative length", "a list of lengths", "NUL"],
)  # fmt: skip
def test_a_request_that_two_servers_could_read_in_two_ways_is_refused(api: Api, writer: str, headers: str) -> None:
    with closing(connect(api)) as line:
        head = f"POST /v1/track HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {writer}\r\n{headers}\r\n\r\n"
        line.sendall(head.encode() + b"{}")
        assert until_closed(line).startswith(b"HTTP/1.1 400")
