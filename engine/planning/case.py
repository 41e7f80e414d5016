"""All that is stored about one user's decisions in one run: rows, receipts, rules, and the pushes that stood beside."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
from sqlalchemy import Connection, text

from engine.campaigns import store
from engine.campaigns.policy import Policy
from engine.campaigns.policy_store import policy_version
from engine.campaigns.rules import own_hours, scopes_of, workspace_caps
from engine.errors import BadInput, UnknownName, UserErased, did_you_mean
from engine.ingest.erased import erased_among
from engine.localtime import Hours, local_days
from engine.planning import arms, receipt, remembered
from engine.planning.allocation import NOTHING
from engine.planning.decide import jitters
from engine.planning.occasions import RunRules, look_back, run_rules
from engine.planning.prices import Prices
from engine.planning.receipt import Receipt
from engine.planning.remembered import Kind, Remembered, Standing
from engine.planning.runspec import RunSpec, read_run, secret_of
from engine.store.tables import DECISION_REASONS

ORDINAL_1970 = 719_163
PLANNED = DECISION_REASONS.index("planned")


@dataclass(frozen=True)
class User:
    """The user as stored now."""

    id: int
    external_id: str
    slot: int
    zone: str
    quiet: Hours | None
    updated_at: datetime


@dataclass(frozen=True)
class Case:
    """One user's decisions in one run. rows[o]: the revisions of occurrence o, oldest first; receipts[o]: of revision
    0, None where there is none any more; decided: the occurrences that asked for the user; items: external id and title
    by id, of items that still exist; displaced: whether a push of the user ever gave way. remembered and standing have
    one user and all occurrences of the run."""

    user: User
    secret: bytes
    spec: RunSpec
    names: tuple[str, ...]
    policy: Policy
    caps: RunRules
    prices: Prices | None
    decided: tuple[int, ...]
    rows: dict[int, list[Any]]
    receipts: dict[int, Receipt | None]
    items: dict[int, tuple[str, str | None]]
    remembered: Remembered
    standing: Standing
    displaced: bool

    @property
    def as_of(self) -> datetime:
        """The business time of the decisions: their shard's snapshot, else the run's opening."""
        known = [stored.as_of for stored in self.receipts.values() if stored is not None]
        return datetime.fromtimestamp(known[0], UTC) if known else self.spec.as_of

    def rows_of(self, row: Any) -> list[Any]:
        """The revisions of the decision that `row` is one of, oldest first."""
        return next(found for found in self.rows.values() if row in found)

    @property
    def once(self) -> np.ndarray:
        """bool[O]: the occurrence's campaign sends an item once."""
        return np.array([bool(occasion.definition.item_once_days) for occasion in self.spec.occasions])

    @property
    def weighed(self) -> Remembered:
        """What was weighed, at the values it was weighed with: who drew nothing when exploring got nothing, whatever
        there was."""
        drawn = [
            o in self.rows and self.rows[o][0].arm == arms.EXPLORE and self.rows[o][0].reason != PLANNED
            for o in range(len(self.spec.occasions))
        ]
        return replace(self.remembered.only(~np.array(drawn)[None, :, None]), value=self.at_prices)

    @property
    def at_prices(self) -> np.ndarray:
        """float64[1, O, P]: the values as they were weighed against prices, which moves them a little by hash."""
        value = self.remembered.value
        if self.prices is None or not self.prices.highest():
            return value
        campaigns = np.array([occasion.campaign_id for occasion in self.spec.occasions], np.int64)
        slots = np.nan_to_num(self.remembered.slot)
        user = np.array([self.user.id], np.int64)
        moved: np.ndarray = value * jitters(self.secret, self.spec.seed, user, (campaigns, slots))
        return moved

    @property
    def fixed(self) -> np.ndarray:
        """int32[1, O]: place 0 where an explored push was drawn, which the others must fit beside."""
        drawn = [
            o in self.rows and self.rows[o][0].arm == arms.EXPLORE and self.rows[o][0].reason == PLANNED
            for o in range(len(self.spec.occasions))
        ]
        return np.where(drawn, 0, NOTHING).astype(np.int32)[None, :]


