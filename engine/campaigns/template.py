"""Messages: Liquid templates of tenants, parsed once, rendered per push, strict and bounded (pure).

Liquid cannot reach Python objects; here it cannot reach the clock, files or other templates either, and neither its
loops nor its filters can grow without bound. A field that a user or item does not have is an error where it is printed,
not an empty place in somebody's notification: a template says what to do then with `default` or `if`.

    {{ user.id }}   user.locale  user.country  user.timezone  user.attributes.NAME
    {{ item.id }}   item.title  item.price  item.category  item.brand  item.attributes.NAME
    {{ campaign.name }}   {{ push.id }}   {{ data.NAME }} (given with a trigger)
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from functools import wraps
from types import MappingProxyType
from typing import Any, NamedTuple

from liquid import BoundTemplate, Environment, Mode
from liquid.exceptions import FilterArgumentError, LiquidError, UndefinedError
from liquid.undefined import FalsyStrictUndefined
from pydantic import Field, model_validator

from engine.campaigns.swift import Swift, compile_swiftly
from engine.campaigns.wording import Experiment, Locales, Variant, Wording, plain_locale
from engine.errors import BadInput, UnknownName, did_you_mean

PAYLOAD_BYTES = 3840
"""Title, body and data of a rendered message as compact JSON: providers take 4,096 bytes with their own fields and
ours, the push id and the callback token. Web Push leaves the least: 3,993 bytes inside its encryption."""

_MOST_CHARACTERS = 65_536
_MOST_MEMBERS = 1_000
_FIELDS = {
    "user": ("id", "locale", "country", "timezone", "attributes"),
    "item": ("id", "title", "price", "category", "brand", "attributes"),
    "campaign": ("name",),
    "push": ("id",),
    "data": (),
}


class MessageSpec(Variant):
    """What a push says, with variants for locales: zh-CN falls back to zh, then to the default."""

    locales: Locales = Field(
        default_factory=lambda: MappingProxyType({}), description="Locale to its own title, body and data."
    )
    experiment: Experiment | None = Field(None, description="Variants under test, each for its share of users.")

    @model_validator(mode="after")
    def _parses(self) -> MessageSpec:
        problems = [problem for place, source in sources(self) if (problem := _fault(source, place))]
        problems += uneven_arms(self)
        if problems:
            raise ValueError("; ".join(problems))
        return self


class TooLong(BadInput):
    """A rendered message is longer than providers take."""


class Message(NamedTuple):
    """A rendered message."""

    title: str
    body: str
    data: Mapping[str, str]


@dataclass(frozen=True)
class Source:
    """A parsed template, compiled where it can be."""

    template: BoundTemplate
    swift: Swift | None

    def render(self, context: dict[str, Any]) -> str:
        """What it gives. Raises as Liquid does."""
        if self.swift is not None and (found := self.swift.render(context)) is not None:
            return found
        return self.template.render(context)


@dataclass(frozen=True)
class Compiled:
    """The parsed templates of a message, by locale ("" is the default), and those of each arm under test."""

    variants: Mapping[str, tuple[Source, Source, Mapping[str, Source]]]
    arms: Mapping[str, Compiled] = field(default_factory=lambda: MappingProxyType({}))

    def of(self, arm: str | None) -> Compiled:
        """What an arm says; None: the message itself."""
        return self if arm is None else self.arms[arm]


def compile_message(spec: MessageSpec) -> Compiled:
    """Parse every template of `spec`, once for many renderings. Raises BadInput with the place and the fault."""
    arms = {} if spec.experiment is None else {name: compile_message(arm_spec(spec, name)) for name in arm_names(spec)}
    variants: dict[str, Variant] = {"": spec, **spec.locales}
    return Compiled(
        MappingProxyType(
            {
                locale: (
                    _compile(variant.title, "title"),
                    _compile(variant.body, "body"),
                    MappingProxyType({key: _compile(source, f"data.{key}") for key, source in variant.data.items()}),
                )
                for locale, variant in variants.items()
            }
        ),
        MappingProxyType(arms),
    )


def arm_names(spec: MessageSpec) -> list[str]:
    """The arms under test, by name; none without an experiment."""
    return [] if spec.experiment is None else sorted(spec.experiment.arms)


def arm_spec(spec: MessageSpec, arm: str) -> MessageSpec:
    """The message that users of an arm get. Raises UnknownName where it is not under test."""
    arms = {} if spec.experiment is None else spec.experiment.arms
    if arm not in arms:
        hint = did_you_mean(arm, arms) or (f"there are {', '.join(sorted(arms))}" if arms else "it has no experiment")
        raise UnknownName(f"the message has no variant {arm!r}", hint=hint)
    chosen = arms[arm]
    locales = {
        name: variant.model_copy(update=chosen.locales[name].given()) if name in chosen.locales else variant
        for name, variant in spec.locales.items()
    }
    return spec.model_copy(update={**chosen.given(), "locales": MappingProxyType(locales), "experiment": None})


def uneven_arms(spec: MessageSpec) -> list[str]:
    """Which arms change a field in some locales of the message and not in others, one sentence each: there users of
    different locales would be compared, not texts."""
    found = []
    for name, arm in spec.experiment.arms.items() if spec.experiment else ():
        place, changes = f"experiment.arms.{name}", set(arm.given())
        found += [
            f"{place}.locales.{extra}: the message has no such locale"
            for extra in arm.locales
            if extra not in spec.locales
        ]
        for locale in spec.locales:
            there = set(arm.locales[locale].given()) if locale in arm.locales else set()
            found += [f"{place}: changes the {each}, but not in locale {locale}" for each in sorted(changes - there)]
            found += [f"{place}: changes the {each} only in locale {locale}" for each in sorted(there - changes)]
    return found


def render(
    compiled: Compiled,
    user: Mapping[str, Any],
    item: Mapping[str, Any] | None,
    data: Mapping[str, Any],
    locale: str | None,
    **about: Mapping[str, Any],
) -> Message:
    """The message for one user, in their locale or the nearest one there is.

    `user`, `item` and `about` (campaign=…, push=…) are what `user_fields` and `item_fields` make. Raises BadInput where
    a field is missing, a limit is reached, title or body come out blank, or the payload exceeds PAYLOAD_BYTES.
    """
    title, body, pairs = compiled.variants[nearest(locale, compiled.variants)]
    context = {"user": user, "data": data, **about}
    if item is not None:
        context["item"] = item
    try:
        message = Message(
            title.render(context).strip(),
            body.render(context).strip(),
            MappingProxyType({key: template.render(context) for key, template in pairs.items()}),
        )
    except (LiquidError, ArithmeticError, ValueError, TypeError) as error:
        raise BadInput(f"the message cannot be rendered: {_said(error)}") from error
    if not message.title or not message.body:
        raise BadInput(f"the message's {'body' if message.title else 'title'} came out blank")
    size = payload_size(message)
    if size > PAYLOAD_BYTES:
        raise TooLong(f"the message is {size} bytes, more than the {PAYLOAD_BYTES} that providers take")
    return message


def nearest(locale: str | None, variants: Mapping[str, Any]) -> str:
    """Which of the locales of `variants` ("" is the default) a user of `locale` reads."""
    if len(variants) == 1:
        return ""
    wanted = plain_locale(locale or "")
    while wanted not in variants:
        wanted = wanted.rpartition("-")[0]
    return wanted


def payload_size(message: Message) -> int:
    """Bytes of title, body and data as compact JSON; for short ones a number that is not smaller."""
    pairs, texts = message.data, len(message.title) + len(message.body)
    texts += sum(map(len, pairs)) + sum(map(len, pairs.values()))
    most = 6 * texts + 16 * (1 + len(pairs))  # no character takes more than six bytes, nor a part's quotes eight
    if most <= PAYLOAD_BYTES:
        return most
    return len(json.dumps([message.title, message.body, dict(message.data)], ensure_ascii=False).encode())


def user_fields(
    external_id: str, locale: str | None, country: str | None, timezone: str | None, attributes: Mapping[str, Any]
) -> dict[str, Any]:
    """What templates see of a user; what is not known is left out, so that strictness sees it."""
    fields = {"id": external_id, "locale": locale, "country": country, "timezone": timezone}
    return _known({**fields, "attributes": _known(attributes)})


def item_fields(
    external_id: str,
    *,
    title: str | None,
    price: float | None,
    category: str | None,
    brand: str | None,
    attributes: Mapping[str, Any],
) -> dict[str, Any]:
    """What templates see of an item; what is not known is left out, so that strictness sees it."""
    fields = {"id": external_id, "title": title, "price": price, "category": category, "brand": brand}
    return _known({**fields, "attributes": _known(attributes)})


def unknown_fields(spec: MessageSpec, *, with_item: bool) -> list[str]:
    """What is wrong with the names that the templates use, one sentence each; `with_item`: pushes are about an item."""
    problems = []
    for place, source in sources(spec):
        for used in _parse(source, place).analyze().globals.values():
            for variable in used:
                problem = _unknown(variable.segments, with_item=with_item)
                if problem:
                    problems.append(f"{place}: {problem}")
    return list(dict.fromkeys(problems))


def needed_data(spec: MessageSpec, data: Mapping[str, Any], names: Collection[str]) -> tuple[str, ...]:
    """Which of the `names` that `data` does not give the message cannot do without, whoever it is for.

    Each template is rendered for somebody of whom everything is known. A field that is printed only inside an `if` on
    it, or that has a default, can be left out.
    """
    known = {name: _Whatever() for name in _FIELDS if name != "data"}
    templates = [_parse(source, place) for place, source in sources(spec)]

    def fails_without(missing: str) -> bool:
        given = {**dict.fromkeys(names, "1"), **data}
        given.pop(missing, None)
        return any(_lacks(template, {**known, "data": given}) for template in templates)

    return tuple(name for name in names if name not in data and fails_without(name))


def sources(spec: MessageSpec) -> list[tuple[str, str]]:
    """Every template of a message with its place in the definition."""
    found = []
    for prefix, variant in (("", spec), *((f"locales.{name}.", each) for name, each in spec.locales.items())):
        found += [(f"{prefix}title", variant.title), (f"{prefix}body", variant.body)]
        found += [(f"{prefix}data.{key}", source) for key, source in variant.data.items()]
    return found + (_arm_sources(spec.experiment) if spec.experiment is not None else [])


# --- inside ----------------------------------------------------------------------------------------------------------


def _arm_sources(experiment: Experiment) -> list[tuple[str, str]]:
    found = []
    for name, arm in experiment.arms.items():
        texts: dict[str, Wording] = {"": arm, **{f"locales.{locale}.": each for locale, each in arm.locales.items()}}
        for prefix, wording in texts.items():
            place = f"experiment.arms.{name}.{prefix}"
            found += [(f"{place}{part}", text) for part in ("title", "body") if (text := getattr(wording, part))]
            found += [(f"{place}data.{key}", source) for key, source in (wording.data or {}).items()]
    return found


class _Missing(FalsyStrictUndefined):
    """A field that is not there: false in `if`, replaced by `default`, an error where it is printed."""

    force_liquid_default = True


class _Liquid(Environment):
    context_depth_limit = 8
    loop_iteration_limit = 1_000
    local_namespace_limit = _MOST_CHARACTERS
    output_stream_limit = 4 * PAYLOAD_BYTES

    def setup_tags_and_filters(self, *, extra: bool = False) -> None:
        """Liquid's own, without what reads other templates, keeps state or knows the time."""
        super().setup_tags_and_filters(extra=extra)
        for tag in ("include", "render", "increment", "decrement", "tablerow"):
            del self.tags[tag]
        self.filters = {name: _bounded(function) for name, function in self.filters.items()}
        self.filters["date"] = _date
        self.filters["decimals"] = _decimals


