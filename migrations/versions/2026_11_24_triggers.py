"""Event-triggered campaigns, drafts, preferences, tombstones of erased users.

Revision ID: 2026_11_24_triggers
Revises: 2026_11_24_audit
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "2026_11_24_triggers"
down_revision = "2026_11_24_audit"
branch_labels = None
depends_on = None

_BEFORE, _AFTER = "running | paused | cancelled | done", "draft | running | paused | cancelled | done"


def _instant(name: str, *, nullable: bool = True, now: bool = False, comment: str | None = None) -> sa.Column:
    default = sa.text("now()") if now else None
    return sa.Column(name, sa.DateTime(timezone=True), nullable=nullable, server_default=default, comment=comment)


def _state(name: str, comment: str, before: str) -> None:
    op.alter_column(
        "campaigns", "state", existing_type=sa.Text(), existing_nullable=False, comment=comment, existing_comment=before
    )
    states = ", ".join(f"'{each}'" for each in comment.split(" | "))
    op.drop_constraint(name, "campaigns", type_="check")
    op.create_check_constraint(name, "campaigns", f"state IN ({states})")


def upgrade() -> None:
    """Apply the change."""
    _state(op.f("ck_campaigns_known_state"), _AFTER, _BEFORE)
    op.add_column(
        "occurrence_users",
        sa.Column("item_id", sa.BigInteger(), nullable=True, comment="what the user's trigger is about"),
    )
    op.create_table(
        "trigger_events",
        sa.Column("key", sa.Uuid(), nullable=False),
        sa.Column("user_id", sa.BigInteger(), nullable=False),
        sa.Column("item_id", sa.BigInteger()),
        sa.Column("event_type", sa.SmallInteger(), nullable=False),
        _instant("occurred_at", nullable=False),
        sa.PrimaryKeyConstraint("key", name=op.f("pk_trigger_events")),
        comment="accepted events that a running campaign's trigger may ask about; the next tick takes them",
    )
    op.create_table(
        "item_news",
        sa.Column("item_id", sa.BigInteger(), nullable=False),
        sa.Column("version", sa.Integer(), nullable=False, comment="of the item before the change"),
        _instant("at", nullable=False, comment="business time"),
        sa.Column("price_before", sa.Double()),
        sa.Column("price", sa.Double()),
        sa.Column("restocked", sa.Boolean(), nullable=False),
        sa.ForeignKeyConstraint(["item_id"], ["items.id"], name=op.f("fk_item_news_item_id_items"), ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("item_id", "version", name=op.f("pk_item_news")),
        comment="prices that fell and items that are back in stock; the next tick takes them",
    )
    op.create_table(
        "armed_triggers",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=False), nullable=False),
        sa.Column("campaign_id", sa.BigInteger(), nullable=False),
        sa.Column("version", sa.Integer(), nullable=False, comment="of the campaign that armed it"),
        sa.Column("user_id", sa.BigInteger(), nullable=False),
        sa.Column("item_id", sa.BigInteger()),
        sa.Column(
            "source",
            sa.Text(),
            nullable=False,
            comment="what happened: event:KEY, item:ID:VERSION:USER, silence:USER:AT",
        ),
        _instant("happened_at", nullable=False),
        _instant("due_at", nullable=False),
        sa.Column("state", sa.Text(), nullable=False, comment="armed | fired | cancelled | missed"),
        _instant("closed_at", comment="business time at which it left armed"),
        sa.Column("occurrence_id", sa.BigInteger()),
        sa.CheckConstraint(
            "state IN ('armed', 'fired', 'cancelled', 'missed')", name=op.f("ck_armed_triggers_known_state")
        ),
        sa.CheckConstraint("happened_at <= due_at", name=op.f("ck_armed_triggers_due_after")),
        sa.ForeignKeyConstraint(
            ["campaign_id"], ["campaigns.id"], name=op.f("fk_armed_triggers_campaign_id_campaigns"), ondelete="CASCADE"
        ),
        sa.ForeignKeyConstraint(
            ["occurrence_id"],
            ["occurrences.id"],
            name=op.f("fk_armed_triggers_occurrence_id_occurrences"),
            ondelete="SET NULL",
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_armed_triggers")),
        sa.UniqueConstraint("campaign_id", "source", name=op.f("uq_armed_triggers_campaign_id_source")),
    )
    op.create_index(
        op.f("ix_armed_triggers_user_id_campaign_id_happened_at"),
        "armed_triggers",
        ["user_id", "campaign_id", "happened_at"],
    )
    op.create_index(
        "ix_armed_triggers_due", "armed_triggers", ["due_at"], postgresql_where=sa.text("state = 'armed'")
    )
    op.create_index(op.f("ix_armed_triggers_occurrence_id"), "armed_triggers", ["occurrence_id"])
    op.create_table(
        "silence_checks",
        sa.Column("campaign_id", sa.BigInteger(), autoincrement=False, nullable=False),
        _instant("until", nullable=False, comment="silences that were complete before this instant have been seen"),
        sa.ForeignKeyConstraint(
            ["campaign_id"], ["campaigns.id"], name=op.f("fk_silence_checks_campaign_id_campaigns"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("campaign_id", name=op.f("pk_silence_checks")),
    )
    op.create_table(
        "preferences",
        sa.Column("user_id", sa.BigInteger(), nullable=False),
        sa.Column("kind", sa.Text(), nullable=False, comment="channel | topic"),
        sa.Column("name", sa.Text(), nullable=False, comment="a gateway's or a topic's"),
        sa.Column("allowed", sa.Boolean(), nullable=False),
        _instant("updated_at", nullable=False, now=True, comment="machine time"),
        sa.CheckConstraint("kind IN ('channel', 'topic')", name=op.f("ck_preferences_known_kind")),
        sa.ForeignKeyConstraint(
            ["user_id"], ["users.id"], name=op.f("fk_preferences_user_id_users"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("user_id", "kind", "name", name=op.f("pk_preferences")),
    )
    op.create_table(
        "erased_users",
        sa.Column("name_hash", sa.LargeBinary(), nullable=False, comment="keyed hash of the shop's id"),
        sa.Column("pseudonym", sa.BigInteger(), nullable=False, comment="user_id of the rows kept in ledgers"),
        _instant("at", nullable=False, now=True, comment="machine time"),
        sa.PrimaryKeyConstraint("name_hash", name=op.f("pk_erased_users")),
        sa.UniqueConstraint("pseudonym", name=op.f("uq_erased_users_pseudonym")),
        comment="tombstones: nothing about these is taken in again",
    )


def downgrade() -> None:
    """Undo it."""
    for name in (
        *("erased_users", "preferences", "silence_checks", "armed_triggers", "item_news", "trigger_events"),
    ):
        op.drop_table(name)
    op.drop_column("occurrence_users", "item_id")
    op.execute("UPDATE campaigns SET state = 'paused' WHERE state = 'draft'")
    _state(op.f("ck_campaigns_known_state"), _BEFORE, _AFTER)
