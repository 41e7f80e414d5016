"""Every table of the store, as SQLAlchemy Core.

Rules that the tables enforce, so that everything may run twice:
- `event_keys` is the uniqueness of events; `events` (partitioned by month) carries no unique index of its own.
- `occurrences (campaign_id, label)` is the uniqueness of a campaign's due instants, `triggers` that of admin requests.
- `decisions (date, occurrence_id, user_id, revision)` guards against a second push: a push row is written only with
  a revision 0 that did not conflict. `pushes` is hot and forgets; `deliveries` is the append-only ledger.

Instants are timestamptz, except in profiles, whose `first_at` and `last_at` are float8 epoch seconds (UTC) because
decayed counters are float8 arithmetic in numpy and SQL alike.
"""

from __future__ import annotations

from typing import Any

from sqlalchemy import (
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    Date,
    DateTime,
    Double,
    ForeignKey,
    Identity,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    PrimaryKeyConstraint,
    SmallInteger,
    Table,
    Text,
    Time,
    UniqueConstraint,
    Uuid,
    func,
    text,
)
from sqlalchemy.dialects.postgresql import ARRAY, JSONB

metadata = MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "ck": "ck_%(table_name)s_%(constraint_name)s",
        "fk": "fk_%(table_name)s_%(column_0_N_name)s_%(referred_table_name)s",
        "pk": "pk_%(table_name)s",
    }
)

SLOTS = 1024
"""Users hash into this many fixed slots; a shard is a range of them."""

PROFILE_PARTITION_SLOTS = 64
"""Width of one partition of the user-keyed profile tables: a default planning shard reads one whole partition."""

EVENT_TYPES = {
    "view": 1,
    "search": 2,
    "add_to_cart": 3,
    "purchase": 4,
    "rating": 5,
    "app_open": 6,
    "push_open": 7,
    "push_click": 8,
    "push_dismiss": 9,
    "unsubscribe": 10,
    "push_sent": 11,
    "push_received": 12,
}
"""The known event types and their fixed ids; other types get ids from 100 as they appear.

`push_received` is a phone's word that it got a push: it says nothing about its user.
`push_sent` is a push that a provider accepted. Those of Horae's own pushes are rows of `deliveries`, not of `events`
(HAPPENED joins them); events of that type are pushes that something else sent.
"""

HAPPENED = """(
    SELECT key, user_id, item_id, event_type, occurred_at, value FROM events
    UNION ALL
    SELECT id, user_id, item_id, 11::smallint, at, NULL FROM deliveries WHERE state = 'accepted' AND NOT test
)"""
"""SQL of everything that profiles are folded from: events, and the pushes that were sent."""

HALF_LIVES_DAYS: dict[str, tuple[float, ...]] = {
    "user_profiles": (1 / 24, 1.0, 7.0, 30.0, 120.0),
    "item_profiles": (1.0, 3.0, 7.0, 30.0, 120.0),
    "user_item_profiles": (1.0, 7.0, 14.0, 30.0, 45.0, 120.0, 240.0),
    "user_hour_profiles": (30.0, 120.0),
}
"""Half-lives (days) of the decayed counters s0, s1, … of each profile table."""


def _instant(name: str, *, nullable: bool = True, **options: Any) -> Column[Any]:
    return Column(name, DateTime(timezone=True), nullable=nullable, **options)


def _created() -> Column[Any]:
    return _instant("created_at", nullable=False, server_default=func.now())


def _profile_columns(table: str) -> list[Column[Any]]:
    return [
        Column("n", BigInteger, nullable=False),
        Column("first_at", Double, nullable=False),
        Column("last_at", Double, nullable=False),
        *(Column(f"s{i}", Double, nullable=False) for i in range(len(HALF_LIVES_DAYS[table]))),
    ]


workspace = Table(
    "workspace",
    metadata,
    Column("id", SmallInteger, primary_key=True, autoincrement=False, comment="always 1"),
    Column("hash_key", LargeBinary, nullable=False, comment="keys arms and tie-breaking; 16 bytes"),
    _instant("business_now", comment="the virtual clock; NULL: the machine's"),
    Column("cap_epoch", BigInteger, nullable=False, server_default=text("1")),
    Column("cap_store_id", Text, comment="run_id and key of the caps' Redis that cap_epoch belongs to"),
    Column("profile_recipe", Text, comment="how the profiles were computed; NULL: as before recipes were noted"),
    _instant(
        "metered_until",
        nullable=False,
        server_default=func.now(),
        comment="deliveries recorded until then (machine time) are in the counters",
    ),
    _created(),
    CheckConstraint("id = 1", name="one_row"),
)

callback_keys = Table(
    "callback_keys",
    metadata,
    Column("id", Integer, primary_key=True, autoincrement=False, comment="tokens carry it modulo 256"),
    Column("secret", LargeBinary, nullable=False),
    _created(),
    comment="keys of the tokens by which callbacks are authenticated; the newest signs",
)

