"""Explanations of decisions in a visitor's own language, from what `planning.explain` found."""

from __future__ import annotations

import re
from dataclasses import dataclass

from engine.features import schema
from engine.learning.explaining import Reason
from engine.planning.explain import Explanation, Option
from engine.web.console.meanings import MEANINGS
from engine.web.console.words import Words, word

FEATURES = {feature.name: feature for feature in schema.FEATURES}

CLOSE = 1e-6
"""Alternatives are remembered as float32: nearer than this share, two values are equal."""

NOTHING = {
    "holdout": word("The user is held out, to measure what pushes do."),
    "explored_nothing": word("Chance decided, so that the model can learn, and it drew nothing."),
    "not_eligible": word("The user is not in the audience."),
    "no_consent": word("There is no consent to pushes."),
    "no_device": word("No device can be reached."),
    "no_candidate": word("There was no item to offer."),
    "not_worth": word("Nothing was worth more than it costs."),
    "capped": word("A frequency cap is used up."),
    "gap": word("It would come too close to another push."),
    "quiet_hours": word("No window was open outside quiet hours."),
    "capacity": word("What may be sent at these times went to pushes of higher value."),
    "budget": word("The budget or stock went to pushes of higher value."),
    "expired": word("The item or the offer ends before a window opens."),
    "too_late": word("Its time was over."),
    "already_planned": word("Another push of this occurrence was there first."),
    "failed_input": word("A score was no number."),
    "displaced": word("A push that is worth more took its place."),
}
"""Why a user got nothing, by reason."""

BOUNDS = {
    "the minimum gap": word("the minimum gap between two pushes"),
    "the item or the offer ends before it": word("the item or the offer ends before it"),
    "the price of its capacity": word("the price of the quarter of an hour"),
    "the user's other push of the run": word("the user's other push of the same run"),
    "the price of the budget or stock": word("the price of the budget or stock"),
    "it is worth nothing": word("it is worth nothing"),
    "quiet hours": word("quiet hours"),
    "the holdout": word("the holdout"),
}
"""What stood in the way of an alternative, by planning.explain's words for it."""

CHECKS = {
    "versions": word("versions"),
    "arm": word("arm"),
    "score": word("score"),
    "value": word("value"),
    "price": word("price"),
    "instant": word("time"),
    "propensity": word("chance of being drawn"),
    "constraints": word("constraints"),
    "choice": word("choice"),
}

REGIMES = {
    "baseline": word("No model had decided yet: own history and popularity, times how good the hour is for the user."),
    "goal": word("The chance that the user takes the item, times how good the hour is for them."),
    "click": word("The chance that the user clicks this item at this hour, learned from clicks."),
    "unknown": word("The model that decided is not there any more."),
}

OUTCOMES = {
    "agrees": word("Computed again, everything agrees with what was stored."),
    "differs": word("Computed again, this differs from what was stored: %(what)s. Somebody should look into it."),
    "not comparable": word("It cannot be computed again."),
}


@dataclass(frozen=True)
class Teller:
    """Says what explanations hold, in the language of `words`."""

    words: Words

    def nothing(self, reason: str) -> str:
        """Why nothing was planned."""
        return self.words.say(NOTHING[reason]) if reason in NOTHING else reason

    def reason(self, one: Reason) -> str:
        """A part of a score as a sentence."""
        feature = FEATURES[one.feature]
        speaks = word("%(what)s: %(value)s – speaks for it (odds × %(odds)s)")
        against = word("%(what)s: %(value)s – speaks against it (odds × %(odds)s)")
        looked_at = word("%(what)s: %(value)s")
        odds = self.words.number(2.718281828**one.contribution, 2)
        text = looked_at if one.contribution == 0 else speaks if one.contribution > 0 else against
        return self.words.say(text, what=self.feature(one.feature), value=self._value(feature, one.value), odds=odds)

    def feature(self, name: str) -> str:
        """What a feature means."""
        return self.words.say(MEANINGS[name]) if name in MEANINGS else name

    def _value(self, feature: schema.Feature, value: float | None) -> str:
        if value is None:
            return self.words.say(word("never or unknown"))
        if feature.unit == "h":
            return self.words.span(value * 3600)
        if feature.unit == "d":
            return self.words.span(value * 86_400)
        if feature.unit == "share":
            return self.words.percent(value)
        if feature.unit == "x":
            return self.words.say(word("%(n)s times"), n=self.words.number(value, 2))
        return self.words.number(value, 2)

    def bound(self, option: Option, chosen: Option | None) -> str:
        """What stood in an alternative's way."""
        if option.bound is not None:
            return self.constraint(option.bound)
        if chosen is None:
            return self.words.say(word("nothing: it was free"))
        if option.net < chosen.net * (1 - CLOSE):
            return self.words.say(word("it is worth less"))
        return self.words.say(word("nothing: it is worth the same"))

    def constraint(self, said: str) -> str:
        """A constraint in planning.explain's words, in the visitor's: a cap keeps its own."""
        if said in BOUNDS:
            return self.words.say(BOUNDS[said])
        gap = re.fullmatch(r"the minimum gap of (.+)", said)
        if gap:
            return self.words.say(word("the minimum gap of %(gap)s between two pushes"), gap=gap[1])
        return self.words.say(word("the cap %(cap)s"), cap=said)

    def checks(self, one: Explanation) -> list[tuple[str, str, str]]:
        """What did not agree: (what, outcome, detail). Details are the engine's own, in English."""
        return [
            (self.words.say(CHECKS.get(check.name, check.name)), check.outcome, check.detail)
            for check in one.checks
            if check.outcome != "agrees"
        ]

    def verdict(self, one: Explanation) -> tuple[str, str]:
        """(agrees | differs | not comparable, as a sentence)."""
        outcome = one.verdict.partition(":")[0]
        wrong = [what for what, found, _ in self.checks(one) if found == "differs"]
        return outcome, self.words.say(OUTCOMES[outcome], what=", ".join(wrong))

    def nearest(self, one: Explanation) -> Option | None:
        """Of who got nothing: the alternative that came nearest to being planned."""
        if one.chosen is not None or not one.alternatives:
            return None
        return max(one.alternatives, key=lambda option: option.net)
