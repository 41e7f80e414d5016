"""Rules of an audience as a form of groups and rows, and back."""

from __future__ import annotations

from typing import Any

import pytest

from engine.campaigns.saved_audience import SavedAudience
from engine.web.console.forms import Form
from engine.web.console.rulebuilding import MOST_ROWS, Group, blank, groups_of, read_groups, rules_of

SHOWN: list[dict[str, Any]] = [
    {"attribute": "tier", "equals": "gold"},
    {"attribute": "age", "gte": 18},
    {"attribute": "code", "equals": "007"},
    {"not": {"field": "country", "in": ["DE", "AT"]}},
    {"event": "purchase", "at_least": 3, "within": "P30D", "category": "wine"},
    {"event": "purchase", "at_most": 0},
    {"any": [{"seen_within": "P3D"}, {"audience": "vip"}]},
    {"none": [{"attribute": "opted_out", "equals": True}]},
    {"all": [{"any": [{"attribute": "a", "exists": True}, {"attribute": "b", "lt": 1.5}]}, {"seen_within": "P7D"}]},
    {"any": [{"none": [{"audience": "a"}, {"audience": "b"}]}, {"all": [{"audience": "c"}, {"audience": "d"}]}]},
]

UNSHOWN: list[dict[str, Any]] = [
    {"attribute": "age", "gte": 18, "lt": 65},
    {"event": "purchase", "at_least": 1, "at_most": 3},
    {"event": "purchase", "at_least": 1, "item": "i1"},
    {"not": {"not": {"audience": "a"}}},
    {"not": {"any": [{"audience": "a"}, {"audience": "b"}]}},
    {"all": [{"any": [{"all": [{"audience": "a"}, {"audience": "b"}]}, {"audience": "c"}]}, {"audience": "d"}]},
    {"all": [{"audience": "a"}] * (MOST_ROWS + 1)},
]


def definition(rules: dict[str, Any]) -> SavedAudience:
    return SavedAudience.model_validate({"name": "x", "rules": rules})


@pytest.mark.parametrize("rules", SHOWN, ids=str)
def test_rules_that_a_form_shows_come_back_as_they_were(rules: dict[str, Any]):
    shown = groups_of(rules)
    assert shown is not None
    top, groups = shown

    assert definition(rules_of(groups, top)) == definition(rules)


@pytest.mark.parametrize("rules", UNSHOWN, ids=str)
def test_rules_that_say_more_than_a_form_are_not_shown_in_one(rules: dict[str, Any]):
    definition(rules)

    assert groups_of(rules) is None


def test_a_form_is_read_as_it_was_sent():
    row = {**blank(), "name": "tier", "value": "gold"}
    sent = {"g0.join": "any", **{f"g0.r0.{name}": value for name, value in row.items()}, "g0.r1.kind": "no such"}

    assert read_groups(Form(tuple(sent.items()))) == [Group("any", [row])]


def test_what_says_nothing_yet_is_left_out():
    assert rules_of([Group()], "all") == {}
    assert rules_of([Group(), Group("none", [{**blank(), "kind": "audience", "name": "a"}])], "any") == {
        "none": [{"audience": "a"}]
    }