counters = Table(
    "counters",
    metadata,
    Column("name", Text, nullable=False),
    Column("label", Text, nullable=False),
    Column("shard", SmallInteger, nullable=False, comment="spreads one counter over sessions"),
    Column("value", BigInteger, nullable=False),
    PrimaryKeyConstraint("name", "label", "shard"),
    comment="store.counters",
)

# --- who, what, when -------------------------------------------------------------------------------------------------

users = Table(
    "users",
    metadata,
    Column("id", BigInteger, Identity(), primary_key=True),
    Column("external_id", Text, nullable=False, unique=True, comment="the shop's own id: user_id in files"),
    Column("slot", SmallInteger, nullable=False, comment="store.slots.slot_of(external_id)"),
    Column("timezone", Text, comment="IANA name; NULL: the workspace's"),
    Column("tz_source", Text, comment="explicit | device"),
    Column("country", Text),
    Column("locale", Text),
    Column("consent", Boolean, comment="NULL: no record"),
    Column("quiet_from", Time, comment="the user's own quiet hours, local"),
    Column("quiet_until", Time),
    Column("attributes", JSONB, nullable=False, server_default=text("'{}'::jsonb")),
    Column("stub", Boolean, nullable=False, server_default=text("false"), comment="known only from events"),
    _created(),
    _instant("updated_at", nullable=False, server_default=func.now()),
    Index(None, "slot", "id"),
    CheckConstraint("slot BETWEEN 0 AND 1023", name="slot_range"),
)

items = Table(
    "items",
    metadata,
    Column("id", BigInteger, Identity(), primary_key=True),
    Column("external_id", Text, nullable=False, unique=True, comment="the shop's own id: item_id in files"),
    Column("version", Integer, nullable=False, server_default=text("1")),
    Column("title", Text),
    Column("category", Text),
    Column("brand", Text),
    Column("price", Double),
    _instant("available_from"),
    _instant("available_until"),
    Column("stock", BigInteger, comment="NULL: unlimited"),
    Column("attributes", JSONB, nullable=False, server_default=text("'{}'::jsonb")),
    Column("stub", Boolean, nullable=False, server_default=text("false"), comment="known only from events"),
    _created(),
    _instant("updated_at", nullable=False, server_default=func.now()),
    CheckConstraint("price >= 0", name="price_not_negative"),
    CheckConstraint("available_from < available_until", name="ends_after_start"),
    Index("ix_items_changed", "updated_at", postgresql_where=text("NOT stub")),
)

item_versions = Table(
    "item_versions",
    metadata,
    Column("item_id", BigInteger, ForeignKey("items.id", ondelete="CASCADE"), nullable=False),
    Column("version", Integer, nullable=False),
    Column("definition", JSONB, nullable=False, comment="the row of items before the change"),
    _instant("until", nullable=False, comment="business time of the change"),
    PrimaryKeyConstraint("item_id", "version"),
)

promotions = Table(
    "promotions",
    metadata,
    Column("item_id", BigInteger, ForeignKey("items.id", ondelete="CASCADE"), nullable=False),
    Column("kind", Text, nullable=False, comment="advert | placement | discount"),
    _instant("starts_at", nullable=False),
    _instant("ends_at", nullable=False),
    Column("weight", Double, nullable=False, comment="how strong; 0: withdrawn"),
    _instant("announced_at", nullable=False, comment="business time"),
    PrimaryKeyConstraint("item_id", "kind", "starts_at", "announced_at"),
    CheckConstraint("kind IN ('advert', 'placement', 'discount')", name="known_kind"),
    CheckConstraint("starts_at < ends_at", name="ends_after_start"),
    CheckConstraint("weight >= 0", name="weight_not_negative"),
)
"""Every announcement stays: of one item, kind and start the last one before an instant was what was known then."""

preferences = Table(
    "preferences",
    metadata,
    Column("user_id", BigInteger, ForeignKey("users.id", ondelete="CASCADE"), nullable=False),
    Column("kind", Text, nullable=False, comment="channel | topic"),
    Column("name", Text, nullable=False, comment="a gateway's or a topic's"),
    Column("allowed", Boolean, nullable=False),
    _instant("updated_at", nullable=False, server_default=func.now(), comment="machine time"),
    PrimaryKeyConstraint("user_id", "kind", "name"),
    CheckConstraint("kind IN ('channel', 'topic')", name="known_kind"),
)

erased_users = Table(
    "erased_users",
    metadata,
    Column("name_hash", LargeBinary, primary_key=True, comment="keyed hash of the shop's id"),
    Column("pseudonym", BigInteger, nullable=False, unique=True, comment="user_id of the rows kept in ledgers"),
    _instant("at", nullable=False, server_default=func.now(), comment="machine time"),
    comment="tombstones: nothing about these is taken in again",
)

