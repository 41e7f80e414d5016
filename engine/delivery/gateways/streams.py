"""The client's side of one HTTP/2 connection: requests to frames, frames to answers (pure; RFC 9113, RFC 7541).

It speaks as little of the protocol as posting small messages takes. Header compression is used without its memory: we
refer to no table of our own, and tell the server to keep none (SETTINGS_HEADER_TABLE_SIZE 0). So what a block of
headers says depends on its bytes alone; both directions are looked up, not computed, once they were seen.

What certainly was not processed is told apart from what may have been: streams that the server refused
(REFUSED_STREAM) or disowned (above the last stream of a GOAWAY), and requests that were never begun.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from functools import lru_cache
from struct import Struct
from urllib.parse import urlsplit

from hpack import Decoder, HPACKError

from engine.delivery.gateways.exchange import Answer, NotSent, Request, Result, Uncertain

MOST_OF_A_BODY = 8_000
"""What is read of an answer: an access token of Google may be 2,048 bytes long."""

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
FRAME = 16_384
"""The longest frame, in both directions: what everybody must accept."""
STREAM_WINDOW = 16_384
"""Bytes that the server may send on a stream: more than is read of an answer, so it is never renewed."""
WINDOW = 1 << 20
_DEFAULT_WINDOW = 65_535
_MOST_STREAMS = 100
"""Until the server says otherwise."""
_MOST_HEADERS = 32_768
_LAST_STREAM = (1 << 31) - 1

DATA, HEADERS, PRIORITY, RST_STREAM, SETTINGS, PUSH_PROMISE, PING, GOAWAY, WINDOW_UPDATE, CONTINUATION = range(10)
END_STREAM, ACK, END_HEADERS, PADDED, WITH_PRIORITY = 0x1, 0x1, 0x4, 0x8, 0x20
CANCEL, REFUSED_STREAM = 0x8, 0x7
_HEADER_TABLE_SIZE, _ENABLE_PUSH, _MAX_STREAMS, _INITIAL_WINDOW, _MAX_HEADER_LIST = 1, 2, 3, 4, 6

_HEAD = Struct(">IBI")
"""Length and type in one number, flags, stream."""
_UNPACK, _PACK = _HEAD.unpack_from, _HEAD.pack
_NUMBER = Struct(">I")
_SETTING = Struct(">HI")

NOT_LOOKED_AT = "the provider refused the stream without looking at it"


class Broken(Exception):
    """The connection cannot go on: what is under way on it is uncertain."""


@dataclass(slots=True)
class _Stream:
    place: int
    begun: float
    window: int
    rest: bytes = b""
    """What could not be sent yet of the request's body."""
    head: Head | None = None
    body: bytes = b""


@dataclass(frozen=True, slots=True)
class Head:
    """What is kept of an answer's headers."""

    status: int
    retry_after: str | None
    named: str | None


