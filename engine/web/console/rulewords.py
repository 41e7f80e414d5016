"""How conditions of a form are called, for people."""

from __future__ import annotations

from engine.web.console.rulebuilding import MOST_GROUPS, MOST_ROWS
from engine.web.console.words import word

KIND_WORDS = {
    "attribute": word("attribute"),
    "field": word("user's field"),
    "event": word("did"),
    "seen_within": word("was seen within"),
    "audience": word("is in the audience"),
}
COMPARISON_WORDS = {
    "equals": word("is"),
    "in": word("is one of"),
    "gt": word("is more than"),
    "gte": word("is at least"),
    "lt": word("is less than"),
    "lte": word("is at most"),
    "starts_with": word("begins with"),
    "exists": word("is there (true or false)"),
}
JOIN_WORDS = {
    "all": word("all of these hold"),
    "any": word("one of these holds"),
    "none": word("none of these holds"),
}
COUNT_WORDS = {"at_least": word("at least"), "at_most": word("at most")}

RULE_WORDS = {
    "kinds": KIND_WORDS,
    "comparisons": COMPARISON_WORDS,
    "joins": JOIN_WORDS,
    "counts": COUNT_WORDS,
    "most_groups": MOST_GROUPS,
    "most_rows": MOST_ROWS,
}
"""All that templates/rules.html needs."""