identities = Table(
    "identities",
    metadata,
    Column("alias", Text, primary_key=True, comment="an anonymous or former id, as the event API was told"),
    Column("user_id", BigInteger, ForeignKey("users.id", ondelete="CASCADE"), nullable=False),
    _instant("linked_at", nullable=False, server_default=func.now(), comment="machine time"),
    Index(None, "user_id"),
    comment="whose events are those that come under another id; the latest link stands",
)

devices = Table(
    "devices",
    metadata,
    Column("id", BigInteger, Identity(), primary_key=True),
    Column("user_id", BigInteger, ForeignKey("users.id", ondelete="CASCADE"), nullable=False),
    Column("gateway", Text, nullable=False),
    Column("token", Text, nullable=False),
    Column("attributes", JSONB, nullable=False, server_default=text("'{}'::jsonb")),
    _created(),
    _instant("seen_at", nullable=False),
    _instant("dead_at"),
    Column("dead_reason", Text),
    UniqueConstraint("gateway", "token"),
    Index(None, "user_id"),
)

event_types = Table(
    "event_types",
    metadata,
    Column("id", SmallInteger, primary_key=True, autoincrement=False),
    Column("name", Text, nullable=False, unique=True),
)

event_keys = Table(
    "event_keys",
    metadata,
    Column("key", Uuid, primary_key=True, comment="hash of (source, event id), else of the canonical content"),
)

events = Table(
    "events",
    metadata,
    Column("key", Uuid, nullable=False),
    Column("user_id", BigInteger),
    Column("item_id", BigInteger),
    Column("event_type", SmallInteger, nullable=False),
    _instant("occurred_at", nullable=False),
    _instant("received_at", nullable=False),
    Column("value", Double),
    Column("quantity", Double),
    Column("push_id", Uuid),
    Column("attributes", JSONB),
    Index(None, "user_id", "occurred_at"),
    Index(None, "occurred_at", postgresql_using="brin"),
    CheckConstraint("occurred_at <= received_at", name="not_from_the_future"),
    CheckConstraint("user_id IS NOT NULL OR item_id IS NOT NULL", name="about_someone"),
    postgresql_partition_by="RANGE (occurred_at)",
)

unfolded_events = Table(
    "unfolded_events",
    metadata,
    Column("key", Uuid, primary_key=True),
    Column("slot", SmallInteger, nullable=False, comment="of the user; -1 without one"),
    Column("user_id", BigInteger),
    Column("item_id", BigInteger),
    Column("event_type", SmallInteger, nullable=False),
    _instant("occurred_at", nullable=False),
    Column("value", Double),
    _created(),
    Index(None, "slot"),
    Index(None, "user_id"),
    comment="what the folder needs of events that no profile holds yet; no join with events",
)

# --- profiles --------------------------------------------------------------------------------------------------------

user_profiles = Table(
    "user_profiles",
    metadata,
    Column("slot", SmallInteger, nullable=False),
    Column("user_id", BigInteger, nullable=False),
    Column("event_type", SmallInteger, nullable=False),
    Column("value", Double, nullable=False, comment="sum of the events' values"),
    *_profile_columns("user_profiles"),
    PrimaryKeyConstraint("slot", "user_id", "event_type"),
    postgresql_partition_by="RANGE (slot)",
)

item_profiles = Table(
    "item_profiles",
    metadata,
    Column("item_id", BigInteger, nullable=False),
    Column("event_type", SmallInteger, nullable=False),
    Column("value", Double, nullable=False, comment="sum of the events' values"),
    *_profile_columns("item_profiles"),
    PrimaryKeyConstraint("item_id", "event_type"),
)

user_item_profiles = Table(
    "user_item_profiles",
    metadata,
    Column("slot", SmallInteger, nullable=False),
    Column("user_id", BigInteger, nullable=False),
    Column("item_id", BigInteger, nullable=False),
    Column("event_type", SmallInteger, nullable=False),
    Column("value", Double, nullable=False, comment="sum of the events' values"),
    *_profile_columns("user_item_profiles"),
    PrimaryKeyConstraint("slot", "user_id", "item_id", "event_type"),
    postgresql_partition_by="RANGE (slot)",
)

user_hour_profiles = Table(
    "user_hour_profiles",
    metadata,
    Column("slot", SmallInteger, nullable=False),
    Column("user_id", BigInteger, nullable=False),
    Column(
        "rung",
        SmallInteger,
        nullable=False,
        comment="0 push response, 1 app session, 2 other activity, 3 push sent",
    ),
    Column("hour", SmallInteger, nullable=False, comment="day type (0 workday, 1 weekend) x 24 + local hour"),
    *_profile_columns("user_hour_profiles"),
    PrimaryKeyConstraint("slot", "user_id", "rung", "hour"),
    postgresql_partition_by="RANGE (slot)",
)

user_visits = Table(
    "user_visits",
    metadata,
    Column("user_id", BigInteger, nullable=False),
    _instant("at", nullable=False),
    PrimaryKeyConstraint("user_id", "at"),
    comment="instants whose events of rung 2 the hour profiles hold: a basket of ten lines is one visit",
)

