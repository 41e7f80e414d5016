"""Bodies of requests, read within limits of size, time and depth."""

from __future__ import annotations

import asyncio
import zlib
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Self

from pydantic import BaseModel, ConfigDict
from pydantic_core import from_json
from starlette.requests import ClientDisconnect, Request

from engine.campaigns.loading import build
from engine.web.gate import HELD, Held
from engine.web.problems import Refusal

LARGEST = 500_000
"""Bytes of a body, uncompressed."""

DEEPEST = 32
"""Objects and lists inside each other."""

DISCARDED = 4 * LARGEST
"""Bytes up to which a body that is too large is still taken off the line: a client that is cut off while it sends sees
a broken pipe, and not the answer that says why."""

SLOWEST_SECONDS = 10.0
"""A body that has not arrived by then is not waited for."""


async def read_json(request: Request, largest: int = LARGEST) -> Any:
    """The JSON value in a body, gzipped or not. Raises Refusal: 400, 408, 413 or 415."""
    return _parsed(await read_bytes(request, largest))


def _parsed(data: bytes) -> Any:
    try:
        # Of an event's texts hardly one comes twice in its body, but for the names of its members.
        return from_json(data, allow_inf_nan=False, cache_strings="keys")
    except ValueError as error:
        raise Refusal(400, f"the body is not JSON: {str(error)[:200]}") from None


async def read_object(request: Request, largest: int = LARGEST) -> dict[str, Any]:
    """The JSON object in a body; an empty body is an empty one. Raises Refusal as read_json does."""
    if request.headers.get("content-length", "") == "0" or not (
        "content-length" in request.headers or "transfer-encoding" in request.headers
    ):
        return {}
    data = await read_bytes(request, largest)
    value = _parsed(data)
    if not isinstance(value, dict):
        raise Refusal(400, "the body is not a JSON object")
    if too_deep(value):
        raise Refusal(400, f"objects and lists lie more than {DEEPEST} deep in each other")
    if b"\\u0000" in data and _holds_nul(value):
        raise Refusal(400, "the body has a NUL character in a text")
    return value


async def read_bytes(request: Request, largest: int = LARGEST) -> bytes:
    """A body, unpacked. Raises Refusal; 503 where others hold too much just now."""
    encoding = request.headers.get("content-encoding", "identity").strip().lower()
    if encoding not in ("identity", "gzip", ""):
        raise Refusal(415, f"content-encoding {encoding[:20]} is not understood", hint="gzip, or none")
    length = request.headers.get("content-length", "")
    if length.isdecimal() and int(length) > largest:
        if int(length) <= DISCARDED:
            await _discard(request)
        raise _too_large(largest)
    held: Held | None = request.scope.get(HELD)
    hold = held.take if held is not None else lambda _: None
    body = _Gzipped(largest, hold) if encoding == "gzip" else _Plain(largest, hold)
    try:
        async with asyncio.timeout(SLOWEST_SECONDS):
            async for chunk in request.stream():
                body.add(chunk)
    except TimeoutError:
        raise Refusal(408, f"the body did not arrive within {SLOWEST_SECONDS:.0f} s") from None
    except ClientDisconnect:
        raise Refusal(400, "the client left before its body had arrived") from None
    except zlib.error:
        raise Refusal(400, "the body is not gzip, as its content-encoding says") from None
    return body.end()


async def _discard(request: Request) -> None:
    with suppress(TimeoutError, ClientDisconnect):
        async with asyncio.timeout(SLOWEST_SECONDS):
            async for _ in request.stream():
                pass


def too_deep(value: object, deepest: int = DEEPEST) -> bool:
    """Whether objects and lists lie in each other deeper than `deepest`."""
    level: list[Any] = [value] if type(value) in _CONTAINERS else []
    for _ in range(deepest):
        level = [
            inner
            for each in level
            for inner in (each.values() if type(each) is dict else each)
            if type(inner) in _CONTAINERS
        ]
        if not level:
            return False
    return True


_CONTAINERS = (dict, list)
"""What JSON's objects and lists are read as."""


def _holds_nul(value: object) -> bool:
    """Whether a text in it has a character that PostgreSQL's texts cannot hold. Not deeper than DEEPEST."""
    if isinstance(value, dict):
        return any("\0" in name or _holds_nul(inner) for name, inner in value.items())
    if isinstance(value, list):
        return any(_holds_nul(inner) for inner in value)
    return isinstance(value, str) and "\0" in value


class Asked(BaseModel):
    """A body with these fields and no others, read without guessing: a number is no text."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    @classmethod
    async def of(cls, request: Request, largest: int = LARGEST) -> Self:
        """The body of a request. Raises Refusal, and Faulty with every fault and its place."""
        return build(cls, await read_object(request, largest), lists=largest > LARGEST)

    @classmethod
    def told(cls, *, needed: bool = False) -> dict[str, Any]:
        """What the OpenAPI document says of it (a route's `openapi_extra`)."""
        content = {"application/json": {"schema": cls.model_json_schema()}}
        return {"requestBody": {"required": needed, "content": content}}


class _Plain:
    def __init__(self, largest: int, hold: Callable[[int], None]) -> None:
        self._data, self._largest, self._hold = bytearray(), largest, hold

    def add(self, chunk: bytes) -> None:
        if len(self._data) + len(chunk) > self._largest:
            raise _too_large(self._largest)
        self._hold(len(chunk))
        self._data += chunk

    def end(self) -> bytes:
        return bytes(self._data)


class _Gzipped(_Plain):
    """Unpacks as it comes, never more than fits: a small body may unpack to gigabytes."""

    def __init__(self, largest: int, hold: Callable[[int], None]) -> None:
        super().__init__(largest, hold)
        self._unpacker = zlib.decompressobj(zlib.MAX_WBITS | 16)

    def add(self, chunk: bytes) -> None:
        super().add(self._unpacker.decompress(chunk, self._largest - len(self._data) + 1))

    def end(self) -> bytes:
        if not self._unpacker.eof or self._unpacker.unused_data:
            raise Refusal(400, "the gzipped body is cut, or something follows it")
        return super().end()


def _too_large(largest: int) -> Refusal:
    return Refusal(413, f"the body is larger than {largest:,} bytes", hint="send smaller batches")