def read_case(connection: Connection, name: str, campaign: str | None, run_id: int | None) -> Case:
    """The decisions about user `name` in the latest run (of `campaign`, or `run_id`).

    Raises UnknownName for a user, campaign or run that does not exist, UserErased, and BadInput where nothing was
    decided.
    """
    if campaign is not None:
        store.get(connection, campaign)  # that there is such a campaign
    row = connection.execute(text("SELECT * FROM users WHERE external_id = :name"), {"name": name}).one_or_none()
    if row is None:
        if erased_among(connection, [name]):
            raise UserErased(
                f"user {name!r} was erased",
                hint="what was decided about them is kept without a name or a receipt: it can be explained no more",
            )
        raise UnknownName(f"there is no user {name!r}", hint=_close(connection, name))
    chosen = _run_of(connection, row.id, campaign, run_id)
    if chosen is None:
        of = f" by campaign {campaign}" if campaign else f" in run {run_id}" if run_id else ""
        raise BadInput(f"nothing was ever decided about user {name}{of}", hint="see what was planned: horae runs list")
    spec = read_run(connection, chosen)
    policy = policy_version(connection, spec.policy_version)
    user = User(
        row.id, row.external_id, row.slot, row.timezone or policy.default_timezone,
        own_hours(row.quiet_from, row.quiet_until), row.updated_at,
    )  # fmt: skip
    return _case(connection, user, spec, policy)


def _case(connection: Connection, user: User, spec: RunSpec, policy: Policy) -> Case:
    rows = _rows(connection, user.id, spec)
    receipts = {o: _receipt(found[0].receipt) for o, found in rows.items()}
    items, category_of = _items(connection, rows, receipts)
    names = sorted(
        {cap.scope.partition(":")[2] for cap in workspace_caps(policy)} | {c for c in category_of.values() if c}
    )
    codes = {name: code for code, name in enumerate(names)}
    case = Case(
        user=user,
        secret=secret_of(connection),
        spec=spec,
        names=tuple(occasion.definition.name for occasion in spec.occasions),
        policy=policy,
        caps=run_rules(policy, spec.occasions, names),
        prices=_prices(connection, spec.run_id),
        decided=tuple(sorted(rows)),
        rows=rows,
        receipts=receipts,
        items=items,
        remembered=_remembered(
            user, (rows, receipts), len(spec.occasions), {i: codes.get(c or "", -1) for i, c in category_of.items()}
        ),
        standing=remembered.standing_of_none(),
        displaced=_was_displaced(connection, user.id),
    )
    as_of = case.as_of
    since = as_of - look_back(policy, spec.occasions)
    standing = _standing(connection, user, (since, as_of), spec.run_id, {o.occurrence_id for o in spec.occasions})
    return replace(case, standing=standing)


def _run_of(connection: Connection, user_id: int, campaign: str | None, run_id: int | None) -> int | None:
    found: int | None = connection.execute(
        text(
            "SELECT d.run_id FROM decisions d JOIN occurrences o ON o.id = d.occurrence_id"
            " JOIN campaigns c ON c.id = o.campaign_id WHERE d.user_id = :user"
            " AND (CAST(:name AS text) IS NULL OR c.name = :name) AND (CAST(:run AS bigint) IS NULL OR d.run_id = :run)"
            " ORDER BY d.run_id DESC LIMIT 1"
        ),
        {"user": user_id, "name": campaign, "run": run_id},
    ).scalar_one_or_none()
    return found


def _rows(connection: Connection, user_id: int, spec: RunSpec) -> dict[int, list[Any]]:
    position = {occasion.occurrence_id: o for o, occasion in enumerate(spec.occasions)}
    found: dict[int, list[Any]] = {}
    for row in connection.execute(
        text(
            "SELECT * FROM decisions WHERE user_id = :user AND date = ANY(:dates) AND occurrence_id = ANY(:occurrences)"
            " ORDER BY occurrence_id, revision"
        ),
        {
            "user": user_id,
            "dates": sorted({occasion.date for occasion in spec.occasions}),
            "occurrences": list(position),
        },
    ):
        found.setdefault(position[row.occurrence_id], []).append(row)
    return found


def _receipt(stored: bytes | None) -> Receipt | None:
    """None where there is none, or it was written by another version that cannot be read."""
    if stored is None:
        return None
    try:
        return receipt.decode(bytes(stored))
    except BadInput:
        return None


def _items(
    connection: Connection, rows: dict[int, list[Any]], receipts: dict[int, Receipt | None]
) -> tuple[dict[int, tuple[str, str | None]], dict[int, str | None]]:
    ids = {row.item_id for found in rows.values() for row in found if row.item_id is not None}
    for stored in receipts.values():
        if stored is not None:
            ids |= {int(item) for item in stored.alternatives["item"]} | {stored.exploit_item}
    known = connection.execute(
        text("SELECT id, external_id, title, category FROM items WHERE id = ANY(:ids)"), {"ids": sorted(ids)}
    ).all()
    return {row.id: (row.external_id, row.title) for row in known}, {row.id: row.category for row in known}


def _prices(connection: Connection, run_id: int) -> Prices | None:
    stored = connection.execute(text("SELECT prices FROM runs WHERE id = :run"), {"run": run_id}).scalar_one()
    return Prices.from_json(stored) if stored else None


