"""When a campaign is due, in a visitor's own language; `campaigns.schedule.described` says it in English."""

from __future__ import annotations

import re
from datetime import datetime

from engine.campaigns import triggers
from engine.campaigns.definition import Campaign, Schedule
from engine.campaigns.schedule import described
from engine.campaigns.triggers import Trigger
from engine.web.console.words import ENGLISH, Words, word

DAYS = {
    "0": word("Sun"), "1": word("Mon"), "2": word("Tue"), "3": word("Wed"), "4": word("Thu"), "5": word("Fri"),
    "6": word("Sat"), "7": word("Sun"), "sun": word("Sun"), "mon": word("Mon"), "tue": word("Tue"),
    "wed": word("Wed"), "thu": word("Thu"), "fri": word("Fri"), "sat": word("Sat"),
}  # fmt: skip

_AT = re.compile(r"(\d{1,2}) (\d{1,2}) (\*|\d{1,2}) \* (\*|[\w,]+)")
"""Cron expressions that a sentence can say: once a day, on some weekdays or on a day of the month."""


def due_words(words: Words, campaign: Campaign) -> str:
    """When `campaign` is due."""
    if words.language == ENGLISH:
        return described(campaign)
    if campaign.trigger is not None:
        return _after(words, campaign.trigger)
    schedule = campaign.schedule
    if schedule is None:
        return words.say(word("when somebody triggers it"))
    if schedule.once is not None:
        return f"{words.reading(schedule.once)} {_clock(words, schedule, schedule.once)}".strip()
    return f"{_again(words, schedule.cron or '')} {_clock(words, schedule, None)}".strip()


def _again(words: Words, cron: str) -> str:
    found = _AT.fullmatch(cron)
    days = [DAYS.get(day.lower()) for day in found[4].split(",")] if found and found[4] != "*" else []
    if found is None or None in days or (days and found[3] != "*"):
        return words.say(word("by cron %(cron)s"), cron=cron)
    time = f"{int(found[2]):02}:{int(found[1]):02}"
    if found[3] != "*":
        return words.say(word("on day %(day)s of each month at %(time)s"), day=found[3], time=time)
    if days:
        named = words.say(word(", ")).join(words.say(day) for day in days if day)
        return words.say(word("each %(days)s at %(time)s"), days=named, time=time)
    return words.say(word("each day at %(time)s"), time=time)


def _clock(words: Words, schedule: Schedule, once: datetime | None) -> str:
    if schedule.zone == "local":
        return words.say(word("by each user's own clock"))
    return "UTC" if schedule.zone == "utc" else schedule.zone or (once.strftime("%z") if once else "")


def _after(words: Words, trigger: Trigger) -> str:
    happened = {
        "event": word("each %(event)s"),
        "first_event": word("a user's first event"),
        "price_drop": word("a price drop of %(share)s or more"),
        "back_in_stock": word("an item being back in stock"),
    }.get(trigger.kind) or word("%(time)s without an event")
    quiet = trigger.inactive_for or triggers.SHORTEST_SILENCE
    said = words.say(
        happened, event=trigger.event, share=words.percent(trigger.price_drop or 0, 0), time=words.span(quiet)
    )
    after = (
        words.say(word("%(time)s after %(what)s"), time=words.span(trigger.delay), what=said)
        if trigger.delay
        else words.say(word("after %(what)s"), what=said)
    )
    if not trigger.cancel_if:
        return after
    return words.say(word("%(due)s, unless %(events)s"), due=after, events=" / ".join(trigger.cancel_if))
