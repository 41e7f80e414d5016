"""Canonical columns, and how a file's columns are named after them (pure)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from engine.errors import BadInput, did_you_mean

Kind = Literal["users", "items", "devices", "events", "promotions"]

CANONICAL: dict[Kind, tuple[str, ...]] = {
    "users": ("user_id", "timezone", "country", "locale", "consent", "preferences"),
    "items": ("item_id", "title", "category", "brand", "price", "available_from", "available_until", "stock"),
    "devices": ("user_id", "token", "gateway", "platform", "registered_at"),
    "events": ("event_id", "user_id", "item_id", "event_type", "occurred_at", "value", "quantity", "push_id"),
    "promotions": ("item_id", "kind", "starts_at", "ends_at", "weight", "announced_at"),
}
"""The columns Horae knows; every other column of a file becomes an attribute."""

REQUIRED: dict[Kind, tuple[tuple[str, ...], ...]] = {
    "users": (("user_id",),),
    "items": (("item_id",),),
    "devices": (("user_id",), ("token",), ("gateway", "platform")),
    "events": (("event_type",), ("occurred_at",), ("user_id", "item_id")),
    "promotions": (("item_id",), ("kind",), ("starts_at",), ("ends_at",)),
}
"""Of each group, a file must have at least one column."""

SYNONYMS = {
    "user_id": (
        "uid",
        "user",
        "customer_id",
        "customer",
        "client_id",
        "visitor_id",
        "visitorid",
        "household_id",
        "member_id",
    ),
    "item_id": ("item", "itemid", "product_id", "product", "sku", "article_id", "content_id"),
    "event_type": ("event", "type", "action", "event_name", "name"),
    "occurred_at": ("timestamp", "time", "ts", "date", "datetime", "created_at", "event_time", "at"),
    "timezone": ("tz", "time_zone", "zone"),
    "event_id": ("id", "uuid"),
    "starts_at": ("starts", "start", "from", "valid_from", "begin"),
    "ends_at": ("ends", "end", "until", "valid_until", "to"),
    "token": ("device_token", "registration_token", "push_token", "fcm_token", "apns_token", "endpoint"),
    "platform": ("os", "device_type", "system"),
    "registered_at": ("last_seen", "last_seen_at", "updated_at", "refreshed_at", "seen_at"),
}
"""What other systems call them: only used to suggest a --map."""


@dataclass(frozen=True)
class Layout:
    """A file's columns: `canonical` maps the file's names to ours; the other columns are attributes."""

    kind: Kind
    canonical: Mapping[str, str]

    def of(self, names: Iterable[str]) -> dict[str, str]:
        """The canonical columns among `names`: the file's name → ours."""
        return {name: self.canonical[name] for name in names if name in self.canonical}


def parse_mapping(kind: Kind, pairs: Sequence[str]) -> dict[str, str]:
    """`theirs=ours` pairs as a mapping.

    Raises BadInput for a pair without `=`, a name that is not canonical, and two columns mapped to one.
    """
    mapping: dict[str, str] = {}
    for pair in pairs:
        theirs, equals, ours = (part.strip() for part in pair.rpartition("="))
        if not equals or not theirs:
            raise BadInput(f"--map {pair!r} is not theirs=ours", hint=f"for example: --map uid={CANONICAL[kind][0]}")
        if ours not in CANONICAL[kind]:
            known = ", ".join(CANONICAL[kind])
            raise BadInput(
                f"--map {pair}: {kind} have no column {ours!r}",
                hint=did_you_mean(ours, CANONICAL[kind]) or f"the canonical columns are {known}",
            )
        if ours in mapping.values():
            raise BadInput(f"--map names two columns for {ours}")
        mapping[theirs] = ours
    return mapping


def lay_out(kind: Kind, names: Sequence[str], mapping: Mapping[str, str], file: str) -> Layout:
    """The layout of a file with columns `names`, after `mapping` (theirs → ours).

    Raises BadInput, naming the file, for columns without a name or named twice, for a mapped column that the file does
    not have, for two columns that mean the same, and for required columns that are missing, with a --map to try.
    """
    _require_distinct(names, file)
    for theirs in mapping:
        if theirs not in names:
            shown = did_you_mean(theirs, names) or f"its columns are {_shown(names)}"
            raise BadInput(f"{file} has no column {theirs!r} to map", hint=shown)
    own = {name: name for name in names if name in CANONICAL[kind] and name not in mapping}
    for theirs, ours in mapping.items():
        if ours in own:
            raise BadInput(f"{file}: both {theirs!r} and {ours!r} would be {ours}", hint=f"rename or drop {ours}")
    canonical = {**own, **mapping}
    missing = [group for group in REQUIRED[kind] if not set(group) & set(canonical.values())]
    if missing:
        raise BadInput(
            f"{file} lacks {', '.join(' or '.join(group) for group in missing)}; its columns are {_shown(names)}",
            hint=_suggestion(missing, [name for name in names if name not in canonical], names),
        )
    return Layout(kind, canonical)


def _require_distinct(names: Sequence[str], file: str) -> None:
    if "" in names:
        raise BadInput(
            f"{file}: column {list(names).index('') + 1} has no name",
            hint="did pandas write its index? use to_csv(…, index=False)",
        )
    twice = [name for name, count in Counter(names).items() if count > 1]
    if twice:
        raise BadInput(f"{file} has the column {twice[0]!r} twice")


def _suggestion(missing: list[tuple[str, ...]], unused: Sequence[str], names: Sequence[str]) -> str:
    if len(names) == 1:
        for separator, word in ((";", "semicolons"), ("\t", "tabs"), ("|", "bars")):
            if separator in names[0]:
                return f"its columns are separated by {word}; Horae reads commas"
    options = []
    for group in missing:
        for ours in group:
            by_folded = {name.casefold(): name for name in unused}
            theirs = next((by_folded[word] for word in SYNONYMS.get(ours, ()) if word in by_folded), None)
            hint = did_you_mean(ours, unused)
            theirs = theirs or (hint and next((name for name in unused if hint.endswith(f"mean {name}?")), None))
            if theirs:
                options.append(f"--map {theirs}={ours}")
                break
    return f"try {' '.join(options)}" if options else "name the columns with --map theirs=ours"


def _shown(names: Sequence[str]) -> str:
    shown = ", ".join(name[:40] for name in names[:12])
    return f"{shown}, …" if len(names) > 12 else shown
