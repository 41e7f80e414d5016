"""Blocks of a file as rows that may be stored, and the rows that may not (pure)."""

from __future__ import annotations

from collections.abc import Collection
from datetime import UTC, datetime

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from engine.features.promotions import KINDS
from engine.ingest import convert
from engine.ingest.block import Block, Refusals, Reject, Strings
from engine.ingest.convert import EARLIEST, LONGEST_ID, LONGEST_TYPE
from engine.ingest.device_rows import LONGEST_TOKEN, DeviceRows, gateways_of
from engine.ingest.entity_rows import EntityRows
from engine.ingest.event_rows import EventRows
from engine.ingest.options import Options
from engine.ingest.preference_text import parse_preferences
from engine.ingest.promotion_rows import PromotionRows


def check_users(block: Block) -> tuple[EntityRows, list[Reject]]:
    """The users of a block, and its refused rows."""
    refused = Refusals(block)
    ids = _ids(block, "user_id", refused)
    columns: dict[str, object] = {}
    if "timezone" in block.columns:
        columns["timezone"] = convert.zone_names(block, "timezone", refused)
    columns |= {name: convert.texts(block, name, refused) for name in ("country", "locale") if name in block.columns}
    if "consent" in block.columns:
        columns["consent"] = convert.truths(block, "consent", refused)
    if "preferences" in block.columns:
        columns["preferences"] = _preferences(block, refused)
    return _entities(block, ids, columns, refused)


def check_items(block: Block, options: Options) -> tuple[EntityRows, list[Reject]]:
    """The items of a block, and its refused rows."""
    refused = Refusals(block)
    ids = _ids(block, "item_id", refused)
    texts = ("title", "category", "brand")
    columns: dict[str, object] = {name: convert.texts(block, name, refused) for name in texts if name in block.columns}
    if "price" in block.columns:
        price = convert.numbers(block, "price", refused)
        refused.refuse(price < 0, "price: negative", lambda row: price[row])
        columns["price"] = (price, np.isfinite(price))
    bounds = [name for name in ("available_from", "available_until") if name in block.columns]
    for name in bounds:
        columns[name] = convert.instants(block, name, refused, options.zone())
    if len(bounds) == 2:
        starts, ends = (np.asarray(columns[name]) for name in bounds)
        refused.refuse(ends <= starts, "available_until: not after available_from", lambda row: f"{ends[row]}Z")
    if "stock" in block.columns:
        stock, known = convert.whole_numbers(block, "stock", refused)
        refused.refuse(stock < 0, "stock: negative", lambda row: stock[row])
        columns["stock"] = (stock, known)
    return _entities(block, ids, columns, refused)


def check_events(block: Block, now: datetime, options: Options) -> tuple[EventRows, list[Reject]]:
    """The events of a block, and its refused rows; `now` is business time, which no event may lie after."""
    refused = Refusals(block)
    user = convert.texts(block, "user_id", refused, LONGEST_ID)
    item = convert.texts(block, "item_id", refused, LONGEST_ID)
    nobody = np.asarray(user.is_null()) & np.asarray(item.is_null())
    refused.refuse(nobody, "user_id, item_id: both missing")
    kind = convert.texts(block, "event_type", refused, LONGEST_TYPE)
    convert.required(kind, "event_type", refused)
    event_id = convert.texts(block, "event_id", refused, LONGEST_ID)
    rows = EventRows(
        user,
        item,
        _renamed(kind, options),
        _event_instants(block, refused, now, options),
        convert.numbers(block, "value", refused),
        convert.numbers(block, "quantity", refused),
        convert.uuids(block, "push_id", refused),
        block.attributes,
        None if event_id.null_count == len(event_id) else event_id,
    )
    if refused.bad.any():
        rows = rows.take(np.flatnonzero(~refused.bad))
    return rows, _rejects(block, refused)


