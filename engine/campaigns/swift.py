"""The common part of Liquid, compiled: text, `{{ a.b | filter }}` and `{% if a.b %}`, a tenth of Liquid's time (pure).

What is compiled gives, to the letter, what Liquid gives, or nothing at all: wherever anything is unusual (a field that
is missing, a value that is neither text nor number, a filter that fails, much output) `Swift` answers None, and Liquid
itself renders, with its limits and its errors. A property test holds the two equal.
"""

from __future__ import annotations

import ast
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
    writer = _Writer(template.env.filters)
    try:
        body = writer.block(template.nodes)
    except _Unusual:
        return None
    limit = template.env.output_stream_limit
    return Swift(writer.function(body), limit if limit is not None else 1 << 20)


class _Writer:
    """Writes a template as one expression of Python, as a tree: what tenants wrote is in it as constants alone."""

    def __init__(self, filters: Filters) -> None:
        self._filters = filters
        self._names: dict[str, Any] = {"text": _text, "type": type, "str": str}

    def function(self, body: ast.expr) -> Part:
        """A function from contexts to what `body` gives."""
        arguments = ast.arguments([], [ast.arg("context")], None, [], [], None, [])
        tree = ast.fix_missing_locations(ast.Expression(ast.Lambda(arguments, body)))
        made: Part = eval(compile(tree, "<template>", "eval"), self._names)  # noqa: S307 - a tree of our own
        return made

    def block(self, nodes: Sequence[Node]) -> ast.expr:
        """The texts of `nodes`, joined."""
        parts = [self._node(node) for node in nodes]
        if len(parts) == 1:
            return parts[0]
        join = ast.Attribute(ast.Constant(""), "join", ast.Load())
        return ast.Call(join, [ast.Tuple(parts, ast.Load())], [])

    def _node(self, node: Node) -> ast.expr:
        if type(node) is ContentNode:
            return ast.Constant(node.text)
        if type(node) is OutputNode and type(node.expression) is FilteredExpression:
            return self._output(node.expression)
        if type(node) is IfNode:
            return self._choice(node)
        raise _Unusual

    def _output(self, expression: FilteredExpression) -> ast.expr:
        value = _value(expression.left)
        for step in expression.filters or ():
            value = self._filtered(value, step)
        kept = ast.NamedExpr(ast.Name("value", ast.Store()), value)
        is_text = ast.Compare(self._call("type", kept), [ast.Is()], [ast.Name("str", ast.Load())])
        found = ast.Name("value", ast.Load())
        return ast.IfExp(is_text, found, self._call("text", found))

    def _filtered(self, value: ast.expr, expression: Any) -> ast.expr:
        if type(expression) is not FilterExpression or not all(
            type(each) is PositionalArgument for each in expression.args
        ):
            raise _Unusual
        function = self._filters[expression.name]
        if getattr(function, "with_context", False) or getattr(function, "with_environment", False):
            raise _Unusual
        return self._call(self._named(function), value, *(_constant(each.value) for each in expression.args))

    def _choice(self, node: IfNode) -> ast.expr:
        if node.blank or node.alternatives or type(node.condition) is not BooleanExpression:
            raise _Unusual
        holds = self._named(_truth(node.condition.expression))
        otherwise = self._inner(node.default) if node.default else ast.Constant("")
        test = self._call(holds, ast.Name("context", ast.Load()))
        return ast.IfExp(test, self._inner(node.consequence), otherwise)

    def _inner(self, block: BlockNode) -> ast.expr:
        if block.blank:
            raise _Unusual
        return self.block(block.nodes)

    def _named(self, function: Callable[..., Any]) -> str:
        name = f"part_{len(self._names)}"
        self._names[name] = function
        return name

    @staticmethod
    def _call(name: str, *arguments: ast.expr) -> ast.expr:
        return ast.Call(ast.Name(name, ast.Load()), list(arguments), [])


def _text(value: Any) -> str:
    if type(value) is int or type(value) is float or isinstance(value, str):
        return str(value)
    raise _Unusual


def _constant(expression: Any) -> ast.expr:
    if type(expression) not in (StringLiteral, IntegerLiteral, FloatLiteral):
        raise _Unusual
    return ast.Constant(expression.value)


def _value(expression: Any) -> ast.expr:
    """What an expression gives. Only dictionaries have text keys: of anything else it raises, and Liquid looks."""
    if type(expression) is StringLiteral:
        return ast.Constant(expression.value)
    found: ast.expr = ast.Name("context", ast.Load())
    for name in _names(expression):
        found = ast.Subscript(found, ast.Constant(name), ast.Load())
    return found


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


def _names(expression: Any) -> tuple[str, ...]:
    if type(expression) is not Path or not all(type(segment) is str for segment in expression.path):
        raise _Unusual
    if _OWN_MEANING & set(expression.path):
        raise _Unusual
    return tuple(str(segment) for segment in expression.path)
