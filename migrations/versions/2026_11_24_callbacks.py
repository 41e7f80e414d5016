"""Callbacks: their keys, the type of a phone's receipts; counters that outlive processes.

Revision ID: 2026_11_24_callbacks
Revises: 2026_11_24_planner
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "2026_11_24_callbacks"
down_revision = "2026_11_24_planner"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Apply the change."""
    op.create_table(
        "callback_keys",
        sa.Column("id", sa.Integer(), autoincrement=False, nullable=False, comment="tokens carry it modulo 256"),
        sa.Column("secret", sa.LargeBinary(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_callback_keys")),
        comment="keys of the tokens by which callbacks are authenticated; the newest signs",
    )
    # PostgreSQL draws UUIDs from the system's strong randomness, 122 bits each
    op.execute(
        "INSERT INTO callback_keys (id, secret)"
        " VALUES (1, uuid_send(gen_random_uuid()) || uuid_send(gen_random_uuid()))"
    )
    op.create_table(
        "counters",
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("label", sa.Text(), nullable=False),
        sa.Column("shard", sa.SmallInteger(), nullable=False, comment="spreads one counter over sessions"),
        sa.Column("value", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("name", "label", "shard", name=op.f("pk_counters")),
        comment="store.counters",
    )
    # whoever has events of that name keeps them under another one: their ids are not the type's
    op.execute("UPDATE event_types SET name = 'push_received_before' WHERE name = 'push_received'")
    op.execute("INSERT INTO event_types (id, name) VALUES (12, 'push_received')")


def downgrade() -> None:
    """Take the change back."""
    op.execute("DELETE FROM event_types WHERE id = 12")
    op.drop_table("counters")
    op.drop_table("callback_keys")
