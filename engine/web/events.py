"""The event API: what happened, in Segment's specification, items, devices, and what phones say of pushes.

Every answer that says a message is accepted comes after its commit. A batch is never refused for one message's sake:
the refused are named, with their reasons, beside the accepted.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from fastapi import APIRouter, Request
from starlette.responses import JSONResponse, Response

from engine.access.roles import Grant
from engine.clock import business_now
from engine.delivery import callbacks
from engine.delivery.gateways import device_gateways
from engine.ingest.block import Block, Reject
from engine.ingest.intake import DeviceIntake, Intake, ItemIntake
from engine.ingest.json_rows import objects_block
from engine.ingest.layout import CANONICAL, Kind, Layout
from engine.ingest.live import LiveIntake, Taken
from engine.ingest.options import DEFAULTS
from engine.ingest.segment import KINDS
from engine.web.body import read_json, too_deep
from engine.web.desk import Desk
from engine.web.problems import Refusal, problem

MOST_ROWS = 20_000
"""Messages, items or devices of one body: whatever means something takes 25 bytes and more, and each is answered."""

LARGEST_CALLBACK = 10_000
"""Bytes: whoever has no key sends little."""

_ANY_PAGE = {
    "Access-Control-Allow-Origin": "*",
    "Access-Control-Allow-Methods": "POST",
    "Access-Control-Allow-Headers": "content-type",
    "Access-Control-Max-Age": "86400",
    "Cross-Origin-Resource-Policy": "cross-origin",
}

DEEP = "objects and lists lie too deep in each other"


def routes(desk: Desk) -> APIRouter:
    """The routes, served at `desk`."""
    router = APIRouter(prefix="/v1", tags=["events"])
    intake = LiveIntake(desk.runtime.database, device_gateways())
    for kind in KINDS:
        _add(router, kind, f"Segment's `{kind}`: one message. Scope write.", _one(desk, intake, kind), _message(kind))
    batch = "Segment's `batch`: messages of any type, 500 kB in all, 32 kB each. Scope write."
    _add(router, "batch", batch, _many(desk, intake, history=False), _BATCH)
    _add(router, "import", "The same, of the past: timestamps are taken as they are. Scope write.",
         _many(desk, intake, history=True), _BATCH)  # fmt: skip
    for kind in _ENTITIES:
        said = (
            f"Create {kind}, or change what is mentioned: an object, a list of them, or them as `{kind}`. Scope write."
        )
        _add(router, kind, said, _entities(desk, kind), _anything)
    _add(router, "callbacks", "What became of pushes: up to 500 callbacks as `callbacks`. Scope write.",
         _callbacks(desk), _anything)  # fmt: skip
    said = "What became of one push: its callback_token proves it, so that an app needs no key. Also from web pages."
    _add(router, "callbacks/{push}", said, _callback(desk), _anything)
    router.add_api_route("/callbacks/{push}", _preflight, methods=["OPTIONS"], include_in_schema=False)
    return router


_Handler = Callable[..., Any]


def _add(router: APIRouter, path: str, summary: str, handler: _Handler, schema: dict[str, Any]) -> None:
    body = {"requestBody": {"required": True, "content": {"application/json": {"schema": schema}}}}
    answers: dict[int | str, dict[str, Any]] = {}
    if path in (*KINDS, "batch", "import"):
        answers[202] = {"description": "Committed; in profiles a moment later.", "content": {"application/json": {}}}
        answers[200] = {"description": "The same, for clients that take any other status for a failure."}
    router.add_api_route(
        f"/{path}",
        handler,
        methods=["POST"],
        summary=summary,
        openapi_extra=body,
        response_model=None,
        responses=answers,
    )


def _one(desk: Desk, intake: LiveIntake, kind: str) -> _Handler:
    async def handle(request: Request, _grant: Grant = desk.needs("write")) -> Response:
        raw = await read_json(request)
        if too_deep(raw):
            raise Refusal(400, DEEP)
        taken = await desk.do(lambda: intake.accept([raw], kind=kind))
        if taken.refused:
            raise Refusal(400, taken.refused[0])
        _wake(desk)
        return JSONResponse({"success": True}, _accepted(request))

    return handle


def _many(desk: Desk, intake: LiveIntake, *, history: bool) -> _Handler:
    async def handle(request: Request, grant: Grant = desk.needs("write")) -> Response:
        body = await read_json(request)
        if not isinstance(body, dict) or not isinstance(body.get("batch"), list):
            raise Refusal(400, "a batch is an object with a list `batch`")
        raws = body["batch"]
        _require_few(raws)
        if isinstance(body.get("context"), dict):
            shared = {"context": body["context"]}
            raws = [{**shared, **raw} if isinstance(raw, dict) else raw for raw in raws]
        if too_deep(raws):  # seldom: then which
            raws = [_shallow(raw) for raw in raws]

        def work() -> Taken:
            taken = intake.accept(raws, sent_at=body.get("sentAt"), history=history)
            desk.charge(grant, len(raws))
            return taken

        taken = await desk.do(work)
        if taken.accepted:
            _wake(desk)
        refused = [{"index": place, "reason": why} for place, why in sorted(taken.refused.items())]
        told = {"success": True, "accepted": taken.accepted, "rejected": refused}
        return JSONResponse(told, _accepted(request))

    return handle


def _wake(desk: Desk) -> None:
    """What events change: what is planned, at once, and the profiles."""
    desk.wake("horae.refresh")
    desk.wake("horae.fold")


EXACTLY_200 = ("analytics-python/", "analytics-php/")
"""User agents of clients of Segment's, older versions of which take any other status for a failure and send again."""


