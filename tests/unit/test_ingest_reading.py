"""Files as blocks: what is read, what is refused row by row, and what is refused as a whole."""

from __future__ import annotations

import gzip
import json
import random
from pathlib import Path

import pyarrow as pa
import pytest
from pyarrow import parquet

from engine.errors import BadInput
from engine.ingest.block import Block
from engine.ingest.lines import LONGEST_LINE, Cut
from engine.ingest.reading import look_at, read_blocks


def read(path: Path, kind="users", mapping=None) -> list[Block]:
    source, layout = look_at(kind, path, mapping or {})
    return [block for block, _ in read_blocks(source, layout)]


def rows(blocks: list[Block], *names: str) -> list[tuple]:
    return [
        tuple(None if name not in block.columns else block.columns[name][row].as_py() for name in names)
        for block in blocks
        for row in range(len(block))
    ]


def attributes(blocks: list[Block]) -> list[object]:
    texts = [text for block in blocks for text in (block.attributes or pa.nulls(len(block))).to_pylist()]
    return [text if text is None else json.loads(text) for text in texts]


def refusals(blocks: list[Block]) -> list[tuple[int, str]]:
    return [(reject.line, reject.problem) for block in blocks for reject in block.rejects]


def numbers(blocks: list[Block]) -> list[int]:
    return [number for block in blocks for number in block.lines.tolist()]


def file(folder: Path, name: str, content: bytes | str) -> Path:
    path = folder / name
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


# --- CSV -------------------------------------------------------------------------------------------------------------


def test_csv_with_bom_crlf_blank_lines_and_no_last_newline(tmp_path) -> None:
    path = file(tmp_path, "u.csv", b"\xef\xbb\xbfuser_id,country\r\na,TR\r\n\r\n b , \r\nc,DE")

    blocks = read(path)

    assert rows(blocks, "user_id", "country") == [("a", "TR"), ("b", None), ("c", "DE")]
    assert numbers(blocks) == [2, 4, 5]
    assert refusals(blocks) == []


def test_csv_values_with_commas_quotes_and_line_breaks(tmp_path) -> None:
    text = 'user_id,name\na,"x,y"\nb,"line 1\nline ""2"""\nc,"plain"\n'

    blocks = read(file(tmp_path, "u.csv", text))

    assert attributes(blocks) == [{"name": "x,y"}, {"name": 'line 1\nline "2"'}, {"name": "plain"}]
    assert numbers(blocks) == [2, 3, 5]


def test_a_stray_quote_refuses_its_own_line_only(tmp_path) -> None:
    text = 'user_id,name\na,"never closed\nb,fine\nc,5" disk\nd,fine\ne,"x"\n'

    blocks = read(file(tmp_path, "u.csv", text))

    assert refusals(blocks) == [(2, "a quote is opened and not closed")]
    assert rows(blocks, "user_id") == [("b",), ("c",), ("d",), ("e",)]
    assert attributes(blocks)[1] == {"name": '5" disk'}


@pytest.mark.parametrize("quoted", ["", ',"q\nq"'], ids=["plain", "careful"])
def test_rows_of_another_width_are_refused_with_their_line(tmp_path, quoted) -> None:
    more = ",y" if quoted else ""
    text = f"user_id,country{',z' if quoted else ''}\na,TR{quoted}\nb\nc,DE{more}\nd,DE,x,y,z\ne,F"

    blocks = read(file(tmp_path, "u.csv", text))

    first_bad = 4 if quoted else 3
    assert [line for line, _ in refusals(blocks)][:1] == [first_bad]
    assert {problem for _, problem in refusals(blocks)} == {"wrong number of columns"}


def test_a_broken_last_line_is_refused_and_the_rest_is_read(tmp_path) -> None:
    blocks = read(file(tmp_path, "u.csv", "user_id,country,locale\na,TR,tr\nb,D"))

    assert rows(blocks, "user_id") == [("a",)]
    assert refusals(blocks) == [(3, "wrong number of columns")]


def test_nul_bytes_and_other_encodings_refuse_their_lines_only(tmp_path) -> None:
    content = "user_id,country\na,Türkiye\n".encode() + b"b,T\xfcrkiye\nc,\x00\nd,DE\r\n\rlone\n"

    blocks = read(file(tmp_path, "u.csv", content))

    assert refusals(blocks) == [(3, "not UTF-8"), (4, "NUL byte"), (6, "not CSV")]
    assert "0xfc at position 3" in blocks[0].rejects[0].detail
    assert rows(blocks, "user_id") == [("a",), ("d",)]


def test_a_line_of_100_mb_is_refused_without_being_held_in_memory(tmp_path) -> None:
    path = tmp_path / "u.csv"
    with path.open("wb") as out:
        out.write(b"user_id,country\na,TR\nb,")
        for _ in range(100):
            out.write(b"x" * (1 << 20))
        out.write(b"\nc,DE\n")

    blocks = read(path)

    assert refusals(blocks) == [(3, "line too long")]
    assert "104,857,602 bytes" in next(block.rejects[0].detail for block in blocks if block.rejects)
    assert rows(blocks, "user_id") == [("a",), ("c",)]
    assert numbers(blocks) == [2, 4]


