"""What metrics and upkeep remember: totals' mark, when ticks ended, profiles of events that retention dropped.

Revision ID: 2026_11_24_upkeep
Revises: 2026_11_24_callbacks
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "2026_11_24_upkeep"
down_revision = "2026_11_24_callbacks"
branch_labels = None
depends_on = None

_SMALL = {"slot", "event_type", "rung", "hour"}
_KEPT = {
    "user_profiles": (("slot", "user_id", "event_type"), 5, True),
    "item_profiles": (("item_id", "event_type"), 5, True),
    "user_item_profiles": (("slot", "user_id", "item_id", "event_type"), 7, True),
    "user_hour_profiles": (("slot", "user_id", "rung", "hour"), 2, False),
}


def upgrade() -> None:
    """Apply the change."""
    op.add_column(
        "workspace",
        sa.Column(
            "metered_until",
            sa.DateTime(timezone=True),
            server_default=sa.text("now()"),
            nullable=False,
            comment="deliveries recorded until then (machine time) are in the counters",
        ),
    )
    op.create_index(
        "ix_deliveries_unknown", "deliveries", ["at"], unique=False, postgresql_where=sa.text("state = 'unknown'")
    )
    op.create_table(
        "tick_marks",
        sa.Column("task", sa.Text(), nullable=False),
        sa.Column("done_at", sa.DateTime(timezone=True), nullable=False, comment="machine time"),
        sa.PrimaryKeyConstraint("task", name=op.f("pk_tick_marks")),
        comment="when each of beat's tasks last ended well",
        postgresql_with={"fillfactor": "50"},
    )
    for table, (key, counters, valued) in _KEPT.items():
        op.create_table(
            f"kept_{table}",
            *(sa.Column(name, sa.SmallInteger() if name in _SMALL else sa.BigInteger(), nullable=False) for name in key),
            *([sa.Column("value", sa.Double(), nullable=False)] if valued else []),
            sa.Column("n", sa.BigInteger(), nullable=False),
            sa.Column("first_at", sa.Double(), nullable=False),
            sa.Column("last_at", sa.Double(), nullable=False),
            *(sa.Column(f"s{number}", sa.Double(), nullable=False) for number in range(counters)),
            sa.PrimaryKeyConstraint(*key, name=op.f(f"pk_kept_{table}")),
            comment=f"what {table} hold of events that retention has dropped: replay starts there",
        )


def downgrade() -> None:
    """Take the change back."""
    for table in _KEPT:
        op.drop_table(f"kept_{table}")
    op.drop_table("tick_marks")
    op.drop_index("ix_deliveries_unknown", table_name="deliveries", postgresql_where=sa.text("state = 'unknown'"))
    op.drop_column("workspace", "metered_until")
