"""Experiments in a message's definition: what an arm says, what it may not, and what is refused."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from engine.campaigns.definition import Campaign
from engine.campaigns.template import MessageSpec, arm_spec, compile_message, render, sources
from engine.errors import UnknownName

ARMS = {"plain": {"weight": 1}, "asking": {"weight": 3, "title": "Seen this?"}}


def message(arms: dict[str, Any] = ARMS, **more: Any) -> MessageSpec:
    spec = {"title": "For you", "body": "Look", "experiment": {"name": "subject", "arms": arms}, **more}
    return MessageSpec.model_validate(spec)


def test_an_arm_says_what_it_gives_and_else_what_the_message_says():
    spec = message(
        {"plain": {"weight": 1}, "asking": {"weight": 1, "title": "Q?", "locales": {"de": {"title": "F?"}}}},
        data={"link": "/x"},
        locales={"de": {"title": "Dir", "body": "Schau"}},
    )
    compiled = compile_message(spec)
    said = {
        (arm, locale): render(compiled.of(arm), {"id": "u"}, None, {}, locale)
        for arm in (None, "plain", "asking")
        for locale in ("en", "de-AT")
    }
    assert said[None, "en"] == said["plain", "en"]
    assert said[None, "de-AT"] == said["plain", "de-AT"]
    assert (said["asking", "en"].title, said["asking", "en"].body, said["asking", "en"].data) == (
        "Q?", "Look", {"link": "/x"},
    )  # fmt: skip
    assert (said["asking", "de-AT"].title, said["asking", "de-AT"].body) == ("F?", "Schau")
    assert arm_spec(spec, "asking").experiment is None
    assert ("experiment.arms.asking.locales.de.title", "F?") in sources(spec)
    with pytest.raises(UnknownName, match="no variant 'askin'"):
        arm_spec(spec, "askin")


def test_a_definition_with_an_experiment_reads_back_as_it_was_written():
    campaign = Campaign.model_validate({"name": "c", "class": "marketing", "message": message().model_dump()})
    stored = campaign.model_dump(mode="json", exclude_none=True)
    assert Campaign.model_validate(stored) == campaign
    assert stored["message"]["experiment"]["arms"]["plain"] == {"weight": 1.0, "locales": {}}


@pytest.mark.parametrize(
    ("arms", "said"),
    [
        ({"a": {"weight": 1}}, "must be 2 to 10, not 1"),
        ({f"a{n}": {"weight": 1} for n in range(11)}, "must be 2 to 10, not 11"),
        ({"a": {"weight": 0}, "b": {"weight": 1}}, "greater than 0"),
        ({"a": {"weight": 1}, "b": {"weight": 1, "title": "{{ user.id"}}, "experiment.arms.b.title"),
        ({"a": {"weight": 1}, "b": {"weight": 1, "data": {"push_id": "x"}}}, "Horae puts that there itself"),
        ({"a": {"weight": 1}, "b": {"weight": 1, "title": "T"}}, "b: changes the title, but not in locale de"),
        (
            {"a": {"weight": 1}, "b": {"weight": 1, "locales": {"de": {"body": "B"}}}},
            "b: changes the body only in locale de",
        ),
        (
            {"a": {"weight": 1}, "b": {"weight": 1, "locales": {"fr": {"body": "B"}}}},
            "b.locales.fr: the message has no such locale",
        ),
    ],
)
def test_what_cannot_be_a_fair_test_is_refused_with_its_place(arms: dict[str, Any], said: str):
    with pytest.raises(ValidationError, match=said):
        message(arms, locales={"de": {"title": "T", "body": "B"}})


def test_fields_that_an_arm_prints_are_checked_like_the_messages_own():
    spec = message({"a": {"weight": 1}, "b": {"weight": 1, "title": "{{ item.title }} {{ user.nam }}"}})
    with pytest.raises(ValidationError) as refused:
        Campaign.model_validate({"name": "c", "class": "marketing", "message": spec})
    assert "message.experiment.arms.b.title: 'item.title' needs an item" in str(refused.value)