PROFILE_KEYS = {
    "user_profiles": ("slot", "user_id", "event_type"),
    "item_profiles": ("item_id", "event_type"),
    "user_item_profiles": ("slot", "user_id", "item_id", "event_type"),
    "user_hour_profiles": ("slot", "user_id", "rung", "hour"),
}
"""Of each profile table its key: the table kept_… beside it has the same columns."""


def _kept(table: str) -> Table:
    small = {"slot", "event_type", "rung", "hour"}
    value = [] if table == "user_hour_profiles" else [Column("value", Double, nullable=False)]
    return Table(
        f"kept_{table}",
        metadata,
        *(Column(name, SmallInteger if name in small else BigInteger, nullable=False) for name in PROFILE_KEYS[table]),
        *value,
        *_profile_columns(table),
        PrimaryKeyConstraint(*PROFILE_KEYS[table]),
        comment=f"what {table} hold of events that retention has dropped: replay starts there",
    )


kept_profiles = {table: _kept(table) for table in PROFILE_KEYS}

changed_users = Table(
    "changed_users",
    metadata,
    Column("user_id", BigInteger, primary_key=True, autoincrement=False),
    Column("slot", SmallInteger, nullable=False),
    _instant("changed_at", nullable=False),
    Column("urgent", Boolean, nullable=False, server_default=text("false"), comment="bought, or opted out"),
)

models = Table(
    "models",
    metadata,
    Column("version", Integer, Identity(), primary_key=True),
    Column("state", Text, nullable=False, comment="champion | challenger | retired"),
    Column("regime", Text, nullable=False, comment="goal | click | baseline"),
    Column("artifact", LargeBinary, nullable=False, comment="zip of UBJSON, npz and JSON; never pickle"),
    Column("sha256", Text, nullable=False),
    Column("feature_schema", JSONB, nullable=False),
    Column("metrics", JSONB, nullable=False),
    Column("libraries", JSONB, nullable=False, comment="versions it was trained with"),
    _instant("as_of", nullable=False, comment="business time of its newest training row"),
    _created(),
    _instant("promoted_at", comment="machine time; NULL: never champion, or rolled back"),
    CheckConstraint("state IN ('champion', 'challenger', 'retired')", name="known_state"),
    Index("uq_models_one_champion", "state", unique=True, postgresql_where=text("state = 'champion'")),
)

backtests = Table(
    "backtests",
    metadata,
    Column("id", Integer, Identity(), primary_key=True),
    _created(),
    _instant("as_of", nullable=False, comment="business time: it saw events before this"),
    Column("goal", Text, nullable=False),
    Column("report", JSONB, nullable=False, comment="what `horae backtest --json` prints"),
    Column("page", Text, nullable=False, comment="the same with charts, as HTML"),
    comment="the latest backtests of the shop's own log, for the console",
)

# --- campaigns and policy --------------------------------------------------------------------------------------------

policies = Table(
    "policies",
    metadata,
    Column("version", Integer, Identity(), primary_key=True),
    Column("definition", JSONB, nullable=False, comment="campaigns.policy.Policy"),
    Column("author", Text),
    _created(),
)

campaigns = Table(
    "campaigns",
    metadata,
    Column("id", BigInteger, Identity(), primary_key=True),
    Column("name", Text, nullable=False, unique=True),
    Column("state", Text, nullable=False, comment="draft | running | paused | cancelled | done"),
    Column("version", Integer, nullable=False),
    _created(),
    _instant("scheduled_until", comment="occurrences before this instant have been made"),
    Column("paused_why", Text, comment="why Horae paused it; NULL: a person did"),
    CheckConstraint("state IN ('draft', 'running', 'paused', 'cancelled', 'done')", name="known_state"),
)

campaign_versions = Table(
    "campaign_versions",
    metadata,
    Column("campaign_id", BigInteger, ForeignKey("campaigns.id", ondelete="CASCADE"), nullable=False),
    Column("version", Integer, nullable=False),
    Column("definition", JSONB, nullable=False, comment="campaigns.definition.Campaign"),
    Column("author", Text),
    _created(),
    PrimaryKeyConstraint("campaign_id", "version"),
)

campaign_approvals = Table(
    "campaign_approvals",
    metadata,
    Column("id", BigInteger, Identity(), primary_key=True),
    Column("campaign_id", BigInteger, ForeignKey("campaigns.id", ondelete="CASCADE"), nullable=False),
    Column("version", Integer, nullable=False),
    Column("state", Text, nullable=False, comment="requested | approved | rejected"),
    Column("actor", Text),
    Column("reason", Text),
    _instant("at", nullable=False, server_default=text("clock_timestamp()"), comment="machine time"),
    Index(None, "campaign_id", "version", "id"),
    CheckConstraint("state IN ('requested', 'approved', 'rejected')", name="known_state"),
    comment="append-only; of a version the last word counts",
)

