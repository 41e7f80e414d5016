"""Columns of a block as typed arrays; rows that cannot be are refused with a reason (pure).

Columns come as text (CSV, JSON) or as a Parquet file types them. The whole column is converted at once; only where that
fails are values looked at one by one.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID
from zoneinfo import ZoneInfo

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from engine import localtime
from engine.errors import BadInput
from engine.ingest.block import Block, Refusals, Strings

LONGEST_ID = 512
"""Bytes of an id: far below what a PostgreSQL index entry holds (2,704)."""

LONGEST_TYPE = 100
EARLIEST = np.datetime64("2000-01-01T00:00:00", "us")
LARGEST = 1e15
"""Of numbers: their sums in float8 keep cents."""

TRUTHS = {"true": True, "t": True, "yes": True, "y": True, "1": True}
TRUTHS |= {"false": False, "f": False, "no": False, "n": False, "0": False}

_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?", re.ASCII)
_OFFSET = re.compile(r"\s*(UTC|GMT|Z|z)$|\s+(?=[+-]\d\d(:?\d\d)?$)")


def texts(block: Block, name: str, refused: Refusals, longest: int | None = None) -> Strings:
    """A text column; whole numbers become their digits. Refuses NUL characters and what is longer than `longest`."""
    column = _as_text(block.column(name), name, refused)
    if column.null_count < len(column):
        nul = pc.match_substring(column, "\0").fill_null(False)
        refused.refuse(_mask(nul), f"{name}: a NUL character")
        if longest is not None:
            sizes = pc.binary_length(column).fill_null(0)
            refused.refuse(_mask(pc.greater(sizes, longest)), f"{name}: longer than {longest} bytes")
    return column


def required(column: Strings, name: str, refused: Refusals) -> None:
    """Refuse the rows without a value."""
    refused.refuse(_mask(column.is_null()), f"{name}: missing")


def instants(block: Block, name: str, refused: Refusals, zone: ZoneInfo | None) -> np.ndarray:
    """Instants as datetime64[us] (UTC), NaT where there is none. Times without an offset are wall clocks of `zone`.

    Refuses what is not an ISO 8601 time, and times without an offset where no zone is given.
    """
    column = block.column(name)
    if pa.types.is_timestamp(column.type):
        return _timestamps(column, name, refused, zone)
    if pa.types.is_date(column.type):
        return _wall_clocks(column.cast(pa.timestamp("us")), name, refused, zone)
    if not pa.types.is_string(column.type):
        refused.refuse(_mask(column.is_valid()), f"{name}: not an ISO 8601 time", lambda row: column[row])
        return np.full(len(column), np.datetime64("NaT"), "datetime64[us]")
    try:
        return _micros(column.cast(pa.timestamp("us", "UTC")))
    except pa.ArrowInvalid:
        pass
    if zone is not None:
        try:
            return _wall_clocks(column.cast(pa.timestamp("us")), name, refused, zone)
        except pa.ArrowInvalid:
            pass
    return _instants_one_by_one(column, name, refused, zone)


def numbers(block: Block, name: str, refused: Refusals) -> np.ndarray:
    """float64, NaN where there is none. Refuses what is no number, not finite, or beyond LARGEST."""
    column = block.column(name)
    if pa.types.is_boolean(column.type) or pa.types.is_nested(column.type) or pa.types.is_temporal(column.type):
        refused.refuse(_mask(column.is_valid()), f"{name}: not a number", lambda row: column[row])
        return np.full(len(column), np.nan)
    try:
        values = column.cast(pa.float64())
    except pa.ArrowException:
        values = _numbers_one_by_one(column, name, refused)
    given = _mask(values.is_valid())
    floats: np.ndarray = values.fill_null(np.nan).to_numpy(zero_copy_only=False)
    refused.refuse(given & ~np.isfinite(floats), f"{name}: not a finite number", lambda row: column[row])
    with np.errstate(invalid="ignore"):
        refused.refuse(given & (np.abs(floats) > LARGEST), f"{name}: out of range", lambda row: column[row])
    return floats + 0.0  # −0.0 is 0.0


def whole_numbers(block: Block, name: str, refused: Refusals) -> tuple[np.ndarray, np.ndarray]:
    """(int64, bool: there is one). Refuses what `numbers` refuses, and fractions."""
    floats = numbers(block, name, refused)
    given = np.isfinite(floats)
    whole = np.where(given, floats, 0.0)
    refused.refuse(given & (whole != np.floor(whole)), f"{name}: not a whole number", lambda row: floats[row])
    return whole.astype(np.int64), given


def truths(block: Block, name: str, refused: Refusals) -> tuple[np.ndarray, np.ndarray]:
    """(bool, bool: there is one) of true/false, yes/no, 1/0."""
    column = block.column(name)
    if pa.types.is_boolean(column.type):
        return _mask(column.fill_null(False)), _mask(column.is_valid())
    coded = _as_text(column, name, refused).dictionary_encode()
    known = [TRUTHS.get(text.casefold()) for text in coded.dictionary.to_pylist()]
    values = pa.array(known, pa.bool_()).take(coded.indices)
    given = _mask(coded.is_valid())
    refused.refuse(given & ~_mask(values.is_valid()), f"{name}: neither true nor false", lambda row: column[row])
    return _mask(values.fill_null(False)), given


def uuids(block: Block, name: str, refused: Refusals) -> tuple[np.ndarray, np.ndarray] | None:
    """(uint8[n, 16], bool: there is one); None where the column is empty. Refuses what is no UUID."""
    column = block.column(name)
    if column.null_count == len(column):
        return None
    values, given, bad = np.zeros((len(column), 16), np.uint8), np.zeros(len(column), bool), np.zeros(len(column), bool)
    for row, text in enumerate(column.to_pylist()):
        if text is None:
            continue
        try:
            values[row] = np.frombuffer(UUID(text if isinstance(text, str) else bytes(text).hex()).bytes, np.uint8)
            given[row] = True
        except (ValueError, TypeError, AttributeError):
            bad[row] = True
    refused.refuse(bad, f"{name}: not a UUID", lambda row: column[row])
    return values, given


def zone_names(block: Block, name: str, refused: Refusals) -> Strings:
    """IANA zone names. Refuses others, with the closest name."""
    column = texts(block, name, refused)
    coded = column.dictionary_encode()
    hints: dict[int, str] = {}
    for code, text in enumerate(coded.dictionary.to_pylist()):
        try:
            localtime.zone(text)
        except BadInput as error:
            hints[code] = f"{text}: {error.hint}"
    if hints:
        codes = coded.indices.fill_null(-1).to_numpy(zero_copy_only=False)
        wrong = np.isin(codes, list(hints))
        refused.refuse(wrong, f"{name}: unknown time zone", lambda row: hints[int(codes[row])])
    return column


def _as_text(column: pa.Array, name: str, refused: Refusals) -> Strings:
    kind = column.type
    if pa.types.is_string(kind):
        return column
    if pa.types.is_integer(kind) or pa.types.is_decimal(kind):
        return column.cast(pa.string())
    if pa.types.is_floating(kind):
        # pandas writes whole numbers with gaps as floats.
        floats = column.to_numpy(zero_copy_only=False)
        given = ~np.isnan(floats)
        whole = given & (np.abs(floats) < 2**53) & (floats == np.floor(floats))
        refused.refuse(given & ~whole, f"{name}: neither text nor a whole number", lambda row: column[row])
        digits = pa.array(np.where(whole, floats, 0).astype(np.int64), mask=~whole)
        return digits.cast(pa.string())
    if not pa.types.is_null(kind):
        refused.refuse(_mask(column.is_valid()), f"{name}: neither text nor a whole number", lambda row: column[row])
    return pa.nulls(len(column), pa.string())


def _timestamps(column: pa.Array, name: str, refused: Refusals, zone: ZoneInfo | None) -> np.ndarray:
    micros = column.cast(pa.timestamp("us", column.type.tz), safe=False)
    return _micros(micros) if column.type.tz else _wall_clocks(micros, name, refused, zone)


def _wall_clocks(column: pa.Array, name: str, refused: Refusals, zone: ZoneInfo | None) -> np.ndarray:
    """Instants of naive timestamps."""
    local = _micros(column)
    given = ~np.isnat(local)
    if zone is None:
        refused.refuse(given, f"{name}: a time without an offset needs --timezone", lambda row: column[row])
        return np.where(given, EARLIEST, np.datetime64("NaT"))
    # Offsets change at whole minutes since 2000, so each minute is resolved once.
    minutes, at = np.unique(local[given].astype("datetime64[m]"), return_inverse=True)
    inside = (minutes >= np.datetime64("1970-01-02", "m")) & (minutes < np.datetime64("2099-01-01", "m"))
    shift = np.zeros(len(minutes), np.int64)
    for number in np.flatnonzero(inside).tolist():
        naive: datetime = minutes[number].astype("datetime64[us]").item()
        resolved = localtime.resolve(naive, zone).replace(tzinfo=None)
        shift[number] = (resolved - naive) // timedelta(microseconds=1)
    local[given] += shift[at].astype("timedelta64[us]")
    return local


def _instants_one_by_one(column: pa.Array, name: str, refused: Refusals, zone: ZoneInfo | None) -> np.ndarray:
    found = np.full(len(column), np.datetime64("NaT"), "datetime64[us]")
    unreadable, floating = np.zeros(len(column), bool), np.zeros(len(column), bool)
    for row, text in enumerate(column.to_pylist()):
        if text is None:
            continue
        try:
            instant = datetime.fromisoformat(_OFFSET.sub(lambda match: "+00:00" if match[1] else "", text.strip()))
            if instant.tzinfo is None and zone is None:
                floating[row] = True
                continue
            aware = localtime.resolve(instant, zone) if instant.tzinfo is None and zone else instant.astimezone(UTC)
            found[row] = np.datetime64(aware.replace(tzinfo=None), "us")
        except (ValueError, OverflowError):
            unreadable[row] = True
    refused.refuse(unreadable, f"{name}: not an ISO 8601 time", lambda row: column[row])
    refused.refuse(floating, f"{name}: a time without an offset needs --timezone", lambda row: column[row])
    return found


def _numbers_one_by_one(column: pa.Array, name: str, refused: Refusals) -> pa.Array:
    values: list[float | None] = []
    bad = np.zeros(len(column), bool)
    for row, value in enumerate(column.to_pylist()):
        number, known = _number(value)
        values.append(number)
        bad[row] = not known
    refused.refuse(bad, f"{name}: not a number", lambda row: column[row])
    return pa.array(values, pa.float64())


def _number(value: Any) -> tuple[float | None, bool]:
    if value is None:
        return None, True
    text = str(value).strip()
    if _NUMBER.fullmatch(text) or text.casefold() in {"nan", "inf", "-inf", "infinity", "-infinity"}:
        return float(text), True
    return None, False


def _micros(column: pa.Array) -> np.ndarray:
    naive = column.cast(pa.timestamp("us"))
    micros: np.ndarray = naive.to_numpy(zero_copy_only=False).astype("datetime64[us]")
    return micros.copy()


def _mask(values: pa.Array) -> np.ndarray:
    mask: np.ndarray = np.asarray(values.to_numpy(zero_copy_only=False), bool)
    return mask
