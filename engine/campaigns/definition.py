"""What a marketer defines: a campaign (pure).

`Campaign` is the whole definition. It is frozen and versioned: a run keeps the version it used. Checks that need only
the definition are here; those that need the workspace, the clock or the store are in `review`. The descriptions are the
documentation: `horae campaign schema` prints them as JSON Schema.

Marketing and transactional differ in their defaults only: a transactional campaign neither obeys nor counts toward caps
unless told to. Quiet hours hold for both; a transactional campaign may say `obeys_quiet_hours: false` (a code that was
asked for at night), a marketing campaign may not. Consent and devices are required of both.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, GetJsonSchemaHandler, model_validator
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema

from engine.campaigns.fields import (
    Duration,
    LocalHours,
    Moment,
    Name,
    Share,
    Strict,
    Text,
    check_zone,
    in_words,
)
from engine.campaigns.filters import Filter, ItemFilter, check_size
from engine.campaigns.policy import Cap, least, minutes_of
from engine.campaigns.template import MessageSpec, unknown_fields
from engine.campaigns.triggers import Trigger
from engine.errors import BadInput
from engine.localtime import require_cron

SHORTEST_HORIZON = timedelta(minutes=30)
"""A push is due at least 15 minutes before its window's end, and needs a minute to be due in."""

REPEAT_DAYS = 7
"""Default of `item_once_days` where items are personalised: what was not wanted today is not wanted tomorrow."""


DISTURB_COST = 0.1
"""Default of `cost_disturb`: a tenth of a click. With one push in fifty dismissed (planning.worth.DISTURBED), a push
then has to bring a click in 500."""

FATIGUE = 0.5
"""Default of `fatigue`."""


def _check_cron(value: str) -> str:
    try:
        require_cron(value)
    except BadInput as error:
        raise ValueError(str(error).removeprefix("the cron expression ")) from None
    return " ".join(value.split())


def _check_schedule_zone(value: str) -> str:
    return value.lower() if value.lower() in ("local", "utc") else check_zone(value)


class Schedule(Strict):
    """When a campaign is due: once, or by a cron expression."""

    once: Moment | None = Field(
        None, description="Date and time; with an offset an instant, without one a reading of the clock of `zone`."
    )
    cron: Annotated[Text, AfterValidator(_check_cron)] | None = Field(
        None, description="Five fields: minute hour day-of-month month day-of-week.", examples=["0 9 * * THU"]
    )
    zone: Annotated[Text, AfterValidator(_check_schedule_zone)] | None = Field(
        None,
        description="Whose clock: local (each user's own), utc, or an IANA zone (that zone's, for all users at once).",
        examples=["local", "utc", "Europe/Berlin"],
    )

    @model_validator(mode="after")
    def _one_kind(self) -> Schedule:
        if (self.once is None) == (self.cron is None):
            raise ValueError("needs either once or cron")
        if self.once is not None and self.once.tzinfo is not None:
            if self.zone is not None:
                raise ValueError("once has an offset and is an instant, so zone says nothing: leave one of them out")
        elif self.zone is None:
            raise ValueError("zone is needed: local (each user's own clock), utc, or a zone such as Europe/Berlin")
        return self

    @property
    def local(self) -> bool:
        """Whether it is due by each user's own clock."""
        return self.zone == "local"


