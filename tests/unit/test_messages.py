"""Messages: strict about what is missing, bounded whatever a template says, in the reader's language."""

from __future__ import annotations

from types import MappingProxyType
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from engine.campaigns.template import (
    PAYLOAD_BYTES,
    Message,
    MessageSpec,
    compile_message,
    item_fields,
    render,
    unknown_fields,
    user_fields,
)
from engine.errors import BadInput

ANNA = user_fields("anna", "zh_CN", None, "Asia/Shanghai", {"name": "Anna", "points": 3, "motto": None})
WINE = item_fields("w1", title="Rioja", price=7.5, category="wine", brand=None, attributes={"year": 2019})


def rendered(body: str, item: dict[str, Any] | None = WINE, **data: Any) -> str:
    compiled = compile_message(MessageSpec(title="t", body=body))
    return render(compiled, ANNA, item, data, None, campaign={"name": "weekly"}, push={"id": "p-1"}).body


@pytest.mark.parametrize(
    ("template", "text"),
    [
        ("{{ user.id }} {{ user.attributes.name }}", "anna Anna"),
        ("{{ item.title }} {{ item.price | decimals: 2 }} {{ item.attributes.year }}", "Rioja 7.50 2019"),
        ("{{ campaign.name }} {{ push.id }} {{ data.code }}", "weekly p-1 X9"),
        ("{{ user.attributes.nick | default: 'you' }}", "you"),
        ("{{ user.attributes.motto | default: 'none' }}", "none"),
        ("{% if user.attributes.vip %}VIP{% else %}all{% endif %}", "all"),
        ("{% if user.attributes.points > 2 %}rich{% endif %}", "rich"),
        ("{{ '2026-11-27T18:00' | date: '%d.%m.' }}", "27.11."),
        ("{% assign n = item.title | upcase %}{{ n }}", "RIOJA"),
        ("{% for i in (1..3) %}{{ i }}{% endfor %}", "123"),
        ("  spaces around  ", "spaces around"),
    ],
)
def test_templates_print_what_is_known(template, text):
    assert rendered(template, code="X9") == text


@pytest.mark.parametrize(
    ("template", "said"),
    [
        ("{{ user.attributes.nick }}", "user.attributes.nick is undefined"),
        ("{{ item.brand }}", "item.brand is undefined"),
        ("{{ data.code }}", "data.code is undefined"),
        ("{% for x in user.attributes.list %}{{ x }}{% endfor %}", "undefined"),
        ("{{ 1 | divided_by: 0 }}", "divide"),
        ("{{ 'now' | date: '%Y' }}", "no 'now'"),
        ("{{ 'soon' | date: '%Y' }}", "no date"),
        ("{{ item.title | decimals: 2 }}", "no number"),
        ("{% if false %}x{% endif %}", "body came out blank"),
        ("{{ user.attributes.name }}" + "ö" * 3900, "bytes, more than"),
        ("{% for i in (1..100000) %}x{% endfor %}", "loop iteration limit"),
        (
            "{% for i in (1..900) %}{{ item.title }}{{ item.title }}{{ item.title }}{{ item.title }}{% endfor %}",
            "limit",
        ),
        ("{{ (1..100000000) | join: 'x' }}", "too much"),
        (
            "{% assign a = 'xxxx' %}{% for i in (1..99) %}{% assign a = a | append: a %}{% endfor %}{{ a }}",
            "too much|limit",
        ),
        (
            "{{ '" + "a" * 300 + "' | replace: 'a', '" + "b" * 300 + "' | replace: 'b', '" + "c" * 300 + "' }}",
            "too much",
        ),
        ("{% assign n = 9 %}{% for i in (1..99) %}{% assign n = n | times: n %}{% endfor %}{{ n }}", "."),
    ],
)
def test_what_cannot_be_said_is_refused_and_grows_no_further(template, said):
    with pytest.raises(BadInput, match=said):
        rendered(template)


def test_the_nearest_locale_speaks():
    spec = MessageSpec(
        title="Hello",
        body="b",
        locales={"zh": {"title": "你好", "body": "b"}, "pt-BR": {"title": "Olá", "body": "b"}},
    )
    compiled = compile_message(spec)

    said = {
        locale: render(compiled, ANNA, None, {}, locale).title for locale in ("zh-CN", "zh_TW", "pt-br", "pt", "", None)
    }

    assert said == {"zh-CN": "你好", "zh_TW": "你好", "pt-br": "Olá", "pt": "Hello", "": "Hello", None: "Hello"}


def test_data_is_rendered_too():
    spec = MessageSpec(title="t", body="b", data={"link": "app://{{ item.id }}"})

    assert render(compile_message(spec), ANNA, WINE, {}, None) == Message(
        "t", "b", MappingProxyType({"link": "app://w1"})
    )


@pytest.mark.parametrize(
    ("template", "said"),
    [
        ("{{ user", "expected '}}'"),
        ("{% if %}", "message|expected|missing"),
        ("{% for i in (1..3) %}", "endfor"),
        ("{% include 'x' %}", "unexpected tag 'include'"),
        ("{% render 'x' %}", "unexpected tag 'render'"),
        ("{{ user.id | upcas }}", "unknown filter 'upcas'; did you mean upcase"),
    ],
)
def test_a_template_that_is_no_liquid_is_refused_when_it_is_defined(template, said):
    with pytest.raises(ValidationError, match=said):
        MessageSpec(title="t", body=template)


@pytest.mark.parametrize(
    ("template", "said"),
    [
        ("{{ usr.id }}", "did you mean user"),
        ("{{ user.idd }}", "did you mean user.id"),
        ("{{ user.points }}", "attributes are written user.attributes.points"),
        ("{{ user['idd'] }}", "did you mean user.id"),
        ("{{ user }}", "alone is no text"),
        ("{{ item.titel }}", "did you mean item.title"),
        ("{% if itm.price > 3 %}x{% endif %}", "did you mean item"),
        ("{{ user.__class__ }}", "unknown field"),
    ],
)
def test_unknown_fields_are_named_with_the_nearest_known_one(template, said):
    (problem,) = unknown_fields(MessageSpec(title="t", body=template), with_item=True)

    assert problem.startswith("body: ")
    assert said in problem


def test_locals_of_a_template_are_no_unknown_fields():
    template = "{% assign n = user.id %}{{ n }}{% for i in (1..2) %}{{ i }}{{ forloop.index }}{% endfor %}"

    assert unknown_fields(MessageSpec(title="t", body=template), with_item=False) == []


@given(st.text(alphabet="{}%|. abuserid'\"()123:,[]", max_size=40), st.text(max_size=30))
@settings(max_examples=200, deadline=None)
def test_any_text_as_a_template_prints_something_bounded_or_is_refused(template, name):
    user = user_fields("u", None, None, None, {"name": name})
    try:
        message = render(compile_message(MessageSpec(title="t", body=template)), user, None, {}, None)
    except (ValidationError, BadInput):
        message = Message("t", "refused", {})

    assert 0 < len(message.body.encode(errors="surrogatepass")) <= PAYLOAD_BYTES
