"""The console's words: every string has its Chinese, with the same placeholders, and no translation is left over."""

from __future__ import annotations

import ast
import re
from collections import Counter
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from babel.messages.extract import extract_from_dir
from babel.messages.pofile import read_po

from engine.web.console.words import CHINESE, ENGLISH, PLACE, SENTENCES, Words, catalogue, chosen

CONSOLE = Path(__file__).resolve().parents[2] / "engine/web/console"
KEYWORDS: dict[str, Any] = {
    "_": None,
    "gettext": None,
    "ngettext": (1, 2),
    "word": None,
    "say": None,
    "say_many": (1, 2),
}
METHODS = [("**.py", "python"), ("templates/**.html", "jinja2.ext:babel_extract")]
OPTIONS = {"templates/**.html": {"trimmed": "false", "extensions": "jinja2.ext.loopcontrols", "silent": "false"}}
PLACEHOLDER = re.compile(r"%\((\w+)\)[sd]|%%")

Source = str | tuple[str, ...]


def sources() -> dict[Source, str]:
    """Every string that is marked for translation, and where it stands."""
    found = extract_from_dir(CONSOLE, METHODS, OPTIONS, KEYWORDS)
    return {message: f"{name}:{line}" for name, line, message, _, _ in found}


def translations() -> list[tuple[str, Any, Any]]:
    """(file, source, translation) of every entry of every .po file."""
    rows = []
    for file in sorted(set((CONSOLE / "locale" / CHINESE).glob("*.po")) - {CONSOLE / "locale" / CHINESE / SENTENCES}):
        with file.open("rb") as opened:
            rows += [
                (file.name, each.id, each.string)
                for each in read_po(opened, locale=CHINESE, abort_invalid=True)
                if each.id
            ]
    return rows


def test_every_string_has_its_chinese():
    translated = {
        source for _, source, target in translations() if (target if isinstance(target, str) else all(target))
    }

    missing = {message: where for message, where in sources().items() if message not in translated}

    assert missing == {}


def test_no_translation_has_outlived_its_string():
    used = set(sources())

    assert [(name, source) for name, source, _ in translations() if source not in used] == []


def test_no_string_is_translated_in_two_ways():
    counted = Counter(source for source, _ in {(source, str(target)) for _, source, target in translations()})

    assert [source for source, n in counted.items() if n > 1] == []


@pytest.mark.parametrize(("name", "source", "target"), translations(), ids=lambda value: str(value)[:40])
def test_a_translation_has_the_placeholders_of_its_source(name: str, source: Source, target: Any):
    first = source if isinstance(source, str) else source[1]
    for each in [target] if isinstance(target, str) else target:
        assert Counter(PLACEHOLDER.findall(each)) == Counter(PLACEHOLDER.findall(first))


@pytest.mark.parametrize(
    ("header", "language"),
    [
        ("", ENGLISH),
        ("zh-CN,zh;q=0.9,en;q=0.8", CHINESE),
        ("en-GB,en;q=0.9,zh;q=0.8", ENGLISH),
        ("de;q=1, zh;q=0.7, en;q=0.3", CHINESE),
        ("zh;q=nonsense", ENGLISH),
        ("fr", ENGLISH),
    ],
)
def test_the_browsers_liking_decides(header: str, language: str):
    assert chosen(header) == language


def test_numbers_and_spans_are_written_as_the_language_does():
    english, chinese = (Words(language, ZoneInfo("Asia/Shanghai")) for language in (ENGLISH, CHINESE))

    assert english.number(1234567) == chinese.number(1234567) == "1,234,567"
    assert english.number(0.1254, 2) == "0.13"
    assert english.percent(0.1234) == "12.3%"
    assert (english.span(300), chinese.span(300)) == ("5 minutes", "5分钟")
    assert english.say_many("%(n)s user", "%(n)s users", 2) == "2 users"


def test_what_is_not_translated_is_said_in_english():
    assert catalogue(CHINESE).gettext("no such string") == "no such string"


def engine_texts() -> str:
    """Every string of the engine's sources, and the fixed parts of those that hold values."""
    found = []
    for file in sorted((CONSOLE.parents[1]).rglob("*.py")):
        nodes = ast.walk(ast.parse(file.read_text()))
        found += [node.value for node in nodes if isinstance(node, ast.Constant) and isinstance(node.value, str)]
    return "\n".join(found)


def known_sentences() -> list[tuple[str, str]]:
    """(English, Chinese) of the engine's sentences."""
    with (CONSOLE / "locale" / CHINESE / SENTENCES).open("rb") as opened:
        return [(str(each.id), str(each.string)) for each in read_po(opened, locale=CHINESE) if each.id]


def test_every_sentence_that_is_translated_is_one_of_the_engines():
    said = engine_texts()
    strange = [
        source for source, _ in known_sentences() if max(PLACE.split(source)[::2], key=len).strip(" :(),") not in said
    ]

    assert strange == []


def test_an_engines_sentence_is_said_in_chinese_with_what_it_names():
    sentence = Words(CHINESE, ZoneInfo("UTC")).sentence

    assert sentence("there is no campaign 'spring'") == "没有活动 'spring'"
    assert sentence("message.title is needed") == "需要填写 message.title"
    assert sentence("something else") == "something else"
    assert Words(ENGLISH, ZoneInfo("UTC")).sentence("message.title is needed") == "message.title is needed"


@pytest.mark.parametrize(("source", "target"), known_sentences(), ids=lambda value: value[:40])
def test_a_sentences_chinese_names_what_it_names(source: str, target: str):
    assert set(PLACE.findall(target)) == set(PLACE.findall(source))