def test_a_line_just_too_long_inside_a_block_is_refused(tmp_path) -> None:
    fits, too_long = "x" * (LONGEST_LINE - 2), "y" * LONGEST_LINE
    blocks = read(file(tmp_path, "u.csv", f"user_id,country\na,{fits}\nb,{too_long}\nc,DE\n"))

    assert refusals(blocks) == [(3, "line too long")]
    assert rows(blocks, "user_id") == [("a",), ("c",)]


def test_a_record_may_span_two_blocks(tmp_path) -> None:
    filler = "".join(f"u{number},{'x' * 60}\n" for number in range(131_070))
    text = f'user_id,name\n{filler}split,"one\ntwo"\nlast,z\n'

    blocks = read(file(tmp_path, "u.csv", text))

    assert rows(blocks, "user_id")[-2:] == [("split",), ("last",)]
    assert attributes(blocks)[-2] == {"name": "one\ntwo"}
    assert numbers(blocks)[-2:] == [131_072, 131_074]


def test_csv_attributes_take_numbers_and_truths_for_what_they_are(tmp_path) -> None:
    text = "user_id,age,zip,vip,note\na,34,01234,true,\nb,1e5,-1.50,TRUE,x\nc,,,,\n"

    blocks = read(file(tmp_path, "u.csv", text))

    assert attributes(blocks) == [
        {"age": 34, "vip": True, "zip": "01234"},
        {"age": "1e5", "note": "x", "vip": "TRUE", "zip": -1.5},
        None,
    ]


def test_gzip_is_unzipped_and_several_members_are_one_file(tmp_path) -> None:
    content = gzip.compress(b"user_id\na\n") + gzip.compress(b"b\n")

    assert rows(read(file(tmp_path, "u.csv.gz", content)), "user_id") == [("a",), ("b",)]


def test_a_truncated_gzip_gives_its_whole_lines_and_says_so(tmp_path) -> None:
    text = "user_id,country\n" + "".join(f"user-{number * 7919 % 100_003},TR\n" for number in range(50_000))
    path = file(tmp_path, "u.csv.gz", gzip.compress(text.encode())[:-50_000])
    source, layout = look_at("users", path, {})
    blocks: list[Block] = []

    with pytest.raises(Cut, match="cut off"):
        blocks.extend(block for block, _ in read_blocks(source, layout))

    read_ids = [row[0] for row in rows(blocks, "user_id")]
    assert 1_000 < len(read_ids) < 50_000
    assert read_ids == [f"user-{number * 7919 % 100_003}" for number in range(len(read_ids))]
    assert refusals(blocks) == []


# --- JSON Lines ------------------------------------------------------------------------------------------------------


def test_json_lines_with_nested_attributes_nulls_and_missing_keys(tmp_path) -> None:
    text = (
        '{"user_id": 7, "country": null, "tags": ["b", "a"], "plan": {"z": 1, "a": 1.5}}\n'
        '\n{"user_id": "x", "consent": true}\r\n'
    )

    blocks = read(file(tmp_path, "u.jsonl", text))

    assert rows(blocks, "user_id", "consent") == [("7", None), ("x", "true")]
    assert attributes(blocks) == [{"plan": {"a": 1.5, "z": 1}, "tags": ["b", "a"]}, None]
    assert blocks[0].given["country"].tolist() == [True, False]
    assert numbers(blocks) == [1, 3]


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ('{"user_id": "b"', "not JSON"),
        ('{"user_id": "b", "x": NaN}', "not JSON"),
        ('{"user_id": "b", "x": 1e999}', "attributes: not storable as JSON"),
        ('{"user_id": "b", "x": "\\u0000"}', "attributes: not storable as JSON"),
        ('{"user_id": "b", "x": "\\ud800"}', "not JSON"),
        ("[1]", "not a JSON object"),
        ("7", "not a JSON object"),
        ('{"user_id": 1.5}', "user_id: neither text nor a whole number"),
        ('{"user_id": true}', "user_id: neither text nor a whole number"),
        ('{"user_id": ["b"]}', "user_id: neither text nor number"),
        ("[" * 5_000, "not JSON"),
        ('{"user_id": ' + "1" * 5_000 + "}", "not JSON"),
    ],
)
def test_json_that_cannot_be_taken_refuses_its_line(tmp_path, line, problem) -> None:
    blocks = read(file(tmp_path, "u.jsonl", f'{{"user_id": "a"}}\n{line}\n{{"user_id": "c"}}\n'))

    assert refusals(blocks) == [(2, problem)]
    assert rows(blocks, "user_id") == [("a",), ("c",)]


def test_an_escaped_backslash_before_u0000_is_no_nul(tmp_path) -> None:
    blocks = read(file(tmp_path, "u.jsonl", r'{"user_id": "a", "x": "\\u0000", "y": "😀 \ud83d\ude00"}'))

    assert attributes(blocks) == [{"x": "\\u0000", "y": "😀 😀"}]