class _Whatever(dict[str, Any]):
    """Fields of somebody or something of which everything is known."""

    def __missing__(self, key: str) -> Any:
        return _Whatever() if key == "attributes" else "1"


def _lacks(template: BoundTemplate, context: Mapping[str, Any]) -> bool:
    """Whether the template prints a field that is not there."""
    try:
        template.render(context)
    except UndefinedError:
        return True
    except (LiquidError, ArithmeticError, ValueError, TypeError):
        return False  # made-up values need not suit every filter
    return False


def _bounded(function: Callable[..., Any]) -> Callable[..., Any]:
    """A filter that refuses to grow without bound: each character of its input may become as long as an argument."""

    @wraps(function)
    def guarded(value: Any, *arguments: Any, **named: Any) -> Any:
        members = [part for part in (value, *arguments) if isinstance(part, list | tuple | range)]
        texts = [len(part) for part in arguments if isinstance(part, str)]
        length = len(value) if isinstance(value, str) else 0
        if (
            any(len(part) > _MOST_MEMBERS for part in members)
            or (length + 1) * max([1, *texts]) > 16 * _MOST_CHARACTERS
        ):
            raise FilterArgumentError("too much to work on", token=None)
        return function(value, *arguments, **named)

    return guarded


def _date(value: Any, form: Any = "%Y-%m-%d") -> str:
    """Liquid's `date` for ISO texts and datetimes only: `now` would read the clock."""
    if value in ("now", "today"):
        raise FilterArgumentError("a message has no 'now': it is planned before it is sent", token=None)
    try:
        moment = value if isinstance(value, datetime) else datetime.fromisoformat(str(value))
        return moment.strftime(str(form)[:100])
    except ValueError as error:
        raise FilterArgumentError(f"{str(value)[:40]!r} is no date", token=None) from error


