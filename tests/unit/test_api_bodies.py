"""Limits of what the API reads: depth, size, packed size."""

from __future__ import annotations

import asyncio
import gzip
from typing import Any

import pytest
from starlette.requests import Request

from engine.web.body import DEEPEST, read_bytes, read_object, too_deep
from engine.web.problems import Refusal


def nested(depth: int, leaf: Any = 1) -> Any:
    """`leaf` inside so many lists and objects, by turns."""
    for level in range(depth):
        leaf = [leaf] if level % 2 else {"a": leaf}
    return leaf


def request(body: bytes, **headers: str) -> Request:
    """A request with this body, which comes in pieces."""
    pieces = [body[at : at + 1_000] for at in range(0, len(body), 1_000)] or [b""]

    async def receive() -> dict[str, Any]:
        piece = pieces.pop(0)
        return {"type": "http.request", "body": piece, "more_body": bool(pieces)}

    named = [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()]
    scope = {"type": "http", "method": "POST", "path": "/", "headers": [(b"transfer-encoding", b"chunked"), *named]}
    return Request(scope, receive)


def read(body: bytes, **headers: str) -> Any:
    return asyncio.run(read_bytes(request(body, **headers), largest=1_000))


def status_of(body: bytes, **headers: str) -> int:
    with pytest.raises(Refusal) as refused:
        read(body, **headers)
    return refused.value.status


@pytest.mark.parametrize("leaf", [1, "text", None, [], {}])
def test_depth_counts_objects_and_lists_that_hold_something_or_not(leaf: Any) -> None:
    deep = DEEPEST - isinstance(leaf, list | dict)

    assert not too_deep(nested(deep, leaf))
    assert too_deep(nested(deep + 1, leaf))
    assert too_deep({"shallow": 1, "deep": nested(DEEPEST, [])})
    assert not too_deep([nested(3)] * 1_000)


def test_a_body_may_have_its_size_and_no_byte_more() -> None:
    assert read(b"x" * 1_000) == b"x" * 1_000
    assert status_of(b"x" * 1_001) == 413
    assert status_of(b"x", content_length="1001") == 413


def test_a_packed_body_is_unpacked_no_further_than_its_size() -> None:
    assert read(gzip.compress(b"x" * 1_000), content_encoding="gzip") == b"x" * 1_000
    assert status_of(gzip.compress(b"x" * 20_000_000, 1), content_encoding="gzip") == 413
    for body in (gzip.compress(b"x")[:-4], gzip.compress(b"x") + b"y", b"plain"):
        assert status_of(body, content_encoding="gzip") == 400
    assert status_of(b"x", content_encoding="br") == 415


@pytest.mark.parametrize("body", [b"{", b"[]", b"null", b'{"a": NaN}', b'{"a": ["\\u0000"]}', b"[" * 300])
def test_an_object_is_needed_and_no_nul_in_it(body: bytes) -> None:
    with pytest.raises(Refusal) as refused:
        asyncio.run(read_object(request(body)))

    assert refused.value.status == 400