def check_promotions(block: Block, now: datetime, options: Options) -> tuple[PromotionRows, list[Reject]]:
    """The promotions of a block, and its refused rows; `now` is business time, when what names no time is announced."""
    refused = Refusals(block)
    item = _ids(block, "item_id", refused)
    kind = convert.texts(block, "kind", refused)
    convert.required(kind, "kind", refused)
    known = np.asarray(pc.is_in(kind, value_set=pa.array(KINDS)))
    refused.refuse(~known, f"kind: not one of {', '.join(KINDS)}", lambda row: kind[row])
    starts, ends = (convert.instants(block, name, refused, options.zone()) for name in ("starts_at", "ends_at"))
    for name, instants in (("starts_at", starts), ("ends_at", ends)):
        refused.refuse(np.isnat(instants), f"{name}: missing")
    refused.refuse(starts < EARLIEST, "starts_at: before 2000", lambda row: starts[row])
    refused.refuse(ends <= starts, "ends_at: not after starts_at", lambda row: ends[row])
    weight = convert.numbers(block, "weight", refused)
    refused.refuse(weight < 0, "weight: negative", lambda row: weight[row])
    present = np.datetime64(now.astimezone(UTC).replace(tzinfo=None), "us")
    announced = convert.instants(block, "announced_at", refused, options.zone())
    refused.refuse(announced > present, "announced_at: in the future", lambda row: f"{announced[row]}Z")
    announced = np.where(np.isnat(announced), present, announced)
    rows = PromotionRows(item, kind, starts, ends, np.nan_to_num(weight, nan=1.0), announced, np.arange(len(block)))
    return rows.take(np.flatnonzero(~refused.bad)), _rejects(block, refused)


def check_devices(
    block: Block, now: datetime, options: Options, gateways: Collection[str]
) -> tuple[DeviceRows, list[Reject]]:
    """The devices of a block, and its refused rows; `now` is business time, `gateways` are the names there are."""
    refused = Refusals(block)
    user = _ids(block, "user_id", refused)
    token = convert.texts(block, "token", refused, LONGEST_TOKEN)
    convert.required(token, "token", refused)
    named, platform = (convert.texts(block, name, refused, LONGEST_TYPE) for name in ("gateway", "platform"))
    gateway, problems = gateways_of(named, platform, gateways)
    for problem in sorted({problem for problem, _ in problems.values()}):
        rows_of = np.array([problems.get(row, ("", ""))[0] == problem for row in range(len(block))], bool)
        refused.refuse(rows_of, problem, lambda row: problems[row][1])
    seen = _instants_until(block, "registered_at", refused, now, options)
    rows = DeviceRows(user, gateway, token, platform, seen, block.attributes)
    if refused.bad.any():
        rows = rows.take(np.flatnonzero(~refused.bad))
    return rows, _rejects(block, refused)


def _preferences(block: Block, refused: Refusals) -> Strings:
    column = convert.texts(block, "preferences", refused)
    problems: dict[int, str] = {}
    for row in np.flatnonzero(np.asarray(column.is_valid())).tolist():
        try:
            parse_preferences(column[row].as_py())
        except ValueError as error:
            problems[row] = str(error)
    wrong = np.isin(np.arange(len(column)), list(problems))
    refused.refuse(wrong, "preferences: not an object of channels and topics", lambda row: problems[row])
    return column


def _ids(block: Block, name: str, refused: Refusals) -> Strings:
    ids = convert.texts(block, name, refused, LONGEST_ID)
    convert.required(ids, name, refused)
    return ids


def _entities(
    block: Block, ids: Strings, columns: dict[str, object], refused: Refusals
) -> tuple[EntityRows, list[Reject]]:
    given = {name: mask for name, mask in block.given.items() if name in columns}
    rows = EntityRows(ids, columns, given, block.attributes, np.arange(len(block)))
    return rows.take(np.flatnonzero(~refused.bad)) if refused.bad.any() else rows, _rejects(block, refused)


def _rejects(block: Block, refused: Refusals) -> list[Reject]:
    return sorted([*block.rejects, *refused.rejects()], key=lambda reject: reject.line)


def _event_instants(block: Block, refused: Refusals, now: datetime, options: Options) -> np.ndarray:
    occurred_at = _instants_until(block, "occurred_at", refused, now, options)
    refused.refuse(np.isnat(occurred_at), "occurred_at: missing")
    return occurred_at


def _instants_until(block: Block, name: str, refused: Refusals, now: datetime, options: Options) -> np.ndarray:
    """Instants from 2000 until `now`."""
    found = convert.instants(block, name, refused, options.zone())
    present = np.datetime64(now.astimezone(UTC).replace(tzinfo=None), "us")
    refused.refuse(found < EARLIEST, f"{name}: before 2000", lambda row: found[row])
    refused.refuse(found > present, f"{name}: in the future", lambda row: f"{found[row]}Z")
    return found


def _renamed(kind: Strings, options: Options) -> Strings:
    if not options.types:
        return kind
    coded = kind.dictionary_encode()
    names = pa.array([options.types.get(name, name) for name in coded.dictionary.to_pylist()], pa.string())
    return names.take(coded.indices)
