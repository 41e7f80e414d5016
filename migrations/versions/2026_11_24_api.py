"""API keys, and other ids of users.

Revision ID: 2026_11_24_api
Revises: 2026_11_24_triggers
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import ARRAY

revision = "2026_11_24_api"
down_revision = "2026_11_24_provider_health"
branch_labels = None
depends_on = None


def _instant(name: str, *, nullable: bool = True, now: bool = False, comment: str | None = None) -> sa.Column:
    default = sa.text("now()") if now else None
    return sa.Column(name, sa.DateTime(timezone=True), nullable=nullable, server_default=default, comment=comment)


def upgrade() -> None:
    """Apply the change."""
    op.create_table(
        "identities",
        sa.Column("alias", sa.Text(), nullable=False, comment="an anonymous or former id, as the event API was told"),
        sa.Column("user_id", sa.BigInteger(), nullable=False),
        _instant("linked_at", nullable=False, now=True, comment="machine time"),
        sa.ForeignKeyConstraint(["user_id"], ["users.id"], name=op.f("fk_identities_user_id_users"), ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("alias", name=op.f("pk_identities")),
        comment="whose events are those that come under another id; the latest link stands",
    )
    op.create_index(op.f("ix_identities_user_id"), "identities", ["user_id"])
    op.create_table(
        "api_keys",
        sa.Column("id", sa.Text(), nullable=False, comment="the readable part of the key"),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("hash", sa.LargeBinary(), nullable=False, comment="SHA-256 of the whole key"),
        sa.Column("scopes", ARRAY(sa.Text()), nullable=False, comment="write | read | admin"),
        sa.Column("role", sa.Text(), comment="viewer | operator | admin; of scope admin"),
        sa.Column("rate", sa.Integer(), comment="messages a second; NULL: the deployment's"),
        sa.Column("created_by", sa.Text(), nullable=False),
        _instant("created_at", nullable=False, now=True),
        _instant("expires_at", comment="machine time, as all instants of a key"),
        _instant("last_used_at", comment="to the minute"),
        _instant("revoked_at"),
        sa.CheckConstraint(
            "scopes <@ ARRAY['write', 'read', 'admin'] AND cardinality(scopes) > 0", name=op.f("ck_api_keys_known_scopes")
        ),
        sa.CheckConstraint("role IN ('viewer', 'operator', 'admin')", name=op.f("ck_api_keys_known_role")),
        sa.CheckConstraint("('admin' = ANY (scopes)) = (role IS NOT NULL)", name=op.f("ck_api_keys_role_of_admin")),
        sa.CheckConstraint("rate > 0", name=op.f("ck_api_keys_rate_positive")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_api_keys")),
    )


def downgrade() -> None:
    """Undo it."""
    op.drop_table("api_keys")
    op.drop_table("identities")
