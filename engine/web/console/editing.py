"""A campaign's definition as a form, and back (pure).

The form has the fields that most campaigns need; what a definition holds beside them is kept in `kept`, a hidden field,
and goes through untouched. Both the form and the YAML become plain values, which `campaigns.definition` judges.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import yaml

from engine.campaigns import yamlfile
from engine.campaigns.definition import Campaign
from engine.campaigns.fields import in_words
from engine.errors import BadInput, Faulty
from engine.web.console import rulebuilding, varying
from engine.web.console.forms import Form, kept, number

Path = tuple[str | int, ...]

PLAIN = ("name", "class", "description", "hours", "horizon", "expiry", "gateway", "devices", "overflow")
NUMBERS = ("priority", "capacity_per_quarter", "per_minute", "budget", "value_click", "margin")
SHARES = ("holdout", "exploration")
LISTS = ("topics", "tags")
TREES = ("audience", "trigger")
OWN = {*PLAIN, *NUMBERS, *SHARES, *LISTS, *TREES, "schedule", "items", "message"}
"""Fields of a definition that the form has, whole or in part."""

OWN_TEXTS = ("title", "body", "data", "experiment")
"""The same of its message."""

WHEN = ("manual", "once", "cron", "trigger")
FOR = ("all", "saved", "rules", "yaml")
"""How a form says whom a campaign is for: everybody, a saved audience, conditions, or a condition in YAML."""

DEFAULTS: dict[str, Any] = {
    "class": "marketing",
    **{name: Campaign.model_fields[name].default for name in ("gateway", "devices", "overflow", "priority", *SHARES)},
    "horizon": in_words(Campaign.model_fields["horizon"].default),
}
"""What holds where a definition does not say it."""


@dataclass(frozen=True)
class Given:
    """What a person gave: plain values of a definition, and what could not even be read, by field."""

    values: dict[str, Any]
    faults: dict[str, str]


def fields_of(definition: Mapping[str, Any]) -> dict[str, str]:
    """The form's fields for a definition in plain values (JSON's); {}: those of a new campaign."""
    definition = {**DEFAULTS, **definition}
    schedule, items, message = (definition.get(name) or {} for name in ("schedule", "items", "message"))
    items = {"kind": items} if isinstance(items, str) else items
    when = (
        "trigger" if definition.get("trigger") else "once" if schedule.get("once") else "cron" if schedule else "manual"
    )
    found = {
        "when": when,
        "once": schedule.get("once", ""),
        "cron": schedule.get("cron", ""),
        "zone": schedule.get("zone") or ("local" if not schedule else ""),
        "items.kind": items.get("kind", "none"),
        "items.ids": "\n".join(items.get("ids", ())),
        "items.where": _written(items.get("where")),
        "message.title": message.get("title", ""),
        "message.body": message.get("body", ""),
        "message.data": _written(message.get("data")),
    }
    found |= {name: _text(definition.get(name)) for name in (*PLAIN, *NUMBERS)}
    found |= {name: _text(round(100 * float(definition.get(name) or 0), 6)) for name in SHARES}
    found |= {name: ", ".join(definition.get(name) or ()) for name in LISTS}
    found |= {name: _written(definition.get(name)) for name in TREES}
    found |= _audience_fields(definition.get("audience")) | varying.fields_of(message.get("experiment"))
    kept = {name: value for name, value in definition.items() if name not in OWN}
    inner = {name: value for name, value in message.items() if name not in OWN_TEXTS}
    return {**found, "kept": json.dumps({**kept, "message": inner} if inner else kept, ensure_ascii=False)}


def read_form(form: Form) -> Given:
    """The plain values that a form stands for."""
    faults: dict[str, str] = {}
    values = kept(form.lines("kept"))
    inner = values.pop("message", {})
    values |= {name: given for name in PLAIN if (given := form.text(name))}
    values |= {name: number(given) for name in NUMBERS if (given := form.text(name))}
    for name in SHARES:
        if given := form.text(name).removesuffix("%").strip():
            amount = number(given)
            values[name] = round(amount / 100, 9) if isinstance(amount, int | float) else given
    values |= {name: _words(given) for name in LISTS if (given := form.text(name))}
    values |= _when(form, faults)
    if audience := _audience(form, faults):
        values["audience"] = audience
    values["items"] = _items(form, faults)
    message: dict[str, Any] = {name: given for name in ("title", "body") if (given := form.lines(f"message.{name}"))}
    if (data := _tree(form, "message.data", faults)) is not None:
        message["data"] = data
    try:
        if (experiment := varying.read(form)) is not None:
            message["experiment"] = experiment
    except BadInput as error:
        faults[varying.NAME] = error.message
    return Given({**values, "message": {**inner, **message}}, faults)


def moved(fields: Mapping[str, str], action: str) -> dict[str, str]:
    """The fields with a condition, a group or a variant more or less."""
    if action.partition(":")[0] in ("arm", "unarm"):
        return varying.moved(fields, action)
    groups = rulebuilding.moved(rulebuilding.read_groups(Form(tuple(fields.items()))), action)
    rest = {name: value for name, value in fields.items() if not _OF_GROUPS.match(name)}
    return rest | rulebuilding.fields_of(fields.get("top", "all"), groups)


_OF_GROUPS = re.compile(r"g\d+\.")


def _audience_fields(audience: Mapping[str, Any] | None) -> dict[str, str]:
    """Conditions as a form has them, where it can show them; the YAML is told anyway."""
    blank = {"for": "all", "for.saved": "", **rulebuilding.fields_of("all", [rulebuilding.Group()])}
    if not audience:
        return blank
    if set(audience) == {"audience"}:
        return {**blank, "for": "saved", "for.saved": str(audience["audience"])}
    shown = rulebuilding.groups_of(audience)
    return {**blank, "for": "yaml"} if shown is None else {**blank, "for": "rules", **rulebuilding.fields_of(*shown)}


def _audience(form: Form, faults: dict[str, str]) -> Any:
    """Whom a form says that it is for; None: everybody."""
    how = form.text("for", "yaml")
    if how == "yaml":
        return _tree(form, "audience", faults)
    if how == "saved":
        return {"audience": form.text("for.saved")}
    return rulebuilding.rules_of(rulebuilding.read_groups(form), form.text("top")) if how == "rules" else None


def read_yaml(source: str) -> Given:
    """The plain values of a definition in YAML."""
    try:
        value = yamlfile.parse(source, "definition").value
    except BadInput as error:
        return Given({}, {"yaml": str(error)})
    if not isinstance(value, dict):
        return Given({}, {"yaml": "a definition is a mapping of fields to values"})
    return Given(value, {})


def plain(campaign: Campaign) -> dict[str, Any]:
    """A definition in plain values, without what holds anyway."""
    values = campaign.model_dump(mode="json", exclude_none=True, exclude_defaults=True)
    return {"name": campaign.name, "class": campaign.class_, **values}


def to_yaml(definition: Mapping[str, Any]) -> str:
    """A definition as its file would say it."""
    return yaml.safe_dump(dict(definition), sort_keys=False, allow_unicode=True, width=100)


def by_field(error: Faulty, fields: Sequence[str]) -> dict[str, str]:
    """Sentences about a definition, by the field of the form that each belongs to; "" for none of them."""
    found: dict[str, list[str]] = {}
    for path, sentence in error.faults:
        part = re.match(r"message: (title|body|data|experiment)\b", sentence)  # one for all that does not parse
        path = ("message", part[1]) if part else path  # noqa: PLW2901
        found.setdefault(_field(path, fields), []).append(sentence)
    return {name: "\n".join(sentences) for name, sentences in found.items()}


def _field(path: Path, fields: Sequence[str]) -> str:
    parts = [str(part) for part in path]
    if parts and parts[0] == "schedule":
        return {"once": "once", "zone": "zone"}.get(parts[1] if len(parts) > 1 else "", "cron")
    if parts[:2] == ["message", "experiment"]:
        return varying.NAME
    for length in range(len(parts), 0, -1):
        name = ".".join(parts[:length])
        if name in fields:
            return name
    return {"items": "items.kind", "message": "message.title"}.get(parts[0] if parts else "", "")


def _when(form: Form, faults: dict[str, str]) -> dict[str, Any]:
    when = form.text("when")
    if when == "trigger":
        return {"trigger": _tree(form, "trigger", faults) or {}}
    if when not in ("once", "cron"):
        return {}
    schedule = {when: form.text(when), "zone": form.text("zone")}
    return {"schedule": {name: value for name, value in schedule.items() if value}}


def _items(form: Form, faults: dict[str, str]) -> dict[str, Any]:
    kind = form.text("items.kind") or "none"
    items: dict[str, Any] = {"kind": kind}
    if kind == "fixed":
        items["ids"] = _words(form.lines("items.ids"))
    if kind == "personalised" and (where := _tree(form, "items.where", faults)) is not None:
        items["where"] = where
    return items


def _tree(form: Form, name: str, faults: dict[str, str]) -> Any:
    """What a field says in YAML; None where it is empty, or cannot be read, which is noted."""
    source = form.lines(name)
    if not source.strip():
        return None
    try:
        return yamlfile.parse(source, name).value
    except BadInput as error:
        faults[name] = str(error)
        return None


def _words(given: str) -> list[str]:
    return [word.strip() for word in given.replace("\n", ",").split(",") if word.strip()]


def _text(value: Any) -> str:
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return "" if value is None else str(value)


def _written(value: Any) -> str:
    return "" if not value else yaml.safe_dump(value, sort_keys=False, allow_unicode=True, width=80).strip()
