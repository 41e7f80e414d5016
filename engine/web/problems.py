"""Errors as problem documents (RFC 9457): `title` is what went wrong, `hint` what to do about it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse, Response

from engine.errors import BadInput, HoraeError, SchemaMismatch, Unavailable, UnknownName

RETRY_SECONDS = 5
"""When to ask again while a server that Horae needs is not there."""

_PROBLEM = {
    "type": "object",
    "required": ["status", "title"],
    "properties": {
        "status": {"type": "integer"},
        "title": {"type": "string", "description": "What went wrong."},
        "hint": {"type": "string", "description": "What to do about it."},
        "code": {"type": "string"},
        "message": {"type": "string"},
    },
}
_CONTENT = {"application/problem+json": {"schema": _PROBLEM}}

RESPONSES: dict[int | str, dict[str, Any]] = {
    "4XX": {"description": "Refused, and why; nothing was changed.", "content": _CONTENT},
    "503": {"description": "Not just now; ask again after Retry-After seconds.", "content": _CONTENT},
}
"""What the OpenAPI document says of every operation."""

STATUSES: tuple[tuple[type[HoraeError], int], ...] = (
    (UnknownName, 404),
    (BadInput, 400),
    (Unavailable, 503),
    (SchemaMismatch, 503),
)


class Refusal(Exception):
    """A request is refused with `status`; `retry_after`: seconds until it may be asked again."""

    def __init__(self, status: int, title: str, *, hint: str | None = None, retry_after: int | None = None) -> None:
        super().__init__(title)
        self.status, self.title, self.hint, self.retry_after = status, title, hint, retry_after


def problem(
    status: int, title: str, hint: str | None = None, headers: Mapping[str, str] | None = None, **more: object
) -> Response:
    """A problem document. `code` and `message` say the same to clients that look for these."""
    told = {"status": status, "title": title, "code": str(status), "message": title, **more}
    if hint is not None:
        told["hint"] = hint
    return JSONResponse(told, status, headers=headers, media_type="application/problem+json")


def answer_of(error: Exception) -> Response:
    """The answer to a request that failed so. What is not ours to explain is a 500 that says nothing."""
    if isinstance(error, Refusal):
        headers = {} if error.retry_after is None else {"Retry-After": str(error.retry_after)}
        if error.status == 401:
            headers["WWW-Authenticate"] = 'Bearer realm="horae"'
        return problem(error.status, error.title, error.hint, headers)
    if isinstance(error, HTTPException):
        return problem(error.status_code, str(error.detail), headers=error.headers)
    if isinstance(error, RequestValidationError):
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        return problem(400, f"{where}: {first['msg']}", "see /openapi.json")
    for kind, status in STATUSES:
        if isinstance(error, kind):
            if status == 503:  # its message names hosts
                said = "a server that Horae needs does not answer" if isinstance(error, Unavailable) else "not ready"
                return problem(503, said, "nothing was changed; ask again", {"Retry-After": str(RETRY_SECONDS)})
            return problem(status, error.message, error.hint)
    return problem(500, "something went wrong inside Horae", "it is in the log")


def install(app: FastAPI) -> None:
    """Make `app` answer with problem documents."""

    async def handle(_request: Request, error: Exception) -> Response:
        return answer_of(error)

    for kind in (Refusal, HTTPException, RequestValidationError, HoraeError, Exception):
        app.add_exception_handler(kind, handle)