audiences = Table(
    "audiences",
    metadata,
    Column("id", BigInteger, Identity(), primary_key=True),
    Column("name", Text, nullable=False, unique=True),
    Column("version", Integer, nullable=False),
    _created(),
    _instant("deleted_at", comment="machine time; its versions stay for the runs that used them"),
)

audience_versions = Table(
    "audience_versions",
    metadata,
    Column("audience_id", BigInteger, ForeignKey("audiences.id", ondelete="CASCADE"), nullable=False),
    Column("version", Integer, nullable=False),
    Column("definition", JSONB, nullable=False, comment="campaigns.saved_audience.SavedAudience"),
    Column("author", Text),
    _created(),
    PrimaryKeyConstraint("audience_id", "version"),
)

switches = Table(
    "switches",
    metadata,
    Column("scope", Text, primary_key=True, comment="all | gateway:NAME | campaign:ID"),
    _instant("stopped_at", nullable=False),
    Column("author", Text),
    Column("why", Text),
)

audit_log = Table(
    "audit_log",
    metadata,
    Column("id", BigInteger, Identity(), primary_key=True),
    _instant("at", nullable=False, server_default=text("clock_timestamp()"), comment="machine time"),
    Column("actor", Text, nullable=False),
    Column("action", Text, nullable=False, comment="campaign.pause, policy.change, user.erase, …"),
    Column("subject", Text, nullable=False, comment="campaign:NAME, policy, user:HASH, …"),
    Column("before", JSONB(none_as_null=True)),
    Column("after", JSONB(none_as_null=True)),
    Index(None, "subject", "id"),
    comment="who changed what; append-only",
)

# --- planning --------------------------------------------------------------------------------------------------------

runs = Table(
    "runs",
    metadata,
    Column("id", BigInteger, Identity(), primary_key=True),
    Column("state", Text, nullable=False, comment="planning | settling | published | failed"),
    _instant("as_of", nullable=False, comment="business time at which the run was opened"),
    Column("seed", BigInteger, nullable=False),
    Column("model_version", Integer, ForeignKey("models.version")),
    Column("policy_version", Integer, ForeignKey("policies.version"), nullable=False),
    Column("shards_total", Integer, nullable=False),
    Column("shards_done", Integer, nullable=False, server_default=text("0")),
    Column("users_total", BigInteger, nullable=False, server_default=text("0")),
    Column("users_done", BigInteger, nullable=False, server_default=text("0")),
    Column("prices", JSONB, nullable=False, server_default=text("'{}'::jsonb")),
    Column("fence", BigInteger, nullable=False, server_default=text("0"), comment="of the settling task"),
    _instant("lease_until", comment="machine time"),
    _created(),
    _instant("published_at", comment="machine time"),
    Column("error", Text),
    CheckConstraint("state IN ('planning', 'settling', 'published', 'failed')", name="known_state"),
)

shards = Table(
    "shards",
    metadata,
    Column("run_id", BigInteger, ForeignKey("runs.id", ondelete="CASCADE"), nullable=False),
    Column("shard", Integer, nullable=False),
    Column("slot_from", SmallInteger, nullable=False),
    Column("slot_until", SmallInteger, nullable=False, comment="exclusive"),
    Column("state", Text, nullable=False, comment="waiting | planning | done"),
    Column("fence", BigInteger, nullable=False, server_default=text("0")),
    _instant("lease_until", comment="machine time"),
    Column("users", BigInteger),
    _instant("as_of", comment="business time of the snapshot it planned on"),
    _instant("done_at"),
    Column("counts", JSONB(none_as_null=True), comment="its decisions at revision 0: [reason, arm, how many] …"),
    PrimaryKeyConstraint("run_id", "shard"),
    CheckConstraint("state IN ('waiting', 'planning', 'done')", name="known_state"),
)

occurrences = Table(
    "occurrences",
    metadata,
    Column("id", BigInteger, Identity(), primary_key=True),
    Column("campaign_id", BigInteger, ForeignKey("campaigns.id"), nullable=False),
    Column("version", Integer, nullable=False, comment="of the campaign"),
    Column("label", Text, nullable=False, comment="UTC instant, local wall-clock label, or trigger:ID"),
    Column("date", Date, nullable=False, comment="UTC date of starts_at: the partition of its decisions"),
    _instant("starts_at", nullable=False, comment="the first instant, in any zone, at which it may send"),
    _instant("ends_at", nullable=False, comment="no push of it leaves at or after this instant, in any zone"),
    Column("run_id", BigInteger, ForeignKey("runs.id")),
    Column("at_once", Boolean, nullable=False, server_default=text("false")),
    Column("listed", Boolean, nullable=False, server_default=text("false"), comment="audience is occurrence_users"),
    Column("data", JSONB, nullable=False, server_default=text("'{}'::jsonb"), comment="a trigger's template data"),
    Column(
        "audiences",
        JSONB,
        nullable=False,
        server_default=text("'{}'::jsonb"),
        comment="versions of the saved audiences that its run used, by name",
    ),
    _created(),
    UniqueConstraint("campaign_id", "label"),
    Index(None, "run_id"),
)

