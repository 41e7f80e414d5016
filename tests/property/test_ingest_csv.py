"""CSV taken apart at once and record by record is the same, and is what the standard library wrote."""

from __future__ import annotations

import csv
import io
import json

from hypothesis import example, given, settings
from hypothesis import strategies as st

from engine.ingest.csv_rows import CsvReader
from engine.ingest.layout import Layout

LAYOUT = Layout("users", {"user_id": "user_id"})
HEADER = ["user_id", "a", "b"]

words = st.text(st.characters(codec="utf-8", exclude_characters="\0\r"), max_size=8)
plain = st.text(st.characters(codec="utf-8", exclude_characters='\0\r\n"', exclude_categories=["Cc"]), max_size=8)


def rows(data: bytes) -> tuple[list[tuple[int, str, str | None]], list[tuple[int, str]]]:
    """(line, user, attributes) of each row, and (line, problem) of each refusal."""
    found, refused = [], []
    for block in CsvReader(io.BytesIO(data), "file.csv").blocks(LAYOUT):
        texts = [None] * len(block) if block.attributes is None else block.attributes.to_pylist()
        users = block.columns["user_id"].to_pylist() if len(block) else []
        found += list(zip(block.lines.tolist(), users, texts, strict=True))
        refused += [(reject.line, reject.problem) for reject in block.rejects]
    return found, sorted(refused)


def written(table: list[list[str]], **options) -> bytes:
    out = io.StringIO()
    csv.writer(out, lineterminator="\n", **options).writerows([HEADER, *table])
    return out.getvalue().encode()


@settings(deadline=None)
@given(st.lists(st.tuples(st.just("u"), words, words).map(list), max_size=8))
def test_every_value_that_csv_can_write_is_read_back(table) -> None:
    found, refused = rows(written(table, quoting=csv.QUOTE_ALL))

    assert refused == []
    texts = [json.loads(text) if text else {} for _, _, text in found]
    assert [[str(text.get(name, "")) for name in "ab"] for text in texts] == [
        [_shown(value) for value in row[1:]] for row in table
    ]


def _shown(value: str) -> str:
    """An attribute as text again: numbers and truths lose how they were written."""
    from pyarrow import array

    from engine.ingest.json_text import csv_attributes

    attributes = csv_attributes({"x": array([value])})
    text = attributes[0].as_py() if attributes is not None else None
    return str(json.loads(text)["x"]) if text else ""


@settings(deadline=None)
@given(st.lists(st.lists(plain, min_size=1, max_size=5).map(",".join), max_size=8))
def test_the_quick_way_and_the_careful_way_agree(lines) -> None:
    body = "\n".join(lines).encode() + b"\n"
    # Bytes that are not UTF-8 in a last line make the whole block go the careful way.
    quick, careful = rows(b"user_id,a,b\n" + body), rows(b"user_id,a,b\n" + body + b"\xff")

    assert careful[0] == quick[0]
    assert [refusal for refusal in careful[1] if refusal[1] != "not UTF-8"] == quick[1]


@settings(deadline=None)
@given(st.binary(max_size=300))
@example(b"\xef\xbb\xbf")
def test_any_bytes_end_in_rows_and_refusals(data) -> None:
    found, refused = rows(b"user_id,a,b\n" + data)

    lines = [line for line, *_ in [*found, *refused]]
    assert len(lines) == len(set(lines))
    assert len(lines) <= data.count(b"\n") + 1
