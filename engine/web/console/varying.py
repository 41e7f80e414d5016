"""Variants of a message under test as a form: a row for each arm; and back (pure).

A row has the arm's name, weight, title and text; what an arm holds beside them (data, locales) is kept in a hidden
field, and goes through untouched.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from engine.campaigns.wording import FEWEST_ARMS, MOST_ARMS
from engine.errors import BadInput
from engine.web.console.forms import Form, kept, number

ROW = ("name", "weight", "title", "body", "kept")
NAME = "test.name"

TWICE = "two variants have the same name"

_FIRST = {"plain": {"weight": 50}, "other": {"weight": 50}}
"""What a test begins with: the message as it is, and what is to be written beside it."""


def fields_of(experiment: Mapping[str, Any] | None) -> dict[str, str]:
    """The form's fields for an experiment in plain values (JSON's); None: nothing is under test."""
    found = {NAME: str((experiment or {}).get("name", ""))}
    for n, (name, arm) in enumerate(((experiment or {}).get("arms") or {}).items()):
        kept = {key: value for key, value in arm.items() if key not in ("weight", "title", "body")}
        weight = arm.get("weight", "")
        row = {
            "name": name,
            "weight": f"{weight:g}" if isinstance(weight, int | float) else str(weight),
            "title": arm.get("title") or "",
            "body": arm.get("body") or "",
            "kept": json.dumps(kept, ensure_ascii=False) if kept else "",
        }
        found |= {f"arm.{n}.{part}": row[part] for part in ROW}
    return found


def rows_of(fields: Mapping[str, str]) -> list[dict[str, str]]:
    """The rows that fields of a form hold."""
    return [
        {part: fields.get(f"arm.{n}.{part}", "") for part in ROW} for n in range(MOST_ARMS) if f"arm.{n}.name" in fields
    ]


def read(form: Form) -> dict[str, Any] | None:
    """The experiment that a form stands for; None without one. Raises BadInput where two arms have one name."""
    rows = rows_of(dict(form.pairs))
    if not rows:
        return None
    arms: dict[str, Any] = {}
    for n, row in enumerate(rows):
        texts = {part: form.lines(f"arm.{n}.{part}") for part in ("title", "body")}
        name = row["name"].strip()
        if name in arms:
            raise BadInput(TWICE)
        arms[name] = {
            **kept(row["kept"]),
            "weight": number(row["weight"].strip()),
            **{part: said for part, said in texts.items() if said.strip()},
        }
    return {"name": form.text(NAME), "arms": arms}


def moved(fields: Mapping[str, str], action: str) -> dict[str, str]:
    """The fields with an arm more (`arm`) or less (`unarm:N`); fewer than two arms are no test."""
    kind, _, place = action.partition(":")
    rows = rows_of(fields)
    rest = {name: value for name, value in fields.items() if not name.startswith("arm.")}
    if kind == "arm" and not rows:
        return rest | fields_of({"name": rest.get(NAME) or "wording", "arms": _FIRST})
    if kind == "arm" and len(rows) < MOST_ARMS:
        rows.append({**dict.fromkeys(ROW, ""), "name": f"other-{len(rows)}", "weight": rows[-1]["weight"]})
    if kind == "unarm" and place.isdecimal() and int(place) < len(rows):
        rows.pop(int(place))
    if len(rows) < FEWEST_ARMS:
        return {**rest, NAME: ""}
    return rest | {f"arm.{n}.{part}": row[part] for n, row in enumerate(rows) for part in ROW}
