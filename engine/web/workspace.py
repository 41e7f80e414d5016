"""The workspace: how everything stands, runs, deliveries, what is stopped, its rules, who changed what."""

from __future__ import annotations

from dataclasses import asdict
from datetime import datetime, timedelta
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Path, Query, Request
from pydantic import Field
from sqlalchemy import Connection
from starlette.responses import Response

from engine import audit
from engine.access.roles import Grant
from engine.campaigns import policy_store, store
from engine.campaigns.loading import build
from engine.campaigns.policy import Cap, Policy, window_of
from engine.campaigns.review import scope_warning, unfitting
from engine.delivery import switches
from engine.delivery.gateways import known_gateways
from engine.delivery.ledger import recent
from engine.planning.progress import RunState, count_run, get_run, list_runs
from engine.status import gather
from engine.store.tables import OUTCOMES
from engine.web.answers import answer
from engine.web.body import Asked, read_object
from engine.web.desk import Desk
from engine.web.problems import Refusal

Most = Annotated[int, Query(ge=1, le=1_000, description="How many, newest first.")]


class SwitchAsked(Asked):
    """What to stop or let go on: exactly one of the three."""

    all: bool = Field(False, description="Everything.")
    gateway: str | None = Field(None, description="One gateway: log, webhook, fcm, …")
    campaign: str | None = Field(None, description="One campaign, by its name.")
    why: str | None = Field(None, max_length=1_000, description="For whoever asks later.")


class CapAsked(Asked):
    """A frequency cap."""

    scope: str = Field("all", description="all, channel:GATEWAY, campaign:NAME, tag:NAME or category:ITEM CATEGORY.")
    limit: int = Field(description="The most pushes per user; 0 allows none.")
    per: str = Field(description="day, week (the user's own calendar), or a duration: 24h, 7d.")
    rolling: bool = Field(False, description="day and week as the last 24 hours and 7 days.")


class GatewayAsked(Asked):
    """What a gateway's provider takes; null: no limit, absent: as it was."""

    per_quarter: int | None = Field(None, description="Pushes in each UTC quarter of an hour.")
    per_minute: int | None = Field(None, description="Messages in any minute.")
    per_device_day: int | None = Field(None, description="Marketing pushes a device gets on a local day.")


def routes(desk: Desk) -> APIRouter:
    """The routes, served at `desk`."""
    router = APIRouter(prefix="/v1", tags=["workspace"])
    _standing(router, desk)
    _stopping(router, desk)
    _ruling(router, desk)
    return router


def _standing(router: APIRouter, desk: Desk) -> None:
    @router.get("/status", summary="What runs, what waits, what is wrong, as `horae status`. Scope read.")
    async def status(_grant: Grant = desk.needs("read")) -> Response:
        return answer((await desk.do(lambda: gather(desk.runtime.settings))).as_dict())

    @router.get("/runs", summary="Planning runs: state, shards and users planned, rate. Scope read.")
    async def runs(limit: Most = 20, _grant: Grant = desk.needs("read")) -> Response:
        found = await desk.transact(lambda connection, _now: list_runs(connection, limit))
        return answer([_run(one) for one in found])

    @router.get("/runs/{run}", summary="A run: how far it is, what it decided and why. Scope read.")
    async def run_of(run: Annotated[int, Path(ge=0, lt=2**63)], _grant: Grant = desk.needs("read")) -> Response:
        def work(connection: Connection, _now: datetime) -> dict[str, Any]:
            return {**_run(get_run(connection, run)), **asdict(count_run(connection, run))}

        return answer(await desk.transact(work))

    @router.get("/deliveries", summary="What became of pushes, newest first. Scope read.")
    async def deliveries(
        campaign: str | None = None,
        user: str | None = None,
        state: Annotated[Literal[OUTCOMES] | None, Query()] = None,  # type: ignore[valid-type]
        days: Annotated[int, Query(ge=1, le=3_660)] = 7,
        limit: Most = 50,
        _grant: Grant = desk.needs("read"),
    ) -> Response:
        def work(connection: Connection, now: datetime) -> Any:
            if campaign is not None:
                store.get(connection, campaign)
            since = (now - timedelta(days=days)).date()
            return recent(connection, since, limit, campaign=campaign, user=user, state=state)

        return answer(await desk.transact(work))

    @router.get("/audit", summary="Who changed what, newest first. Scope read.")
    async def audited(
        subject: Annotated[str | None, Query(description="campaign:NAME, policy, all, gateway:NAME, key:ID, …")] = None,
        actor: Annotated[str | None, Query(description="key:ID, user:NAME, a name at the command line.")] = None,
        limit: Most = 100,
        _grant: Grant = desk.needs("read"),
    ) -> Response:
        return answer(
            await desk.transact(
                lambda connection, _now: audit.read(connection, subject=subject, actor=actor, most=limit)
            )
        )


