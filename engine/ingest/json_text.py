"""Attributes as JSON text: what PostgreSQL's jsonb accepts, with sorted keys, so that equal attributes are equal text
(pure)."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from datetime import date, datetime, time
from decimal import Decimal

import pyarrow as pa
import pyarrow.compute as pc

_NUMBER = re.compile(r"-?(0|[1-9][0-9]{0,14})(\.[0-9]{1,15})?")
_NUL = re.compile(r"(?<!\\)(\\\\)*\\u0000")


def csv_attributes(columns: Mapping[str, pa.StringArray]) -> pa.StringArray | None:
    """One JSON object a row from text columns (name → values); None without columns.

    An empty value is left out. Numbers as JSON writes them (no leading zeros, at most 15 digits), true and false are
    taken for what they look like; everything else is text.
    """
    if not columns:
        return None
    members = []
    for name in sorted(columns):
        coded = columns[name].dictionary_encode()
        key = json.dumps(name, ensure_ascii=False)
        texts = [f",{key}:{_value(text)}" if text else "" for text in coded.dictionary.to_pylist()]
        members.append(pa.array(texts, pa.string()).take(coded.indices))
    joined = pc.binary_join_element_wise(*members, "")
    objects = pc.binary_join_element_wise("{", pc.binary_replace_slice(joined, 0, 1, ""), "}", "")
    return pc.if_else(pc.equal(pc.binary_length(joined), 0), None, objects)


def object_text(attributes: Mapping[str, object]) -> str | None:
    """A JSON object of what JSON or Parquet held; None where it is empty.

    Raises ValueError for what jsonb cannot hold: NaN, infinity, NUL characters, lone surrogates, bytes.
    """
    if not attributes:
        return None
    try:
        text = json.dumps(
            attributes, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False, default=_plain
        )
        text.encode()
    except (TypeError, ValueError, RecursionError) as error:
        raise ValueError(f"attributes: {error}") from error
    if "\\u0000" in text and _NUL.search(text):
        raise ValueError("attributes: a NUL character")
    return text


def _value(text: str) -> str:
    return text if text in {"true", "false"} or _NUMBER.fullmatch(text) else json.dumps(text, ensure_ascii=False)


def _plain(value: object) -> object:
    if isinstance(value, datetime | date | time):
        return value.isoformat()
    if isinstance(value, Decimal):
        return float(value)
    raise TypeError(f"a value of type {type(value).__name__}")
