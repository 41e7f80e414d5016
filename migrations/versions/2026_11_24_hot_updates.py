"""Pushes are claimed and sent without touching an index: none of theirs knows `state` or `lease_until`.

Revision ID: 2026_11_24_hot_updates
Revises: 2026_11_24_shard_counts
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "2026_11_24_hot_updates"
down_revision = "2026_11_24_shard_counts"
branch_labels = None
depends_on = None

_PARTIAL = {
    "ix_pushes_due": ("send_at", "state = 'planned'"),
    "ix_pushes_leased": ("lease_until", "state IN ('claimed', 'sending')"),
    "ix_pushes_run_id": ("run_id", "state = 'proposed'"),
}
_WHOLE = {"ix_pushes_due": "send_at", "ix_pushes_run_id": "run_id"}


def upgrade() -> None:
    """Apply the change."""
    for name, (_, where) in _PARTIAL.items():
        op.drop_index(name, table_name="pushes", postgresql_where=sa.text(where))
    for name, column in _WHOLE.items():
        op.create_index(name, "pushes", [column], unique=False)
    op.execute("ALTER TABLE pushes SET (fillfactor = 50)")


def downgrade() -> None:
    """Undo it."""
    op.execute("ALTER TABLE pushes SET (fillfactor = 80)")
    for name in _WHOLE:
        op.drop_index(name, table_name="pushes")
    for name, (column, where) in _PARTIAL.items():
        op.create_index(name, "pushes", [column], unique=False, postgresql_where=sa.text(where))