def _remembered(
    user: User,
    stored_as: tuple[dict[int, list[Any]], dict[int, Receipt | None]],
    occurrences: int,
    category: dict[int, int],
) -> Remembered:
    found = remembered.nothing(1, occurrences)
    rows, receipts = stored_as
    for o, revisions in rows.items():
        places: list[tuple[Any, ...]] = []
        row, stored = revisions[0], receipts[o]
        if row.send_at is not None:
            slot = row.window_start.timestamp()
            places.append((0, row.item_id or -1, slot, row.send_at.timestamp(), row.value, row.price, receipt.FREE))
        for place, one in enumerate(() if stored is None else stored.alternatives, 1):
            places.append((place, one["item"], one["slot"], one["send_at"], one["value"], one["price"], one["code"]))
        for place, item, slot, at, value, price, code in places:
            here = (0, o, place)
            found.there[here], found.item[here], found.category[here] = True, item, category.get(int(item), -1)
            found.slot[here], found.at[here], found.code[here] = slot, at, code
            found.value[here], found.price[here] = value, price
            found.day[here] = _ordinal(user.zone, float(at))
    return found


def _ordinal(zone: str, at: float) -> int:
    return int(local_days(np.array([at]), np.zeros(1, np.int64), (zone,)).astype(np.int64)[0]) + ORDINAL_1970


# --- pushes beside ---------------------------------------------------------------------------------------------------

_SENT = text("""
    SELECT at, local_day, counts, scopes FROM deliveries
    WHERE user_id = :user AND day >= CAST(:since AS date) - 1 AND at >= :since AND at < :as_of
      AND NOT test AND state IN ('accepted', 'unknown')
""")

_PENDING = text("""
    SELECT l.send_at, o.campaign_id, o.version, i.category FROM (
        SELECT DISTINCT ON (occurrence_id) * FROM decisions
        WHERE user_id = :user AND date >= CAST(:since AS date) - 92 AND run_id < :run
        ORDER BY occurrence_id, revision DESC
    ) l JOIN occurrences o ON o.id = l.occurrence_id LEFT JOIN items i ON i.id = l.item_id
    WHERE l.reason = :planned AND l.occurrence_id <> ALL(:ours)
      AND NOT EXISTS (SELECT 1 FROM deliveries x WHERE x.push_id = l.push_id AND x.user_id = :user AND x.at < :as_of)
""")


def _standing(
    connection: Connection, user: User, span: tuple[datetime, datetime], run_id: int, ours: set[int]
) -> Standing:
    """The user's pushes as they stood at the end of `span`: sent since its beginning, and planned by earlier runs."""
    given = {"user": user.id, "since": span[0], "as_of": span[1]}
    sent = connection.execute(_SENT, given).all()
    more = {"run": run_id, "planned": PLANNED, "ours": sorted(ours)}
    pending = connection.execute(_PENDING, given | more).all()
    kinds = [Kind(frozenset(row.scopes), row.counts) for row in sent]
    for row in pending:
        definition = store.get_version(connection, row.campaign_id, row.version)
        scopes = scopes_of(definition, row.category)
        kinds.append(Kind(scopes, definition.counts_toward_caps, definition.obeys_caps, definition.own_caps()))
    instants = [row.at for row in sent] + [row.send_at for row in pending]
    days = [row.local_day.toordinal() if row.local_day else _ordinal(user.zone, row.at.timestamp()) for row in sent]
    days += [_ordinal(user.zone, row.send_at.timestamp()) for row in pending]
    epoch = datetime(1970, 1, 1, tzinfo=UTC)
    return Standing(
        row=np.zeros(len(kinds), np.int64),
        at=np.array([(at - epoch) // timedelta(microseconds=1) for at in instants], np.int64),
        day=np.array(days, np.int32),
        pending=np.arange(len(kinds)) >= len(sent),
        kind=np.arange(len(kinds)),
        kinds=kinds,
    )


def _was_displaced(connection: Connection, user_id: int) -> bool:
    query = text("SELECT 1 FROM decisions WHERE user_id = :user AND reason = :displaced LIMIT 1")
    given = {"user": user_id, "displaced": DECISION_REASONS.index("displaced")}
    return connection.execute(query, given).first() is not None


def _close(connection: Connection, name: str) -> str | None:
    """The ids that look most like `name`, among those that begin alike."""
    near = connection.execute(
        text("SELECT external_id FROM users WHERE external_id ILIKE :prefix ORDER BY external_id LIMIT 1000"),
        {"prefix": name[:2].replace("%", "").replace("_", "") + "%"},
    ).scalars()
    return did_you_mean(name, list(near)) or "users are named by the user_id they were ingested with"
