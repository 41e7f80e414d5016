"""The templates' environment: strict, escaped, in the visitor's language."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from datetime import date, datetime, timedelta
from functools import cache
from importlib.resources import files
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined, pass_context
from jinja2.runtime import Context

from engine.campaigns.definition import Campaign
from engine.web.console.due import due_words
from engine.web.console.terms import TERMS
from engine.web.console.words import HTML_NAMES, LANGUAGES, Words, catalogue

STATIC = "/console/static"


def environment() -> Environment:
    """A new environment over the console's templates."""
    made = Environment(
        loader=PackageLoader("engine.web.console"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        extensions=["jinja2.ext.i18n", "jinja2.ext.loopcontrols"],
    )
    made.install_gettext_callables(_gettext, _ngettext, newstyle=True)  # type: ignore[attr-defined]
    for name in ("number", "percent", "instant", "reading", "day", "span", "ago", "sentence"):
        made.filters[name] = _filter(name)
    made.filters["term"] = _term
    made.filters["due"] = _due
    made.filters["json"] = _as_json
    made.globals |= {"zip": zip, "static": static, "languages": LANGUAGES, "html_names": HTML_NAMES}
    return made


@cache
def static(name: str) -> str:
    """The address of a static file, which changes with its content: browsers may keep it for ever."""
    content = files("engine.web.console").joinpath("static", *name.split("/")).read_bytes()
    return f"{STATIC}/{name}?v={hashlib.sha256(content).hexdigest()[:12]}"


def _words(context: Context) -> Words:
    return context["visit"].words  # type: ignore[no-any-return]


@pass_context
def _gettext(context: Context, message: str) -> str:
    return catalogue(_words(context).language).gettext(message)


@pass_context
def _ngettext(context: Context, one: str, many: str, n: int) -> str:
    return catalogue(_words(context).language).ngettext(one, many, n)


def _filter(name: str) -> Callable[..., Any]:
    @pass_context
    def say(context: Context, value: Any, *arguments: Any) -> Any:
        return getattr(_words(context), name)(value, *arguments)

    return say


@pass_context
def _due(context: Context, campaign: Campaign) -> str:
    """When a campaign is due."""
    return due_words(_words(context), campaign)


@pass_context
def _term(context: Context, name: str) -> str:
    """A state, reason or other closed word of Horae's, in words."""
    known = TERMS.get(name)
    return name.replace("_", " ") if known is None else _words(context).say(known)


def _as_json(value: Any) -> str:
    """A value for a data attribute; escaped by the template like any text."""
    return json.dumps(value, default=_plain, ensure_ascii=False, separators=(",", ":"))


def _plain(value: object) -> object:
    if isinstance(value, datetime | date):
        return value.isoformat()
    if isinstance(value, timedelta):
        return value.total_seconds()
    return str(value)
