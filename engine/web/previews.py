"""What a send would do, and sends by hand: previews, triggers, test pushes.

A preview plans as a run does, in this process: about a second for the catalogue and 4,000 users a second after it, on
one core. So it plans SAMPLE users unless it is told otherwise, one preview at a time, and gives up after SECONDS.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from datetime import datetime
from typing import TYPE_CHECKING, Annotated, Any

from fastapi import APIRouter, Header, Path, Request
from pydantic import Field
from sqlalchemy import Connection
from starlette.responses import Response

from engine import clock
from engine.access.roles import Grant
from engine.campaigns import store
from engine.campaigns.definition import Campaign
from engine.campaigns.loading import build
from engine.campaigns.review import require_sound, review
from engine.runtime import require_redis
from engine.web.answers import answer
from engine.web.body import Asked
from engine.web.desk import Desk
from engine.web.problems import Refusal

if TYPE_CHECKING:
    from engine.planning.preview import Preview
    from engine.planning.trigger import Triggered

SAMPLE = 10_000
"""Users of a preview that does not say how many."""

SECONDS = 60.0
"""A preview that is not done by then is given up."""

LARGEST_LIST = 10_000_000
"""Bytes of a body that may name users."""

Name = Annotated[str, Path(description="The campaign's name.")]


class SendAsked(Asked):
    """What is to be sent. users: the shop's ids; absent: the campaign's audience."""

    at_once: bool = Field(False, description="Now, or not at all, instead of in each user's best window.")
    users: list[str] | None = Field(None, min_length=1, fail_fast=True, description="Only these users.")
    data: dict[str, Any] = Field({}, description="For the template.")


class PreviewAsked(SendAsked):
    """A send that is previewed."""

    sample: int | None = Field(SAMPLE, ge=1, description="About so many users, chosen by hash; null: all.")
    definition: dict[str, Any] | None = Field(None, description="Plan by this one, which need not be stored.")
    version: int | None = Field(None, ge=1, description="Plan by this version, such as one that waits for an approval.")


class TestAsked(Asked):
    """A marked push to one user."""

    user: str = Field(description="Who gets it.")
    item: str | None = Field(None, description="About this item; absent: the user's best.")
    variant: str | None = Field(None, description="An arm of the message's experiment; absent: the user's own.")
    data: dict[str, Any] = Field({}, description="For the template.")


def add(router: APIRouter, desk: Desk) -> None:
    """Add the routes to the campaigns' router."""

    @router.post(
        "/{name}/preview",
        summary="The plan as if triggered now, without writing it; also of a definition not stored. Scope read.",
        openapi_extra=PreviewAsked.told(),
    )
    async def previewed(request: Request, name: Name, _grant: Grant = desk.needs("read")) -> Response:
        asked = await PreviewAsked.of(request, LARGEST_LIST)
        found = await desk.do_long(lambda: plan(desk, name, asked))
        told = {"campaign": name, **asdict(found), "planned": found.planned, "eligible": found.eligible}
        return answer(told)

    @router.post(
        "/{name}/trigger",
        status_code=202,
        summary="Send it now, outside its schedule, for its audience or some users. Scope operate.",
        openapi_extra=SendAsked.told(),
    )
    async def triggered(
        request: Request,
        name: Name,
        idempotency_key: Annotated[
            str | None, Header(description="A repeat under the same key gets the first answer and sends nothing.")
        ] = None,
        grant: Grant = desk.needs("operate"),
    ) -> Response:
        asked = await SendAsked.of(request, LARGEST_LIST)
        made, run = await desk.do_long(lambda: trigger(desk, name, asked, idempotency_key, grant.actor))
        replayed = {"Idempotent-Replayed": "true"} if made.repeated else {}
        return answer({**asdict(made), "run": run}, 202, replayed)

    @router.post(
        "/{name}/test",
        summary="Send one marked push to one user, now; it counts nowhere. Scope operate.",
        openapi_extra=TestAsked.told(needed=True),
    )
    async def tested(request: Request, name: Name, grant: Grant = desk.needs("operate")) -> Response:
        from engine.delivery import trial  # noqa: PLC0415 - it imports XGBoost, which events do not need

        asked = await TestAsked.of(request)

        def work() -> dict[str, Any]:
            now = desk.now()
            wanted = trial.Wanted(asked.user, asked.item, asked.data, asked.variant)
            return asdict(trial.send_test(desk.runtime, now, name, wanted, grant.actor))

        return answer(await desk.do_long(work))


def plan(desk: Desk, name: str, asked: PreviewAsked) -> Preview:
    """The plan of what is asked, without writing it. Raises as planning.trigger does, Faulty, and Refusal: 503 where it
    takes too long."""
    from engine.planning.preview import preview  # noqa: PLC0415 - they import XGBoost
    from engine.planning.trigger import Request as Send  # noqa: PLC0415
    from engine.planning.trigger import spec_of  # noqa: PLC0415

    database, gateways = desk.runtime.database, desk.runtime.gateways
    with database.begin() as connection:
        now = clock.business_now(connection)
        definition = _definition(connection, now, name, asked, gateways)
    until = clock.monotonic() + SECONDS

    def give_up(_seen: int, _total: int) -> None:
        if clock.monotonic() > until:
            raise Refusal(503, f"it takes more than {SECONDS:.0f} s", hint="preview a smaller sample", retry_after=60)

    send = Send(at_once=asked.at_once, users=_users(asked), data=asked.data)
    spec = spec_of(database, now, name, send, definition)
    return preview(database, gateways, spec, give_up, asked.sample)


def _definition(
    connection: Connection, now: datetime, name: str, asked: PreviewAsked, gateways: Mapping[str, Any]
) -> Campaign | None:
    """The definition to plan by, where it is not that of a running campaign: the one given, a version's, or a
    draft's."""
    given = asked.definition
    if given is not None and asked.version is not None:
        raise Refusal(400, "definition and version both say what to plan by", hint="leave one of them out")
    if given is None:
        stored = store.get(connection, name)
        if asked.version is not None:
            return store.get_version(connection, stored.id, asked.version)
        return stored.definition if stored.state in ("draft", "paused") else None
    definition = build(Campaign, {"name": name, **given})
    if definition.name != name:
        raise Refusal(400, f"the definition is of {definition.name!r}, the address of {name!r}")
    require_sound(review(connection, definition, now, gateways), name)
    return definition


def trigger(desk: Desk, name: str, asked: SendAsked, key: str | None, actor: str) -> tuple[Triggered, int | None]:
    """Send what is asked; its run, where one could be opened at once. Raises as planning.trigger does, and
    RedisUnavailable before anything is written."""
    from engine.planning import trigger as triggers  # noqa: PLC0415 - it imports XGBoost

    runtime = desk.runtime
    require_redis(runtime.broker_url)  # before anything is written: nothing of it would leave
    require_redis(runtime.caps_url)
    now = desk.now()
    send = triggers.Request(at_once=asked.at_once, users=_users(asked), data=asked.data, key=key)
    made = triggers.trigger(runtime.database, now, name, send, actor)
    return made, triggers.open_run(runtime, now, made, desk.wake)


def _users(asked: SendAsked) -> tuple[str, ...] | None:
    return None if asked.users is None else tuple(dict.fromkeys(asked.users))
