"""Definitions from files, and what is wrong with them, said so that a person can mend it."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, TypeVar, get_args

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from engine.campaigns import yamlfile
from engine.campaigns.definition import Campaign
from engine.campaigns.filters import ITEM_KEYS, USER_KEYS
from engine.errors import BadInput, Faulty, did_you_mean

M = TypeVar("M", bound=BaseModel)

_FILTERS = (("audience",), ("rules",), ("items", "where"), ("trigger", "where"))
"""Where definitions hold filters."""

MOST_VALUES = 20_000
"""Of a definition, in its lists and mappings together: each may have a fault that is looked for and kept."""

MOST_FAULTS = 100
"""What is told at once: nobody reads more, and telling takes time for each."""

_KINDS = {
    "string_type": "must be text: put it in quotes",
    "int_type": "must be a whole number",
    "int_parsing": "must be a whole number",
    "int_from_float": "must be a whole number",
    "float_type": "must be a number",
    "float_parsing": "must be a number",
    "bool_type": "must be true or false",
    "bool_parsing": "must be true or false",
    "tuple_type": "must be a list",
    "list_type": "must be a list",
    "mapping_type": "must be a mapping of names to values",
    "model_type": "must be a mapping of fields to values",
    "model_attributes_type": "must be a mapping of fields to values",
    "dict_type": "must be a mapping of names to values",
}


def load(path: Path) -> Campaign:
    """The campaign defined in a YAML file (JSON is YAML too). Raises as `load_as` does."""
    return load_as(Campaign, path, "horae campaign schema")


def load_as(model: type[M], path: Path, schema: str) -> M:
    """The `model` defined in a YAML file; `schema` is the command that says what one holds.

    Raises BadInput naming the file, and of every fault its line, its field, what is wrong and what is allowed.
    """
    try:
        if path.stat().st_size > 4 * yamlfile.LARGEST:
            raise BadInput(f"{path} is too large for a definition")
        text = path.read_bytes().decode("utf-8-sig")
    except FileNotFoundError as error:
        raise BadInput(f"there is no file {path}") from error
    except UnicodeDecodeError as error:
        raise BadInput(f"{path}: not UTF-8 text (byte {error.start + 1})") from error
    except OSError as error:
        raise BadInput(f"{path} cannot be read: {error.strerror}") from error
    document = yamlfile.parse(text, str(path))
    if document.value is None:
        raise BadInput(f"{path} is empty", hint=f"what a definition holds: {schema}")
    if not isinstance(document.value, dict):
        raise BadInput(f"{path} is not a mapping of fields to values", hint=f"what it holds: {schema}")
    if _large(document.value):
        raise BadInput(f"{path} holds more than {MOST_VALUES:,} values")
    try:
        return model.model_validate(document.value)
    except ValidationError as error:
        raise _refusal(path, document, error, schema) from error


def build(model: type[M], values: dict[str, Any], *, lists: bool = False) -> M:
    """`model` from values that a person gave as options, or that came as JSON. Raises Faulty with its faults.

    lists: it may hold any number of values, and its lists end at their first fault.
    """
    if not lists and _large(values):
        said = f"it holds more than {MOST_VALUES:,} values"
        raise Faulty(said, [((), said)])
    try:
        return model.model_validate(values)
    except ValidationError as error:
        found = faults(error, values)
        raise Faulty("; ".join(sentence for _, sentence in found), found) from error


def _large(value: Any) -> bool:
    """Whether lists and mappings hold more than MOST_VALUES values together."""
    waiting, number = [value], 0
    while waiting:
        each = waiting.pop()
        held = each.values() if isinstance(each, dict) else each if isinstance(each, list) else ()
        number += len(held)
        if number > MOST_VALUES:
            return True
        waiting.extend(held)
    return False


def faults(error: ValidationError, value: Any) -> list[tuple[yamlfile.Path, str]]:
    """(path, sentence) of the first MOST_FAULTS faults of a definition `value`, in the order of its fields."""
    by_path: dict[yamlfile.Path, list[ErrorDetails]] = {}
    for detail in error.errors(include_url=False)[:MOST_FAULTS]:
        by_path.setdefault(_path(detail["loc"], value), []).append(detail)
    found: dict[tuple[yamlfile.Path, str], None] = {}
    for path, details in by_path.items():
        inner = any(other[: len(path)] == path and other != path for other in by_path)
        kinds = {detail["type"] for detail in details}
        if inner and kinds == {"too_short"}:
            continue  # its members are refused: that it is empty without them is no news
        if len(details) > 1 and kinds <= {"bool_type", "int_type", "float_type", "string_type"}:
            found[path, f"{_shown(path)} must be text, a number or true/false"] = None
            continue
        for sentence in (each for detail in details for each in _sentences(path, detail)):
            found[path or named_path(sentence), sentence] = None
    return list(found)


def _refusal(path: Path, document: yamlfile.Document, error: ValidationError, schema: str) -> BadInput:
    found = sorted((document.line(at), sentence) for at, sentence in faults(error, document.value))
    count = "1 thing is" if len(found) == 1 else f"{len(found)} things are"
    lines = [f"  line {line}: {sentence}" for line, sentence in found]
    return BadInput("\n".join([f"{path}: {count} wrong", *lines]), hint=f"what is allowed: {schema}")


def _path(loc: tuple[int | str, ...], value: Any) -> yamlfile.Path:
    """The place of an error in the value: pydantic's own path also names the branch of each filter it went through."""
    path: list[str | int] = []
    branch = False  # whether the next part names the branch of a filter
    for n, part in enumerate(loc):
        if branch and part in USER_KEYS:
            branch = False
            continue
        if isinstance(value, dict) and part in value:
            value = value[str(part)]
        elif isinstance(value, list) and isinstance(part, int):
            value = value[part]
        elif n < len(loc) - 1 or not isinstance(value, dict):
            continue  # the branch of another union
        path.append(part)
        members = isinstance(part, int) and path[-2] in ("all", "any", "none")
        branch = members or part == "not" or tuple(path) in _FILTERS
    return tuple(path)


