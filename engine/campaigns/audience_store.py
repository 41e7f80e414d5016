"""Saved audiences in the store: versions of their rules, who uses them, whom they hold.

Every edit is a version. A run notes the versions that its occurrences' audiences had when it was opened
(`occurrences.audiences`), so that what it asked is what is explained and replayed later, whatever became of the names.
A deleted audience keeps its versions for that reason, and its name: created anew, it goes on counting.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, Row, Select, and_, insert, select, text, true, update
from sqlalchemy.dialects.postgresql import insert as upsert

from engine import audit
from engine.campaigns import approvals
from engine.campaigns.audience import AudienceQuery, count_audience, user_condition
from engine.campaigns.definition import Campaign
from engine.campaigns.filters import Filter
from engine.campaigns.policy_store import current_policy
from engine.campaigns.saved_audience import SavedAudience, expand, names_in, reached, require_sound
from engine.errors import BadInput, UnknownName, did_you_mean
from engine.store.tables import audience_versions, audiences, campaign_versions, campaigns, users

_USING = (
    select(campaigns.c.name, campaign_versions.c.definition["audience"].label("rules"))
    .join(campaign_versions, campaign_versions.c.campaign_id == campaigns.c.id)
    .order_by(campaigns.c.name)
)


@dataclass(frozen=True)
class Saved:
    """An audience as it stands in the store; `changed_at` (machine time) and `author` are its latest version's."""

    id: int
    name: str
    version: int
    definition: SavedAudience
    changed_at: datetime
    author: str | None


@dataclass(frozen=True)
class Counted:
    """How many users an audience holds, and how many a push can reach now; `reasons`: of the others, why not."""

    users: int
    reachable: int
    reasons: dict[str, int]


@dataclass(frozen=True)
class Person:
    """A user of an audience."""

    user_id: str
    country: str | None
    locale: str | None
    timezone: str | None
    consent: bool | None
    attributes: Mapping[str, Any]


def create(connection: Connection, audience: SavedAudience, author: str | None = None) -> Saved:
    """Store a new audience. Raises BadInput where the name is taken, or its rules cannot be (`require_sound`)."""
    lock(connection)
    if find(connection, audience.name) is not None:
        raise BadInput(f"there is an audience {audience.name} already", hint="change it: horae audiences edit FILE")
    _require_sound(connection, audience)
    row = upsert(audiences).values(name=audience.name, version=1)
    again = {"version": audiences.c.version + 1, "deleted_at": None}
    row = row.on_conflict_do_update(index_elements=[audiences.c.name], set_=again)
    id_, version = connection.execute(row.returning(audiences.c.id, audiences.c.version)).one()
    _add_version(connection, id_, version, audience, author)
    audit.record(connection, author, "audience.create", _subject(audience.name), None, {"version": version})
    return get(connection, audience.name)


def edit(connection: Connection, audience: SavedAudience, author: str | None = None) -> Saved:
    """Make `audience` the next version of the one of its name; equal, it changes nothing.

    What is planned already stays as it was. Raises UnknownName, and BadInput where its rules cannot be, or the
    workspace wants approvals and a launched campaign uses it.
    """
    lock(connection)
    old = get(connection, audience.name)
    if old.definition == audience:
        return old
    _require_sound(connection, audience)
    _require_free(connection, audience.name)
    _add_version(connection, old.id, old.version + 1, audience, author)
    connection.execute(update(audiences).where(audiences.c.id == old.id).values(version=old.version + 1))
    before, after = audit.differing(_plain(old.definition), _plain(audience))
    numbers = ({"version": old.version, **before}, {"version": old.version + 1, **after})
    audit.record(connection, author, "audience.edit", _subject(audience.name), *numbers)
    return get(connection, audience.name)


def remove(connection: Connection, name: str, author: str | None = None) -> None:
    """Delete an audience that nothing uses. Raises UnknownName, and BadInput naming who uses it."""
    lock(connection)
    saved, using = get(connection, name), users_of(connection, name)
    if using:
        raise BadInput(f"audience {name} is used by {', '.join(using)}", hint="take it out of these first")
    connection.execute(update(audiences).where(audiences.c.id == saved.id).values(deleted_at=text("clock_timestamp()")))
    audit.record(connection, author, "audience.delete", _subject(name), {"version": saved.version}, None)


