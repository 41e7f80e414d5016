"""The common part of Liquid, compiled: text, `{{ a.b | filter }}` and `{% if a.b %}`, a tenth of Liquid's time (pure).

What is compiled gives, to the letter, what Liquid gives, or nothing at all: wherever anything is unusual (a field that
is missing, a value that is neither text nor number, a filter that fails, much output) `Swift` answers None, and Liquid
itself renders, with its limits and its errors. A property test holds the two equal.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from liquid import BoundTemplate
from liquid.ast import BlockNode, Node
from liquid.builtin.content import ContentNode
from liquid.builtin.expressions import BooleanExpression, FilteredExpression, Path, PositionalArgument
from liquid.builtin.expressions import Filter as FilterExpression
from liquid.builtin.expressions.primitive import FloatLiteral, IntegerLiteral, StringLiteral
from liquid.builtin.output import OutputNode
from liquid.builtin.tags.if_tag import IfNode

Context = Mapping[str, Any]
Part = Callable[[Context], str]
Value = Callable[[Context], Any]
Filters = Mapping[str, Callable[..., Any]]

_OWN_MEANING = frozenset({"size", "first", "last"})
"""Path segments that Liquid answers itself."""


class _Unusual(Exception):
    """Liquid itself has to look at it."""


class Swift:
    """A compiled template."""

    def __init__(self, part: Part, most: int) -> None:
        self._part = part
        self._most = most

    def render(self, context: Context) -> str | None:
        """What the template gives, or None where Liquid has to say. `context` holds dictionaries with text keys."""
        try:
            found = self._part(context)
        except Exception:  # whatever it was, Liquid says it better
            return None
        return found if len(found) * 4 <= self._most else None  # a character has at most four bytes


def compile_swiftly(template: BoundTemplate) -> Swift | None:
    """`template` compiled, or None where it uses more of Liquid than is compiled here."""
    try:
        part = _block(template.nodes, template.env.filters)
    except _Unusual:
        return None
    limit = template.env.output_stream_limit
    return Swift(part, limit if limit is not None else 1 << 20)


def _block(nodes: Sequence[Node], filters: Filters) -> Part:
    parts = [_node(node, filters) for node in nodes]
    if len(parts) == 1:
        return parts[0]
    return lambda context: "".join([part(context) for part in parts])


def _node(node: Node, filters: Filters) -> Part:
    if type(node) is ContentNode:
        text = node.text
        return lambda _context: text
    if type(node) is OutputNode and type(node.expression) is FilteredExpression:
        return _output(node.expression, filters)
    if type(node) is IfNode:
        return _choice(node, filters)
    raise _Unusual


def _output(expression: FilteredExpression, filters: Filters) -> Part:
    value = _value(expression.left)
    steps = [_filter(each, filters) for each in expression.filters or ()]
    if not steps:

        def plain(context: Context) -> str:
            found = value(context)
            return found if type(found) is str else _text(found)

        return plain

    def output(context: Context) -> str:
        found = value(context)
        for function, arguments in steps:
            found = function(found, *arguments)
        return found if type(found) is str else _text(found)

    return output


def _text(value: Any) -> str:
    if type(value) is int or type(value) is float or isinstance(value, str):
        return str(value)
    raise _Unusual


def _filter(expression: Any, filters: Filters) -> tuple[Callable[..., Any], tuple[Any, ...]]:
    if type(expression) is not FilterExpression or not all(
        type(each) is PositionalArgument for each in expression.args
    ):
        raise _Unusual
    function = filters[expression.name]
    if getattr(function, "with_context", False) or getattr(function, "with_environment", False):
        raise _Unusual
    return function, tuple(_constant(each.value) for each in expression.args)


def _constant(expression: Any) -> Any:
    if type(expression) not in (StringLiteral, IntegerLiteral, FloatLiteral):
        raise _Unusual
    return expression.value


def _choice(node: IfNode, filters: Filters) -> Part:
    if node.blank or node.alternatives or type(node.condition) is not BooleanExpression:
        raise _Unusual
    holds = _truth(node.condition.expression)
    then = _inner(node.consequence, filters)
    otherwise = _inner(node.default, filters) if node.default else (lambda _context: "")
    return lambda context: then(context) if holds(context) else otherwise(context)


def _inner(block: BlockNode, filters: Filters) -> Part:
    if block.blank:
        raise _Unusual
    return _block(block.nodes, filters)


def _truth(expression: Any) -> Callable[[Context], bool]:
    names = _names(expression)

    def holds(context: Context) -> bool:
        found: Any = context
        for name in names:
            if type(found) is not dict:
                raise _Unusual
            if name not in found:
                return False
            found = found[name]
        return found is not False and found is not None

    return holds


def _value(expression: Any) -> Value:
    if type(expression) is StringLiteral:
        constant = expression.value
        return lambda _context: constant
    names = _names(expression)
    if len(names) == 2:  # most are: no loop
        root, name = names

        def field(context: Context) -> Any:
            found = context[root]
            if type(found) is not dict:
                raise _Unusual
            return found[name]

        return field

    def value(context: Context) -> Any:
        found: Any = context
        for name in names:
            if type(found) is not dict:
                raise _Unusual
            found = found[name]
        return found

    return value


def _names(expression: Any) -> tuple[str, ...]:
    if type(expression) is not Path or not all(type(segment) is str for segment in expression.path):
        raise _Unusual
    if _OWN_MEANING & set(expression.path):
        raise _Unusual
    return tuple(str(segment) for segment in expression.path)
