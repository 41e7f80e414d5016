"""A campaign goes through the editor's form and its YAML unharmed, and what is wrong is told at its field."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from engine.campaigns.definition import Campaign
from engine.campaigns.loading import build
from engine.campaigns.yamlfile import parse
from engine.errors import Faulty
from engine.web.console import editing
from engine.web.console.forms import Form

MESSAGE = {"title": "Hi {{ user.id }}", "body": "one\ntwo"}
EDITOR = Path(editing.__file__).parent / "templates/editor/index.html"


def campaign(**changes: Any) -> Campaign:
    return Campaign.model_validate({"name": "spring", "class": "marketing", "message": MESSAGE, **changes})


def form_of(fields: dict[str, str], **changes: str) -> Form:
    return Form(tuple({**fields, **changes}.items()))


DEFINITIONS = {
    "bare": campaign(),
    "transactional": campaign(**{"class": "transactional", "obeys_quiet_hours": False}),
    "once": campaign(schedule={"once": "2026-11-27T18:00", "zone": "local"}, expiry="2026-11-28T18:00"),
    "instant": campaign(schedule={"once": "2026-11-27T18:00+01:00"}),
    "cron": campaign(schedule={"cron": "0 9 * * THU", "zone": "Europe/Berlin"}, hours="09:00-21:00", horizon="3d"),
    "trigger": campaign(trigger={"event": "add_to_cart", "delay": "2h", "cancel_if": ["purchase"]}, items="event"),
    "audience": campaign(audience={"all": [{"field": "country", "equals": "DE"}, {"seen_within": "7d"}]}),
    "items": campaign(items={"kind": "fixed", "ids": ["i1", "i 2"]}),
    "catalogue": campaign(items={"kind": "personalised", "where": {"field": "price", "lt": 50}}),
    "shares": campaign(holdout=0.015, exploration=0, priority=2.5),
    "limits": campaign(budget=10, per_minute=5, capacity_per_quarter=7, overflow="drop", value_click=0.0),
    "what the form does not show": campaign(
        caps=[{"limit": 1, "window": "local_day"}],
        misfire="skip",
        message={**MESSAGE, "data": {"link": "x"}, "locales": {"de": {"title": "Hallo", "body": "du"}}},
    ),
    "saved audience": campaign(audience={"audience": "gold"}),
    "deep conditions": campaign(audience={"all": [{"any": [{"all": [{"seen_within": "7d"}]}, {"seen_within": "1d"}]}]}),
    "variants": campaign(
        message={
            **MESSAGE,
            "locales": {"de": {"title": "Hallo", "body": "du"}},
            "experiment": {
                "name": "words",
                "arms": {
                    "plain": {"weight": 50},
                    "other": {"weight": 12.5, "title": "Ho", "locales": {"de": {"title": "Ei"}}},
                },
            },
        }
    ),
    "topics": campaign(topics=["news", "garden"], tags=["spring"], description="zwei Wörter"),
}


@pytest.mark.parametrize("given", DEFINITIONS.values(), ids=DEFINITIONS)
def test_a_definition_survives_the_form(given: Campaign):
    read = editing.read_form(form_of(editing.fields_of(editing.plain(given))))

    assert read.faults == {}
    assert build(Campaign, read.values) == given


@pytest.mark.parametrize("given", DEFINITIONS.values(), ids=DEFINITIONS)
def test_a_definition_survives_its_yaml(given: Campaign):
    read = editing.read_yaml(editing.to_yaml(editing.plain(given)))

    assert read.faults == {}
    assert build(Campaign, read.values) == given


def test_line_ends_of_browsers_are_those_of_files():
    fields = editing.fields_of(editing.plain(campaign()))

    read = editing.read_form(form_of(fields, **{"message.body": "one\r\ntwo"}))

    assert read.values["message"]["body"] == "one\ntwo"


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"message.title": ""}, "message.title"),
        ({"message.body": "{{ user.id"}, "message.body"),
        ({"horizon": "soon"}, "horizon"),
        ({"when": "cron", "cron": "every day"}, "cron"),
        ({"when": "once", "once": "tomorrow"}, "once"),
        ({"holdout": "150"}, "holdout"),
        ({"priority": "much"}, "priority"),
        ({"for": "yaml", "audience": "{field: planet, equals: Mars}"}, "audience"),
        ({"for": "rules", "g0.r0.kind": "field", "g0.r0.name": "planet", "g0.r0.value": "Mars"}, "audience"),
        ({"for": "saved", "for.saved": ""}, "audience"),
        ({"test.name": "t", "arm.0.name": "only", "arm.0.weight": "1"}, "test.name"),
        (
            {"test.name": "t", "arm.0.name": "a", "arm.0.weight": "1", "arm.1.name": "b", "arm.1.weight": "x"},
            "test.name",
        ),
        ({"items.kind": "fixed"}, "items.kind"),
        ({"name": "no spaces"}, "name"),
        ({"topics": "two words"}, "topics"),
    ],
)
def test_a_fault_is_told_at_its_field(changes: dict[str, str], field: str):
    fields = editing.fields_of(editing.plain(campaign()))
    read = editing.read_form(form_of(fields, **changes))

    with pytest.raises(Faulty) as told:
        build(Campaign, read.values)

    assert field in editing.by_field(told.value, list(fields))


def test_what_is_no_yaml_is_told_at_its_field_too():
    fields = editing.fields_of({})

    assert "audience" in editing.read_form(form_of(fields, **{"for": "yaml", "audience": "{field: "})).faults
    assert "yaml" in editing.read_yaml("a: [").faults
    assert "yaml" in editing.read_yaml("just text").faults


def test_the_examples_beside_the_fields_are_what_a_definition_takes():
    said = EDITOR.read_text()
    examples = {
        part: re.findall(rf"{part}.*?such as (\{{.*?\}})[.\"]", said) for part in ("audience", "items.where", "trigger")
    }

    build(Campaign, {**editing.plain(campaign()), "audience": parse(examples["audience"][0], "example").value})
    items = {"kind": "personalised", "where": parse(examples["items.where"][0], "example").value}
    build(Campaign, {**editing.plain(campaign()), "items": items})
    build(Campaign, {**editing.plain(campaign()), "trigger": parse(examples["trigger"][0], "example").value})
