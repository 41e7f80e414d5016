"""What a message says before anything is rendered: texts, texts by locale, and variants under test (pure)."""

from __future__ import annotations

import re
from collections.abc import Mapping
from types import MappingProxyType
from typing import Annotated, Any

from pydantic import AfterValidator, Field, PlainSerializer

from engine.campaigns.fields import Name, Strict, Text

OWN_KEYS = frozenset({"push_id", "callback_token"})
"""What Horae itself puts beside `data`."""

FEWEST_ARMS, MOST_ARMS = 2, 10

_LOCALE = re.compile(r"[a-z]{2,3}(-[a-z0-9]{2,8})*")


def plain_locale(locale: str) -> str:
    """A locale as it is compared: lower case, with hyphens."""
    return locale.replace("_", "-").lower()


def _check_locales(value: Mapping[str, Any]) -> Mapping[str, Any]:
    named = {plain_locale(name): variant for name, variant in value.items()}
    for name in named:
        if not _LOCALE.fullmatch(name):
            raise ValueError(f"{name!r} is no locale; they are written like de or zh-CN")
    if len(named) < len(value):
        raise ValueError("name the same locale twice")
    return MappingProxyType(named)


def _check_keys(value: Mapping[str, str]) -> Mapping[str, str]:
    if len(value) > 32:
        raise ValueError("hold at most 32 keys")
    if taken := sorted(OWN_KEYS & set(value)):
        raise ValueError(f"may not hold {', '.join(taken)}: Horae puts that there itself")
    return MappingProxyType(dict(value))


_Source = Annotated[Text, Field(min_length=1, max_length=4000)]
_Data = Annotated[Mapping[Text, _Source], AfterValidator(_check_keys), PlainSerializer(dict)]


class Variant(Strict):
    """What a push says, in Liquid."""

    title: _Source = Field(description="Liquid: the first line.")
    body: _Source = Field(description="Liquid: the text.")
    data: _Data = Field(
        default_factory=lambda: MappingProxyType({}),
        description="Key to Liquid: what the app gets beside the text, such as a link.",
    )


Locales = Annotated[Mapping[str, Variant], AfterValidator(_check_locales), PlainSerializer(dict)]
"""Locale to its own texts."""


class Wording(Strict):
    """Texts of an arm; what is absent stays the message's own."""

    title: _Source | None = Field(None, description="Liquid: the first line; absent: the message's.")
    body: _Source | None = Field(None, description="Liquid: the text; absent: the message's.")
    data: _Data | None = Field(None, description="Key to Liquid, instead of the message's; absent: the message's.")

    def given(self) -> dict[str, Any]:
        """What it changes."""
        fields = {"title": self.title, "body": self.body, "data": self.data}
        return {name: value for name, value in fields.items() if value is not None}


class Arm(Wording):
    """An arm of an experiment: its weight and what it says instead; nothing: the message as it is."""

    weight: float = Field(gt=0, le=1e6, allow_inf_nan=False, description="Its share, in proportion to the others'.")
    locales: Annotated[Mapping[str, Wording], AfterValidator(_check_locales), PlainSerializer(dict)] = Field(
        default_factory=lambda: MappingProxyType({}),
        description="Locale to what the arm says there: the same fields in each locale of the message.",
    )


def _check_arms(value: Mapping[str, Arm]) -> Mapping[str, Arm]:
    if not FEWEST_ARMS <= len(value) <= MOST_ARMS:
        raise ValueError(f"must be {FEWEST_ARMS} to {MOST_ARMS}, not {len(value)}")
    return MappingProxyType(dict(value))


class Experiment(Strict):
    """Variants of a message under test: each user gets one, and keeps it."""

    name: Name = Field(description="What the draw and the report know it by: another name is another draw.")
    arms: Annotated[Mapping[Name, Arm], AfterValidator(_check_arms), PlainSerializer(dict)] = Field(
        description="Name to weight and texts; 2 to 10."
    )
