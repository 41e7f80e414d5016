"""What is compiled of Liquid gives, to the letter, what Liquid gives."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from engine.campaigns.swift import compile_swiftly
from engine.campaigns.template import _LIQUID

PATHS = ["user.id", "user.attributes.name", "item.title", "item.price", "item.none", "user", "x", "item.title.first"]
FILTERS = ["", " | upcase", " | decimals: 2", " | default: 'you'", ' | append: "!"', " | truncate: 5, '…'", " | size"]

outputs = st.builds("{{{{ {}{} }}}}".format, st.sampled_from([*PATHS, "'text'", "3"]), st.sampled_from(FILTERS))
texts = st.text(st.characters(codec="utf-8", exclude_characters="{}%"), max_size=8)
parts = st.recursive(
    texts | outputs,
    lambda inner: st.builds(
        lambda path, then, other: f"{{% if {path} %}}{then}{other}{{% endif %}}",
        st.sampled_from(PATHS),
        inner,
        st.builds("{{% else %}}{}".format, inner) | st.just(""),
    ),
    max_leaves=6,
)
templates = st.lists(parts, min_size=1, max_size=4).map("".join)
values = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | texts | st.lists(texts, max_size=2)
contexts = st.fixed_dictionaries(
    {
        "user": st.fixed_dictionaries(
            {"id": texts, "attributes": st.dictionaries(st.sampled_from(["name", "x"]), values)}
        )
    },
    optional={"item": st.dictionaries(st.sampled_from(["title", "price", "none"]), values), "x": values},
)


@given(templates, contexts)
@example("{{ user.id }}{% if item.price %} {{ item.price | decimals: 2 }} {% endif %}", {"user": {"id": "u"}})
@example("{% if user.id %}   {% endif %}", {"user": {"id": "u"}})
def test_what_is_compiled_is_what_liquid_gives(source: str, context: dict[str, Any]) -> None:
    template = _LIQUID.from_string(source)
    swift = compile_swiftly(template)
    found = swift.render(context) if swift is not None else None

    if found is not None:
        assert found == template.render(context)


@pytest.mark.parametrize(
    "source",
    [
        "Fresh {{ item.title }}",
        "{{ user.attributes.name | default: 'you' }}{% if item.price %}, {{ item.price | decimals: 2 }} €{% endif %}",
    ],
)
def test_the_common_templates_are_compiled(source: str) -> None:
    swift = compile_swiftly(_LIQUID.from_string(source))
    context = {"user": {"attributes": {"name": "Ada"}}, "item": {"title": "Bread", "price": 2}}

    assert swift is not None
    assert swift.render(context) is not None


@pytest.mark.parametrize("source", ["{% for x in user %}{{ x }}{% endfor %}", "{% assign a = 1 %}{{ a }}", "{{ now }}"])
def test_the_rest_is_left_to_liquid(source: str) -> None:
    swift = compile_swiftly(_LIQUID.from_string(source))

    assert swift is None or swift.render({"user": {}}) is None


def test_much_output_is_left_to_liquid_and_its_limit() -> None:
    swift = compile_swiftly(_LIQUID.from_string("{{ user.id }}"))

    assert swift is not None
    assert swift.render({"user": {"id": "x" * 10_000}}) is None
