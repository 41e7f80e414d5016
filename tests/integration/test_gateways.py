"""The gateways on real files and a real HTTP server: one contract for all, then what is particular to each."""

from __future__ import annotations

import json
import multiprocessing
import resource
import socket
import subprocess
import sys
import threading
import uuid
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from standardwebhooks import Webhook

from engine.clock import monotonic
from engine.delivery.gateways import Gateway, Kind, Outgoing
from engine.delivery.gateways.exchange import NotSent, Request
from engine.delivery.gateways.log import LogGateway
from engine.delivery.gateways.transport import Pin, Transport, Wire
from engine.delivery.gateways.webhook import LONGEST_BODY, WebhookGateway

SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
NOON = datetime(2026, 3, 2, 12, 0, tzinfo=UTC)


def outgoing(body: str = "Fresh bread, 2 € – today", *, user: str = "u1") -> Outgoing:
    return Outgoing(
        push_id=uuid.uuid4(),
        occurrence_id=7,
        campaign="bread",
        user_id=user,
        item_id="i1",
        title="Bäckerei",
        body=body,
        data={"link": "shop://i1"},
        collapse_id="bread-7",
        at=NOON,
        ttl=timedelta(hours=1),
    )


class Receiver:
    """A shop's webhook receiver: keeps what it got; `answers` are taken in turn, the last one for ever."""

    def __init__(self) -> None:
        self.answers: list[Callable[[BaseHTTPRequestHandler], None]] = [status(200)]
        self.got: list[tuple[dict[str, str], bytes]] = []
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                receiver.got.append(({name.lower(): value for name, value in self.headers.items()}, body))
                answers = receiver.answers
                (answers.pop(0) if len(answers) > 1 else answers[0])(self)

            def log_message(self, *args: Any) -> None:
                """Quiet."""

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.thread = threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.02})
        self.thread.start()

    @property
    def port(self) -> int:
        return self.server.server_address[1]

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()
        self.thread.join()