def get(connection: Connection, name: str) -> Saved:
    """The audience of that name in its latest version. Raises UnknownName with the closest name there is."""
    saved = find(connection, name)
    if saved is None:
        names = [one.name for one in get_all(connection)]
        hint = did_you_mean(name, names) or "see: horae audiences list"
        raise UnknownName(f"there is no audience {name!r}", hint=hint)
    return saved


def find(connection: Connection, name: str) -> Saved | None:
    """The audience of that name in its latest version, or None."""
    row = connection.execute(_latest().where(audiences.c.name == name)).one_or_none()
    return None if row is None else _saved(row)


def get_all(connection: Connection) -> list[Saved]:
    """All audiences, by name."""
    return [_saved(row) for row in connection.execute(_latest().order_by(audiences.c.name))]


def get_version(connection: Connection, name: str, version: int) -> SavedAudience:
    """An audience as it was in `version`, also of one that was deleted since. Raises UnknownName."""
    found = _versions_of(connection, {name: version})
    if name not in found:
        raise UnknownName(f"audience {name} has no version {version}")
    return found[name]


def versions(connection: Connection, name: str) -> list[tuple[int, datetime, str | None]]:
    """(version, created at, author) of each version of an audience, oldest first."""
    kept = audience_versions
    query = select(kept.c.version, kept.c.created_at, kept.c.author).join(
        audiences, audiences.c.id == kept.c.audience_id
    )
    rows = connection.execute(query.where(audiences.c.name == name).order_by(kept.c.version))
    return [(int(row.version), row.created_at, row.author) for row in rows]


def users_of(connection: Connection, name: str) -> list[str]:
    """What uses an audience: "campaign daily" of those that are not over, in a version that is or may come into force,
    and "audience vip"."""
    open_ = campaigns.c.state.not_in(("cancelled", "done"))
    query = _USING.where(open_, campaign_versions.c.version >= campaigns.c.version)
    rows = [(f"campaign {row.name}", row.rules) for row in connection.execute(query)]
    held = [(f"audience {one.name}", one.definition.rules) for one in get_all(connection) if one.name != name]
    using = [what for what, rules in rows if rules is not None and name in names_in(_rules(rules))]
    return list(dict.fromkeys([*using, *(what for what, rules in held if name in names_in(rules))]))


# --- names into rules ------------------------------------------------------------------------------------------------


def lock(connection: Connection, *, shared: bool = False) -> None:
    """Keep audiences as they are until the transaction ends: `shared` by who uses one, else by who changes one."""
    function = "pg_advisory_xact_lock_shared" if shared else "pg_advisory_xact_lock"
    connection.execute(text(f"SELECT {function}(hashtext('horae.audiences'))"))


def require_known(connection: Connection, what: str, rules: Filter | None) -> None:
    """Check the audiences that `what` ("campaign daily") names in `rules`. Raises as `saved_audience.require_sound`."""
    if names_in(rules):
        require_sound(what, rules, _current(connection))


def pinned(connection: Connection, rules: Filter | None) -> dict[str, int]:
    """The versions now of all audiences that `rules` need, by name; of a deleted one its last. {}: it names none."""
    if not names_in(rules):
        return {}
    rows = connection.execute(select(audiences.c.name, audiences.c.version))
    numbers = {row.name: int(row.version) for row in rows}
    known = {name: one.rules for name, one in _versions_of(connection, numbers).items()}
    return {name: numbers[name] for name in sorted(reached(rules, known))}


def resolve(connection: Connection, rules: Filter | None, pins: Mapping[str, int] | None = None) -> Filter | None:
    """`rules` with those of the audiences they name in their place: of the versions `pins`, None: of those now."""
    if not names_in(rules):
        return rules
    chosen = pinned(connection, rules) if pins is None else pins
    found: Filter = expand(rules, {name: one.rules for name, one in _versions_of(connection, chosen).items()})
    return found


def resolved(connection: Connection, campaign: Campaign, pins: Mapping[str, int] | None = None) -> Campaign:
    """`campaign` with its audience as `resolve` gives it: what planning works with. It is not to be stored."""
    if not names_in(campaign.audience):
        return campaign
    return campaign.model_copy(update={"audience": resolve(connection, campaign.audience, pins)})


# --- whom they hold --------------------------------------------------------------------------------------------------


