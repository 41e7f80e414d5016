"""Which pushes their provider has failed before: only their attempts are taken from the retry budget.

Revision ID: 2026_11_24_repeats
Revises: 2026_11_24_looking_back
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "2026_11_24_repeats"
down_revision = "2026_11_24_looking_back"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Apply the change."""
    op.add_column(
        "pushes",
        sa.Column(
            "failed_before",
            sa.Boolean(),
            nullable=False,
            server_default=sa.text("false"),
            comment="its provider failed it: the next attempt is taken from the retry budget",
        ),
    )


def downgrade() -> None:
    """Take the change back."""
    op.drop_column("pushes", "failed_before")