def named_path(sentence: str) -> yamlfile.Path:
    """The field that a sentence about the whole definition begins with."""
    return tuple(re.split(r"[^\w.-]", sentence, maxsplit=1)[0].split("."))


def _shown(path: yamlfile.Path) -> str:
    text = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in path)
    return text.removeprefix(".")


def _sentences(path: yamlfile.Path, detail: ErrorDetails) -> list[str]:
    kind, where = detail["type"], _shown(path)
    if kind == "value_error":
        said = detail["msg"].removeprefix("Value error, ").split("\n")
        return [f"{where}: {each}" if where else each for each in said]
    if kind == "missing":
        return [f"{where} is needed"]
    if kind == "extra_forbidden":
        hint = did_you_mean(str(path[-1]), _field_names())
        return [f"{where} is no field here" + (f"; {hint}" if hint else "")]
    if kind == "literal_error":
        hint = did_you_mean(str(detail["input"]), re.findall(r"'([^']+)'", detail["msg"]))
        return [f"{where} {_plain(detail)}" + (f"; {hint}" if hint else "")]
    if kind in ("union_tag_not_found", "union_tag_invalid"):
        keys = ITEM_KEYS if path[:1] in (("items",), ("trigger",)) else USER_KEYS
        given = [str(key) for key in detail["input"]] if isinstance(detail["input"], dict) else []
        hint = next((hint for key in given if (hint := did_you_mean(key, keys))), None)
        return [f"{where} must be a condition, with one of {', '.join(keys)}" + (f"; {hint}" if hint else "")]
    return [f"{where} {_KINDS.get(kind) or _plain(detail)}"]


def _plain(detail: ErrorDetails) -> str:
    """Pydantic's own message, as the end of a sentence that begins with the field."""
    if detail["type"] in ("too_long", "too_short") and isinstance(detail["input"], str):
        context = detail.get("ctx", {})
        bound = f"at most {context['max_length']}" if "max_length" in context else f"at least {context['min_length']}"
        return f"must have {bound} characters"
    return re.sub(r"^(Input|String|Tuple|Value) should ", "must ", detail["msg"]).removesuffix(" after validation")


def _field_names() -> set[str]:
    """The names of all fields of a definition, at any depth."""
    names: set[str] = set()
    seen: set[Any] = set()
    waiting: list[Any] = [Campaign]
    while waiting:
        kind = waiting.pop()
        if isinstance(kind, type) and issubclass(kind, BaseModel) and kind not in seen:
            seen.add(kind)
            names |= {field.alias or name for name, field in kind.model_fields.items()}
            waiting += [field.annotation for field in kind.model_fields.values()]
        waiting += [each for each in get_args(kind) if each not in seen]
        seen.update(each for each in get_args(kind) if not isinstance(each, type))
    return names
