"""What workers share about providers: circuit breakers, token buckets; what campaigns sent of late, and why one paused.

Revision ID: 2026_11_24_provider_health
Revises: 2026_11_24_planner
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "2026_11_24_provider_health"
down_revision = "2026_11_24_triggers"
branch_labels = None
depends_on = None


def _instant(name: str, *, nullable: bool = False, comment: str | None = None) -> sa.Column:
    return sa.Column(name, sa.DateTime(timezone=True), nullable=nullable, comment=comment)


def upgrade() -> None:
    """Apply the change."""
    op.create_table(
        "breakers",
        sa.Column("gateway", sa.Text(), nullable=False),
        sa.Column("state", sa.Text(), nullable=False, comment="closed | open | probing"),
        _instant("since", comment="machine time of the last change of state"),
        _instant("until", nullable=True, comment="machine time from which one push may probe; NULL: closed"),
        sa.Column("trips", sa.SmallInteger(), nullable=False, comment="openings since it last was closed"),
        _instant("counted_from", comment="machine time"),
        sa.Column("answers", sa.BigInteger(), nullable=False),
        sa.Column("failures", sa.BigInteger(), nullable=False),
        sa.Column("why", sa.Text(), nullable=True),
        sa.CheckConstraint("state IN ('closed', 'open', 'probing')", name=op.f("ck_breakers_known_state")),
        sa.PrimaryKeyConstraint("gateway", name=op.f("pk_breakers")),
        comment="one row per gateway: its credential and its provider",
    )
    op.create_table(
        "buckets",
        sa.Column("key", sa.Text(), nullable=False, comment="gateway:NAME | campaign:ID | retries:NAME"),
        sa.Column("level", sa.Double(), nullable=False),
        _instant("at", comment="machine time of that level; ahead of now: empty until then"),
        sa.PrimaryKeyConstraint("key", name=op.f("pk_buckets")),
    )
    op.create_table(
        "campaign_minutes",
        sa.Column("campaign_id", sa.BigInteger(), nullable=False),
        _instant("minute", comment="business time"),
        sa.Column("sent", sa.BigInteger(), nullable=False, comment="accepted or unknown"),
        sa.Column("ended", sa.BigInteger(), nullable=False, comment="at the provider, however"),
        sa.Column("errors", sa.BigInteger(), nullable=False, comment="of ended: refused for good, or unknown"),
        sa.ForeignKeyConstraint(
            ["campaign_id"],
            ["campaigns.id"],
            name=op.f("fk_campaign_minutes_campaign_id_campaigns"),
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("campaign_id", "minute", name=op.f("pk_campaign_minutes")),
        comment="what the volume breaker looks at; upkeep forgets it after a day",
    )
    op.add_column(
        "campaigns",
        sa.Column("paused_why", sa.Text(), nullable=True, comment="why Horae paused it; NULL: a person did"),
    )


def downgrade() -> None:
    """Take the change back."""
    op.drop_column("campaigns", "paused_why")
    op.drop_table("campaign_minutes")
    op.drop_table("buckets")
    op.drop_table("breakers")
