"""The editor: a campaign as a form or as YAML, with what it would do beside it while it is written."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from fastapi import APIRouter
from sqlalchemy import Connection
from starlette.requests import Request
from starlette.responses import Response

from engine.campaigns import audience_store, store
from engine.campaigns.definition import Campaign
from engine.campaigns.loading import build
from engine.campaigns.policy_store import current_policy
from engine.campaigns.review import Defined, Review, define, review
from engine.campaigns.sampled import AudienceSize, Said, audience_size, said_to_some
from engine.campaigns.wording import MOST_ARMS
from engine.delivery.gateways import known_gateways
from engine.errors import BadInput, Conflict, Faulty
from engine.web.console import editing, rulebuilding, varying
from engine.web.console.editing import Given
from engine.web.console.forms import Form
from engine.web.console.planned import MEND_FIRST, SAMPLE, plan_part
from engine.web.console.reception import Console
from engine.web.console.rulewords import RULE_WORDS
from engine.web.console.visit import Visit
from engine.web.previews import PreviewAsked

UNNAMED = "unnamed"
MOVES = ("row", "group", "remove", "arm", "unarm")
"""Buttons that give the form a row more or less."""


@dataclass(frozen=True)
class Draft:
    """What is being edited. name: of a stored campaign, None: a new one · version: from which it was begun · tab: form
    or yaml · fields: what the form shows · faults: by field."""

    name: str | None
    version: int
    state: str
    tab: str
    fields: Mapping[str, str]
    yaml: str
    faults: Mapping[str, str] = field(default_factory=dict)


def routes(console: Console) -> APIRouter:
    """The routes of this page."""
    router = console.router("/console/editor")
    _add_editing(router, console)
    _add_previews(router, console)
    return router


def _add_editing(router: APIRouter, console: Console) -> None:
    @router.get("")
    async def begin(request: Request, name: str | None = None, copy: str | None = None) -> Response:
        visit = await console.enter(request, "operate")

        def look(connection: Connection, _: datetime) -> Draft:
            if name is None and copy is None:
                return Draft(None, 0, "", "form", editing.fields_of({}), "")
            stored = store.get(connection, name or copy or "")
            values = editing.plain(stored.definition)
            if name is None:
                values = {**values, "name": ""}
                return Draft(None, 0, "", "form", editing.fields_of(values), editing.to_yaml(values))
            return Draft(name, stored.version, stored.state, "form", editing.fields_of(values), editing.to_yaml(values))

        return await _page(console, visit, await console.desk.transact(look))

    @router.post("")
    async def save(request: Request) -> Response:
        visit, form = await console.act(request)
        given = _given(form)
        action = form.text("action")
        if action in ("to-form", "to-yaml"):
            return await _page(console, visit, _switched(form, given))
        if action.partition(":")[0] in MOVES:
            return await _page(console, visit, _draft(form, "form", editing.moved(_typed(form), action), "", {}))
        if given.faults:
            return await _page(console, visit, _refused(form, given.faults), status=422)
        try:
            made = await console.desk.transact(lambda c, now: _store(console, visit, form, (c, now), given.values))
        except Faulty as error:
            return await _page(console, visit, _refused(form, editing.by_field(error, _names(form))), status=422)
        except BadInput as error:
            return await _page(console, visit, _refused(form, {"": visit.told(error)}), status=422)
        return visit.go(f"/console/campaigns/{made.created.stored.name}", *_saved(visit, made))


def _add_previews(router: APIRouter, console: Console) -> None:
    @router.post("/check")
    async def check(request: Request) -> Response:
        visit, form = await console.act(request)
        given = _given(form)
        if given.faults:
            return visit.part("editor/faults.html", faults=given.faults)
        try:
            definition = build(Campaign, _named(given.values))
        except Faulty as error:
            return visit.part("editor/faults.html", faults=editing.by_field(error, _names(form)))

        def look(connection: Connection, now: datetime) -> tuple[Review, AudienceSize, list[Said]]:
            gateways = console.runtime.gateways
            found = review(connection, definition, now, gateways)
            size = audience_size(connection, gateways, definition, now)
            return found, size, said_to_some(connection, gateways, definition, now)

        found, size, said = await console.desk.transact(look)
        return visit.part("editor/check.html", found=found, size=size, said=said)

    @router.post("/plan")
    async def plan(request: Request) -> Response:
        visit, form = await console.act(request)
        given = _given(form)
        values = _named(given.values)
        try:
            definition = build(Campaign, values)
        except Faulty:
            return visit.part("editor/unplanned.html", why=visit.say(MEND_FIRST))
        if given.faults:
            return visit.part("editor/unplanned.html", why=visit.say(MEND_FIRST))
        return await plan_part(
            console, visit, str(values["name"]), definition, PreviewAsked(definition=values, sample=SAMPLE)
        )


def _given(form: Form) -> Given:
    given = editing.read_yaml(form.lines("yaml")) if form.text("tab") == "yaml" else editing.read_form(form)
    own = form.text("own")  # the name of a stored campaign does not change
    return Given({**given.values, "name": own}, given.faults) if own else given


def _named(values: Mapping[str, Any]) -> dict[str, Any]:
    """The values under a name: a preview needs none."""
    return {**values, "name": values.get("name") or UNNAMED}


def _names(form: Form) -> list[str]:
    return [name for name, _ in form.pairs]


def _switched(form: Form, given: Given) -> Draft:
    """The same on the other tab, where what was given can be read; else on this one, with what is wrong."""
    if given.faults:
        return _refused(form, given.faults)
    other = "yaml" if form.text("tab") == "form" else "form"
    try:
        fields = editing.fields_of(given.values)
    except (AttributeError, TypeError, ValueError):  # a definition of other shapes than a form can show
        try:
            build(Campaign, _named(given.values))
        except Faulty as error:
            return _refused(form, editing.by_field(error, ()))
        raise
    return _draft(form, other, fields, editing.to_yaml(given.values), {})


def _refused(form: Form, faults: Mapping[str, str]) -> Draft:
    """What was sent, with what is wrong about it."""
    if form.text("tab") == "yaml":
        return _draft(form, "yaml", {}, form.lines("yaml"), {"yaml": "\n".join(faults.values())})
    return _draft(form, "form", _typed(form), "", faults)


def _typed(form: Form) -> dict[str, str]:
    """The fields of a form as they were typed."""
    return {name: form.lines(name) for name in dict.fromkeys((*editing.fields_of({}), *_names(form)))}


def _draft(form: Form, tab: str, fields: Mapping[str, str], source: str, faults: Mapping[str, str]) -> Draft:
    version = form.text("version")
    own = form.text("own") or None
    return Draft(own, int(version) if version.isdecimal() else 0, form.text("state"), tab, fields, source, faults)


def _store(
    console: Console, visit: Visit, form: Form, when: tuple[Connection, datetime], values: dict[str, Any]
) -> Defined:
    """Store what was edited. Raises Faulty, and BadInput where it does not fit or somebody else was faster."""
    connection, now = when
    definition = build(Campaign, values)
    own = form.text("own")
    known = store.get(connection, own, lock=True) if own else store.find(connection, definition.name)
    if own and known is not None and str(known.version) != form.text("version"):
        raise Conflict(
            visit.say("Somebody changed this campaign meanwhile: it is at version %(n)s now.", n=known.version),
            hint=visit.say("open it again and make your change there"),
        )
    if not own and known is not None:
        raise Faulty("", [(("name",), visit.say("There is a campaign of this name already."))])
    draft = form.text("action") == "draft"
    return define(connection, definition, now, console.runtime.gateways, visit.actor, draft=draft)


def _saved(visit: Visit, made: Defined) -> tuple[str]:
    stored, outcome = made.created.stored, made.created.outcome
    said = {
        "created": visit.say("%(name)s is created.", name=stored.name),
        "edited": visit.say("%(name)s is changed: version %(n)s.", name=stored.name, n=stored.version),
        "unchanged": visit.say("Nothing was changed."),
    }[outcome]
    return ("\n".join([said, *made.warnings]),)


async def _page(console: Console, visit: Visit, draft: Draft, *, status: int = 200) -> Response:
    def look(connection: Connection, _: datetime) -> tuple[str, list[str]]:
        saved = [one.name for one in audience_store.get_all(connection)]
        return current_policy(connection)[1].default_timezone, saved

    zone, audiences = await console.desk.transact(look)
    zones = dict.fromkeys(("local", "utc", zone, draft.fields.get("zone", "local")))
    return visit.page(
        "editor/index.html",
        status=status,
        draft=draft,
        zones=list(zones),
        gateways={name: name in console.runtime.gateways for name in known_gateways()},
        audiences=list(dict.fromkeys((*audiences, *filter(None, [draft.fields.get("for.saved")])))),
        groups=rulebuilding.read_groups(Form(tuple(draft.fields.items()))),
        arms=varying.rows_of(draft.fields),
        most_arms=MOST_ARMS,
        rules=RULE_WORDS,
    )
