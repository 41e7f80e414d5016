"""More half-lives in the profiles, and what the profiles were computed with.

The new sums of existing profiles are not known here: `horae migrate` computes them from the events, because the
workspace's `profile_recipe` is NULL then.

Revision ID: 2026_11_24_half_lives
Revises: 2026_11_24_first_schema
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = '2026_11_24_half_lives'
down_revision = '2026_11_24_first_schema'
branch_labels = None
depends_on = None

ADDED = {
    'user_profiles': ('s4',),
    'item_profiles': ('s4',),
    'user_item_profiles': ('s4', 's5', 's6'),
    'user_hour_profiles': ('s1',),
}


def upgrade() -> None:
    """Apply the change."""
    op.add_column('workspace', sa.Column('profile_recipe', sa.Text(), nullable=True, comment='how the profiles were computed; NULL: as before recipes were noted'))
    for table, names in ADDED.items():
        for name in names:
            op.add_column(table, sa.Column(name, sa.Double(), nullable=False, server_default='0'))
            op.alter_column(table, name, server_default=None)


def downgrade() -> None:
    """Take the change back."""
    for table, names in ADDED.items():
        for name in reversed(names):
            op.drop_column(table, name)
    op.drop_column('workspace', 'profile_recipe')