def _accepted(request: Request) -> int:
    """The status of what is committed, and in profiles a moment later: 202."""
    return 200 if request.headers.get("user-agent", "").startswith(EXACTLY_200) else 202


def _require_few(rows: Sequence[Any]) -> None:
    if len(rows) > MOST_ROWS:
        raise Refusal(413, f"{len(rows):,} in one body are more than {MOST_ROWS:,}", hint="send smaller batches")


def _shallow(raw: Any) -> Any:
    """A message; one that lies too deep is replaced by what no message is."""
    return None if too_deep(raw) else raw


_ENTITIES: tuple[Kind, ...] = ("items", "devices")


def _entities(desk: Desk, kind: Kind) -> _Handler:
    layout = Layout(kind, {name: name for name in CANONICAL[kind]})

    def store(rows: Sequence[Any]) -> dict[str, Any]:
        database = desk.runtime.database
        with database.begin() as connection:
            now = business_now(connection)
        intake: Intake = (
            ItemIntake(database, now, DEFAULTS)
            if kind == "items"
            else DeviceIntake(database, now, DEFAULTS, device_gateways())
        )
        rejects: list[Reject] = []
        numbered = []
        for place, row in enumerate(rows):
            if isinstance(row, dict) and not too_deep(row):
                numbered.append((place, row))
            else:
                rejects.append(Reject(place, "not an object" if not isinstance(row, dict) else DEEP, "", None))
        block: Block = objects_block(numbered, rejects, layout)
        checked, refused = intake.check(block)
        counted: dict[str, int] = {"created": 0, "updated": 0, "unchanged": 0}
        for _, part in intake.split(checked):
            summary, more = intake.store(block, part)
            refused = [*refused, *more]
            counted = {name: number + getattr(summary, name) for name, number in counted.items()}
        told = [{"index": each.line, "reason": f"{each.problem} {each.detail}".strip()} for each in refused]
        return {"success": True, **counted, "rejected": sorted(told, key=lambda one: str(one["index"]).zfill(9))}

    async def handle(request: Request, grant: Grant = desk.needs("write")) -> Response:
        body = await read_json(request)
        rows = body.get(kind, [body]) if isinstance(body, dict) else body
        if not isinstance(rows, list):
            raise Refusal(400, f"{kind} are an object, a list of objects, or an object with them as `{kind}`")
        _require_few(rows)
        told = await desk.do(lambda: store(rows))
        await desk.do(lambda: desk.charge(grant, len(rows)))
        return JSONResponse(told)

    return handle