def _decimals(value: Any, places: Any = 2) -> str:
    """`{{ item.price | decimals: 2 }}`: a number with exactly so many decimals."""
    try:
        return f"{float(value):.{min(max(int(places), 0), 9)}f}"
    except (TypeError, ValueError) as error:
        raise FilterArgumentError(f"{str(value)[:40]!r} is no number", token=None) from error


_LIQUID = _Liquid(tolerance=Mode.STRICT, undefined=_Missing, strict_filters=True)


def _parse(source: str, place: str) -> BoundTemplate:
    fault = _fault(source, place)
    if fault:
        raise BadInput(fault)
    return _LIQUID.from_string(source)


def _compile(source: str, place: str) -> Source:
    template = _parse(source, place)
    return Source(template, compile_swiftly(template))


def _fault(source: str, place: str) -> str | None:
    """What is wrong with a template's grammar, tags or filters; None if nothing is."""
    try:
        found = _LIQUID.from_string(source).analyze()
    except (LiquidError, RecursionError) as error:
        return f"{place}: {_said(error)}"
    for name in found.filters:
        if name not in _LIQUID.filters:
            hint = did_you_mean(name, _LIQUID.filters)
            return f"{place}: unknown filter {name!r}" + (f"; {hint}" if hint else "")
    return None