occurrence_users = Table(
    "occurrence_users",
    metadata,
    Column("occurrence_id", BigInteger, ForeignKey("occurrences.id", ondelete="CASCADE"), nullable=False),
    Column("user_id", BigInteger, nullable=False),
    Column("item_id", BigInteger, comment="what the user's trigger is about"),
    PrimaryKeyConstraint("occurrence_id", "user_id"),
)

trigger_events = Table(
    "trigger_events",
    metadata,
    Column("key", Uuid, primary_key=True),
    Column("user_id", BigInteger, nullable=False),
    Column("item_id", BigInteger),
    Column("event_type", SmallInteger, nullable=False),
    _instant("occurred_at", nullable=False),
    comment="accepted events that a running campaign's trigger may ask about; the next tick takes them",
)

item_news = Table(
    "item_news",
    metadata,
    Column("item_id", BigInteger, ForeignKey("items.id", ondelete="CASCADE"), nullable=False),
    Column("version", Integer, nullable=False, comment="of the item before the change"),
    _instant("at", nullable=False, comment="business time"),
    Column("price_before", Double),
    Column("price", Double),
    Column("restocked", Boolean, nullable=False),
    PrimaryKeyConstraint("item_id", "version"),
    comment="prices that fell and items that are back in stock; the next tick takes them",
)

ARMED_STATES = ("armed", "fired", "cancelled", "missed")

armed_triggers = Table(
    "armed_triggers",
    metadata,
    Column("id", BigInteger, Identity(), primary_key=True),
    Column("campaign_id", BigInteger, ForeignKey("campaigns.id", ondelete="CASCADE"), nullable=False),
    Column("version", Integer, nullable=False, comment="of the campaign that armed it"),
    Column("user_id", BigInteger, nullable=False),
    Column("item_id", BigInteger),
    Column("source", Text, nullable=False, comment="what happened: event:KEY, item:ID:VERSION:USER, silence:USER:AT"),
    _instant("happened_at", nullable=False),
    _instant("due_at", nullable=False),
    Column("state", Text, nullable=False, comment="armed | fired | cancelled | missed"),
    _instant("closed_at", comment="business time at which it left armed"),
    Column("occurrence_id", BigInteger, ForeignKey("occurrences.id", ondelete="SET NULL")),
    UniqueConstraint("campaign_id", "source"),
    Index(None, "user_id", "campaign_id", "happened_at"),
    Index("ix_armed_triggers_due", "due_at", postgresql_where=text("state = 'armed'")),
    Index(None, "occurrence_id"),
    CheckConstraint("state IN ('armed', 'fired', 'cancelled', 'missed')", name="known_state"),
    CheckConstraint("happened_at <= due_at", name="due_after"),
)
"""A trigger of one user, from what happened until it was handed to the planner: the delay is this row."""

silence_checks = Table(
    "silence_checks",
    metadata,
    Column(
        "campaign_id",
        BigInteger,
        ForeignKey("campaigns.id", ondelete="CASCADE"),
        primary_key=True,
        autoincrement=False,
    ),
    _instant("until", nullable=False, comment="silences that were complete before this instant have been seen"),
)

triggers = Table(
    "triggers",
    metadata,
    Column("idempotency_key", Text, primary_key=True),
    Column("occurrence_id", BigInteger, ForeignKey("occurrences.id"), nullable=False),
    Column("request_sha256", Text, nullable=False, comment="the same key with another request is refused"),
    Column("response", JSONB, nullable=False),
    _created(),
)

DECISION_REASONS = (
    "planned",
    "holdout",
    "explored_nothing",
    "not_eligible",
    "no_consent",
    "no_device",
    "no_candidate",
    "not_worth",
    "capped",
    "gap",
    "quiet_hours",
    "capacity",
    "budget",
    "expired",
    "too_late",
    "already_planned",
    "failed_input",
    "displaced",
)
"""The closed list of decision reasons; `decisions.reason` is an index into it."""

ARMS = ("exploit", "explore", "holdout")
"""The arms of a decision; `decisions.arm` is an index into it."""

decisions = Table(
    "decisions",
    metadata,
    Column("date", Date, nullable=False),
    Column("occurrence_id", BigInteger, nullable=False),
    Column("user_id", BigInteger, nullable=False),
    Column("revision", SmallInteger, nullable=False),
    Column("run_id", BigInteger, nullable=False),
    Column("shard", Integer, nullable=False, comment="-1: a refresh"),
    Column("arm", SmallInteger, nullable=False, comment="index into ARMS"),
    Column("reason", SmallInteger, nullable=False, comment="index into DECISION_REASONS"),
    Column("push_id", Uuid),
    Column("item_id", BigInteger),
    _instant("window_start"),
    _instant("send_at"),
    Column("score", Double),
    Column("value", Double),
    Column("price", Double),
    Column("propensity", Double),
    Column("receipt", LargeBinary, comment="planning.receipt"),
    _created(),
    PrimaryKeyConstraint("date", "occurrence_id", "user_id", "revision"),
    Index(None, "user_id", "date"),
    Index("ix_decisions_revised", "occurrence_id", "created_at", postgresql_where=text("revision > 0")),
    postgresql_partition_by="RANGE (date)",
)

