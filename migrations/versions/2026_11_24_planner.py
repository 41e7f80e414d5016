"""The planner: which proposals would displace planned pushes, which pushes were drawn, when they were last planned.

Revision ID: 2026_11_24_planner
Revises: 2026_11_24_first_schema
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "2026_11_24_planner"
down_revision = "2026_11_24_first_schema"
branch_labels = None
depends_on = None

_REFRESH = "-1: a refresh"


def upgrade() -> None:
    """Apply the change."""
    op.create_table(
        "displacements",
        sa.Column("run_id", sa.BigInteger(), nullable=False),
        sa.Column("user_id", sa.BigInteger(), nullable=False),
        sa.Column("occurrence_id", sa.BigInteger(), nullable=False, comment="of the proposal"),
        sa.Column(
            "rival_id",
            sa.BigInteger(),
            nullable=False,
            comment="occurrence of the planned push whose place it would take",
        ),
        sa.Column(
            "rival_user_id", sa.BigInteger(), nullable=False, comment="another user's where a capacity was full"
        ),
        sa.PrimaryKeyConstraint(
            "run_id", "user_id", "occurrence_id", "rival_id", "rival_user_id", name=op.f("pk_displacements")
        ),
        comment="kept until the run is settled",
    )
    op.add_column(
        "pushes",
        sa.Column(
            "explored",
            sa.Boolean(),
            server_default=sa.text("false"),
            nullable=False,
            comment="drawn; never displaced",
        ),
    )
    op.add_column(
        "pushes",
        sa.Column(
            "planned_at",
            sa.DateTime(timezone=True),
            server_default=sa.text("clock_timestamp()"),
            nullable=False,
            comment="machine time of the last plan",
        ),
    )
    op.alter_column("decisions", "shard", existing_type=sa.Integer(), existing_nullable=False, comment=_REFRESH)


def downgrade() -> None:
    """Undo it."""
    op.alter_column(
        "decisions",
        "shard",
        existing_type=sa.Integer(),
        existing_nullable=False,
        comment=None,
        existing_comment=_REFRESH,
    )
    op.drop_column("pushes", "planned_at")
    op.drop_column("pushes", "explored")
    op.drop_table("displacements")
