"""Settings are read once, are validated, and their errors name the variable."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from engine.config import Settings, read_settings
from engine.errors import BadInput, HoraeError, RedisUnavailable, StoreUnavailable, Unavailable


def test_the_home_becomes_absolute():
    assert read_settings(home="x/y").home.is_absolute()


def test_the_journal_lives_in_the_home_unless_it_is_placed_elsewhere(tmp_path):
    assert read_settings(home=tmp_path).journal_path == tmp_path / "journal.jsonl"
    assert read_settings(home=tmp_path, journal=tmp_path / "j").journal_path == tmp_path / "j"


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("HORAE_DATABASE_URL", "sqlite:///x.db"),
        ("HORAE_LOG_LEVEL", "LOUD"),
        ("HORAE_WORKERS", "0"),
        ("HORAE_SHARD_SLOTS", "many"),
    ],
)
def test_a_wrong_variable_is_refused_by_its_name(variable, value):
    code = "from engine.config import read_settings; read_settings()"
    process = subprocess.run(
        [sys.executable, "-c", code], env={**os.environ, variable: value}, capture_output=True, text=True, check=False
    )

    assert process.returncode == 1
    assert f"engine.errors.BadInput: {variable}:" in process.stderr


def test_a_wrong_url_says_what_it_must_be_and_nothing_of_the_validator():
    with pytest.raises(BadInput) as refused:
        read_settings(database_url="mysql://x")

    assert refused.value.message.startswith("HORAE_DATABASE_URL: must be a postgresql:// URL")


def test_settings_cannot_be_changed_after_they_were_read():
    settings = Settings()
    with pytest.raises(ValueError, match="frozen"):
        settings.workers = 3  # type: ignore[misc]


def test_secrets_do_not_show_in_the_representation():
    assert "hush" not in repr(read_settings(webhook_secret="hush", flower_password="hush"))


def test_an_error_says_what_and_what_to_do():
    error = BadInput("no such file", hint="check the path")

    assert str(error) == "no such file (check the path)"
    assert isinstance(error, HoraeError)
    assert issubclass(StoreUnavailable, Unavailable)
    assert issubclass(RedisUnavailable, Unavailable)
