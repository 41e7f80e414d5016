"""What makes a campaign due for one user: an event, a change of an item, a first event, a silence (pure).

Every trigger has a user, an instant at which it happened and, but for first events and silences, an item. From there a
delay runs; then the user's occurrence is handed to the planner, unless something of `cancel_if` happened meanwhile.
"""

from __future__ import annotations

from datetime import timedelta
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field, WithJsonSchema, model_validator

from engine.campaigns.fields import Duration, Strict, Text, in_words
from engine.campaigns.filters import ItemFilter, check_size

Kind = Literal["event", "first_event", "price_drop", "back_in_stock", "inactive_for"]
KINDS: tuple[Kind, ...] = ("event", "first_event", "price_drop", "back_in_stock", "inactive_for")
ITEM_KINDS: tuple[Kind, ...] = ("event", "price_drop", "back_in_stock")
"""Kinds that are about an item (an event may be about none)."""

NEVER_ACTIVITY = ("push_sent", "push_dismiss", "unsubscribe")
"""Event types that do not end a silence, and with which nobody begins: they are no wish to be here."""

SHORTEST_SILENCE = timedelta(days=1)


def parse_share(value: Any) -> Any:
    """`10%` as 0.1; numbers pass. Raises ValueError."""
    if not isinstance(value, str):
        return value
    number = value.strip().removesuffix("%").strip()
    try:
        return float(number) / (100 if value.strip().endswith("%") else 1)
    except ValueError:
        raise ValueError("must be a share like 10% or 0.1") from None


Drop = Annotated[
    float,
    BeforeValidator(parse_share),
    Field(gt=0, lt=1, allow_inf_nan=False),
    WithJsonSchema({"anyOf": [{"type": "number"}, {"type": "string", "pattern": r"^[0-9.]+%$"}], "examples": ["10%"]}),
]


class Reentry(Strict):
    """How often the same user may be reached by the campaign."""

    limit: int = Field(1, ge=1, le=1000, description="The most triggers of a user in each stretch of `per`.")
    per: Duration | None = Field(None, description="Any stretch of so long; absent: ever.")


class Interest(Strict):
    """Whose business a change of an item is."""

    events: tuple[Text, ...] = Field(
        ("view", "add_to_cart"), min_length=1, max_length=20, description="Users with an event of these types about it."
    )
    within: Duration = Field(timedelta(days=30), description="Not longer ago than this.")


class Trigger(Strict):
    """What makes the campaign due for one user, and what may come in between."""

    event: Text | None = Field(None, min_length=1, description="An event of this type, such as add_to_cart.")
    first_event: bool = Field(False, description="A user's first event of all (welcome).")
    price_drop: Drop | None = Field(None, description="An item's price falls by this share or more: 10% or 0.1.")
    back_in_stock: bool = Field(False, description="An item's stock rises from 0.")
    inactive_for: Duration | None = Field(None, description="No event of the user for so long (win-back).")
    where: Annotated[ItemFilter, AfterValidator(check_size)] | None = Field(
        None, description="Which items it counts for; absent: all."
    )
    interest: Interest | None = Field(
        None, description="Of price_drop and back_in_stock: which users it concerns. Default: viewed or carted in 30d."
    )
    delay: Duration | None = Field(None, description="How long after it the user is due; absent: at once.")
    cancel_if: tuple[Text, ...] = Field(
        (), max_length=20, description="Event types of the user that call it off: in the delay, and until it is sent."
    )
    same_item: bool | None = Field(
        None, description="Whether those events must be about the same item. Default: where there is an item."
    )
    reentry: Reentry | None = Field(
        None, description="How often a user may be reached. Default: once in 24h; by a first event once ever."
    )

    @property
    def kind(self) -> Kind:
        """Which of KINDS it is."""
        return next(kind for kind in KINDS if getattr(self, kind))

    @property
    def about_item(self) -> bool:
        """Whether there is an item that it is about."""
        return self.kind in ITEM_KINDS

    @property
    def cancels_by_item(self) -> bool:
        """Whether `cancel_if` looks at events about the same item alone."""
        return self.about_item if self.same_item is None else self.same_item

    @property
    def again(self) -> Reentry:
        """The re-entry limit that holds."""
        if self.reentry is not None:
            return self.reentry
        return Reentry() if self.kind == "first_event" else Reentry(per=timedelta(hours=24))

    @property
    def concerns(self) -> Interest:
        """Whose business a change of an item is."""
        return self.interest or Interest()

    @model_validator(mode="after")
    def _fits_together(self) -> Trigger:
        given = [kind for kind in KINDS if getattr(self, kind)]
        if not given:
            raise ValueError(f"needs one of {', '.join(KINDS)}")
        if len(given) > 1:
            raise ValueError(f"{given[0]} and {given[1]} both say what makes it due: leave one of them out")
        faults = list(self._faults(given[0]))
        if faults:
            raise ValueError("\n".join(faults))
        return self

    def _faults(self, kind: Kind) -> Any:
        if kind not in ITEM_KINDS:
            if self.where is not None:
                yield f"where chooses items, and {kind} is about none"
            if self.same_item:
                yield f"same_item needs an item, and {kind} is about none"
        if self.interest is not None and kind not in ("price_drop", "back_in_stock"):
            yield f"interest says whom a change of an item concerns, and {kind} has its user"
        if self.same_item is not None and not self.cancel_if:
            yield "same_item says nothing without cancel_if"
        if kind == "first_event" and self.reentry is not None and (self.reentry.limit > 1 or self.reentry.per):
            yield "reentry lets a user in again, and first_event happens once"
        if self.inactive_for is not None and self.inactive_for < SHORTEST_SILENCE:
            yield f"inactive_for ({in_words(self.inactive_for)}) must be at least {in_words(SHORTEST_SILENCE)}"


def described(trigger: Trigger) -> str:
    """When it is due, for people."""
    kind = trigger.kind
    happened = {
        "event": f"each {trigger.event}",
        "first_event": "a user's first event",
        "price_drop": f"a price drop of {trigger.price_drop or 0:.0%} or more",
        "back_in_stock": "an item being back in stock",
    }.get(kind) or f"{in_words(trigger.inactive_for or SHORTEST_SILENCE)} without an event"
    after = f"{in_words(trigger.delay)} after " if trigger.delay else "after "
    unless = f", unless {' or '.join(trigger.cancel_if)}" if trigger.cancel_if else ""
    return f"{after}{happened}{unless}"
