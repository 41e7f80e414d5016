"""The console's own users: who may log in, and what they may."""

from __future__ import annotations

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from engine.access import users
from engine.access.roles import ROLES
from engine.clock import machine_now
from engine.errors import BadInput
from engine.web.console.forms import Form
from engine.web.console.reception import Console
from engine.web.console.terms import TERMS
from engine.web.console.visit import Visit
from engine.web.console.words import word
from engine.web.problems import Refusal

ROLE_WORDS = {
    "viewer": word("sees everything but keys and people's access, changes nothing"),
    "operator": word("also plans, approves, sends and stops campaigns"),
    "admin": word("also rules, keys, users, exporting and erasing people"),
}

HERE = "/console/settings/team"


def routes(console: Console) -> APIRouter:
    """The routes of this page."""
    router = console.router(HERE)

    @router.get("")
    async def index(request: Request) -> Response:
        return await _page(console, await console.enter(request, "admin"))

    @router.post("")
    async def create(request: Request) -> Response:
        visit, form = await console.act(request, "admin")
        name, role, password = form.text("name"), form.text("role"), form.raw("password")
        try:
            made = await console.desk.transact(
                lambda connection, _: users.create_user(connection, name, role, password, author=visit.actor)
            )
        except BadInput as error:
            return await _page(console, visit, status=422, fault=error, form=form)
        said = visit.say("%(name)s may log in as %(role)s.", name=made.name, role=visit.say(TERMS[made.role]))
        return visit.go(HERE, said)

    @router.post("/{name}/role")
    async def role(request: Request, name: str) -> Response:
        visit, form = await console.act(request, "admin")
        _not_oneself(visit, name)
        changed = await console.desk.transact(
            lambda connection, _: users.set_role(connection, name, form.text("role"), author=visit.actor)
        )
        said = visit.say("%(name)s is %(role)s now.", name=changed.name, role=visit.say(TERMS[changed.role]))
        return visit.go(HERE, said)

    @router.post("/{name}/password")
    async def password(request: Request, name: str) -> Response:
        visit, form = await console.act(request, "admin")
        _not_oneself(visit, name)
        await console.desk.transact(
            lambda connection, _: users.set_password(connection, name, form.raw("password"), author=visit.actor)
        )
        return visit.go(HERE, visit.say("%(name)s has a new password and is logged out.", name=name))

    @router.post("/{name}/disable")
    async def disable(request: Request, name: str) -> Response:
        visit, _ = await console.act(request, "admin")
        _not_oneself(visit, name)
        await console.desk.transact(
            lambda connection, _: users.set_disabled(connection, name, machine_now(), author=visit.actor)
        )
        return visit.go(HERE, visit.say("%(name)s is shut out.", name=name))

    @router.post("/{name}/enable")
    async def enable(request: Request, name: str) -> Response:
        visit, _ = await console.act(request, "admin")
        await console.desk.transact(
            lambda connection, _: users.set_disabled(
                connection, name, machine_now(), author=visit.actor, disabled=False
            )
        )
        return visit.go(HERE, visit.say("%(name)s may log in again.", name=name))

    return router


def _not_oneself(visit: Visit, name: str) -> None:
    """An admin cannot lose the role that they would need to get it back. Raises Refusal."""
    if visit.user is not None and visit.user.name == name.strip().lower():
        raise Refusal(
            403,
            visit.say("Nobody changes their own access."),
            hint=visit.say("Ask another admin; your password is changed on your own page."),
        )


async def _page(
    console: Console, visit: Visit, *, status: int = 200, fault: BadInput | None = None, form: Form | None = None
) -> Response:
    found = await console.desk.transact(lambda connection, _: users.list_users(connection))
    return visit.page(
        "settings/team.html",
        status=status,
        users=found,
        now=machine_now(),
        fault=fault,
        form=Form((("role", "viewer" if found else "admin"),)) if form is None else form,
        roles={name: ROLE_WORDS[name] for name in ROLES},
        shortest=users.SHORTEST,
    )