def status(code: int, **headers: str) -> Callable[[BaseHTTPRequestHandler], None]:
    def answer(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(code)
        for name, value in {"content-length": "0", **headers}.items():
            handler.send_header(name.replace("_", "-"), value)
        handler.end_headers()

    return answer


def hang_up(handler: BaseHTTPRequestHandler) -> None:
    handler.connection.shutdown(socket.SHUT_RDWR)
    handler.close_connection = True


def garbage(handler: BaseHTTPRequestHandler) -> None:
    handler.wfile.write(b"\x00\x01 this is no HTTP\r\n\r\n")
    handler.close_connection = True


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    opened = Receiver()
    yield opened
    opened.close()


@pytest.fixture
def webhook(receiver: Receiver) -> Iterator[WebhookGateway]:
    url = f"http://127.0.0.1:{receiver.port}/hook"
    gateway = WebhookGateway(url, SECRET, allow_private=True, timeout=timedelta(seconds=5))
    yield gateway
    gateway.close()


@pytest.fixture
def log(tmp_path: Path) -> LogGateway:
    return LogGateway(tmp_path / "deep" / "journal.jsonl")


@pytest.fixture(params=["log", "webhook"])
def gateway(request: pytest.FixtureRequest) -> Gateway:
    chosen: Gateway = request.getfixturevalue(request.param)
    return chosen


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


# --- every gateway ---------------------------------------------------------------------------------------------------


def test_every_message_gets_one_outcome_in_its_order(gateway: Gateway) -> None:
    outcomes = gateway.send_many([outgoing() for _ in range(70)])

    assert [outcome.kind for outcome in outcomes] == [Kind.ACCEPTED] * 70
    assert gateway.send_many([]) == []


def test_nothing_leaves_after_the_lease(gateway: Gateway, receiver: Receiver, log: LogGateway) -> None:
    outcomes = gateway.send_many([outgoing(), outgoing()], start_by=monotonic() - 0.001)

    assert [outcome.kind for outcome in outcomes] == [Kind.RETRY, Kind.RETRY]
    assert receiver.got == []
    assert not log.path.exists()


def test_it_can_be_closed_twice_and_used_again(gateway: Gateway) -> None:
    gateway.send_many([outgoing()])
    gateway.close()
    gateway.close()

    assert gateway.send_many([outgoing()])[0].kind is Kind.ACCEPTED


# --- log -------------------------------------------------------------------------------------------------------------


def test_a_line_of_the_journal_says_what_was_sent(log: LogGateway) -> None:
    message = outgoing()
    log.send_many([message])

    assert lines(log.path) == [
        {
            "at": "2026-03-02T12:00:00+00:00",
            "push_id": str(message.push_id),
            "callback_token": "",
            "occurrence_id": 7,
            "campaign": "bread",
            "user_id": "u1",
            "item_id": "i1",
            "title": "Bäckerei",
            "body": "Fresh bread, 2 € – today",
            "data": {"link": "shop://i1"},
            "test": False,
        }
    ]


def _write_batches(path: Path, user: str) -> None:
    gateway = LogGateway(path)
    for _ in range(20):
        gateway.send_many([outgoing("x" * 3000, user=user) for _ in range(10)])


def test_processes_that_share_a_journal_never_interleave(log: LogGateway) -> None:
    spawn = multiprocessing.get_context("spawn")  # a forked one would inherit, and close, connections of other tests
    writers = [spawn.Process(target=_write_batches, args=(log.path, f"u{n}")) for n in range(4)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()

    users = [line["user_id"] for line in lines(log.path)]
    assert {user: users.count(user) for user in set(users)} == {f"u{n}": 200 for n in range(4)}


def test_half_a_line_left_by_a_power_cut_swallows_nothing(log: LogGateway) -> None:
    log.send_many([outgoing()])
    with log.path.open("ab") as journal:
        journal.write(b'{"at":"2026-')
    log.send_many([outgoing()])

    whole = [line for line in log.path.read_text().splitlines() if line.endswith("}")]
    assert len(whole) == 2


def test_a_full_disk_takes_none_of_a_batch_and_leaves_no_half_line(log: LogGateway) -> None:
    log.send_many([outgoing()])
    size = log.path.stat().st_size
    program = (
        "import resource, sys; from pathlib import Path;"
        "from tests.integration.test_gateways import LogGateway, outgoing;"
        f"resource.setrlimit(resource.RLIMIT_FSIZE, ({size + 1000}, {size + 1000}));"
        "outcomes = LogGateway(Path(sys.argv[1])).send_many([outgoing('x' * 400)] * 5);"
        "print({(outcome.kind.value, outcome.detail) for outcome in outcomes})"
    )
    said = subprocess.run(
        [sys.executable, "-c", program, str(log.path)], capture_output=True, text=True, check=True, cwd=_root()
    ).stdout

    assert "'retry'" in said
    assert "disk is full" in said
    assert log.path.stat().st_size == size
    assert resource.getrlimit(resource.RLIMIT_FSIZE)[0] == resource.RLIM_INFINITY


def test_a_journal_that_cannot_be_opened_sends_nothing(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    outcome = LogGateway(tmp_path / "file" / "journal.jsonl").send_many([outgoing()])[0]

    assert outcome.kind is Kind.RETRY
    assert "cannot be written" in str(outcome.detail)


def test_a_device_without_room_sends_nothing() -> None:
    assert LogGateway(Path("/dev/full")).send_many([outgoing()])[0].kind is Kind.RETRY


def _root() -> Path:
    return Path(__file__).resolve().parents[2]


# --- webhook ---------------------------------------------------------------------------------------------------------


def test_a_webhook_is_signed_so_that_the_specifications_own_code_verifies_it(
    webhook: WebhookGateway, receiver: Receiver
) -> None:
    message = outgoing()
    webhook.send_many([message])
    (headers, body), verify = receiver.got[0], Webhook(SECRET)

    payload = verify.verify(body, headers)

    assert headers["webhook-id"] == payload["data"]["push_id"] == str(message.push_id)
    assert payload["type"] == "push"
    assert payload["data"]["body"] == message.body
    assert payload["data"]["expires_at"] == "2026-03-02T13:00:00+00:00"


def test_its_id_is_the_same_at_every_attempt(webhook: WebhookGateway, receiver: Receiver) -> None:
    receiver.answers = [status(503), status(200)]
    message = outgoing()

    assert [webhook.send_many([message])[0].kind for _ in range(2)] == [Kind.RETRY, Kind.ACCEPTED]
    assert {headers["webhook-id"] for headers, _ in receiver.got} == {str(message.push_id)}


def test_a_redirect_is_not_followed(webhook: WebhookGateway, receiver: Receiver) -> None:
    receiver.answers = [status(307, location=f"http://127.0.0.1:{receiver.port}/elsewhere")]

    assert webhook.send_many([outgoing()])[0].kind is Kind.DEAD_DEVICE
    assert len(receiver.got) == 1


def test_a_receivers_wish_to_wait_is_read(webhook: WebhookGateway, receiver: Receiver) -> None:
    receiver.answers = [status(429, retry_after="30")]
    outcome = webhook.send_many([outgoing()])[0]

    assert (outcome.kind, outcome.delay) == (Kind.THROTTLED, timedelta(seconds=30))


@pytest.mark.parametrize("answer", [hang_up, garbage])
def test_a_receiver_that_breaks_after_it_got_the_message_is_unknown(
    webhook: WebhookGateway, receiver: Receiver, answer: Callable[[BaseHTTPRequestHandler], None]
) -> None:
    receiver.answers = [answer]

    assert webhook.send_many([outgoing()])[0].kind is Kind.UNKNOWN


def half_an_answer(handler: BaseHTTPRequestHandler) -> None:
    handler.wfile.write(b"HTTP/1.1 200 OK\r\ncontent-length: 50\r\n\r\nabc")
    handler.close_connection = True


def test_a_status_counts_although_the_rest_of_the_answer_is_missing(
    webhook: WebhookGateway, receiver: Receiver
) -> None:
    receiver.answers = [half_an_answer]

    assert webhook.send_many([outgoing()])[0].kind is Kind.ACCEPTED


def test_a_host_that_does_not_exist_or_speaks_no_tls_got_nothing(receiver: Receiver) -> None:
    for url in ("https://nowhere.invalid/", f"https://127.0.0.1:{receiver.port}/hook"):
        gateway = WebhookGateway(url, SECRET, allow_private=True)
        assert gateway.send_many([outgoing()])[0].kind is Kind.RETRY
        gateway.close()

    assert receiver.got == []


def test_a_receiver_that_does_not_answer_in_time_is_unknown(receiver: Receiver) -> None:
    released = threading.Event()

    def wait(handler: BaseHTTPRequestHandler) -> None:
        released.wait(5)
        hang_up(handler)

    receiver.answers = [wait]
    url = f"http://127.0.0.1:{receiver.port}/hook"
    gateway = WebhookGateway(url, SECRET, allow_private=True, timeout=timedelta(milliseconds=300))

    outcome = gateway.send_many([outgoing()])[0]
    released.set()
    gateway.close()

    assert outcome.kind is Kind.UNKNOWN
    assert len(receiver.got) == 1


def test_a_receiver_that_is_not_there_got_nothing() -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{unused.getsockname()[1]}/"
        gateway = WebhookGateway(url, SECRET, allow_private=True)
        outcome = gateway.send_many([outgoing()])[0]
        gateway.close()

    assert outcome.kind is Kind.RETRY


def test_a_private_receiver_is_refused_at_the_moment_of_sending(receiver: Receiver) -> None:
    gateway = WebhookGateway(f"https://localhost:{receiver.port}/hook", SECRET)

    outcome = gateway.send_many([outgoing()])[0]

    assert outcome.kind is Kind.RETRY
    assert "not on the public internet" in str(outcome.detail)
    assert receiver.got == []


def test_a_body_that_is_too_long_is_refused_and_the_rest_is_sent(webhook: WebhookGateway, receiver: Receiver) -> None:
    outcomes = webhook.send_many([outgoing(), outgoing("x" * LONGEST_BODY), outgoing()])

    assert [outcome.kind for outcome in outcomes] == [Kind.ACCEPTED, Kind.PAYLOAD_REFUSED, Kind.ACCEPTED]
    assert len(receiver.got) == 2


def test_the_socket_goes_to_the_address_that_was_checked_and_the_name_stays_in_the_host(receiver: Receiver) -> None:
    transport = Transport(Wire(timedelta(seconds=5), pin=Pin("shop.example", "127.0.0.1", receiver.port)))
    url = f"http://shop.example:{receiver.port}/hook"

    transport.post_many([Request(url, {}, b"{}")], monotonic() + 5)
    transport.close()

    assert receiver.got[0][0]["host"] == f"shop.example:{receiver.port}"


def test_an_url_that_cannot_be_built_was_not_sent() -> None:
    transport = Transport(Wire(timedelta(seconds=1)))
    result = transport.post_many([Request("http://[broken/", {}, b"")], monotonic() + 5)[0]
    transport.close()

    assert isinstance(result, NotSent)
