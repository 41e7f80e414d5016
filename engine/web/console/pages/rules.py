"""Rules of the workspace: caps, quiet hours and gap, what gateways take; the first of the settings."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from fastapi import APIRouter
from sqlalchemy import Connection
from starlette.requests import Request
from starlette.responses import Response

from engine.campaigns import policy_store
from engine.campaigns.fields import hours_text, in_words
from engine.campaigns.loading import build
from engine.campaigns.policy import PER_MINUTE, SCOPES, Cap, Policy, window_of
from engine.campaigns.review import scope_warning, unfitting
from engine.delivery.gateways import known_gateways
from engine.errors import BadInput, Faulty
from engine.web.console.forms import Form
from engine.web.console.links import Link
from engine.web.console.reception import Console
from engine.web.console.visit import Visit
from engine.web.console.words import word

LINKS = (Link("/console/settings", word("Settings")),)

WINDOWS = {
    "local_day": word("a day (each user's calendar)"),
    "local_week": word("a week (each user's calendar, from Monday)"),
    "rolling:PT24H": word("any 24 hours"),
    "rolling:P7D": word("any 7 days"),
    "rolling:P30D": word("any 30 days"),
    "other": word("another duration"),
}

SCOPE_NAMES = {
    "all": word("all pushes"),
    "channel": word("one gateway"),
    "campaign": word("one campaign"),
    "tag": word("campaigns with a tag"),
    "category": word("items of a category"),
}

APPROVALS = {
    "off": word("not needed"),
    "required": word("needed"),
    "four_eyes": word("needed, by somebody who did not write it (four eyes)"),
}

LIMITS = ("per_quarter", "per_minute", "per_device_day")


def routes(console: Console) -> APIRouter:
    """The routes of this page."""
    router = console.router("/console/settings")

    @router.get("")
    async def index(request: Request) -> Response:
        return await _page(console, await console.enter(request))

    @router.post("/caps")
    async def add(request: Request) -> Response:
        visit, form = await console.act(request, "admin")

        def work(connection: Connection, _now: datetime) -> tuple[Cap, str | None]:
            _, made = policy_store.add_cap(connection, _cap_of(form), visit.actor)
            return made, scope_warning(connection, made.scope, console.runtime.gateways, known_gateways())

        try:
            made, warning = await console.desk.transact(work)
        except BadInput as error:
            return await _page(console, visit, status=422, faults={"cap": visit.told(error)}, form=form)
        said = visit.say("%(id)s holds from now on.", id=made.id)
        kind = "done" if warning is None else "warning"
        return visit.go("/console/settings", f"{said} {warning or ''}".strip(), kind=kind)

    @router.post("/caps/{cap}/remove")
    async def remove(request: Request, cap: str) -> Response:
        visit, _ = await console.act(request, "admin")
        await console.desk.transact(lambda connection, _: policy_store.remove_cap(connection, cap, visit.actor))
        return visit.go("/console/settings", visit.say("%(id)s is removed.", id=cap))

    @router.post("/rules")
    async def change(request: Request) -> Response:
        visit, form = await console.act(request, "admin")

        def work(connection: Connection, now: datetime) -> list[str]:
            policy_store.change_rules(connection, _rules_of(form), visit.actor)
            return unfitting(connection, now, console.runtime.gateways)

        try:
            warnings = await console.desk.transact(work)
        except BadInput as error:
            return await _page(console, visit, status=422, faults=_faults(visit, error), form=form)
        said = visit.say("The rules are changed. Plans that were made keep the old ones.")
        kind = "warning" if warnings else "done"
        return visit.go("/console/settings", "\n".join([said, *warnings]), kind=kind)

    @router.post("/gateways/{gateway}")
    async def limit(request: Request, gateway: str) -> Response:
        visit, form = await console.act(request, "admin")
        limits = {name: form.text(name) or "none" for name in LIMITS}

        def work(connection: Connection, _now: datetime) -> None:
            policy_store.set_gateway(connection, gateway, limits, console.runtime.gateways, visit.actor)

        try:
            await console.desk.transact(work)
        except BadInput as error:
            return await _page(console, visit, status=422, faults={f"gateway {gateway}": visit.told(error)}, form=form)
        return visit.go("/console/settings", visit.say("The limits of %(name)s are changed.", name=gateway))

    return router


async def _page(
    console: Console, visit: Visit, *, status: int = 200, faults: dict[str, str] | None = None, form: Form | None = None
) -> Response:
    version, policy = await console.desk.transact(lambda connection, _: policy_store.current_policy(connection))
    gateways = await console.desk.do(lambda: sorted(console.runtime.gateways))
    rules = {rule.gateway: rule for rule in policy.gateways}
    return visit.page(
        "settings/rules.html",
        status=status,
        faults=faults or {},
        form=Form(()) if form is None else form,
        version=version,
        policy=policy,
        shown=_shown(policy) | (_typed(form) if form is not None and form.text("default_timezone") else {}),
        gateways={name: rules.get(name) for name in sorted({*gateways, *rules})},
        configured=gateways,
        limits=LIMITS,
        provider_limits=PER_MINUTE,
        approvals=APPROVALS,
        windows=WINDOWS,
        scopes=SCOPE_NAMES,
    )


def _cap_of(form: Form) -> Cap:
    """The cap that a form describes. Raises Faulty."""
    kind, name = form.text("kind", "all"), form.text("name")
    window = form.text("window")
    if window == "other":
        window = window_of(form.text("duration"))
    return build(
        Cap, {"scope": f"{kind}:{name}" if kind in SCOPES else kind, "limit": form.text("limit"), "window": window}
    )


def _rules_of(form: Form) -> dict[str, Any]:
    quiet = f"{form.text('quiet_from')}-{form.text('quiet_until')}" if form.ticked("quiet") else None
    try:
        holdout = float(form.text("holdout", "0") or "0") / 100
    except ValueError:
        raise Faulty("holdout must be a number", [(("holdout",), "holdout must be a number")]) from None
    whole = ("pushes_per_stock", "keep_events_days", "keep_deliveries_days", "keep_decisions_days")
    return {
        "default_timezone": form.text("default_timezone"),
        "quiet_hours": quiet,
        "min_gap": form.text("min_gap") or None,
        "holdout": round(holdout, 6),
        "approvals": form.text("approvals", "off"),
        **{name: form.text(name) or None for name in whole},
    }


def _shown(policy: Policy) -> dict[str, Any]:
    """The rules as the form's fields hold them."""
    hours = hours_text(policy.quiet_hours).split("-") if policy.quiet_hours else ["22:00", "08:00"]
    return {
        "default_timezone": policy.default_timezone,
        "quiet": policy.quiet_hours is not None,
        "quiet_from": hours[0],
        "quiet_until": hours[1],
        "min_gap": in_words(policy.min_gap) if policy.min_gap else "",
        "approvals": policy.approvals,
        "holdout": f"{policy.holdout * 100:g}",
        "pushes_per_stock": str(policy.pushes_per_stock or ""),
        **{name: str(getattr(policy, name) or "") for name in policy_store.RULES if name.startswith("keep_")},
    }


def _typed(form: Form) -> dict[str, Any]:
    """The rules as somebody typed them."""
    names = (name for name in _shown(Policy()) if name != "quiet")
    return {"quiet": form.ticked("quiet"), **{name: form.text(name) for name in names}}


def _faults(visit: Visit, error: BadInput) -> dict[str, str]:
    """What is wrong, by field of the form."""
    if not isinstance(error, Faulty):
        return {"rules": visit.told(error)}
    return {str(path[0]) if path else "rules": visit.words.sentence(said) for path, said in error.faults}