def _callbacks(desk: Desk) -> _Handler:
    async def handle(request: Request, grant: Grant = desk.needs("write")) -> Response:
        body = await read_json(request)
        given = body.get("callbacks") if isinstance(body, dict) else body
        if not isinstance(given, list):
            raise Refusal(400, "callbacks are a list, or an object with them as `callbacks`")
        answers = await desk.do(lambda: _accept(desk, [_shallow(one) for one in given]))
        await desk.do(lambda: desk.charge(grant, len(given)))
        told = [{"index": n, "status": a.status, "reason": a.reason, "detail": a.detail} for n, a in enumerate(answers)]
        return JSONResponse({"success": True, "answers": told})

    return handle


def _callback(desk: Desk) -> _Handler:
    async def handle(request: Request, push: str) -> Response:
        await desk.admit_phone()
        body = await read_json(request, LARGEST_CALLBACK)
        if not isinstance(body, dict) or too_deep(body):
            raise Refusal(400, "a callback is an object")
        [answer] = await desk.do(lambda: _accept(desk, [{**body, "push_id": push}]))
        if answer.status == "refused":
            return problem(400, answer.detail or "refused", headers=_ANY_PAGE, reason=answer.reason)
        return JSONResponse({"success": True, "status": answer.status}, headers=_ANY_PAGE)

    return handle


async def _preflight() -> Response:
    """What a browser asks before a page of another origin may answer for a push: no cookie or key is involved."""
    return Response(status_code=204, headers=_ANY_PAGE)


def _accept(desk: Desk, given: Sequence[object]) -> list[callbacks.Answer]:
    with desk.runtime.database.begin() as connection:
        now = business_now(connection)
    answers = callbacks.accept(desk.runtime.database, now, given)
    if any(answer.status == "accepted" for answer in answers):
        _wake(desk)
    return answers


_anything: dict[str, Any] = {"oneOf": [{"type": "object"}, {"type": "array", "items": {"type": "object"}}]}
_ID = {"type": "string", "minLength": 1, "maxLength": 512}
_MESSAGE: dict[str, Any] = {
    "type": "object",
    "properties": {
        "userId": _ID,
        "anonymousId": _ID,
        "messageId": {"type": "string"},
        "event": {"type": "string", "minLength": 1, "description": "of track"},
        "properties": {"type": "object", "description": "of track, page and screen"},
        "traits": {"type": "object", "description": "of identify and group"},
        "groupId": {**_ID, "description": "of group"},
        "previousId": {**_ID, "description": "of alias"},
        "timestamp": {"type": "string", "format": "date-time"},
        "sentAt": {"type": "string", "format": "date-time"},
        "context": {
            "type": "object",
            "properties": {
                "timezone": {"type": "string"},
                "device": {
                    "type": "object",
                    "properties": {"token": {"type": "string"}, "type": {"type": "string"}},
                    "description": "registers the device: token, and type ios, android, …",
                },
            },
        },
    },
    "anyOf": [{"required": ["userId"]}, {"required": ["anonymousId"]}],
}
_NEEDED = {"track": ["event"], "group": ["groupId"], "alias": ["userId", "previousId"]}


def _message(kind: str) -> dict[str, Any]:
    """One message of a kind."""
    return {**_MESSAGE, "required": _NEEDED[kind]} if kind in _NEEDED else _MESSAGE


_BATCH: dict[str, Any] = {
    "type": "object",
    "required": ["batch"],
    "properties": {
        "batch": {"type": "array", "items": {**_MESSAGE, "required": ["type"]}},
        "sentAt": {"type": "string", "format": "date-time"},
        "context": {"type": "object"},
    },
}
