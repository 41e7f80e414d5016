"""Rules of an audience as a form: groups of conditions, each a row of fields; and back (pure).

A form shows two levels: conditions in groups, and how the groups go together. What nests deeper, or says in one
condition what a row has no field for, is told in YAML only, and `groups_of` says None.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from engine.web.console.forms import Form

KINDS = ("attribute", "field", "event", "seen_within", "audience")
JOINS = ("all", "any", "none")
COMPARISONS = ("equals", "in", "gt", "gte", "lt", "lte", "starts_with", "exists")
COUNTS = ("at_least", "at_most")
MOST_GROUPS, MOST_ROWS = 10, 20

_ROW = ("kind", "negated", "name", "comparison", "value", "count", "times", "within", "category")


@dataclass(frozen=True)
class Group:
    """Conditions that go together by `join`; each row holds the fields of _ROW."""

    join: str = "all"
    rows: Sequence[Mapping[str, str]] = field(default_factory=lambda: [blank()])


def blank() -> dict[str, str]:
    """A row that says nothing yet."""
    return {**dict.fromkeys(_ROW, ""), "kind": "attribute", "comparison": "equals", "count": "at_least", "times": "1"}


def read_groups(form: Form) -> list[Group]:
    """The groups of a form as they were typed."""
    groups = []
    for n in range(MOST_GROUPS):
        join = form.text(f"g{n}.join")
        if join not in JOINS:
            continue
        rows = [
            {name: form.text(f"g{n}.r{m}.{name}") for name in _ROW}
            for m in range(MOST_ROWS)
            if form.text(f"g{n}.r{m}.kind") in KINDS
        ]
        groups.append(Group(join, rows or [blank()]))
    return groups or [Group()]


def fields_of(top: str, groups: Sequence[Group]) -> dict[str, str]:
    """What a form sends of groups."""
    found = {"top": top}
    for n, group in enumerate(groups):
        found[f"g{n}.join"] = group.join
        found |= {f"g{n}.r{m}.{name}": row[name] for m, row in enumerate(group.rows) for name in _ROW}
    return found


def moved(groups: Sequence[Group], action: str) -> list[Group]:
    """The groups with a condition more (`row:N`) or less (`remove:N.M`), or a group more (`group`)."""
    kind, _, place = action.partition(":")
    made = list(groups)
    if kind == "group" and len(made) < MOST_GROUPS:
        made.append(Group())
    first, _, second = place.partition(".")
    if first.isdecimal() and int(first) < len(made):
        group = made[int(first)]
        rows = list(group.rows)
        if kind == "row" and len(rows) < MOST_ROWS:
            made[int(first)] = replace(group, rows=[*rows, blank()])
        if kind == "remove" and second.isdecimal() and int(second) < len(rows):
            rows.pop(int(second))
            made[int(first)] = replace(group, rows=rows)
    return [one for one in made if one.rows] or [Group()]


def rules_of(groups: Sequence[Group], top: str) -> dict[str, Any]:
    """The rules that groups say, going together by `top` (all or any). Rows that say nothing are left out."""
    told = []
    for group in groups:
        conditions = [_condition(row) for row in group.rows if _says(row)]
        if len(conditions) == 1 and group.join != "none":
            told.append(conditions[0])
        elif conditions:
            told.append({group.join: conditions})
    if not told:
        return {}
    return told[0] if len(told) == 1 else {"any" if top == "any" else "all": told}


def groups_of(rules: Mapping[str, Any]) -> tuple[str, list[Group]] | None:
    """(top, groups) of rules in plain values; None where a form cannot show them."""
    flat = _group(rules)
    if flat is not None:
        return "all", [flat]
    for top in ("all", "any"):
        members = rules.get(top)
        if isinstance(members, list) and len(rules) == 1 and len(members) <= MOST_GROUPS:
            found = [_group(member) for member in members if isinstance(member, Mapping)]
            if len(found) == len(members) and all(group is not None for group in found):
                return top, [group for group in found if group is not None]
    return None


def _group(rules: Mapping[str, Any]) -> Group | None:
    """Rules that are one condition, or one group of conditions."""
    if len(rules) == 1 and (join := next(iter(rules))) in JOINS:
        members = rules[join]
        if not isinstance(members, list) or not 0 < len(members) <= MOST_ROWS:
            return None
    else:
        join, members = "all", [rules]
    rows = [_row(member) for member in members if isinstance(member, Mapping)]
    if len(rows) != len(members) or any(row is None for row in rows):
        return None
    return Group(join, [row for row in rows if row is not None])


def _says(row: Mapping[str, str]) -> bool:
    return bool(row["within"] if row["kind"] == "seen_within" else row["name"])


def _condition(row: Mapping[str, str]) -> dict[str, Any]:
    kind = row["kind"]
    told: dict[str, Any]
    if kind in ("attribute", "field"):
        told = {kind: row["name"], row["comparison"]: _value(row["comparison"], row["value"])}
    elif kind == "event":
        told = {"event": row["name"], row["count"]: _plain(row["times"]) if row["times"] else 1}
        told |= {name: row[name] for name in ("within", "category") if row[name]}
    else:
        told = {kind: row["within"] if kind == "seen_within" else row["name"]}
    return {"not": told} if row["negated"] else told


def _row(condition: Mapping[str, Any]) -> dict[str, str] | None:
    """The row that says a condition; None where none can."""
    inner = condition.get("not")
    if isinstance(inner, Mapping) and len(condition) == 1:
        row = _row(inner)
        return None if row is None or row["negated"] else {**row, "negated": "true"}
    kind = next((name for name in KINDS if name in condition), None)
    if kind is None:
        return None
    row = {**blank(), "kind": kind}
    rest = {name: value for name, value in condition.items() if name != kind}
    if kind == "seen_within":
        row["within"] = str(condition[kind])
    else:
        row["name"] = str(condition[kind])
    if kind in ("attribute", "field"):
        if len(rest) != 1 or (comparison := next(iter(rest))) not in COMPARISONS:
            return None
        row |= {"comparison": comparison, "value": _text(rest.pop(comparison))}
    if kind == "event":
        bounds = [name for name in COUNTS if name in rest]
        if len(bounds) > 1:
            return None
        row |= {"count": bounds[0], "times": str(rest.pop(bounds[0]))} if bounds else {}
        row |= {name: str(rest.pop(name)) for name in ("within", "category") if name in rest}
    return None if rest else row


def _value(comparison: str, typed: str) -> Any:
    if comparison == "exists":
        return typed.lower() not in ("false", "no", "0")
    if comparison == "in":
        return [_plain(part.strip()) for part in typed.split(",") if part.strip()]
    return typed if comparison == "starts_with" else _plain(typed)


def _plain(typed: str) -> Any:
    """A number or true/false where it is written like one; text else, so that 007 stays what it is."""
    if typed in ("true", "false"):
        return typed == "true"
    for kind in (int, float):
        try:
            value = kind(typed)
        except ValueError:
            continue
        if str(value) == typed:
            return value
    return typed


def _text(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    return ", ".join(map(_text, value)) if isinstance(value, list) else str(value)
