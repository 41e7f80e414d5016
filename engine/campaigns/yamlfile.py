"""YAML as people mean it, with the line of every value (pure).

Scalars follow YAML 1.2's core schema: `NO` is Norway and not false, `22:00` is a time and not 1320, `2026-11-27` is
text, and so is `007`. A key written twice is an error, and so are anchors, aliases and tags: they have no use here, and
aliases can grow without bound.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

import yaml

from engine.errors import BadInput

LARGEST = 1_000_000
"""Characters of a definition file."""

_DEEPEST = 40

Path = tuple[str | int, ...]

_NULL = {"", "~", "null", "Null", "NULL"}
_BOOL = {"true": True, "True": True, "TRUE": True, "false": False, "False": False, "FALSE": False}
_INT = re.compile(r"[-+]?(0|[1-9][0-9]{0,17})")
_FLOAT = re.compile(r"[-+]?(0|[1-9][0-9]*)?\.[0-9]+([eE][-+]?[0-9]{1,3})?|[-+]?[1-9][0-9]*[eE][-+]?[0-9]{1,3}")


@dataclass(frozen=True)
class Document:
    """A parsed document: its value, and the line (from 1) of each value by its path."""

    value: Any
    lines: dict[Path, int]

    def line(self, path: Path) -> int:
        """The line of the value at `path`, or of the nearest one around it."""
        while path not in self.lines and path:
            path = path[:-1]
        return self.lines.get(path, 1)


def parse(text: str, name: str) -> Document:
    """The one document in `text`. Raises BadInput with `name` and the line."""
    if len(text) > LARGEST:
        raise BadInput(f"{name} has more than {LARGEST:,} characters")
    try:
        depth = 0
        for event in yaml.parse(text, Loader=yaml.SafeLoader):
            depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
            if depth > _DEEPEST:
                raise BadInput(f"{name}: nests deeper than {_DEEPEST}")
            _refuse_extras(event, name)
        node = yaml.compose(text, Loader=yaml.SafeLoader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = f":{mark.line + 1}" if mark else ""
        if "another document" in str(error):
            raise BadInput(f"{name}{where}: a second document begins here", hint="one file, one campaign") from error
        raise BadInput(f"{name}{where}: not YAML: {error.problem or error.context}") from error
    except (yaml.YAMLError, RecursionError) as error:
        raise BadInput(f"{name}: not YAML: {str(error).splitlines()[0]}") from error
    lines: dict[Path, int] = {}
    return Document(None if node is None else _value(node, (), lines, name), lines)


def _refuse_extras(event: yaml.Event, name: str) -> None:
    anchored = getattr(event, "anchor", None) is not None
    tagged = getattr(event, "tag", None) is not None
    if anchored or tagged:
        what = "a tag" if tagged else "an anchor or alias"
        line = event.start_mark.line + 1 if event.start_mark else 1
        raise BadInput(f"{name}:{line}: {what} has no place in a definition")


def _value(node: yaml.Node, path: Path, lines: dict[Path, int], name: str) -> Any:
    lines[path] = node.start_mark.line + 1
    if isinstance(node, yaml.ScalarNode):
        return node.value if node.style else _scalar(node.value)
    if isinstance(node, yaml.SequenceNode):
        return [_value(each, (*path, n), lines, name) for n, each in enumerate(node.value)]
    found: dict[str, Any] = {}
    for key_node, value_node in node.value:
        line = key_node.start_mark.line + 1
        if not isinstance(key_node, yaml.ScalarNode):
            raise BadInput(f"{name}:{line}: a key must be a plain word")
        key = str(key_node.value)
        if key in found:
            raise BadInput(f"{name}:{line}: {key} is given twice")
        found[key] = _value(value_node, (*path, key), lines, name)
        lines[(*path, key)] = line
    return found


def _scalar(text: str) -> Any:
    if text in _NULL:
        return None
    if text in _BOOL:
        return _BOOL[text]
    if _INT.fullmatch(text):
        return int(text)
    return float(text) if _FLOAT.fullmatch(text) else text
