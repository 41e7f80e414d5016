"""The provider's rough port: the same answers over hand-made HTTP/2, so that streams and connections can break."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from typing import cast

from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.errors import ErrorCodes
from h2.events import DataReceived, Event, RequestReceived, StreamEnded, StreamReset
from h2.exceptions import ProtocolError

from engine.bench.provider.desk import Desk


class RoughProtocol(asyncio.Protocol):
    """One connection."""

    def __init__(self, desk: Desk) -> None:
        self._desk = desk
        self._connection = H2Connection(H2Configuration(client_side=False, header_encoding="utf-8"))
        self._transport: asyncio.Transport | None = None
        self._requests: dict[int, tuple[dict[str, str], bytearray]] = {}
        self._looked_at = 0
        """The highest stream whose request was looked at: a GOAWAY that names less lies, and clients send again what it
        disowns."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Say hello."""
        self._transport = cast(asyncio.Transport, transport)  # uvloop's own is no subclass of it
        self._connection.initiate_connection()
        self._flush()

    def data_received(self, data: bytes) -> None:
        """Take in frames."""
        try:
            events = self._connection.receive_data(data)
        except ProtocolError:
            self._cut()
            return
        for event in events:
            self._take(event)
        self._flush()

    def _take(self, event: Event) -> None:
        match event:
            case RequestReceived():
                headers = {str(name): str(value) for name, value in event.headers}
                self._requests[event.stream_id] = (headers, bytearray())
            case DataReceived():
                self._requests[event.stream_id][1].extend(event.data)
                self._connection.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
            case StreamEnded():
                headers, body = self._requests.pop(event.stream_id)
                self._handle(event.stream_id, headers, bytes(body))
            case StreamReset():
                self._requests.pop(event.stream_id, None)

    def _handle(self, stream: int, headers: dict[str, str], body: bytes) -> None:
        path = headers[":path"]
        fault = self._desk.fault(path, body)
        later = asyncio.get_running_loop().call_later
        delay = self._desk.latency(path, fault)
        if fault is not None and fault.wire in ("refuse", "goaway", "noise"):
            later(delay, self._break, stream, fault.wire)
            return
        self._looked_at = max(self._looked_at, stream)
        reply = self._desk.answer(path, headers, body, fault)
        self._desk.flush()
        if fault is not None and fault.wire:
            later(delay, self._break, stream, fault.wire)
            return
        later(delay, self._reply, stream, reply.status, reply.headers, reply.body)

    def _reply(self, stream: int, status: int, headers: tuple[tuple[str, str], ...], body: bytes) -> None:
        with suppress(ProtocolError):  # the client has left
            told = [(":status", str(status)), *headers, ("content-length", str(len(body)))]
            self._connection.send_headers(stream, told, end_stream=not body)
            if body:
                self._connection.send_data(stream, body, end_stream=True)
        self._flush()

    def _break(self, stream: int, how: str) -> None:
        with suppress(ProtocolError):
            if how == "drop":
                self._cut()
            elif how == "reset":
                self._connection.reset_stream(stream, ErrorCodes.INTERNAL_ERROR)
            elif how == "refuse":
                self._connection.reset_stream(stream, ErrorCodes.REFUSED_STREAM)
            elif how == "goaway":
                self._connection.close_connection(ErrorCodes.NO_ERROR, last_stream_id=self._looked_at)
                self._flush()
                self._cut(politely=True)
            elif how == "noise" and self._transport is not None:
                self._transport.write(b"\x00\x01 this is no HTTP/2 at all \xff" * 40)
        self._flush()

    def _flush(self) -> None:
        if self._transport is not None and not self._transport.is_closing():
            data = self._connection.data_to_send()
            if data:
                self._transport.write(data)

    def _cut(self, *, politely: bool = False) -> None:
        if self._transport is not None:
            (self._transport.close if politely else self._transport.abort)()


def rough_protocol(desk: Desk) -> Callable[[], RoughProtocol]:
    """What `loop.create_server` makes a connection with."""
    return lambda: RoughProtocol(desk)
