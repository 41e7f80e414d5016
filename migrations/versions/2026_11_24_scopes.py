"""Roles are names for sets of scopes: a key's role becomes the scopes it stood for.

Revision ID: 2026_11_24_scopes
Revises: 2026_11_24_api
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import ARRAY

revision = "2026_11_24_scopes"
down_revision = "2026_11_24_api"
branch_labels = None
depends_on = None

_SCOPES = "ck_api_keys_known_scopes"

_TO_SCOPES = """
    UPDATE api_keys SET scopes = ARRAY(
        SELECT DISTINCT scope FROM unnest(
            array_remove(scopes, 'admin')
            || CASE role WHEN 'viewer' THEN ARRAY['read']
                         WHEN 'operator' THEN ARRAY['read', 'operate']
                         ELSE ARRAY['read', 'operate', 'admin'] END
        ) AS scope ORDER BY scope)
    WHERE role IS NOT NULL
"""

_TO_ROLES = """
    UPDATE api_keys SET
        role = CASE WHEN 'admin' = ANY (scopes) THEN 'admin' ELSE 'operator' END,
        scopes = ARRAY(SELECT DISTINCT scope FROM unnest(array_replace(scopes, 'operate', 'admin')) AS scope
                       ORDER BY scope)
    WHERE scopes && ARRAY['admin', 'operate']
"""


def upgrade() -> None:
    """Apply the change."""
    for name in (_SCOPES, "ck_api_keys_known_role", "ck_api_keys_role_of_admin"):
        op.drop_constraint(op.f(name), "api_keys", type_="check")
    op.execute(_TO_SCOPES)
    op.drop_column("api_keys", "role")
    op.create_check_constraint(
        op.f(_SCOPES), "api_keys", "scopes <@ ARRAY['write', 'read', 'operate', 'admin'] AND cardinality(scopes) > 0"
    )
    op.alter_column(
        "api_keys", "scopes", existing_type=ARRAY(sa.Text()), existing_nullable=False,
        comment="write | read | operate | admin", existing_comment="write | read | admin",
    )  # fmt: skip


def downgrade() -> None:
    """Undo it."""
    op.drop_constraint(op.f(_SCOPES), "api_keys", type_="check")
    op.add_column("api_keys", sa.Column("role", sa.Text(), comment="viewer | operator | admin; of scope admin"))
    op.execute(_TO_ROLES)
    op.create_check_constraint(
        op.f(_SCOPES), "api_keys", "scopes <@ ARRAY['write', 'read', 'admin'] AND cardinality(scopes) > 0"
    )
    op.create_check_constraint(
        op.f("ck_api_keys_known_role"), "api_keys", "role IN ('viewer', 'operator', 'admin')"
    )
    op.create_check_constraint(
        op.f("ck_api_keys_role_of_admin"), "api_keys", "('admin' = ANY (scopes)) = (role IS NOT NULL)"
    )
    op.alter_column(
        "api_keys", "scopes", existing_type=ARRAY(sa.Text()), existing_nullable=False,
        comment="write | read | admin", existing_comment="write | read | operate | admin",
    )  # fmt: skip
