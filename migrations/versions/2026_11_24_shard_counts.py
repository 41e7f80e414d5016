"""What a shard decided, counted by whoever planned it: a run's page need not count a million decisions at each look.

Shards that were planned before have none; their runs are counted from the decisions, as all were.

Revision ID: 2026_11_24_shard_counts
Revises: 2026_11_24_repeats
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "2026_11_24_shard_counts"
down_revision = "2026_11_24_repeats"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Apply the change."""
    op.add_column(
        "shards",
        sa.Column(
            "counts", postgresql.JSONB(), nullable=True, comment="its decisions at revision 0: [reason, arm, how many] …"
        ),
    )


def downgrade() -> None:
    """Take the change back."""
    op.drop_column("shards", "counts")
