"""Who is at the keyboard, and questions before what cannot be taken back."""

from __future__ import annotations

import getpass

import typer

from engine.errors import BadInput


def os_user() -> str:
    """The operating system's name of who runs this command, for the audit log; `command line` where it has none."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container that runs under a number without a name
        return "command line"


def agreed(question: str) -> bool:
    """The person's answer. Raises BadInput where there is nobody to ask, as in a cron job."""
    try:
        answer: bool = typer.confirm(question, err=True)
    except typer.Abort:
        raise BadInput(f"{question} Nobody answered, so nothing was done", hint="give --yes to do it unasked") from None
    if not answer:
        typer.echo("nothing was done", err=True)
    return answer
