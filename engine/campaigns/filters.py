"""The language of audience and item filters: conditions on attributes, columns and behaviour, combined (pure).

    all:
      - {attribute: tier, in: [gold, silver]}
      - {field: country, equals: DE}
      - {event: purchase, at_least: 1, within: 30d, category: wine}
      - not: {seen_within: 3d}
      - {audience: wine-lovers}

A saved audience is named; `saved_audience.expand` puts its rules in the name's place before anything is evaluated.
Every condition is true or false, never unknown: one about an attribute that a user does not have is false, and so its
negation is true. Comparisons written in one condition must all hold. Numbers compare as numbers also where the store
holds them as text; other values compare as text, in the order of their characters (so ISO dates compare as dates).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any, Literal

from pydantic import Discriminator, Field, StrictBool, StrictFloat, StrictInt, StrictStr, Tag, model_validator

from engine.campaigns.fields import Duration, Name, Strict, Text, check_text

_DEEPEST, _MOST = 8, 200

Scalar = Annotated[StrictBool | StrictInt | StrictFloat | StrictStr, Field(union_mode="left_to_right")]
Comparable = Annotated[StrictInt | StrictFloat | StrictStr, Field(union_mode="left_to_right")]


class Comparison(Strict):
    """What a value is compared with."""

    equals: Scalar | None = Field(None, description="The value is this.")
    in_: tuple[Scalar, ...] | None = Field(None, alias="in", min_length=1, description="The value is one of these.")
    gt: Comparable | None = Field(None, description="The value is greater than this.")
    gte: Comparable | None = Field(None, description="The value is this or greater.")
    lt: Comparable | None = Field(None, description="The value is less than this.")
    lte: Comparable | None = Field(None, description="The value is this or less.")
    starts_with: Text | None = Field(None, min_length=1, description="The text begins with this.")
    exists: StrictBool | None = Field(None, description="true: there is a value; false: there is none.")

    @model_validator(mode="after")
    def _compares(self) -> Comparison:
        if not self.comparisons():
            raise ValueError("compares with nothing: needs equals, in, gt, gte, lt, lte, starts_with or exists")
        for value in (self.equals, *(self.in_ or ()), self.gt, self.gte, self.lt, self.lte):
            if isinstance(value, str):
                check_text(value)
            if isinstance(value, float) and value - value != 0:
                raise ValueError("compares with a number that is not finite")
        return self

    def comparisons(self) -> dict[str, Any]:
        """The comparisons that are given, by operator."""
        given = {
            "equals": self.equals, "in": self.in_, "gt": self.gt, "gte": self.gte, "lt": self.lt, "lte": self.lte,
            "starts_with": self.starts_with, "exists": self.exists,
        }  # fmt: skip
        return {name: value for name, value in given.items() if value is not None}


class AttributeIs(Comparison):
    """A condition on an attribute: any column of the files beyond the canonical ones."""

    attribute: Text = Field(min_length=1, description="The attribute's name.")


class UserFieldIs(Comparison):
    """A condition on a canonical column of users."""

    field: Literal["user_id", "country", "locale", "timezone"] = Field(description="The column.")


class ItemFieldIs(Comparison):
    """A condition on a canonical column of items."""

    field: Literal["item_id", "title", "category", "brand", "price", "stock"] = Field(description="The column.")


class EventCount(Strict):
    """A condition on how often a user did something."""

    event: Text = Field(min_length=1, description="The event type, such as purchase.")
    within: Duration | None = Field(None, description="Only events of the last so long; absent: ever.")
    at_least: int | None = Field(None, ge=1, description="The fewest; 1 where neither bound is given.")
    at_most: int | None = Field(None, ge=0, description="The most; 0: never.")
    item: Text | None = Field(None, description="Only events about this item.")
    category: Text | None = Field(None, description="Only events about items of this category.")
    brand: Text | None = Field(None, description="Only events about items of this brand.")

    @model_validator(mode="after")
    def _possible(self) -> EventCount:
        if self.at_least is not None and self.at_most is not None and self.at_least > self.at_most:
            raise ValueError(f"at_least ({self.at_least}) is more than at_most ({self.at_most}): nobody fits")
        return self


class SeenWithin(Strict):
    """A condition on when a user last did anything at all."""

    seen_within: Duration = Field(description="There was an event of the user in the last so long.")


class InAudience(Strict):
    """A condition on belonging to a saved audience."""

    audience: Name = Field(description="The saved audience's name: horae audiences list")


class AllOf(Strict):
    """All of the conditions hold."""

    all_of: tuple[Filter, ...] = Field(alias="all", min_length=1, description="Conditions that must all hold.")


class AnyOf(Strict):
    """At least one of the conditions holds."""

    any_of: tuple[Filter, ...] = Field(alias="any", min_length=1, description="Conditions of which one must hold.")


class NoneOf(Strict):
    """None of the conditions holds."""

    none_of: tuple[Filter, ...] = Field(alias="none", min_length=1, description="Conditions that must not hold.")


class Negated(Strict):
    """The condition does not hold."""

    negated: Filter = Field(alias="not", description="A condition that must not hold.")


class AllItems(Strict):
    """All of the conditions hold."""

    all_of: tuple[ItemFilter, ...] = Field(alias="all", min_length=1, description="Conditions that must all hold.")


class AnyItem(Strict):
    """At least one of the conditions holds."""

    any_of: tuple[ItemFilter, ...] = Field(alias="any", min_length=1, description="Conditions of which one must hold.")


class NoItem(Strict):
    """None of the conditions holds."""

    none_of: tuple[ItemFilter, ...] = Field(alias="none", min_length=1, description="Conditions that must not hold.")


class NegatedItem(Strict):
    """The condition does not hold."""

    negated: ItemFilter = Field(alias="not", description="A condition that must not hold.")


USER_KEYS = ("all", "any", "none", "not", "attribute", "field", "event", "seen_within", "audience")
ITEM_KEYS = ("all", "any", "none", "not", "attribute", "field")


def _user_key(value: Any) -> str | None:
    return _key(value, USER_KEYS)


def _item_key(value: Any) -> str | None:
    return _key(value, ITEM_KEYS)


def _key(value: Any, keys: tuple[str, ...]) -> str | None:
    """The key that tells what kind of condition this is."""
    if isinstance(value, dict):
        return next((key for key in keys if key in value), None)
    names = {"all_of": "all", "any_of": "any", "none_of": "none", "negated": "not"}
    fields = [names.get(name, name) for name in getattr(type(value), "model_fields", ())]
    return next((name for name in fields if name in keys), None)


Filter = Annotated[
    Annotated[AllOf, Tag("all")]
    | Annotated[AnyOf, Tag("any")]
    | Annotated[NoneOf, Tag("none")]
    | Annotated[Negated, Tag("not")]
    | Annotated[AttributeIs, Tag("attribute")]
    | Annotated[UserFieldIs, Tag("field")]
    | Annotated[EventCount, Tag("event")]
    | Annotated[SeenWithin, Tag("seen_within")]
    | Annotated[InAudience, Tag("audience")],
    Discriminator(_user_key),
]
"""A condition on users."""

ItemFilter = Annotated[
    Annotated[AllItems, Tag("all")]
    | Annotated[AnyItem, Tag("any")]
    | Annotated[NoItem, Tag("none")]
    | Annotated[NegatedItem, Tag("not")]
    | Annotated[AttributeIs, Tag("attribute")]
    | Annotated[ItemFieldIs, Tag("field")],
    Discriminator(_item_key),
]
"""A condition on items."""

for _model in (AllOf, AnyOf, NoneOf, Negated, AllItems, AnyItem, NoItem, NegatedItem):
    _model.model_rebuild()


def parts(condition: Any, depth: int = 1, most: int | None = _DEEPEST) -> Iterator[Any]:
    """A condition and all conditions in it. Raises ValueError where it nests deeper than `most`, if given: what
    saved audiences were expanded in may."""
    if most is not None and depth > most:
        raise ValueError(f"nests deeper than {most}")
    yield condition
    inner = getattr(condition, "negated", None)
    for name in ("all_of", "any_of", "none_of"):
        for each in getattr(condition, name, ()):
            yield from parts(each, depth + 1, most)
    if inner is not None:
        yield from parts(inner, depth + 1, most)


def check_size(condition: Any) -> Any:
    """`condition`, if it is of a size that a database can be asked. Raises ValueError."""
    if condition is not None and sum(1 for _ in parts(condition)) > _MOST:
        raise ValueError(f"has more than {_MOST} conditions")
    return condition