@dataclass
class Session:
    """One connection. `out` holds what is to be written; `done` what has ended, by the caller's place."""

    out: list[bytes] = field(default_factory=list)
    done: list[tuple[int, Result]] = field(default_factory=list)
    ready: bool = False
    """Whether the server has said how it wants to be spoken to, and has heard how we do."""
    leaving: bool = False
    """Whether the server takes no new requests on this connection."""
    answered: int = 0
    """PINGs that were answered."""

    _streams: dict[int, _Stream] = field(default_factory=dict)
    _next: int = 1
    _rest: bytes = b""
    _most: int = _MOST_STREAMS
    _window: int = _DEFAULT_WINDOW
    _stream_window: int = _DEFAULT_WINDOW
    _received: int = 0
    _blocked: deque[int] = field(default_factory=deque)
    _block: tuple[int, int, bytes] | None = None
    """Headers that go on in the next frame: stream, flags, what there is."""
    _settings: int = 0

    def __post_init__(self) -> None:
        said = ((_HEADER_TABLE_SIZE, 0), (_ENABLE_PUSH, 0), (_INITIAL_WINDOW, STREAM_WINDOW), (_MAX_HEADER_LIST, 8192))
        self.out += [PREFACE, _frame(SETTINGS, 0, 0, b"".join(_SETTING.pack(*one) for one in said))]
        self.out.append(_frame(WINDOW_UPDATE, 0, 0, _NUMBER.pack(WINDOW - _DEFAULT_WINDOW)))

    @property
    def open(self) -> int:
        """How many requests are under way."""
        return len(self._streams)

    @property
    def room(self) -> int:
        """How many more may be begun now."""
        return 0 if self.leaving or not self.ready else self._most - len(self._streams)

    def begin(self, place: int, request: Request, now: float) -> None:
        """Begin a request, where there is room. Raises ValueError where it cannot be written down."""
        stream, body = self._next, request.body
        fields = [_field(name, value) for name, value in request.headers.items()]
        block = b"".join([_target(request.url), *fields, _length(len(body))])
        if len(block) > FRAME:
            raise ValueError("its headers are too long")
        if stream == 1:
            block = b"\x20" + block  # we refer to no table, whatever size the server allows
        self._next += 2
        if self._next > _LAST_STREAM:
            self.leaving = True
        one = self._streams[stream] = _Stream(place, now, self._stream_window)
        head = _PACK(len(block) << 8 | HEADERS, END_HEADERS if body else END_HEADERS | END_STREAM, stream)
        if len(body) <= self._window and len(body) <= one.window and 0 < len(body) <= FRAME:
            self._window -= len(body)
            one.window -= len(body)
            self.out += [head, block, _PACK(len(body) << 8, END_STREAM, stream), body]
            return
        self.out += [head, block]
        if body:
            one.rest = body
            self._blocked.append(stream)
            self._send_more()

    def ping(self) -> None:
        """Ask whether the server is there: `answered` counts its answers."""
        self.out.append(_frame(PING, 0, 0, bytes(8)))

    def give_up(self, begun_before: float, why: str) -> None:
        """Give up what was begun before that instant: it is uncertain."""
        for stream, one in list(self._streams.items()):
            if one.begun > begun_before:
                break  # in the order in which they were begun
            self.out.append(_frame(RST_STREAM, 0, stream, _NUMBER.pack(CANCEL)))
            self._end(stream, _cut_short(one, Uncertain(why)))

    def oldest(self) -> float | None:
        """When the oldest request that is under way was begun."""
        return next(iter(self._streams.values())).begun if self._streams else None

    def close(self, why: str) -> None:
        """The connection is no more: everything under way is uncertain."""
        self.leaving = True
        for stream, one in list(self._streams.items()):
            self._end(stream, _cut_short(one, Uncertain(why)))

    def receive(self, data: bytes) -> None:
        """Take in what the server sent. Raises Broken where it is no HTTP/2, or none that this can go on with."""
        buffer = self._rest + data if self._rest else data
        at, end = 0, len(buffer)
        while end - at >= 9:
            kind, flags, stream = _UNPACK(buffer, at)
            length, kind, stream = kind >> 8, kind & 0xFF, stream & _LAST_STREAM
            if length > FRAME:
                raise Broken("a frame is too long: this is no HTTP/2")
            stop = at + 9 + length
            if stop > end:
                break
            payload = buffer[at + 9 : stop]
            at = stop
            if self._block is not None and kind != CONTINUATION:
                raise Broken("headers are not continued")
            if kind == HEADERS:
                self._headers(stream, flags, payload)
            elif kind == DATA:
                self._data(stream, flags, payload)
            else:
                self._other(kind, flags, stream, payload)
        self._rest = buffer[at:]

    def _headers(self, stream: int, flags: int, payload: bytes) -> None:
        if flags & PADDED:
            payload = _unpadded(payload)
        if flags & WITH_PRIORITY:
            payload = payload[5:]
        if not flags & END_HEADERS:
            self._block = (stream, flags, payload)
            return
        one = self._streams.get(stream)
        if one is None:
            return  # it was given up
        if one.head is None:
            head = _read_head(payload)
            if head.status >= 200:
                one.head = head
            elif flags & END_STREAM:
                raise Broken("an answer without a status")
        if flags & END_STREAM:
            self._finish(stream, one)

    def _data(self, stream: int, flags: int, payload: bytes) -> None:
        self._received += len(payload)
        if self._received > WINDOW // 2:
            self.out.append(_frame(WINDOW_UPDATE, 0, 0, _NUMBER.pack(self._received)))
            self._received = 0
        one = self._streams.get(stream)
        if one is None:
            return
        if one.head is None:
            raise Broken("a body without headers")
        if flags & PADDED:
            payload = _unpadded(payload)
        one.body = one.body + payload if one.body else payload
        if flags & END_STREAM:
            self._finish(stream, one)
        elif len(one.body) >= MOST_OF_A_BODY:
            self.out.append(_frame(RST_STREAM, 0, stream, _NUMBER.pack(CANCEL)))
            self._finish(stream, one)

    def _finish(self, stream: int, one: _Stream) -> None:
        if one.rest:  # answered before it was asked to the end
            self.out.append(_frame(RST_STREAM, 0, stream, _NUMBER.pack(CANCEL)))
        head = one.head
        if head is None:
            raise Broken("an answer without a status")
        self._end(stream, Answer(head.status, head.retry_after, text_of(one.body), head.named))

    def _end(self, stream: int, result: Result) -> None:
        self.done.append((self._streams.pop(stream).place, result))

    def _other(self, kind: int, flags: int, stream: int, payload: bytes) -> None:
        if kind == SETTINGS:
            self._heed(flags, payload)
        elif kind == PING:
            if flags & ACK:
                self.answered += 1
            else:
                self.out.append(_frame(PING, ACK, 0, payload))
        elif kind == WINDOW_UPDATE:
            self._widen(stream, _number(payload) & _LAST_STREAM)
        elif kind == RST_STREAM:
            self._reset(stream, _number(payload))
        elif kind == GOAWAY:
            self.leaving = True
            last = _number(payload) & _LAST_STREAM
            for disowned in [number for number in self._streams if number > last]:
                self._end(disowned, NotSent("the provider closed the connection without looking at it"))
        elif kind == CONTINUATION:
            self._continue(flags, stream, payload)
        elif kind == PUSH_PROMISE:
            raise Broken("the server pushes, which we do not take")

    def _widen(self, stream: int, more: int) -> None:
        if stream == 0:
            self._window += more
        elif (one := self._streams.get(stream)) is not None:
            one.window += more
        self._send_more()

    def _reset(self, stream: int, error: int) -> None:
        if (one := self._streams.get(stream)) is None:
            return
        if error == REFUSED_STREAM and one.head is None:
            self._end(stream, NotSent(NOT_LOOKED_AT))
        else:
            self._end(stream, _cut_short(one, Uncertain(f"the provider reset the stream (error {error})")))

    def _continue(self, flags: int, stream: int, payload: bytes) -> None:
        if self._block is None or self._block[0] != stream or len(self._block[2]) > _MOST_HEADERS:
            raise Broken("headers go on that are none")
        _, first, block = self._block
        self._block = (stream, first, block + payload)
        if flags & END_HEADERS:
            _, first, block = self._block
            self._block = None
            self._headers(stream, (first & END_STREAM) | END_HEADERS, block)

    def _heed(self, flags: int, payload: bytes) -> None:
        if flags & ACK:
            self._settings |= 1
        else:
            if len(payload) % 6:
                raise Broken("settings are cut off")
            for name, value in _SETTING.iter_unpack(payload):
                if name == _MAX_STREAMS:
                    self._most = value
                elif name == _INITIAL_WINDOW:
                    for one in self._streams.values():
                        one.window += value - self._stream_window
                    self._stream_window = value
            self.out.append(_frame(SETTINGS, ACK, 0, b""))
            self._settings |= 2
            self._send_more()
        self.ready = self._settings == 3

    def _send_more(self) -> None:
        """Send what the windows allow of the bodies that wait for them."""
        for _ in range(len(self._blocked)):
            stream = self._blocked.popleft()
            one = self._streams.get(stream)
            if one is None:
                continue
            while one.rest and (fits := min(self._window, one.window, FRAME, len(one.rest))) > 0:
                piece, one.rest = one.rest[:fits], one.rest[fits:]
                self._window -= fits
                one.window -= fits
                self.out += [_PACK(fits << 8, 0 if one.rest else END_STREAM, stream), piece]
            if one.rest:
                self._blocked.append(stream)


