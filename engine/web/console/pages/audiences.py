"""Audiences: saved rules that campaigns and other audiences use; built as a form or written as YAML."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass, field, replace
from datetime import datetime
from pathlib import Path
from typing import Any

from fastapi import APIRouter
from sqlalchemy import Connection
from starlette.background import BackgroundTask
from starlette.requests import Request
from starlette.responses import FileResponse, Response

from engine import audit
from engine.campaigns import audience_store
from engine.campaigns.audience_export import export
from engine.campaigns.loading import build
from engine.campaigns.saved_audience import SavedAudience
from engine.errors import BadInput, Conflict
from engine.runtime import Runtime
from engine.web.console import editing, rulebuilding
from engine.web.console.forms import Form
from engine.web.console.links import Link
from engine.web.console.reception import Console
from engine.web.console.rulebuilding import Group
from engine.web.console.rulewords import RULE_WORDS
from engine.web.console.visit import Visit
from engine.web.console.words import word

LINKS = (Link("/console/audiences", word("Audiences")),)

SAMPLE = 5
UNNAMED = "unnamed"


@dataclass(frozen=True)
class Draft:
    """What is being edited. own: the name of a stored audience, "": a new one."""

    own: str = ""
    version: int = 0
    name: str = ""
    description: str = ""
    tab: str = "form"
    top: str = "all"
    groups: list[Group] = field(default_factory=lambda: [Group()])
    yaml: str = ""
    fault: str = ""


def routes(console: Console) -> APIRouter:
    """The routes of this page."""
    router = console.router("/console/audiences")
    _add_editing(router, console)
    _add_reading(router, console)
    return router


def _add_editing(router: APIRouter, console: Console) -> None:
    @router.get("/edit")
    async def begin(request: Request, name: str | None = None) -> Response:
        visit = await console.enter(request, "operate")
        if name is None:
            return await _editor(console, visit, Draft())
        saved = await console.desk.transact(lambda connection, _: audience_store.get(connection, name))
        return await _editor(console, visit, _draft_of(saved))

    @router.post("/edit")
    async def edit(request: Request) -> Response:
        visit, form = await console.act(request)
        action, draft = form.text("action"), _draft(form)
        if action not in ("save", ""):
            return await _editor(console, visit, _moved(visit, draft, action))

        def store(connection: Connection, _now: datetime) -> audience_store.Saved:
            made = build(SavedAudience, _definition(draft))
            if not draft.own:
                return audience_store.create(connection, made, visit.actor)
            audience_store.lock(connection)
            if audience_store.get(connection, draft.own).version != draft.version:
                raise Conflict(
                    visit.say("Somebody changed this audience meanwhile: open it again and make your change there.")
                )
            return audience_store.edit(connection, made, visit.actor)

        try:
            saved = await console.desk.transact(store)
        except BadInput as error:
            return await _editor(console, visit, replace(draft, fault=visit.told(error)), status=422)
        said = visit.say("%(name)s is saved: version %(n)s.", name=saved.name, n=saved.version)
        return visit.go(f"/console/audiences/{saved.name}", said)

    @router.post("/check")
    async def check(request: Request) -> Response:
        visit, form = await console.act(request)
        draft = _draft(form)

        if draft.tab == "form" and not rulebuilding.rules_of(draft.groups, draft.top):
            return visit.part(
                "editor/unplanned.html", why=visit.say("Say a first condition: whom it holds is counted here.")
            )

        def look(connection: Connection, now: datetime) -> tuple[audience_store.Counted, list[audience_store.Person]]:
            rules = build(SavedAudience, {**_definition(draft), "name": draft.own or draft.name or UNNAMED}).rules
            return _count(console.runtime, connection, rules, now), audience_store.sample(
                connection, rules, SAMPLE, now
            )

        try:
            counted, people = await console.desk.transact(look)
        except BadInput as error:
            return visit.part("audiences/unfit.html", why=visit.told(error))
        return visit.part("audiences/check.html", counted=counted, people=people)


def _add_reading(router: APIRouter, console: Console) -> None:
    @router.get("")
    async def index(request: Request) -> Response:
        visit = await console.enter(request)
        found = await console.desk.transact(lambda connection, _: audience_store.get_all(connection))
        return visit.page("audiences/index.html", audiences=found)

    @router.get("/{name}")
    async def show(request: Request, name: str, version: int | None = None) -> Response:
        visit = await console.enter(request)

        def look(connection: Connection, _now: datetime) -> dict[str, Any]:
            saved = audience_store.get(connection, name)
            other = None if version is None else audience_store.get_version(connection, name, version)
            return {
                "saved": saved,
                "definition": other or saved.definition,
                "versions": audience_store.versions(connection, name),
                "using": audience_store.users_of(connection, name),
            }

        found = await console.desk.transact(look)
        shown = editing.to_yaml(found["definition"].rules.model_dump(mode="json", exclude_none=True))
        return visit.page("audiences/show.html", **found, version=version or found["saved"].version, yaml=shown)

    @router.get("/{name}/size")
    async def size(request: Request, name: str) -> Response:
        visit = await console.enter(request)

        def look(connection: Connection, now: datetime) -> tuple[audience_store.Counted, list[audience_store.Person]]:
            rules = audience_store.get(connection, name).definition.rules
            counted = _count(console.runtime, connection, rules, now)
            return counted, audience_store.sample(connection, rules, SAMPLE, now)

        counted, people = await console.desk.transact(look)
        return visit.part("audiences/check.html", counted=counted, people=people)

    @router.get("/{name}/export")
    async def exported(request: Request, name: str) -> Response:
        visit = await console.enter(request, "admin")

        def note(connection: Connection, _now: datetime) -> audience_store.Saved:
            saved = audience_store.get(connection, name)
            audit.record(connection, visit.actor, "audience.export", f"audience:{name}", None, {"n": saved.version})
            return saved

        saved = await console.desk.transact(note)
        folder = tempfile.TemporaryDirectory(prefix="horae-export-")
        file = Path(folder.name) / f"{saved.name}.csv"
        now = await console.desk.do(console.desk.now)
        await console.desk.do_long(lambda: export(console.runtime.database, saved.definition.rules, file, now))
        done = BackgroundTask(folder.cleanup)
        return FileResponse(file, media_type="text/csv", filename=file.name, background=done)

    @router.post("/{name}/delete")
    async def delete(request: Request, name: str) -> Response:
        visit, _ = await console.act(request)
        await console.desk.transact(lambda connection, _: audience_store.remove(connection, name, visit.actor))
        return visit.go("/console/audiences", visit.say("%(name)s is deleted.", name=name))


def _count(runtime: Runtime, connection: Connection, rules: Any, now: datetime) -> audience_store.Counted:
    """As `horae audiences count` does: through a push where one is configured, else the log."""
    known = runtime.gateways
    through = next((one for one in ("push", *known) if one in known and known[one].needs_device), "log")
    needs = through in known and known[through].needs_device
    return audience_store.count(connection, rules, now, through, needs_device=needs)


def _draft_of(saved: audience_store.Saved) -> Draft:
    rules = saved.definition.rules.model_dump(mode="json", exclude_none=True)
    shown = rulebuilding.groups_of(rules)
    top, groups = shown or ("all", [])
    return Draft(
        saved.name, saved.version, saved.name, saved.definition.description,
        "yaml" if shown is None else "form", top, groups, editing.to_yaml(rules),
    )  # fmt: skip


def _draft(form: Form) -> Draft:
    version = form.text("version")
    return Draft(
        form.text("own"),
        int(version) if version.isdecimal() and len(version) < 10 else 0,
        form.text("name"),
        form.lines("description"),
        "yaml" if form.text("tab") == "yaml" else "form",
        form.text("top", "all"),
        rulebuilding.read_groups(form),
        form.lines("yaml"),
    )


def _rules(draft: Draft) -> Any:
    """The rules that were given. Raises BadInput where they cannot be read."""
    if draft.tab == "form":
        return rulebuilding.rules_of(draft.groups, draft.top)
    given = editing.read_yaml(draft.yaml)
    if given.faults:
        raise BadInput(given.faults["yaml"])
    return given.values


def _definition(draft: Draft) -> dict[str, Any]:
    return {"name": draft.own or draft.name, "description": draft.description, "rules": _rules(draft)}


def _moved(visit: Visit, draft: Draft, action: str) -> Draft:
    """The draft with a row or group more or less, or on its other tab."""
    if action == "to-yaml":
        return replace(draft, tab="yaml", yaml=editing.to_yaml(_rules(draft)) if _rules(draft) else "")
    if action == "to-form":
        try:
            rules = _rules(draft) if draft.yaml.strip() else {}
            shown = rulebuilding.groups_of(rules) if rules else ("all", [Group()])
        except BadInput as error:
            return replace(draft, fault=visit.told(error))
        if shown is None:
            return replace(draft, fault=visit.say("These rules say more than the form can show: they stay in YAML."))
        return replace(draft, tab="form", top=shown[0], groups=shown[1])
    return replace(draft, groups=rulebuilding.moved(draft.groups, action))


async def _editor(console: Console, visit: Visit, draft: Draft, *, status: int = 200) -> Response:
    others = await console.desk.transact(lambda connection, _: audience_store.get_all(connection))
    return visit.page(
        "audiences/edit.html",
        status=status,
        draft=draft,
        others=[one.name for one in others if one.name != draft.own],
        rules=RULE_WORDS,
    )