class Items(Strict):
    """What the pushes of a campaign are about."""

    kind: Literal["none", "fixed", "personalised", "event"] = Field(
        description="none: no item; fixed: the best of `ids` for each user; personalised: the best of the catalogue;"
        " event: the item that the trigger is about."
    )
    ids: tuple[Text, ...] = Field((), description="item_id of each fixed item.", max_length=10_000)
    where: Annotated[ItemFilter, AfterValidator(check_size)] | None = Field(
        None, description="Which items of the catalogue; absent: all that are available."
    )

    @model_validator(mode="before")
    @classmethod
    def _named(cls, value: Any) -> Any:
        return {"kind": value} if isinstance(value, str) else value

    @classmethod
    def __get_pydantic_json_schema__(cls, core: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        """Also the kind alone, where it says everything."""
        return {"anyOf": [{"enum": ["none", "personalised", "event"]}, handler.resolve_ref_schema(handler(core))]}

    @model_validator(mode="after")
    def _fits_kind(self) -> Items:
        if (self.kind == "fixed") != bool(self.ids):
            raise ValueError("ids are needed with kind fixed" if self.kind == "fixed" else "ids need kind fixed")
        if self.where is not None and self.kind != "personalised":
            raise ValueError(f"where needs kind personalised, and kind is {self.kind}")
        return self


class OwnCap(Strict):
    """A cap that only this campaign's pushes obey, beside the workspace's."""

    scope: Text | None = Field(None, description="Which pushes it counts; absent: this campaign's.")
    limit: int = Field(ge=0, le=10_000, description="The most pushes; 0 allows none.")
    window: Text = Field(description="local_day, local_week or rolling:PT24H.")

    def as_cap(self, campaign: str, number: int) -> Cap:
        """The cap as the policy knows it. Raises ValueError for a wrong scope or window."""
        return Cap(
            id=f"{campaign}.{number}",
            scope=self.scope or f"campaign:{campaign}",
            limit=self.limit,
            window=self.window,
        )

    @model_validator(mode="after")
    def _is_a_cap(self) -> OwnCap:
        self.as_cap("campaign", 1)
        return self


class Campaign(Strict):
    """A campaign: whom to reach, with what, when and under which rules."""

    name: Name = Field(description="Unique; letters, digits, . _ -")
    class_: Literal["marketing", "transactional"] = Field(
        alias="class", description="marketing, or transactional (outside caps unless told to obey; sent at least once)."
    )
    description: Text = Field("", max_length=2000, description="For people.")
    schedule: Schedule | None = Field(None, description="When it is due; absent: only when triggered.")
    trigger: Trigger | None = Field(None, description="What makes it due for one user, instead of a schedule.")
    misfire: Literal["run_once", "skip"] = Field(
        "run_once",
        description="After downtime, of what should have begun earlier than misfire_grace ago and is not over yet:"
        " run_once the latest (of a trigger: for each user), or skip it. Older ones never run.",
    )
    misfire_grace: Duration = Field(timedelta(hours=1), description="How late it may begin without being a misfire.")
    audience: Annotated[Filter, AfterValidator(check_size)] | None = Field(
        None, description="Whom it is for; absent: every user."
    )
    items: Items = Field(Items(kind="none"), description="What its pushes are about: none, fixed or personalised.")
    hours: LocalHours | None = Field(
        None, description="Local hours in which it may send, inside those the quiet hours leave; absent: all of those."
    )
    horizon: Duration = Field(
        timedelta(hours=24), description="How long after it is due a push may leave; the best time within is chosen."
    )
    expiry: Moment | None = Field(
        None,
        description="Nothing of it leaves at or after this; without an offset by the clock of schedule.zone.",
    )
    holdout: Share = Field(0.0, description="Share of users who never get it, sticky, to measure its effect.")
    exploration: Share = Field(0.05, description="Share of users who get a random feasible choice, to learn from.")
    gateway: Name = Field(
        "log",
        description="What sends it: log (a journal file), webhook, fcm, apns, webpush, or push (by whatever of these"
        " three a user's devices are registered for).",
    )
    devices: Literal["newest", "all"] = Field(
        "newest",
        description="Of a user's several devices: the newest, or the next where that one is gone; or all.",
    )
    message: MessageSpec = Field(description="Title, body and data in Liquid, with variants for locales.")
    topics: tuple[Name, ...] = Field(
        (), max_length=10, description="What it is about: users who turned one of these off do not get it."
    )
    tags: tuple[Name, ...] = Field((), description="Names that caps may have as scope (tag:NAME).", max_length=20)
    priority: float = Field(
        1.0, gt=0, le=1000, description="Factor on the value of its pushes against other campaigns'."
    )
    obeys_caps: bool = Field(
        True, description="Whether caps and the minimum gap hold for it. Default of transactional: false."
    )
    counts_toward_caps: bool = Field(
        True, description="Whether its pushes use up caps. Default of transactional: false."
    )
    obeys_quiet_hours: bool = Field(True, description="May be false for transactional campaigns only.")
    caps: tuple[OwnCap, ...] = Field((), description="Caps of its own, beside the workspace's.", max_length=10)
    value_click: float = Field(
        1.0, ge=0, le=1e9, allow_inf_nan=False, description="What a click is worth, in any unit used throughout."
    )
    margin: float = Field(
        0.0, ge=0, le=1e9, allow_inf_nan=False, description="What reaching the goal (a purchase) adds, in that unit."
    )
    cost_disturb: float = Field(
        DISTURB_COST,
        ge=0,
        le=1e9,
        allow_inf_nan=False,
        description="What it costs that a push is dismissed or answered by opting out, in that unit.",
    )
    fatigue: float = Field(
        FATIGUE,
        ge=0,
        le=100,
        allow_inf_nan=False,
        description="How much each push of the last day raises the chance of disturbing: 0.5 by half of it. A push of"
        " yesterday counts half.",
    )
    capacity_per_quarter: int | None = Field(
        None, ge=1, description="The most of its pushes in each UTC quarter of an hour; absent: no limit."
    )
    per_minute: int | None = Field(
        None,
        ge=1,
        le=10_000_000,
        description="The most of its pushes in any minute, kept as they leave, over all workers; absent: no limit.",
    )
    budget: int | None = Field(
        None, ge=1, description="The most of its pushes in all, over all its occurrences; absent: no limit."
    )
    overflow: Literal["replace", "best_window", "drop"] = Field(
        "replace",
        description="Where caps or a capacity are full: replace takes the place of a planned push that is worth less,"
        " or else the best remaining window; best_window only the latter; drop: the best window or none. A push that"
        " caps hold back when it is due, or whose window passes while it waits, likewise goes to the best window left.",
    )
    price_tolerance: float = Field(
        0.05,
        ge=0,
        le=100,
        allow_inf_nan=False,
        description="A push is dropped whose item costs more than the plan knew, by more than this share of it.",
    )
    item_once_days: int | None = Field(
        None,
        ge=1,
        le=366,
        description=f"A user gets the same item again after so many days. Default: {REPEAT_DAYS} if personalised.",
    )

    @model_validator(mode="before")
    @classmethod
    def _defaults_by_kind(cls, value: Any) -> Any:
        if not isinstance(value, dict):
            return value
        marketing = (value.get("class") or value.get("class_")) != "transactional"
        filled = {"obeys_caps": marketing, "counts_toward_caps": marketing, **value}
        items = value.get("items")
        kind = items.get("kind") if isinstance(items, dict) else getattr(items, "kind", items)
        if kind == "personalised":
            filled.setdefault("item_once_days", REPEAT_DAYS)
        return filled

    @model_validator(mode="after")
    def _fits_together(self) -> Campaign:
        faults = [*_share_faults(self), *_time_faults(self), *_trigger_faults(self), *_rule_faults(self)]
        faults += self._template_faults()
        if faults:
            raise ValueError("\n".join(faults))
        return self

    def _template_faults(self) -> list[str]:
        problems = unknown_fields(self.message, with_item=self.items.kind != "none")
        return [f"message.{problem}" for problem in problems]

    @property
    def per_quarter(self) -> int | None:
        """The most of its pushes in a UTC quarter-hour: as set, and no more than its rate a minute lets leave."""
        return least(self.capacity_per_quarter, minutes_of(self.per_minute))

    def own_caps(self) -> tuple[Cap, ...]:
        """Its own caps, as the policy knows them."""
        return tuple(cap.as_cap(self.name, number) for number, cap in enumerate(self.caps, 1))


def _share_faults(campaign: Campaign) -> list[str]:
    together = campaign.holdout + campaign.exploration
    return [f"holdout and exploration are {together:g} together, more than all users"] if together > 1 else []


def _time_faults(campaign: Campaign) -> list[str]:
    faults, schedule, expiry = [], campaign.schedule, campaign.expiry
    if campaign.horizon < SHORTEST_HORIZON:
        faults.append(f"horizon ({in_words(campaign.horizon)}) must be at least {in_words(SHORTEST_HORIZON)}")
    if expiry is not None and expiry.tzinfo is None and (schedule is None or schedule.zone is None):
        faults.append("expiry needs an offset (2026-11-27T18:00+01:00), as schedule.zone says no clock to read it by")
    elif expiry is not None and schedule is not None and schedule.once is not None:
        comparable = (expiry.tzinfo is None) == (schedule.once.tzinfo is None)
        if comparable and expiry <= schedule.once:
            faults.append(f"expiry ({_shown(expiry)}) is not after schedule.once ({_shown(schedule.once)})")
    return faults


def _trigger_faults(campaign: Campaign) -> list[str]:
    faults, trigger = [], campaign.trigger
    if trigger is not None and campaign.schedule is not None:
        faults.append("trigger and schedule both say when it is due: leave one of them out")
    if campaign.items.kind == "event" and (trigger is None or not trigger.about_item):
        why = "there is no trigger" if trigger is None else f"trigger.{trigger.kind} is about none"
        faults.append(f"items (event) are those of the trigger, and {why}")
    return faults


def _rule_faults(campaign: Campaign) -> list[str]:
    faults = []
    if not campaign.obeys_quiet_hours and campaign.class_ == "marketing":
        faults.append("obeys_quiet_hours may be false only where class is transactional, and class is marketing")
    if campaign.caps:
        flags = {"obeys_caps": campaign.obeys_caps, "counts_toward_caps": campaign.counts_toward_caps}
        faults += [f"caps would never bind: {name} is false" for name, flag in flags.items() if not flag]
    return faults


def _shown(moment: datetime) -> str:
    return moment.isoformat(sep=" ", timespec="minutes")