def _frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    return _PACK(len(payload) << 8 | kind, flags, stream) + payload


def _cut_short(one: _Stream, doubt: Uncertain) -> Result:
    """A status is an answer, whatever became of the rest."""
    return doubt if one.head is None else Answer(one.head.status, one.head.retry_after, "", one.head.named)


def _number(payload: bytes) -> int:
    if len(payload) < 4:
        raise Broken("a frame is cut off")
    return int(_NUMBER.unpack_from(payload)[0])


def _unpadded(payload: bytes) -> bytes:
    if not payload or payload[0] >= len(payload):
        raise Broken("a frame is all padding")
    return payload[1 : len(payload) - payload[0]]


def text_of(body: bytes) -> str:
    """An answer's beginning as text that PostgreSQL can keep: without NUL, also where JSON only names it. Else a
    provider's garbage would keep a whole group from being recorded."""
    text = body[:MOST_OF_A_BODY].decode(errors="replace")
    return text.replace("\x00", "\ufffd").replace("\\u0000", "\\ufffd")


# --- headers ---------------------------------------------------------------------------------------------------------


@lru_cache(1024)
def _read_head(block: bytes) -> Head:
    """What is kept of a block of headers. Raises Broken."""
    decoder = Decoder()
    decoder.max_allowed_table_size = 4096
    try:
        headers = dict(reversed([(str(name), str(value)) for name, value in decoder.decode(block)]))
    except (HPACKError, UnicodeDecodeError) as error:
        raise Broken(f"headers cannot be read: {error}") from error
    status = headers.get(":status", "0")
    if not status.isdecimal():
        raise Broken("an answer without a status")
    return Head(int(status), headers.get("retry-after"), headers.get("apns-id") or headers.get("location"))