def _unknown(segments: list[Any], *, with_item: bool) -> str | None:
    root, rest = str(segments[0]), segments[1:]
    path = ".".join(str(part) for part in segments)
    roots = [name for name in _FIELDS if with_item or name != "item"]
    if root not in roots:
        if root == "item":
            return f"{path!r} needs an item, and items are none"
        hint = did_you_mean(root, roots)
        return f"unknown field {path!r}; " + (hint or f"known are {', '.join(roots)}")
    fields = _FIELDS[root]
    if not fields:
        return None
    if not rest:
        return f"{root!r} alone is no text; known are {', '.join(f'{root}.{name}' for name in fields)}"
    if rest[0] not in fields:
        hint = did_you_mean(str(rest[0]), fields)
        hint = hint and hint.replace("mean ", f"mean {root}.")
        own = f"attributes are written {root}.attributes.{rest[0]}" if "attributes" in fields else None
        return f"unknown field {path!r}; " + (hint or own or f"known are {', '.join(fields)}")
    return None


def _known(fields: Mapping[str, Any]) -> dict[str, Any]:
    if type(fields) is dict and None not in fields.values():
        return fields
    return {name: value for name, value in fields.items() if value is not None}


def _said(error: BaseException) -> str:
    return str(error).splitlines()[0][:200] if str(error) else type(error).__name__
