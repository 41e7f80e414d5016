"""Saved audiences: rules under a name, used by campaigns and by each other (pure).

An audience may use others, which may use others: `expand` puts rules in the place of names, so that what is evaluated,
explained and replayed is one filter of conditions alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import AfterValidator, Field

from engine.campaigns.fields import Name, Strict, Text
from engine.campaigns.filters import Filter, InAudience, check_size, parts
from engine.errors import BadInput, UnknownName, did_you_mean

DEEPEST = 5
"""Audiences that stand inside each other: an audience of audiences is two."""

MOST = 1_000
"""Conditions of a filter whose audiences are expanded: a database can still be asked that."""


class SavedAudience(Strict):
    """An audience: whom it holds, under a name that campaigns and other audiences use."""

    name: Name = Field(description="Unique among audiences; letters, digits, . _ -")
    description: Text = Field("", max_length=2000, description="For people.")
    rules: Annotated[Filter, AfterValidator(check_size)] = Field(
        description="Whom it holds: conditions on attributes, columns, behaviour and other audiences."
    )


def names_in(condition: Any) -> list[str]:
    """The audiences that a filter names itself, each once, in its order; None holds none."""
    found = () if condition is None else parts(condition)
    return list(dict.fromkeys(one.audience for one in found if isinstance(one, InAudience)))


def reached(condition: Any, rules: Mapping[str, Any]) -> list[str]:
    """The audiences that a filter needs, by name or through others; each is in `rules`."""
    found: dict[str, None] = {}
    waiting = names_in(condition)
    while waiting:
        name = waiting.pop(0)
        if name not in found:
            found[name] = None
            waiting += names_in(rules[name])
    return list(found)


def expand(condition: Any, rules: Mapping[str, Any]) -> Any:
    """`condition` with the `rules` of the audiences it names in their place; None stays None.

    The audiences have been checked (`require_sound`): they are known, and none holds itself.
    """
    if isinstance(condition, InAudience):
        return expand(rules[condition.audience], rules)
    for name in ("all_of", "any_of", "none_of"):
        if hasattr(condition, name):
            inner = tuple(expand(each, rules) for each in getattr(condition, name))
            return condition.model_copy(update={name: inner})
    if hasattr(condition, "negated"):
        return condition.model_copy(update={"negated": expand(condition.negated, rules)})
    return condition


def require_sound(what: str, condition: Any, rules: Mapping[str, Any]) -> None:
    """Check that `what` ("audience vip", "campaign daily") with the filter `condition` can be expanded.

    Raises UnknownName for an audience that is not in `rules`, BadInput where audiences hold themselves, nest deeper
    than DEEPEST, or come to more than MOST conditions.
    """
    name = what.removeprefix("audience ") if what.startswith("audience ") else None
    size = _weigh(what, condition, rules, (name,) if name else ())
    if size > MOST:
        raise BadInput(f"{what} comes to {size:,} conditions with the audiences it uses; at most {MOST:,} can be asked")


def _weigh(what: str, condition: Any, rules: Mapping[str, Any], above: tuple[str, ...]) -> int:
    """How many conditions it comes to; `above`: the audiences it stands in, outermost first."""
    size = 0
    for part in parts(condition):
        if not isinstance(part, InAudience):
            size += 1
            continue
        name = part.audience
        if name in above:
            way = " uses ".join((*above[above.index(name) :], name))
            raise BadInput(f"audience {above[-1]} may not use audience {name}: then {way}, and so itself")
        if name not in rules:
            near = did_you_mean(name, rules)
            raise UnknownName(f"{what} uses the audience {name!r}, which does not exist", hint=near or _CREATE)
        if len(above) >= DEEPEST:
            raise BadInput(
                f"{what} uses audience {name} too deep inside others ({' in '.join(reversed(above))})",
                hint=f"at most {DEEPEST} may stand inside each other",
            )
        size += _weigh(what, rules[name], rules, (*above, name))
    return size


_CREATE = "create it first: horae audiences create FILE"
