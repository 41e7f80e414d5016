"""Errors as problem documents (RFC 9457): `title` is what went wrong, `hint` what to do about it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse, Response

from engine.errors import BadInput, Conflict, Faulty, HoraeError, SchemaMismatch, Unavailable, UnknownName, UserErased

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
    (UserErased, 410),
    (UnknownName, 404),
    (Conflict, 409),
    (Faulty, 422),
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
    status, title, hint = told_of(error)
    headers = dict(error.headers or {}) if isinstance(error, HTTPException) else {}
    if isinstance(error, Refusal) and error.retry_after is not None:
        headers["Retry-After"] = str(error.retry_after)
    if status == 401:
        headers["WWW-Authenticate"] = 'Bearer realm="horae"'
    if isinstance(error, Unavailable | SchemaMismatch):
        headers["Retry-After"] = str(RETRY_SECONDS)
    faults = {"errors": _faults(error)} if isinstance(error, Faulty) else {}
    return problem(status, title, hint, headers, **faults)


def told_of(error: Exception) -> tuple[int, str, str | None]:
    """What a person is told of an error: status, what went wrong, what to do about it."""
    if isinstance(error, Refusal):
        return error.status, error.title, error.hint
    if isinstance(error, HTTPException):
        return error.status_code, str(error.detail), None
    if isinstance(error, RequestValidationError):
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        return 400, f"{where}: {first['msg']}", "see /openapi.json"
    for kind, status in STATUSES:
        if isinstance(error, kind):
            if status == 503:  # its message names hosts
                said = "a server that Horae needs does not answer" if isinstance(error, Unavailable) else "not ready"
                return status, said, "nothing was changed; ask again"
            return status, error.message, error.hint
    return 500, "something went wrong inside Horae", "it is in the log"


def _faults(error: Faulty) -> list[dict[str, str]]:
    """As RFC 9457 shows them: a JSON Pointer into what was sent, and what is wrong there."""
    return [
        {
            "pointer": "#" + "".join(f"/{str(part).replace('~', '~0').replace('/', '~1')}" for part in path),
            "detail": said,
        }
        for path, said in error.faults
    ]


def install(app: FastAPI) -> None:
    """Make `app` answer with problem documents."""

    async def handle(_request: Request, error: Exception) -> Response:
        return answer_of(error)

    for kind in (Refusal, HTTPException, RequestValidationError, HoraeError, Exception):
        app.add_exception_handler(kind, handle)