def count(connection: Connection, rules: Filter | None, now: datetime, gateway: str, *, needs_device: bool) -> Counted:
    """How many users `rules` (None: all) hold as of `now`, and how many of them a push through `gateway` reaches.

    Raises UnknownName and BadInput for audiences that cannot be expanded.
    """
    found = count_audience(connection, _query(connection, rules, now, gateway, needs_device=needs_device))
    reachable = found.pop("eligible")
    return Counted(reachable + sum(found.values()), reachable, found)


def sample(connection: Connection, rules: Filter | None, n: int, now: datetime) -> list[Person]:
    """Up to `n` users whom `rules` (None: all) hold as of `now`: those of the lowest slots, which are a hash of the
    user; as good as by chance, and the same ones each time. Raises as `count` does."""
    query = _query(connection, rules, now, "log", needs_device=False)
    held = true() if query.where is None else user_condition(query.where, query)
    columns = (users.c.external_id, users.c.country, users.c.locale, users.c.timezone, users.c.consent)
    statement = select(*columns, users.c.attributes).where(held, users.c.stub.is_(False))
    rows = connection.execute(statement.order_by(users.c.slot, users.c.id).limit(n))
    return [Person(*row) for row in rows]


def _query(
    connection: Connection, rules: Filter | None, now: datetime, gateway: str, *, needs_device: bool
) -> AudienceQuery:
    require_known(connection, "it", rules)
    _, policy = current_policy(connection)
    return AudienceQuery(resolve(connection, rules), now, gateway, needs_device, policy.default_timezone)


# --- inside ----------------------------------------------------------------------------------------------------------


def _require_sound(connection: Connection, audience: SavedAudience) -> None:
    """The audience itself, and those that use it: an edit deep inside may make the outer one too large or too deep."""
    rules = {**_current(connection), audience.name: audience.rules}
    require_sound(f"audience {audience.name}", audience.rules, rules)
    for name, held in rules.items():
        if audience.name in reached(held, rules):
            require_sound(f"audience {name}", held, rules)


def _require_free(connection: Connection, name: str) -> None:
    """Where campaigns need approvals, an audience that a launched one uses stays: its edit would change whom that
    reaches, and nobody would have approved it."""
    if not approvals.needed(connection):
        return
    query = _USING.where(
        campaigns.c.state.in_(("running", "paused")), campaign_versions.c.version == campaigns.c.version
    )
    rules = _current(connection)
    using = [
        r.name for r in connection.execute(query) if r.rules is not None and name in reached(_rules(r.rules), rules)
    ]
    if using:
        raise BadInput(
            f"audience {name} is used by launched campaigns ({', '.join(using)}), whose changes need an approval",
            hint="save it under another name, and let an edit of the campaign that uses it be approved",
        )


def _current(connection: Connection) -> dict[str, Filter]:
    return {one.name: one.definition.rules for one in get_all(connection)}


def _versions_of(connection: Connection, wanted: Mapping[str, int]) -> dict[str, SavedAudience]:
    kept = audience_versions
    query = select(audiences.c.name, kept.c.version, kept.c.definition).join(
        audiences, audiences.c.id == kept.c.audience_id
    )
    rows = connection.execute(query.where(audiences.c.name.in_(wanted)))
    return {r.name: SavedAudience.model_validate(r.definition) for r in rows if r.version == wanted[r.name]}


def _latest() -> Select[Any]:
    kept = audience_versions
    versioned = and_(kept.c.audience_id == audiences.c.id, kept.c.version == audiences.c.version)
    columns = (audiences.c.id, audiences.c.name, audiences.c.version, kept.c.definition, kept.c.created_at)
    return select(*columns, kept.c.author).join(kept, versioned).where(audiences.c.deleted_at.is_(None))


def _saved(row: Row[Any]) -> Saved:
    definition = SavedAudience.model_validate(row.definition)
    return Saved(row.id, row.name, row.version, definition, row.created_at, row.author)


def _add_version(
    connection: Connection, audience_id: int, version: int, audience: SavedAudience, author: str | None
) -> None:
    values = {"audience_id": audience_id, "version": version, "definition": _plain(audience), "author": author}
    connection.execute(insert(audience_versions).values(values))


def _plain(audience: SavedAudience) -> dict[str, Any]:
    return audience.model_dump(mode="json", exclude_none=True)


def _rules(stored: Any) -> Filter:
    return SavedAudience.model_validate({"name": "stored", "rules": stored}).rules


def _subject(name: str) -> str:
    return f"audience:{name}"
