"""The README tells the truth: its commands, settings and files exist, every setting is in it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer.main

from engine.campaigns.loading import load
from engine.cli.app import app
from engine.config import Settings

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text()
SETTINGS = {f"HORAE_{name.upper()}" for name in Settings.model_fields}
FENCED = re.compile(r"^```(\w*)\n(.*?)^```", re.MULTILINE | re.DOTALL)


def commands(group: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """Every command of the console script as a tuple of words."""
    yield path
    for name, command in getattr(group, "commands", {}).items():
        yield from commands(command, (*path, name))


def mentioned() -> list[str]:
    """What the README calls as `horae …`: in console blocks and in inline code."""
    blocks = [line for kind, body in FENCED.findall(README) if kind in {"sh", "console"} for line in body.splitlines()]
    inline = re.findall(r"`(horae [^`]+)`", FENCED.sub("", README))
    found = [
        match.group(1)
        for text in (*blocks, *inline)
        for match in re.finditer(r"(?:^|[\s$&;])(horae(?: [\w-]+)*)", text)
    ]
    return sorted(set(found))


def test_the_first_two_sh_blocks_are_the_demo_and_the_tests() -> None:
    blocks = [body.strip() for kind, body in FENCED.findall(README) if kind == "sh"]

    assert blocks[:2] == ["pip install -e '.[demo]' && horae demo", "pip install -e '.[test]' && pytest"]


def test_every_setting_is_documented() -> None:
    assert sorted(SETTINGS - set(re.findall(r"`(HORAE_[A-Z_]+)`", README))) == []


def test_every_setting_that_is_named_exists() -> None:
    assert sorted(set(re.findall(r"\bHORAE_[A-Z_]+\b", README)) - SETTINGS) == []


@pytest.mark.parametrize("line", mentioned())
def test_every_command_that_is_named_exists(line: str) -> None:
    known = set(commands(typer.main.get_command(app)))
    words = tuple(line.split()[1:])
    groups = {path[0] for path in known if len(path) > 1}
    path = words[:2] if words and words[0] in groups else words[:1]

    assert path in known, f"README names `{line}`"


def test_every_file_that_is_linked_exists() -> None:
    links = [target for target in re.findall(r"\]\(([^)#\s]+)\)", README) if "://" not in target]

    assert [target for target in links if not (ROOT / target).exists()] == []


def test_every_campaign_that_is_shown_can_be_loaded(tmp_path: Path) -> None:
    shown = [body for kind, body in FENCED.findall(README) if kind == "yaml" and body.startswith("name:")]

    for number, body in enumerate(shown):
        (tmp_path / f"{number}.yaml").write_text(body)
        load(tmp_path / f"{number}.yaml")
    assert len(shown) >= 2


def test_the_campaign_that_is_shown_is_the_demos_own() -> None:
    assert (ROOT / "engine" / "demo" / "daily-pick.yaml").read_text() in README
