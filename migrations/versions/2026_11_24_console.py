"""Users of the console and their sessions.

Revision ID: 2026_11_24_console
Revises: 2026_11_24_scopes
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "2026_11_24_console"
down_revision = "2026_11_24_scopes"
branch_labels = None
depends_on = None


def _instant(name: str, *, nullable: bool = True, now: bool = False, comment: str | None = None) -> sa.Column:
    default = sa.text("now()") if now else None
    return sa.Column(name, sa.DateTime(timezone=True), nullable=nullable, server_default=default, comment=comment)


def upgrade() -> None:
    """Apply the change."""
    op.create_table(
        "console_users",
        sa.Column("id", sa.Integer(), sa.Identity(always=False), nullable=False),
        sa.Column("name", sa.Text(), nullable=False, comment="in lower case"),
        sa.Column("role", sa.Text(), nullable=False, comment="viewer | operator | admin"),
        sa.Column("password_hash", sa.Text(), nullable=False, comment="Argon2id"),
        sa.Column("language", sa.Text(), comment="as they chose; NULL: their browser's"),
        sa.Column("created_by", sa.Text(), nullable=False),
        _instant("created_at", nullable=False, now=True),
        _instant("last_login_at", comment="machine time, as all instants of a user"),
        _instant("disabled_at"),
        sa.CheckConstraint("role IN ('viewer', 'operator', 'admin')", name=op.f("ck_console_users_known_role")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_console_users")),
        sa.UniqueConstraint("name", name=op.f("uq_console_users_name")),
        comment="who may log in to the console",
    )
    op.create_table(
        "console_sessions",
        sa.Column("hash", sa.LargeBinary(), nullable=False, comment="SHA-256 of the token"),
        sa.Column("user_id", sa.Integer(), nullable=False),
        _instant("created_at", nullable=False, now=True),
        _instant("seen_at", nullable=False, comment="to the minute"),
        _instant("expires_at", nullable=False),
        sa.ForeignKeyConstraint(
            ["user_id"],
            ["console_users.id"],
            name=op.f("fk_console_sessions_user_id_console_users"),
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("hash", name=op.f("pk_console_sessions")),
    )
    op.create_index(op.f("ix_console_sessions_user_id"), "console_sessions", ["user_id"])


def downgrade() -> None:
    """Undo it."""
    op.drop_table("console_sessions")
    op.drop_table("console_users")
