"""How user files write preferences by channel and topic (pure)."""

from __future__ import annotations

import json

GROUPS = {"channels": "channel", "topics": "topic"}
"""The objects of a `preferences` column, and the kind of preference in each."""


def parse_preferences(source: str) -> list[tuple[str, str, bool]]:
    """(kind, name, allowed) of the text of a `preferences` column: {"topics": {"deals": false}, "channels": {…}}.

    Raises ValueError saying what is wrong.
    """
    try:
        held = json.loads(source)
    except ValueError:
        raise ValueError("not a JSON object") from None
    if not isinstance(held, dict):
        raise ValueError("not a JSON object")  # noqa: TRY004 - told as one
    found = []
    for group, names in held.items():
        if group not in GROUPS or not isinstance(names, dict):
            raise ValueError('not like {"topics": {"deals": false}, "channels": {"fcm": true}}')
        for name, allowed in names.items():
            if not isinstance(allowed, bool) or not 0 < len(name) <= 64 or "\0" in name:
                raise ValueError("a preference is a name of at most 64 characters and true or false")
            found.append((GROUPS[group], name, allowed))
    return found
