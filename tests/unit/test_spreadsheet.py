"""Cells of CSV files that people open."""

from __future__ import annotations

from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.campaigns.spreadsheet import quoted, unquoted


def cell(text: str | None) -> Any:
    return quoted(pa.array([text], pa.string()))[0].as_py()


@pytest.mark.parametrize(
    "text", ["=cmd|' /C calc'!A0", "+49 30 1", "-5", "@SUM(1)", "\t=1", "\r=1", "\n=1", "＝1", "'=1"]
)
def test_what_a_spreadsheet_would_run_has_an_apostrophe_before_it(text):
    assert cell(text) == f"'{text}"


@pytest.mark.parametrize("text", ["u-1", "a=b", "", "'tis", " =1", "5", None])
def test_every_other_text_is_left_alone(text):
    assert cell(text) == text


@given(st.text("'=+-@\t\r\n＝a1 ", max_size=6))
def test_reading_takes_away_what_writing_added(text):
    assert unquoted(cell(text)) == text