def _stopping(router: APIRouter, desk: Desk) -> None:
    @router.get("/stops", summary="What is stopped, since when, by whom and why. Scope read.")
    async def stops(_grant: Grant = desk.needs("read")) -> Response:
        return answer(await desk.transact(lambda connection, _now: switches.stopped(connection)))

    @router.post(
        "/stop",
        summary="Stop sending at once; it says how many pushes may still leave. Scope operate.",
        openapi_extra=SwitchAsked.told(needed=True),
    )
    async def stop(request: Request, grant: Grant = desk.needs("operate")) -> Response:
        asked = await SwitchAsked.of(request)

        def work(connection: Connection, _now: datetime) -> dict[str, Any]:
            scope = _scope(connection, asked)
            return {"stopped": scope, "may_still_leave": switches.stop(connection, scope, grant.actor, asked.why)}

        return answer(await desk.transact(work))

    @router.post(
        "/start",
        summary="Let what was stopped send again; pushes whose window has passed expire. Scope operate.",
        openapi_extra=SwitchAsked.told(needed=True),
    )
    async def start(request: Request, grant: Grant = desk.needs("operate")) -> Response:
        asked = await SwitchAsked.of(request)

        def work(connection: Connection, _now: datetime) -> dict[str, Any]:
            scope = _scope(connection, asked)
            was = switches.start(connection, scope, grant.actor)
            left = [switch.scope for switch in switches.stopped(connection)]
            return {"started": scope, "was_stopped": was, "still_stopped": left}

        return answer(await desk.transact(work))


def _ruling(router: APIRouter, desk: Desk) -> None:
    @router.get("/policy", summary="The workspace's rules: zone, quiet hours, gap, caps, gateways. Scope read.")
    async def policy(_grant: Grant = desk.needs("read")) -> Response:
        return answer(_policy(*await desk.transact(lambda connection, _now: policy_store.current_policy(connection))))

    @router.patch(
        "/policy",
        summary="Change rules: those named, null for none; a new version, and runs keep theirs. Scope admin.",
        openapi_extra={
            "requestBody": {
                "required": True,
                "content": {"application/json": {"schema": {"type": "object", "properties": _rules_schema()}}},
            }
        },
    )
    async def changed(request: Request, grant: Grant = desk.needs("admin")) -> Response:
        changes = await read_object(request)

        def work(connection: Connection, now: datetime) -> dict[str, Any]:
            told = _policy(*policy_store.change_rules(connection, changes, grant.actor))
            return {**told, "warnings": unfitting(connection, now, desk.runtime.gateways)}

        return answer(await desk.transact(work))

    @router.post("/policy/caps", summary="Add a frequency cap. Scope admin.", openapi_extra=CapAsked.told(needed=True))
    async def added(request: Request, grant: Grant = desk.needs("admin")) -> Response:
        asked = await CapAsked.of(request)
        window = window_of(asked.per, rolling=asked.rolling)
        cap = build(Cap, {"scope": asked.scope, "limit": asked.limit, "window": window})

        def work(connection: Connection, _now: datetime) -> dict[str, Any]:
            version, made = policy_store.add_cap(connection, cap, grant.actor)
            warning = scope_warning(connection, made.scope, desk.runtime.gateways, known_gateways())
            return {"policy": version, "cap": _cap(made), "warnings": [warning] if warning else []}

        return answer(await desk.transact(work), 201)

    @router.delete("/policy/caps/{cap}", summary="Remove a cap by its id. Scope admin.")
    async def removed(cap: str, grant: Grant = desk.needs("admin")) -> Response:
        version, gone = await desk.transact(
            lambda connection, _now: policy_store.remove_cap(connection, cap, grant.actor)
        )
        return answer({"policy": version, "cap": _cap(gone)})

    @router.patch(
        "/policy/gateways/{gateway}",
        summary="Say what a gateway's provider takes; plans keep to it. Scope admin.",
        openapi_extra=GatewayAsked.told(needed=True),
    )
    async def limited(request: Request, gateway: str, grant: Grant = desk.needs("admin")) -> Response:
        asked = await GatewayAsked.of(request)
        limits = {
            name: "none" if (value := getattr(asked, name)) is None else str(value) for name in asked.model_fields_set
        }
        version, rule = await desk.transact(
            lambda connection, _now: policy_store.set_gateway(
                connection, gateway, limits, desk.runtime.gateways, grant.actor
            )
        )
        return answer({"policy": version, "gateway": None if rule is None else rule.model_dump(mode="json")})


def _scope(connection: Connection, asked: SwitchAsked) -> str:
    if [asked.all, asked.gateway is not None, asked.campaign is not None].count(True) != 1:
        raise Refusal(400, "say what", hint="exactly one of all, gateway and campaign")
    return switches.scope_of(connection, asked.gateway, asked.campaign)


def _run(one: RunState) -> dict[str, Any]:
    return {**asdict(one), "seconds_left": one.seconds_left}


def _policy(version: int, policy: Policy) -> dict[str, Any]:
    told = policy.model_dump(mode="json")
    return {"policy": version, **told, "caps": [_cap(cap) for cap in policy.caps]}


def _cap(cap: Cap) -> dict[str, Any]:
    return {**cap.model_dump(mode="json"), "in_words": str(cap)}


def _rules_schema() -> dict[str, Any]:
    properties = Policy.model_json_schema()["properties"]
    return {name: properties[name] for name in policy_store.RULES}