PUSH_STATES = ("proposed", "planned", "claimed", "sending")
"""States of a hot push row."""

OUTCOMES = ("accepted", "rejected", "unknown", "expired", "cancelled", "suppressed", "displaced")
"""Terminal states of a push: the state of its delivery row, written in the transaction that deletes the hot row."""

pushes = Table(
    "pushes",
    metadata,
    Column("id", Uuid, primary_key=True),
    Column("state", Text, nullable=False),
    Column("date", Date, nullable=False, comment="of the occurrence"),
    Column("occurrence_id", BigInteger, ForeignKey("occurrences.id"), nullable=False),
    Column("campaign_id", BigInteger, ForeignKey("campaigns.id"), nullable=False),
    Column("run_id", BigInteger, nullable=False),
    Column("user_id", BigInteger, nullable=False),
    Column("slot", SmallInteger, nullable=False),
    Column("item_id", BigInteger),
    Column("revision", SmallInteger, nullable=False),
    Column("gateway", Text, nullable=False),
    _instant("window_start", nullable=False),
    _instant("window_end", nullable=False),
    _instant("send_at", nullable=False),
    _instant("not_after", nullable=False, comment="the push is worthless at or after this instant"),
    Column("value", Double, nullable=False),
    Column("price", Double, nullable=False),
    Column("attempts", SmallInteger, nullable=False, server_default=text("0")),
    Column("fence", BigInteger, nullable=False, server_default=text("0")),
    _instant("lease_until", comment="machine time"),
    _instant("not_before", comment="machine time of the next attempt after a retryable failure"),
    Column(
        "in_doubt",
        Boolean,
        nullable=False,
        server_default=text("false"),
        comment="an earlier attempt may have been received (transactional pushes are sent again)",
    ),
    Column(
        "failed_before",
        Boolean,
        nullable=False,
        server_default=text("false"),
        comment="its provider failed it: the next attempt is taken from the retry budget",
    ),
    Column("explored", Boolean, nullable=False, server_default=text("false"), comment="drawn; never displaced"),
    _instant(
        "planned_at", nullable=False, server_default=text("clock_timestamp()"), comment="machine time of the last plan"
    ),
    UniqueConstraint("occurrence_id", "user_id"),
    # No index knows `state` or `lease_until`, and half of each page is left free: publishing, claiming and the intent
    # then write a push beside itself (HOT) instead of into four indexes, which was a quarter of dispatch in PostgreSQL.
    Index("ix_pushes_due", "send_at"),
    Index(None, "user_id"),
    Index(None, "run_id"),
    CheckConstraint("state IN ('proposed', 'planned', 'claimed', 'sending')", name="known_state"),
    CheckConstraint("send_at < window_end AND send_at < not_after", name="sent_in_time"),
    postgresql_with={"autovacuum_vacuum_scale_factor": "0", "autovacuum_vacuum_threshold": "1000", "fillfactor": "50"},
)

displacements = Table(
    "displacements",
    metadata,
    Column("run_id", BigInteger, nullable=False),
    Column("user_id", BigInteger, nullable=False),
    Column("occurrence_id", BigInteger, nullable=False, comment="of the proposal"),
    Column("rival_id", BigInteger, nullable=False, comment="occurrence of the planned push whose place it would take"),
    Column("rival_user_id", BigInteger, nullable=False, comment="another user's where a capacity was full"),
    PrimaryKeyConstraint("run_id", "user_id", "occurrence_id", "rival_id", "rival_user_id"),
    comment="kept until the run is settled",
)

deliveries = Table(
    "deliveries",
    metadata,
    Column("day", Date, nullable=False, comment="UTC date of `at`"),
    Column("id", Uuid, nullable=False),
    Column("push_id", Uuid, nullable=False),
    Column("state", Text, nullable=False),
    Column("reason", Text, comment="of a state that is not accepted"),
    _instant("at", nullable=False, comment="business time of the outcome: what caps count"),
    Column("occurrence_id", BigInteger),
    Column("campaign_id", BigInteger, nullable=False),
    Column("user_id", BigInteger, nullable=False),
    Column("item_id", BigInteger),
    Column("gateway", Text, nullable=False),
    Column("attempts", SmallInteger, nullable=False),
    _instant("send_at", nullable=False),
    Column("local_day", Date, comment="the user's calendar day at `at`, kept whatever their zone becomes"),
    Column("counts", Boolean, nullable=False, comment="toward caps"),
    Column("scopes", ARRAY(Text), nullable=False, comment="what cap rules match: channel:, campaign:, tag:, category:"),
    Column("test", Boolean, nullable=False, server_default=text("false")),
    Column("provider_id", Text),
    Column("detail", Text),
    Column("variant", Text, comment="EXPERIMENT:ARM of its message; NULL: nothing was under test"),
    _instant("recorded_at", nullable=False, server_default=func.now(), comment="machine time"),
    PrimaryKeyConstraint("day", "id"),
    Index(None, "user_id", "at"),
    Index(None, "push_id"),
    Index(None, "campaign_id", "at"),
    Index(None, "recorded_at", postgresql_using="brin"),
    Index("ix_deliveries_unknown", "at", postgresql_where=text("state = 'unknown'")),
    CheckConstraint("state IN (" + ", ".join(f"'{name}'" for name in OUTCOMES) + ")", name="known_state"),
    postgresql_partition_by="RANGE (day)",
)