def test_json_of_another_encoding_refuses_its_line(tmp_path) -> None:
    content = b'{"user_id": "a"}\n{"user_id": "\xfc"}\n{"user_id": "\x00"}\n'

    assert refusals(read(file(tmp_path, "u.ndjson", content))) == [(2, "not UTF-8"), (3, "NUL byte")]


# --- Parquet ---------------------------------------------------------------------------------------------------------


def test_parquet_keeps_types_and_makes_attributes_of_the_rest(tmp_path) -> None:
    table = pa.table(
        {
            "user_id": pa.array([1, 2, 3]),
            "country": pa.array(["TR", None, "DE"]).dictionary_encode(),
            "score": pa.array([1.5, float("nan"), None]),
            "tags": pa.array([["a"], [], None]),
        }
    )
    parquet.write_table(table, tmp_path / "u.parquet")

    blocks = read(tmp_path / "u.parquet")

    assert rows(blocks, "user_id", "country") == [(1, "TR"), (2, None), (3, "DE")]
    assert attributes(blocks) == [{"score": 1.5, "tags": ["a"]}, {"tags": []}, None]
    assert numbers(blocks) == [1, 2, 3]


def test_parquet_text_that_is_not_utf8_refuses_its_row(tmp_path) -> None:
    raw = pa.array([b"a", b"\xff", b"c"], pa.binary())
    broken = pa.Array.from_buffers(pa.string(), 3, raw.buffers())
    parquet.write_table(pa.table({"user_id": broken, "x": pa.array([b"1", b"2", None])}), tmp_path / "u.parquet")

    blocks = read(tmp_path / "u.parquet")

    assert sorted(refusals(blocks)) == [(1, "attributes: not storable as JSON"), (2, "not UTF-8")]
    assert rows(blocks, "user_id") == [("c",)]


# --- files that are refused as a whole -------------------------------------------------------------------------------

CSV = b"user_id,country\na,TR\n"


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("u.csv", b"", "is empty"),
        ("u.csv", b" \n\n", "is empty"),
        ("u.txt", CSV, "does not end in"),
        ("u", CSV, "does not end in"),
        ("u.parquet.gz", CSV, "give the .parquet file"),
        ("u.csv", gzip.compress(CSV, mtime=0), "rename it to u.csv.gz"),
        ("u.csv.gz", CSV, "is not gzipped"),
        ("u.csv.gz", b"\x1f\x8bnonsense, nonsense", "is not a readable gzip file"),
        ("u.parquet", CSV, "is not a Parquet file"),
        ("u.parquet", b"PAR1" + CSV, "is not a readable Parquet file"),
        ("u.csv", b'{"user_id": 1}\n', "begins like JSON"),
        ("u.jsonl", CSV, "CSV files end in .csv"),
        ("u.jsonl", b'[{"user_id": 1}]', "one JSON array"),
        ("u.jsonl", b"{broken\n{broken\n", "none of its first lines"),
        ("u.csv", b"PK\x03\x04...", "a spreadsheet"),
        ("u.csv", "user_id\na\n".encode("utf-16"), "is UTF-16"),
        ("u.csv", b"user_id,\xfc\na,b\n", "first line is not UTF-8"),
        ("u.csv", b"user_id,\x00\na,b\n", "NUL bytes"),
        ("u.csv", b'user_id,"x\n', "cannot be read"),
        ("u.csv", b"user_id,country,country\n", "twice"),
        ("u.csv", b",user_id\n0,a\n", "index=False"),
        ("u.csv", b"x" * (LONGEST_LINE + 5), "should name the columns"),
        ("u.csv", b"uid;country\na;TR\n", "separated by semicolons"),
        ("u.csv", b"customer_id,country\na,TR\n", "--map customer_id=user_id"),
        ("u.csv", b"User_ID,country\na,TR\n", "--map User_ID=user_id"),
        ("u.jsonl", b'{"usr_id": 1}\n', "--map usr_id=user_id"),
    ],
)
def test_a_file_that_is_not_what_it_should_be_is_refused_by_name(tmp_path, name, content, said) -> None:
    path = file(tmp_path, name, content)

    with pytest.raises(BadInput) as refused:
        read(path)

    assert str(path) in str(refused.value)
    assert said in str(refused.value)


def test_missing_files_and_directories_are_refused(tmp_path) -> None:
    with pytest.raises(BadInput, match="does not exist"):
        read(tmp_path / "none.csv")
    (tmp_path / "folder.csv").mkdir()
    with pytest.raises(BadInput, match="is a directory"):
        read(tmp_path / "folder.csv")


def test_a_gzip_cut_before_its_first_line_is_refused(tmp_path) -> None:
    noise = "".join(random.Random(1).choices("abcdefghijklmnopqrstuvwxyz", k=3_000))
    path = file(tmp_path, "u.csv.gz", gzip.compress(f"user_id,{noise}\n".encode())[:-900])

    with pytest.raises(BadInput, match="before its first line ends"):
        read(path)
