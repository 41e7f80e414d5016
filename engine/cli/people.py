"""Commands of `horae admin`: users of the console. Passwords are asked for, or read from stdin; never an argument."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING, Any

import typer
from rich.console import Console
from rich.table import Table

from engine.cli.campaigns import AUTHOR, AsJson, opened

if TYPE_CHECKING:
    from engine.access.users import User

stdout = Console(highlight=False)

Name = typer.Argument(help="The name they log in with.")


def register(app: typer.Typer) -> None:
    """Add this module's commands to `admin`."""
    app.command("create-user")(create_user)
    app.command("list-users")(list_users)
    app.command("set-role")(set_role)
    app.command("set-password")(set_password)
    app.command("disable-user")(disable_user)
    app.command("enable-user")(enable_user)


def create_user(
    name: str = Name,
    role: str = typer.Option("viewer", help="viewer (looks), operator (sends and stops), admin (rules, keys, users)."),
    as_json: bool = AsJson,
) -> None:
    """Make a user of the console. The password is asked for, or is the first line of stdin."""
    from engine.access import users
    from engine.access.roles import scopes_of

    scopes_of(role)  # before the password is asked for
    password = _password()
    with opened() as runtime, runtime.database.begin() as connection:
        made = users.create_user(connection, name, role, password, author=AUTHOR)
    _say(made, f"{made.name} may log in as {made.role}", as_json=as_json)


def list_users(as_json: bool = AsJson) -> None:
    """List the users of the console: their roles, and when they logged in last."""
    from engine.access import users

    with opened() as runtime, runtime.database.begin() as connection:
        found = users.list_users(connection)
    if as_json:
        typer.echo(json.dumps([_as_dict(user) for user in found], indent=2, default=str))
        return
    table = Table("name", "role", "state", "last login (UTC)", "made by", box=None, pad_edge=False)
    for user in found:
        state = "disabled" if user.disabled_at else "enabled"
        last = f"{user.last_login_at:%Y-%m-%d %H:%M}" if user.last_login_at else "never"
        table.add_row(user.name, user.role, state, last, user.created_by)
    stdout.print(table if found else "no users: horae admin create-user NAME --role admin")


def set_role(
    name: str = Name, role: str = typer.Argument(help="viewer, operator or admin."), as_json: bool = AsJson
) -> None:
    """Give a user another role, from their next request on."""
    from engine.access import users

    with opened() as runtime, runtime.database.begin() as connection:
        changed = users.set_role(connection, name, role, author=AUTHOR)
    _say(changed, f"{changed.name} is {changed.role} now", as_json=as_json)


def set_password(name: str = Name, as_json: bool = AsJson) -> None:
    """Give a user a new password, asked for or read from stdin; they are logged out everywhere."""
    from engine.access import users

    with opened() as runtime:
        with runtime.database.begin() as connection:
            users.get_user(connection, name)  # before the password is asked for
        password = _password()
        with runtime.database.begin() as connection:
            changed = users.set_password(connection, name, password, author=AUTHOR)
    _say(changed, f"{changed.name} has a new password and is logged out", as_json=as_json)


def disable_user(name: str = Name, as_json: bool = AsJson) -> None:
    """Shut a user out: they are logged out and cannot log in again."""
    _set_disabled(name, "is shut out", disabled=True, as_json=as_json)


def enable_user(name: str = Name, as_json: bool = AsJson) -> None:
    """Let a user in again who was shut out."""
    _set_disabled(name, "may log in again", disabled=False, as_json=as_json)


def _set_disabled(name: str, said: str, *, disabled: bool, as_json: bool) -> None:
    from engine import clock
    from engine.access import users

    with opened() as runtime, runtime.database.begin() as connection:
        changed = users.set_disabled(connection, name, clock.machine_now(), author=AUTHOR, disabled=disabled)
    _say(changed, f"{changed.name} {said}", as_json=as_json)


def _password() -> str:
    if not sys.stdin.isatty():
        return sys.stdin.readline().rstrip("\r\n")
    return str(typer.prompt("Password", hide_input=True, confirmation_prompt=True, err=True))


def _say(user: User, said: str, *, as_json: bool) -> None:
    if as_json:
        typer.echo(json.dumps(_as_dict(user), default=str))
    else:
        stdout.print(said, markup=False)


def _as_dict(user: User) -> dict[str, Any]:
    return {
        "name": user.name,
        "role": user.role,
        "disabled": user.disabled_at is not None,
        "last_login_at": user.last_login_at,
        "created_by": user.created_by,
    }
