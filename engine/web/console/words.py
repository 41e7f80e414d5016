"""The console's languages: English as it is written in the code, Chinese from locale/zh_Hans/*.po.

The files of all areas are read at start-up and become one catalogue, so that areas are translated apart. Strings are
marked by `_` in templates and by `say`, `say_many` or `word` in Python; a test extracts them and misses none.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from functools import cache, cached_property
from gettext import NullTranslations
from importlib.resources import files
from zoneinfo import ZoneInfo

from babel import Locale, dates, numbers
from babel.messages.pofile import read_po

HERE = files("engine.web.console")
ENGLISH, CHINESE = "en", "zh_Hans"
LANGUAGES = {ENGLISH: "English", CHINESE: "简体中文"}
"""The languages there are, each by its own name."""

SENTENCES = "sentences.po"
"""The file of the engine's own sentences, which are no strings of the console's."""

PLACE = re.compile(r"%\((\w+)\)s")

HTML_NAMES = {ENGLISH: "en", CHINESE: "zh-Hans"}


def word(text: str) -> str:
    """`text` itself: marks what is translated elsewhere, such as a label in a table of constants."""
    return text


class Catalogue(NullTranslations):
    """Translations of one language: gettext's interface, from .po files."""

    def __init__(self, language: str) -> None:
        super().__init__()
        self._one: dict[str, str] = {}
        self._many: dict[str, tuple[str, ...]] = {}
        folder = HERE / "locale" / language
        areas = sorted(
            (file for file in folder.iterdir() if file.name.endswith(".po") and file.name != SENTENCES),
            key=lambda file: file.name,
        )
        for file in areas:
            with file.open("rb") as opened:
                for message in read_po(opened, locale=language):
                    self._add(message.id, message.string)

    def _add(self, source: object, target: object) -> None:
        if isinstance(source, str) and isinstance(target, str) and source and target:
            self._one[source] = target
        elif isinstance(source, tuple) and isinstance(target, tuple) and all(target):
            self._many[source[0]] = target

    def gettext(self, message: str) -> str:
        """`message` in this language; untranslated, itself."""
        return self._one.get(message, message)

    def ngettext(self, msgid1: str, msgid2: str, n: int) -> str:
        """One of two messages by number, in this language: Chinese has one form."""
        found = self._many.get(msgid1)
        return found[0] if found else super().ngettext(msgid1, msgid2, n)


@cache
def catalogue(language: str) -> NullTranslations:
    """The translations into a language."""
    return NullTranslations() if language == ENGLISH else Catalogue(language)


class Sentences:
    """The engine's sentences in another language: texts with %(name)s in the place of what varies.

    The engine says what is wrong in English, where it is found; here a sentence is known again by its words. What
    varies is said as it is, or translated in its turn.
    """

    def __init__(self, language: str) -> None:
        self._whole: dict[str, str] = {}
        self._parts: list[tuple[re.Pattern[str], str]] = []
        if language == ENGLISH:
            return
        with (HERE / "locale" / language / SENTENCES).open("rb") as opened:
            for message in read_po(opened, locale=language):
                if isinstance(message.id, str) and isinstance(message.string, str) and message.id and message.string:
                    self._add(message.id, message.string)
        self._parts.sort(key=lambda part: -len(part[0].pattern))  # the longest says most

    def _add(self, source: str, target: str) -> None:
        if not PLACE.search(source):
            self._whole[source] = target
            return
        pieces = PLACE.split(source)
        pattern = "".join(f"(?P<{piece}>.+?)" if n % 2 else re.escape(piece) for n, piece in enumerate(pieces))
        self._parts.append((re.compile(pattern, re.DOTALL), target))

    def said(self, sentence: str) -> str:
        """`sentence` in this language; one that is not known as it is."""
        if sentence in self._whole:
            return self._whole[sentence]
        for pattern, target in self._parts:
            if found := pattern.fullmatch(sentence):
                return target % {name: self.said(value) for name, value in found.groupdict().items()}
        return sentence


@cache
def sentences(language: str) -> Sentences:
    """The engine's sentences in a language."""
    return Sentences(language)


def chosen(header: str) -> str:
    """The language that an Accept-Language header likes best; English where it names neither."""
    best, weight = ENGLISH, 0.0
    for part in header[:500].split(","):
        tag, _, quality = part.strip().lower().partition(";")
        found = re.fullmatch(r"\s*q=([01](?:\.\d{0,3})?)\s*", quality)
        liked = float(found[1]) if found else 0.0 if quality else 1.0
        language = CHINESE if tag.split("-")[0] == "zh" else ENGLISH if tag.split("-")[0] == "en" else None
        if language is not None and liked > weight:
            best, weight = language, liked
    return best


@dataclass(frozen=True)
class Words:
    """How things are said to one person: in their language, by the workspace's clock."""

    language: str
    zone: ZoneInfo

    @cached_property
    def _locale(self) -> Locale:
        return Locale.parse("en_GB" if self.language == ENGLISH else self.language)

    def say(self, text: str, **values: object) -> str:
        """`text` translated, with its %(name)s filled in."""
        said = catalogue(self.language).gettext(text)
        return said % values if values else said

    def sentence(self, said: str) -> str:
        """A sentence of the engine's own, which names things of the shop's, in this language where it is known."""
        known = sentences(self.language)
        return "\n".join(known.said(line) for line in said.split("\n"))

    def say_many(self, one: str, many: str, n: int, **values: object) -> str:
        """`one` or `many` by `n`, translated; %(n)s is the number, written as usual."""
        return catalogue(self.language).ngettext(one, many, n) % {"n": self.number(n), **values}

    def number(self, value: float | None, digits: int = 0) -> str:
        """A number, such as 12,345; – for none."""
        if value is None:
            return "–"
        pattern = "#,##0" + ("." + "#" * digits if digits else "")
        return numbers.format_decimal(value, format=pattern, locale=self._locale)

    def percent(self, share: float | None, digits: int = 1) -> str:
        """A share as percentage; – for none."""
        if share is None:
            return "–"
        pattern = "#,##0" + ("." + "0" * digits if digits else "") + "%"
        return numbers.format_percent(share, format=pattern, locale=self._locale)

    def instant(self, at: datetime | None) -> str:
        """An instant by the workspace's clock, to the minute; – for none."""
        return "–" if at is None else self.reading(at.astimezone(self.zone))

    def reading(self, at: datetime | None) -> str:
        """A reading of a clock, to the minute, whoever's it is; – for none."""
        return "–" if at is None else f"{self.day(at.date())} {at:%H:%M}"

    def day(self, of: date | None) -> str:
        """A date; – for none."""
        return "–" if of is None else dates.format_date(of, "medium", locale=self._locale)

    def span(self, seconds: float | timedelta | None) -> str:
        """A duration in its largest unit, such as 3 minutes; – for none."""
        if seconds is None:
            return "–"
        length = seconds if isinstance(seconds, timedelta) else timedelta(seconds=seconds)
        return dates.format_timedelta(length, granularity="second", threshold=1.2, locale=self._locale)

    def ago(self, at: datetime | None, now: datetime) -> str:
        """How long before (or after) `now` an instant lies, such as 3 minutes ago; – for none."""
        if at is None:
            return "–"
        return dates.format_timedelta(at - now, add_direction=True, threshold=1.2, locale=self._locale)