@lru_cache(4096)
def _target(url: str) -> bytes:
    """The fields that say what is posted to. Raises ValueError."""
    parts = urlsplit(url)
    if parts.scheme != "https" or not parts.hostname:
        raise ValueError(f"{url} is no https address")
    path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    authority = parts.netloc.rpartition("@")[2]
    return b"\x83\x87" + _literal(b"\x04", path) + _literal(b"\x01", authority)


@lru_cache(4096)
def _field(name: str, value: str) -> bytes:
    """A field that nobody on the way may remember either. Raises ValueError."""
    return _literal(b"\x10" + _string(name.lower()), value)


@lru_cache(8192)
def _length(number: int) -> bytes:
    return _literal(b"\x0f\x0d", str(number))


def _literal(name: bytes, value: str) -> bytes:
    """A field that no table remembers: an indexed name, or a literal one."""
    return name + _string(value)


def _string(value: str) -> bytes:
    data = value.encode("latin-1")
    if any(byte < 0x20 or byte == 0x7F for byte in data):
        raise ValueError("a header holds control characters")
    return _integer(len(data)) + data


def _integer(value: int) -> bytes:
    """RFC 7541, section 5.1, with a prefix of seven bits."""
    if value < 127:
        return bytes((value,))
    out, value = [127], value - 127
    while value >= 128:
        out.append(value % 128 | 128)
        value //= 128
    return bytes((*out, value))