breakers = Table(
    "breakers",
    metadata,
    Column("gateway", Text, primary_key=True),
    Column("state", Text, nullable=False, comment="closed | open | probing"),
    _instant("since", nullable=False, comment="machine time of the last change of state"),
    _instant("until", comment="machine time from which one push may probe; NULL: closed"),
    Column("trips", SmallInteger, nullable=False, comment="openings since it last was closed"),
    _instant("counted_from", nullable=False, comment="machine time"),
    Column("answers", BigInteger, nullable=False),
    Column("failures", BigInteger, nullable=False),
    Column("why", Text),
    CheckConstraint("state IN ('closed', 'open', 'probing')", name="known_state"),
    comment="one row per gateway: its credential and its provider",
)

buckets = Table(
    "buckets",
    metadata,
    Column("key", Text, primary_key=True, comment="gateway:NAME | campaign:ID | retries:NAME"),
    Column("level", Double, nullable=False),
    _instant("at", nullable=False, comment="machine time of that level; ahead of now: empty until then"),
)

campaign_minutes = Table(
    "campaign_minutes",
    metadata,
    Column("campaign_id", BigInteger, ForeignKey("campaigns.id", ondelete="CASCADE"), nullable=False),
    _instant("minute", nullable=False, comment="business time"),
    Column("sent", BigInteger, nullable=False, comment="accepted or unknown"),
    Column("ended", BigInteger, nullable=False, comment="at the provider, however"),
    Column("errors", BigInteger, nullable=False, comment="of ended: refused for good, or unknown"),
    PrimaryKeyConstraint("campaign_id", "minute"),
    comment="what the volume breaker looks at; upkeep forgets it after a day",
)

ticks = Table(
    "ticks",
    metadata,
    Column("name", Text, nullable=False),
    _instant("at", nullable=False, comment="the tick's slot"),
    _created(),
    PrimaryKeyConstraint("name", "at"),
)

tick_marks = Table(
    "tick_marks",
    metadata,
    Column("task", Text, primary_key=True),
    _instant("done_at", nullable=False, comment="machine time"),
    comment="when each of beat's tasks last ended well",
    postgresql_with={"fillfactor": "50"},
)

# --- who may ask -----------------------------------------------------------------------------------------------------

api_keys = Table(
    "api_keys",
    metadata,
    Column("id", Text, primary_key=True, comment="the readable part of the key"),
    Column("name", Text, nullable=False),
    Column("hash", LargeBinary, nullable=False, comment="SHA-256 of the whole key"),
    Column("scopes", ARRAY(Text), nullable=False, comment="write | read | operate | admin"),
    Column("rate", Integer, comment="messages a second; NULL: the deployment's"),
    Column("created_by", Text, nullable=False),
    _created(),
    _instant("expires_at", comment="machine time, as all instants of a key"),
    _instant("last_used_at", comment="to the minute"),
    _instant("revoked_at"),
    CheckConstraint(
        "scopes <@ ARRAY['write', 'read', 'operate', 'admin'] AND cardinality(scopes) > 0", name="known_scopes"
    ),
    CheckConstraint("rate > 0", name="rate_positive"),
)

console_users = Table(
    "console_users",
    metadata,
    Column("id", Integer, Identity(), primary_key=True),
    Column("name", Text, nullable=False, unique=True, comment="in lower case"),
    Column("role", Text, nullable=False, comment="viewer | operator | admin"),
    Column("password_hash", Text, nullable=False, comment="Argon2id"),
    Column("language", Text, comment="as they chose; NULL: their browser's"),
    Column("created_by", Text, nullable=False),
    _created(),
    _instant("last_login_at", comment="machine time, as all instants of a user"),
    _instant("disabled_at"),
    CheckConstraint("role IN ('viewer', 'operator', 'admin')", name="known_role"),
    comment="who may log in to the console",
)

console_sessions = Table(
    "console_sessions",
    metadata,
    Column("hash", LargeBinary, primary_key=True, comment="SHA-256 of the token"),
    Column("user_id", Integer, ForeignKey("console_users.id", ondelete="CASCADE"), nullable=False, index=True),
    _created(),
    _instant("seen_at", nullable=False, comment="to the minute"),
    _instant("expires_at", nullable=False),
)
