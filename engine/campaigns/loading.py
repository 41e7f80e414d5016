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
from engine.errors import BadInput, did_you_mean

M = TypeVar("M", bound=BaseModel)

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
    """The campaign defined in a YAML file (JSON is YAML too).

    Raises BadInput naming the file, and of every fault its line, its field, what is wrong and what is allowed.
    """
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except FileNotFoundError as error:
        raise BadInput(f"there is no file {path}") from error
    except UnicodeDecodeError as error:
        raise BadInput(f"{path}: not UTF-8 text (byte {error.start + 1})") from error
    except OSError as error:
        raise BadInput(f"{path} cannot be read: {error.strerror}") from error
    document = yamlfile.parse(text, str(path))
    if document.value is None:
        raise BadInput(f"{path} is empty", hint="what a definition holds: horae campaign schema")
    if not isinstance(document.value, dict):
        raise BadInput(f"{path} is not a mapping of fields to values", hint="what it holds: horae campaign schema")
    try:
        return Campaign.model_validate(document.value)
    except ValidationError as error:
        raise _refusal(path, document, error) from error


def build(model: type[M], values: dict[str, Any]) -> M:
    """`model` from values that a person gave as options. Raises BadInput with every fault in words."""
    try:
        return model.model_validate(values)
    except ValidationError as error:
        raise BadInput("; ".join(sentence for _, sentence in faults(error, values))) from error


def faults(error: ValidationError, value: Any) -> list[tuple[yamlfile.Path, str]]:
    """(path, sentence) of each fault of a definition `value`, in the order of the fields."""
    found: dict[tuple[yamlfile.Path, str], None] = {}
    by_path: dict[yamlfile.Path, list[ErrorDetails]] = {}
    for detail in error.errors():
        by_path.setdefault(_path(detail["loc"], value), []).append(detail)
    for path, details in by_path.items():
        kinds = {detail["type"] for detail in details}
        if len(details) > 1 and kinds <= {"bool_type", "int_type", "float_type", "string_type"}:
            found[path, f"{_shown(path)} must be text, a number or true/false"] = None
            continue
        for detail in details:
            for sentence in _sentences(path, detail):
                found[path, sentence] = None
    return list(found)


def _refusal(path: Path, document: yamlfile.Document, error: ValidationError) -> BadInput:
    found = faults(error, document.value)
    lines = [f"  line {document.line(at)}: {sentence}" for at, sentence in found]
    count = "1 thing is" if len(lines) == 1 else f"{len(lines)} things are"
    return BadInput("\n".join([f"{path}: {count} wrong", *lines]), hint="what is allowed: horae campaign schema")


def _path(loc: tuple[int | str, ...], value: Any) -> yamlfile.Path:
    """The place of an error in the value: pydantic's own path also names the branches of unions."""
    path: list[str | int] = []
    for n, part in enumerate(loc):
        if isinstance(value, dict) and part in value:
            value = value[str(part)]
        elif isinstance(value, list) and isinstance(part, int):
            value = value[part]
        elif n < len(loc) - 1 or not isinstance(value, dict):
            continue
        else:
            value = None  # the last part of a path may be a field that is missing
        path.append(part)
    return tuple(path)


def _shown(path: yamlfile.Path) -> str:
    text = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in path)
    return text.removeprefix(".")


def _sentences(path: yamlfile.Path, detail: ErrorDetails) -> list[str]:
    kind, where = detail["type"], _shown(path)
    if kind == "value_error":
        said = detail["msg"].removeprefix("Value error, ").split("\n")
        return [f"{where} {each}".strip() for each in said]
    if kind == "missing":
        return [f"{where} is needed"]
    if kind == "extra_forbidden":
        hint = did_you_mean(str(path[-1]), _field_names())
        return [f"{where} is no field here" + (f"; {hint}" if hint else "")]
    if kind == "literal_error":
        hint = did_you_mean(str(detail["input"]), re.findall(r"'([^']+)'", detail["msg"]))
        return [f"{where} {_plain(detail['msg'])}" + (f"; {hint}" if hint else "")]
    if kind in ("union_tag_not_found", "union_tag_invalid"):
        keys = ITEM_KEYS if path[:1] == ("items",) else USER_KEYS
        given = [str(key) for key in detail["input"]] if isinstance(detail["input"], dict) else []
        hint = next((hint for key in given if (hint := did_you_mean(key, keys))), None)
        return [f"{where} must be a condition, with one of {', '.join(keys)}" + (f"; {hint}" if hint else "")]
    return [f"{where} {_KINDS.get(kind) or _plain(detail['msg'])}"]


def _plain(message: str) -> str:
    return (
        message.replace("Input should be", "must be").replace("String should", "must").replace("Tuple should", "must")
    )


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
