"""First schema.

Revision ID: 2026_11_24_first_schema
Revises: nothing
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = '2026_11_24_first_schema'
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Apply the change."""
    op.create_table('campaigns',
    sa.Column('id', sa.BigInteger(), sa.Identity(always=False), nullable=False),
    sa.Column('name', sa.Text(), nullable=False),
    sa.Column('state', sa.Text(), nullable=False, comment='running | paused | cancelled | done'),
    sa.Column('version', sa.Integer(), nullable=False),
    sa.Column('created_at', sa.DateTime(timezone=True), server_default=sa.text('now()'), nullable=False),
    sa.Column('scheduled_until', sa.DateTime(timezone=True), nullable=True, comment='occurrences before this instant have been made'),
    sa.CheckConstraint("state IN ('running', 'paused', 'cancelled', 'done')", name=op.f('ck_campaigns_known_state')),
    sa.PrimaryKeyConstraint('id', name=op.f('pk_campaigns')),
    sa.UniqueConstraint('name', name=op.f('uq_campaigns_name'))
    )
    op.create_table('changed_users',
    sa.Column('user_id', sa.BigInteger(), autoincrement=False, nullable=False),
    sa.Column('slot', sa.SmallInteger(), nullable=False),
    sa.Column('changed_at', sa.DateTime(timezone=True), nullable=False),
    sa.PrimaryKeyConstraint('user_id', name=op.f('pk_changed_users'))
    )
    op.create_index(op.f('ix_changed_users_slot'), 'changed_users', ['slot'], unique=False)
    op.create_table('decisions',
    sa.Column('date', sa.Date(), nullable=False),
    sa.Column('occurrence_id', sa.BigInteger(), nullable=False),
    sa.Column('user_id', sa.BigInteger(), nullable=False),
    sa.Column('revision', sa.SmallInteger(), nullable=False),
    sa.Column('run_id', sa.BigInteger(), nullable=False),
    sa.Column('shard', sa.Integer(), nullable=False),
    sa.Column('arm', sa.SmallInteger(), nullable=False, comment='index into ARMS'),
    sa.Column('reason', sa.SmallInteger(), nullable=False, comment='index into DECISION_REASONS'),
    sa.Column('push_id', sa.Uuid(), nullable=True),
    sa.Column('item_id', sa.BigInteger(), nullable=True),
    sa.Column('window_start', sa.DateTime(timezone=True), nullable=True),
    sa.Column('send_at', sa.DateTime(timezone=True), nullable=True),
    sa.Column('score', sa.Double(), nullable=True),
    sa.Column('value', sa.Double(), nullable=True),
    sa.Column('price', sa.Double(), nullable=True),
    sa.Column('propensity', sa.Double(), nullable=True),
    sa.Column('receipt', sa.LargeBinary(), nullable=True, comment='planning.receipt'),
    sa.Column('created_at', sa.DateTime(timezone=True), server_default=sa.text('now()'), nullable=False),
    sa.PrimaryKeyConstraint('date', 'occurrence_id', 'user_id', 'revision', name=op.f('pk_decisions')),
    postgresql_partition_by='RANGE (date)'
    )
    op.create_index(op.f('ix_decisions_user_id_date'), 'decisions', ['user_id', 'date'], unique=False)
    op.create_table('deliveries',
    sa.Column('day', sa.Date(), nullable=False, comment='UTC date of `at`'),
    sa.Column('id', sa.Uuid(), nullable=False),
    sa.Column('push_id', sa.Uuid(), nullable=False),
    sa.Column('state', sa.Text(), nullable=False),
    sa.Column('reason', sa.Text(), nullable=True, comment='of a state that is not accepted'),
    sa.Column('at', sa.DateTime(timezone=True), nullable=False, comment='business time of the outcome: what caps count'),
    sa.Column('occurrence_id', sa.BigInteger(), nullable=True),
    sa.Column('campaign_id', sa.BigInteger(), nullable=False),
    sa.Column('user_id', sa.BigInteger(), nullable=False),
    sa.Column('item_id', sa.BigInteger(), nullable=True),
    sa.Column('gateway', sa.Text(), nullable=False),
    sa.Column('attempts', sa.SmallInteger(), nullable=False),
    sa.Column('send_at', sa.DateTime(timezone=True), nullable=False),
    sa.Column('local_day', sa.Date(), nullable=True, comment="the user's calendar day at `at`, kept whatever their zone becomes"),
    sa.Column('counts', sa.Boolean(), nullable=False, comment='toward caps'),
    sa.Column('scopes', postgresql.ARRAY(sa.Text()), nullable=False, comment='what cap rules match: channel:, campaign:, tag:, category:'),
    sa.Column('test', sa.Boolean(), server_default=sa.text('false'), nullable=False),
    sa.Column('provider_id', sa.Text(), nullable=True),
    sa.Column('detail', sa.Text(), nullable=True),
    sa.Column('recorded_at', sa.DateTime(timezone=True), server_default=sa.text('now()'), nullable=False, comment='machine time'),
    sa.CheckConstraint("state IN ('accepted', 'rejected', 'unknown', 'expired', 'cancelled', 'suppressed', 'displaced')", name=op.f('ck_deliveries_known_state')),
    sa.PrimaryKeyConstraint('day', 'id', name=op.f('pk_deliveries')),
    postgresql_partition_by='RANGE (day)'
    )
    op.create_index(op.f('ix_deliveries_campaign_id_at'), 'deliveries', ['campaign_id', 'at'], unique=False)
    op.create_index(op.f('ix_deliveries_push_id'), 'deliveries', ['push_id'], unique=False)
    op.create_index(op.f('ix_deliveries_recorded_at'), 'deliveries', ['recorded_at'], unique=False, postgresql_using='brin')
    op.create_index(op.f('ix_deliveries_user_id_at'), 'deliveries', ['user_id', 'at'], unique=False)
    op.create_table('event_keys',
    sa.Column('key', sa.Uuid(), nullable=False, comment='hash of (source, event id), else of the canonical content'),
    sa.PrimaryKeyConstraint('key', name=op.f('pk_event_keys'))
    )
    op.create_table('event_types',
    sa.Column('id', sa.SmallInteger(), autoincrement=False, nullable=False),
    sa.Column('name', sa.Text(), nullable=False),
    sa.PrimaryKeyConstraint('id', name=op.f('pk_event_types')),
    sa.UniqueConstraint('name', name=op.f('uq_event_types_name'))
    )
    op.create_table('events',
    sa.Column('key', sa.Uuid(), nullable=False),
    sa.Column('user_id', sa.BigInteger(), nullable=True),
    sa.Column('item_id', sa.BigInteger(), nullable=True),
    sa.Column('event_type', sa.SmallInteger(), nullable=False),
    sa.Column('occurred_at', sa.DateTime(timezone=True), nullable=False),
    sa.Column('received_at', sa.DateTime(timezone=True), nullable=False),
    sa.Column('value', sa.Double(), nullable=True),
    sa.Column('quantity', sa.Double(), nullable=True),
    sa.Column('push_id', sa.Uuid(), nullable=True),
    sa.Column('attributes', postgresql.JSONB(astext_type=sa.Text()), nullable=True),
    sa.CheckConstraint('occurred_at <= received_at', name=op.f('ck_events_not_from_the_future')),
    sa.CheckConstraint('user_id IS NOT NULL OR item_id IS NOT NULL', name=op.f('ck_events_about_someone')),
    postgresql_partition_by='RANGE (occurred_at)'
    )
    op.create_index(op.f('ix_events_occurred_at'), 'events', ['occurred_at'], unique=False, postgresql_using='brin')
    op.create_index(op.f('ix_events_user_id_occurred_at'), 'events', ['user_id', 'occurred_at'], unique=False)
    op.create_table('item_profiles',
    sa.Column('item_id', sa.BigInteger(), nullable=False),
    sa.Column('event_type', sa.SmallInteger(), nullable=False),
    sa.Column('value', sa.Double(), nullable=False, comment="sum of the events' values"),
    sa.Column('n', sa.BigInteger(), nullable=False),
    sa.Column('first_at', sa.Double(), nullable=False),
    sa.Column('last_at', sa.Double(), nullable=False),
    sa.Column('s0', sa.Double(), nullable=False),
    sa.Column('s1', sa.Double(), nullable=False),
    sa.Column('s2', sa.Double(), nullable=False),
    sa.Column('s3', sa.Double(), nullable=False),
    sa.PrimaryKeyConstraint('item_id', 'event_type', name=op.f('pk_item_profiles'))
    )
    op.create_table('items',
    sa.Column('id', sa.BigInteger(), sa.Identity(always=False), nullable=False),
    sa.Column('external_id', sa.Text(), nullable=False, comment="the shop's own id: item_id in files"),
    sa.Column('version', sa.Integer(), server_default=sa.text('1'), nullable=False),
    sa.Column('title', sa.Text(), nullable=True),
    sa.Column('category', sa.Text(), nullable=True),
    sa.Column('brand', sa.Text(), nullable=True),
    sa.Column('price', sa.Double(), nullable=True),
    sa.Column('available_from', sa.DateTime(timezone=True), nullable=True),
    sa.Column('available_until', sa.DateTime(timezone=True), nullable=True),
    sa.Column('stock', sa.BigInteger(), nullable=True, comment='NULL: unlimited'),
    sa.Column('attributes', postgresql.JSONB(astext_type=sa.Text()), server_default=sa.text("'{}'::jsonb"), nullable=False),
    sa.Column('stub', sa.Boolean(), server_default=sa.text('false'), nullable=False, comment='known only from events'),
    sa.Column('created_at', sa.DateTime(timezone=True), server_default=sa.text('now()'), nullable=False),
    sa.Column('updated_at', sa.DateTime(timezone=True), server_default=sa.text('now()'), nullable=False),
    sa.CheckConstraint('available_from < available_until', name=op.f('ck_items_ends_after_start')),
    sa.CheckConstraint('price >= 0', name=op.f('ck_items_price_not_negative')),
    sa.PrimaryKeyConstraint('id', name=op.f('pk_items')),
    sa.UniqueConstraint('external_id', name=op.f('uq_items_external_id'))
    )
    op.create_table('models',
    sa.Column('version', sa.Integer(), sa.Identity(always=False), nullable=False),
    sa.Column('state', sa.Text(), nullable=False, comment='champion | challenger | retired'),
    sa.Column('regime', sa.Text(), nullable=False, comment='goal | click | baseline'),
    sa.Column('artifact', sa.LargeBinary(), nullable=False, comment='zip of UBJSON, npz and JSON; never pickle'),
    sa.Column('sha256', sa.Text(), nullable=False),
    sa.Column('feature_schema', postgresql.JSONB(astext_type=sa.Text()), nullable=False),
    sa.Column('metrics', postgresql.JSONB(astext_type=sa.Text()), nullable=False),
    sa.Column('libraries', postgresql.JSONB(astext_type=sa.Text()), nullable=False, comment='versions it was trained with'),
    sa.Column('as_of', sa.DateTime(timezone=True), nullable=False, comment='business time of its newest training row'),
    sa.Column('created_at', sa.DateTime(timezone=True), server_default=sa.text('now()'), nullable=False),
    sa.CheckConstraint("state IN ('champion', 'challenger', 'retired')", name=op.f('ck_models_known_state')),
    sa.PrimaryKeyConstraint('version', name=op.f('pk_models'))
    )
    op.create_index('uq_models_one_champion', 'models', ['state'], unique=True, postgresql_where=sa.text("state = 'champion'"))
    op.create_table('policies',
    sa.Column('version', sa.Integer(), sa.Identity(always=False), nullable=False),
    sa.Column('definition', postgresql.JSONB(astext_type=sa.Text()), nullable=False, comment='campaigns.policy.Policy'),
    sa.Column('author', sa.Text(), nullable=True),
    sa.Column('created_at', sa.DateTime(timezone=True), server_default=sa.text('now()'), nullable=False),
    sa.PrimaryKeyConstraint('version', name=op.f('pk_policies'))
    )
    op.create_table('switches',
    sa.Column('scope', sa.Text(), nullable=False, comment='all | gateway:NAME | campaign:ID'),
    sa.Column('stopped_at', sa.DateTime(timezone=True), nullable=False),
    sa.Column('author', sa.Text(), nullable=True),
    sa.Column('why', sa.Text(), nullable=True),
    sa.PrimaryKeyConstraint('scope', name=op.f('pk_switches'))
    )
    op.create_table('ticks',
    sa.Column('name', sa.Text(), nullable=False),
    sa.Column('at', sa.DateTime(timezone=True), nullable=False, comment="the tick's slot"),
    sa.Column('created_at', sa.DateTime(timezone=True), server_default=sa.text('now()'), nullable=False),
    sa.PrimaryKeyConstraint('name', 'at', name=op.f('pk_ticks'))
    )
    op.create_table('unfolded_events',
    sa.Column('key', sa.Uuid(), nullable=False),
    sa.Column('slot', sa.SmallInteger(), nullable=False, comment='of the user; -1 without one'),
    sa.Column('user_id', sa.BigInteger(), nullable=True),
    sa.Column('item_id', sa.BigInteger(), nullable=True),
    sa.Column('event_type', sa.SmallInteger(), nullable=False),
    sa.Column('occurred_at', sa.DateTime(timezone=True), nullable=False),
    sa.Column('value', sa.Double(), nullable=True),
    sa.Column('created_at', sa.DateTime(timezone=True), server_default=sa.text('now()'), nullable=False),
    sa.PrimaryKeyConstraint('key', name=op.f('pk_unfolded_events')),
    comment='what the folder needs of events that no profile holds yet; no join with events'
    )
    op.create_index(op.f('ix_unfolded_events_slot'), 'unfolded_events', ['slot'], unique=False)
    op.create_index(op.f('ix_unfolded_events_user_id'), 'unfolded_events', ['user_id'], unique=False)
    op.create_table('user_hour_profiles',
    sa.Column('slot', sa.SmallInteger(), nullable=False),
    sa.Column('user_id', sa.BigInteger(), nullable=False),
    sa.Column('rung', sa.SmallInteger(), nullable=False, comment='0 push response, 1 app session, 2 any other activity'),
    sa.Column('hour', sa.SmallInteger(), nullable=False, comment='day type (0 workday, 1 weekend) x 24 + local hour'),
    sa.Column('n', sa.BigInteger(), nullable=False),
    sa.Column('first_at', sa.Double(), nullable=False),
    sa.Column('last_at', sa.Double(), nullable=False),
    sa.Column('s0', sa.Double(), nullable=False),
    sa.PrimaryKeyConstraint('slot', 'user_id', 'rung', 'hour', name=op.f('pk_user_hour_profiles')),
    postgresql_partition_by='RANGE (slot)'
    )
    op.create_table('user_item_profiles',
    sa.Column('slot', sa.SmallInteger(), nullable=False),
    sa.Column('user_id', sa.BigInteger(), nullable=False),
    sa.Column('item_id', sa.BigInteger(), nullable=False),
    sa.Column('event_type', sa.SmallInteger(), nullable=False),
    sa.Column('value', sa.Double(), nullable=False, comment="sum of the events' values"),
    sa.Column('n', sa.BigInteger(), nullable=False),
    sa.Column('first_at', sa.Double(), nullable=False),
    sa.Column('last_at', sa.Double(), nullable=False),
    sa.Column('s0', sa.Double(), nullable=False),
    sa.Column('s1', sa.Double(), nullable=False),
    sa.Column('s2', sa.Double(), nullable=False),
    sa.Column('s3', sa.Double(), nullable=False),
    sa.PrimaryKeyConstraint('slot', 'user_id', 'item_id', 'event_type', name=op.f('pk_user_item_profiles')),
    postgresql_partition_by='RANGE (slot)'
    )
    op.create_table('user_profiles',
    sa.Column('slot', sa.SmallInteger(), nullable=False),
    sa.Column('user_id', sa.BigInteger(), nullable=False),
    sa.Column('event_type', sa.SmallInteger(), nullable=False),
    sa.Column('value', sa.Double(), nullable=False, comment="sum of the events' values"),
    sa.Column('n', sa.BigInteger(), nullable=False),
    sa.Column('first_at', sa.Double(), nullable=False),
    sa.Column('last_at', sa.Double(), nullable=False),
    sa.Column('s0', sa.Double(), nullable=False),
    sa.Column('s1', sa.Double(), nullable=False),
    sa.Column('s2', sa.Double(), nullable=False),
    sa.Column('s3', sa.Double(), nullable=False),
    sa.PrimaryKeyConstraint('slot', 'user_id', 'event_type', name=op.f('pk_user_profiles')),
    postgresql_partition_by='RANGE (slot)'
    )
    op.create_table('users',
    sa.Column('id', sa.BigInteger(), sa.Identity(always=False), nullable=False),
    sa.Column('external_id', sa.Text(), nullable=False, comment="the shop's own id: user_id in files"),
    sa.Column('slot', sa.SmallInteger(), nullable=False, comment='store.slots.slot_of(external_id)'),
    sa.Column('timezone', sa.Text(), nullable=True, comment="IANA name; NULL: the workspace's"),
    sa.Column('tz_source', sa.Text(), nullable=True, comment='explicit | device'),
    sa.Column('country', sa.Text(), nullable=True),
    sa.Column('locale', sa.Text(), nullable=True),
    sa.Column('consent', sa.Boolean(), nullable=True, comment='NULL: no record'),
    sa.Column('quiet_from', sa.Time(), nullable=True, comment="the user's own quiet hours, local"),
    sa.Column('quiet_until', sa.Time(), nullable=True),
    sa.Column('attributes', postgresql.JSONB(astext_type=sa.Text()), server_default=sa.text("'{}'::jsonb"), nullable=False),
    sa.Column('stub', sa.Boolean(), server_default=sa.text('false'), nullable=False, comment='known only from events'),
    sa.Column('created_at', sa.DateTime(timezone=True), server_default=sa.text('now()'), nullable=False),
    sa.Column('updated_at', sa.DateTime(timezone=True), server_default=sa.text('now()'), nullable=False),
    sa.CheckConstraint('slot BETWEEN 0 AND 1023', name=op.f('ck_users_slot_range')),
    sa.PrimaryKeyConstraint('id', name=op.f('pk_users')),
    sa.UniqueConstraint('external_id', name=op.f('uq_users_external_id'))
    )
    op.create_index(op.f('ix_users_slot_id'), 'users', ['slot', 'id'], unique=False)
    op.create_table('workspace',
    sa.Column('id', sa.SmallInteger(), autoincrement=False, nullable=False, comment='always 1'),
    sa.Column('hash_key', sa.LargeBinary(), nullable=False, comment='keys arms and tie-breaking; 16 bytes'),
    sa.Column('business_now', sa.DateTime(timezone=True), nullable=True, comment="the virtual clock; NULL: the machine's"),
    sa.Column('cap_epoch', sa.BigInteger(), server_default=sa.text('1'), nullable=False),
    sa.Column('cap_store_id', sa.Text(), nullable=True, comment="run_id and key of the caps' Redis that cap_epoch belongs to"),
    sa.Column('created_at', sa.DateTime(timezone=True), server_default=sa.text('now()'), nullable=False),
    sa.CheckConstraint('id = 1', name=op.f('ck_workspace_one_row')),
    sa.PrimaryKeyConstraint('id', name=op.f('pk_workspace'))
    )
    op.create_table('campaign_versions',
    sa.Column('campaign_id', sa.BigInteger(), nullable=False),
    sa.Column('version', sa.Integer(), nullable=False),
    sa.Column('definition', postgresql.JSONB(astext_type=sa.Text()), nullable=False, comment='campaigns.definition.Campaign'),
    sa.Column('author', sa.Text(), nullable=True),
    sa.Column('created_at', sa.DateTime(timezone=True), server_default=sa.text('now()'), nullable=False),
    sa.ForeignKeyConstraint(['campaign_id'], ['campaigns.id'], name=op.f('fk_campaign_versions_campaign_id_campaigns'), ondelete='CASCADE'),
    sa.PrimaryKeyConstraint('campaign_id', 'version', name=op.f('pk_campaign_versions'))
    )
    op.create_table('devices',
    sa.Column('id', sa.BigInteger(), sa.Identity(always=False), nullable=False),
    sa.Column('user_id', sa.BigInteger(), nullable=False),
    sa.Column('gateway', sa.Text(), nullable=False),
    sa.Column('token', sa.Text(), nullable=False),
    sa.Column('attributes', postgresql.JSONB(astext_type=sa.Text()), server_default=sa.text("'{}'::jsonb"), nullable=False),
    sa.Column('created_at', sa.DateTime(timezone=True), server_default=sa.text('now()'), nullable=False),
    sa.Column('seen_at', sa.DateTime(timezone=True), nullable=False),
    sa.Column('dead_at', sa.DateTime(timezone=True), nullable=True),
    sa.Column('dead_reason', sa.Text(), nullable=True),
    sa.ForeignKeyConstraint(['user_id'], ['users.id'], name=op.f('fk_devices_user_id_users'), ondelete='CASCADE'),
    sa.PrimaryKeyConstraint('id', name=op.f('pk_devices')),
    sa.UniqueConstraint('gateway', 'token', name=op.f('uq_devices_gateway_token'))
    )
    op.create_index(op.f('ix_devices_user_id'), 'devices', ['user_id'], unique=False)
    op.create_table('item_versions',
    sa.Column('item_id', sa.BigInteger(), nullable=False),
    sa.Column('version', sa.Integer(), nullable=False),
    sa.Column('definition', postgresql.JSONB(astext_type=sa.Text()), nullable=False, comment='the row of items before the change'),
    sa.Column('until', sa.DateTime(timezone=True), nullable=False, comment='business time of the change'),
    sa.ForeignKeyConstraint(['item_id'], ['items.id'], name=op.f('fk_item_versions_item_id_items'), ondelete='CASCADE'),
    sa.PrimaryKeyConstraint('item_id', 'version', name=op.f('pk_item_versions'))
    )
    op.create_table('runs',
    sa.Column('id', sa.BigInteger(), sa.Identity(always=False), nullable=False),
    sa.Column('state', sa.Text(), nullable=False, comment='planning | settling | published | failed'),
    sa.Column('as_of', sa.DateTime(timezone=True), nullable=False, comment='business time at which the run was opened'),
    sa.Column('seed', sa.BigInteger(), nullable=False),
    sa.Column('model_version', sa.Integer(), nullable=True),
    sa.Column('policy_version', sa.Integer(), nullable=False),
    sa.Column('shards_total', sa.Integer(), nullable=False),
    sa.Column('shards_done', sa.Integer(), server_default=sa.text('0'), nullable=False),
    sa.Column('users_total', sa.BigInteger(), server_default=sa.text('0'), nullable=False),
    sa.Column('users_done', sa.BigInteger(), server_default=sa.text('0'), nullable=False),
    sa.Column('prices', postgresql.JSONB(astext_type=sa.Text()), server_default=sa.text("'{}'::jsonb"), nullable=False),
    sa.Column('fence', sa.BigInteger(), server_default=sa.text('0'), nullable=False, comment='of the settling task'),
    sa.Column('lease_until', sa.DateTime(timezone=True), nullable=True, comment='machine time'),
    sa.Column('created_at', sa.DateTime(timezone=True), server_default=sa.text('now()'), nullable=False),
    sa.Column('published_at', sa.DateTime(timezone=True), nullable=True, comment='machine time'),
    sa.Column('error', sa.Text(), nullable=True),
    sa.CheckConstraint("state IN ('planning', 'settling', 'published', 'failed')", name=op.f('ck_runs_known_state')),
    sa.ForeignKeyConstraint(['model_version'], ['models.version'], name=op.f('fk_runs_model_version_models')),
    sa.ForeignKeyConstraint(['policy_version'], ['policies.version'], name=op.f('fk_runs_policy_version_policies')),
    sa.PrimaryKeyConstraint('id', name=op.f('pk_runs'))
    )
    op.create_table('occurrences',
    sa.Column('id', sa.BigInteger(), sa.Identity(always=False), nullable=False),
    sa.Column('campaign_id', sa.BigInteger(), nullable=False),
    sa.Column('version', sa.Integer(), nullable=False, comment='of the campaign'),
    sa.Column('label', sa.Text(), nullable=False, comment='UTC instant, local wall-clock label, or trigger:ID'),
    sa.Column('date', sa.Date(), nullable=False, comment='UTC date of starts_at: the partition of its decisions'),
    sa.Column('starts_at', sa.DateTime(timezone=True), nullable=False, comment='the first instant, in any zone, at which it may send'),
    sa.Column('ends_at', sa.DateTime(timezone=True), nullable=False, comment='no push of it leaves at or after this instant, in any zone'),
    sa.Column('run_id', sa.BigInteger(), nullable=True),
    sa.Column('at_once', sa.Boolean(), server_default=sa.text('false'), nullable=False),
    sa.Column('listed', sa.Boolean(), server_default=sa.text('false'), nullable=False, comment='audience is occurrence_users'),
    sa.Column('data', postgresql.JSONB(astext_type=sa.Text()), server_default=sa.text("'{}'::jsonb"), nullable=False, comment="a trigger's template data"),
    sa.Column('created_at', sa.DateTime(timezone=True), server_default=sa.text('now()'), nullable=False),
    sa.ForeignKeyConstraint(['campaign_id'], ['campaigns.id'], name=op.f('fk_occurrences_campaign_id_campaigns')),
    sa.ForeignKeyConstraint(['run_id'], ['runs.id'], name=op.f('fk_occurrences_run_id_runs')),
    sa.PrimaryKeyConstraint('id', name=op.f('pk_occurrences')),
    sa.UniqueConstraint('campaign_id', 'label', name=op.f('uq_occurrences_campaign_id_label'))
    )
    op.create_index(op.f('ix_occurrences_run_id'), 'occurrences', ['run_id'], unique=False)
    op.create_table('shards',
    sa.Column('run_id', sa.BigInteger(), nullable=False),
    sa.Column('shard', sa.Integer(), nullable=False),
    sa.Column('slot_from', sa.SmallInteger(), nullable=False),
    sa.Column('slot_until', sa.SmallInteger(), nullable=False, comment='exclusive'),
    sa.Column('state', sa.Text(), nullable=False, comment='waiting | planning | done'),
    sa.Column('fence', sa.BigInteger(), server_default=sa.text('0'), nullable=False),
    sa.Column('lease_until', sa.DateTime(timezone=True), nullable=True, comment='machine time'),
    sa.Column('users', sa.BigInteger(), nullable=True),
    sa.Column('as_of', sa.DateTime(timezone=True), nullable=True, comment='business time of the snapshot it planned on'),
    sa.Column('done_at', sa.DateTime(timezone=True), nullable=True),
    sa.CheckConstraint("state IN ('waiting', 'planning', 'done')", name=op.f('ck_shards_known_state')),
    sa.ForeignKeyConstraint(['run_id'], ['runs.id'], name=op.f('fk_shards_run_id_runs'), ondelete='CASCADE'),
    sa.PrimaryKeyConstraint('run_id', 'shard', name=op.f('pk_shards'))
    )
    op.create_table('occurrence_users',
    sa.Column('occurrence_id', sa.BigInteger(), nullable=False),
    sa.Column('user_id', sa.BigInteger(), nullable=False),
    sa.ForeignKeyConstraint(['occurrence_id'], ['occurrences.id'], name=op.f('fk_occurrence_users_occurrence_id_occurrences'), ondelete='CASCADE'),
    sa.PrimaryKeyConstraint('occurrence_id', 'user_id', name=op.f('pk_occurrence_users'))
    )
    op.create_table('pushes',
    sa.Column('id', sa.Uuid(), nullable=False),
    sa.Column('state', sa.Text(), nullable=False),
    sa.Column('date', sa.Date(), nullable=False, comment='of the occurrence'),
    sa.Column('occurrence_id', sa.BigInteger(), nullable=False),
    sa.Column('campaign_id', sa.BigInteger(), nullable=False),
    sa.Column('run_id', sa.BigInteger(), nullable=False),
    sa.Column('user_id', sa.BigInteger(), nullable=False),
    sa.Column('slot', sa.SmallInteger(), nullable=False),
    sa.Column('item_id', sa.BigInteger(), nullable=True),
    sa.Column('revision', sa.SmallInteger(), nullable=False),
    sa.Column('gateway', sa.Text(), nullable=False),
    sa.Column('window_start', sa.DateTime(timezone=True), nullable=False),
    sa.Column('window_end', sa.DateTime(timezone=True), nullable=False),
    sa.Column('send_at', sa.DateTime(timezone=True), nullable=False),
    sa.Column('not_after', sa.DateTime(timezone=True), nullable=False, comment='the push is worthless at or after this instant'),
    sa.Column('value', sa.Double(), nullable=False),
    sa.Column('price', sa.Double(), nullable=False),
    sa.Column('attempts', sa.SmallInteger(), server_default=sa.text('0'), nullable=False),
    sa.Column('fence', sa.BigInteger(), server_default=sa.text('0'), nullable=False),
    sa.Column('lease_until', sa.DateTime(timezone=True), nullable=True, comment='machine time'),
    sa.Column('not_before', sa.DateTime(timezone=True), nullable=True, comment='machine time of the next attempt after a retryable failure'),
    sa.Column('in_doubt', sa.Boolean(), server_default=sa.text('false'), nullable=False, comment='an earlier attempt may have been received (transactional pushes are sent again)'),
    sa.CheckConstraint("state IN ('proposed', 'planned', 'claimed', 'sending')", name=op.f('ck_pushes_known_state')),
    sa.CheckConstraint('send_at < window_end AND send_at < not_after', name=op.f('ck_pushes_sent_in_time')),
    sa.ForeignKeyConstraint(['campaign_id'], ['campaigns.id'], name=op.f('fk_pushes_campaign_id_campaigns')),
    sa.ForeignKeyConstraint(['occurrence_id'], ['occurrences.id'], name=op.f('fk_pushes_occurrence_id_occurrences')),
    sa.PrimaryKeyConstraint('id', name=op.f('pk_pushes')),
    sa.UniqueConstraint('occurrence_id', 'user_id', name=op.f('uq_pushes_occurrence_id_user_id')),
    postgresql_with={'autovacuum_vacuum_scale_factor': '0', 'autovacuum_vacuum_threshold': '1000', 'fillfactor': '80'}
    )
    op.create_index('ix_pushes_due', 'pushes', ['send_at'], unique=False, postgresql_where=sa.text("state = 'planned'"))
    op.create_index('ix_pushes_leased', 'pushes', ['lease_until'], unique=False, postgresql_where=sa.text("state IN ('claimed', 'sending')"))
    op.create_index(op.f('ix_pushes_run_id'), 'pushes', ['run_id'], unique=False, postgresql_where=sa.text("state = 'proposed'"))
    op.create_index(op.f('ix_pushes_user_id'), 'pushes', ['user_id'], unique=False)
    op.create_table('triggers',
    sa.Column('idempotency_key', sa.Text(), nullable=False),
    sa.Column('occurrence_id', sa.BigInteger(), nullable=False),
    sa.Column('request_sha256', sa.Text(), nullable=False, comment='the same key with another request is refused'),
    sa.Column('response', postgresql.JSONB(astext_type=sa.Text()), nullable=False),
    sa.Column('created_at', sa.DateTime(timezone=True), server_default=sa.text('now()'), nullable=False),
    sa.ForeignKeyConstraint(['occurrence_id'], ['occurrences.id'], name=op.f('fk_triggers_occurrence_id_occurrences')),
    sa.PrimaryKeyConstraint('idempotency_key', name=op.f('pk_triggers'))
    )
    _make_slot_partitions()
    _seed()


def _make_slot_partitions() -> None:
    for table in ("user_profiles", "user_item_profiles", "user_hour_profiles"):
        for start in range(0, 1024, 64):
            op.execute(
                f"CREATE TABLE {table}_s{start:04d} PARTITION OF {table} FOR VALUES FROM ({start}) TO ({start + 64})"
            )


def _seed() -> None:
    names = ["view", "search", "add_to_cart", "purchase", "rating"]
    names += ["app_open", "push_open", "push_click", "push_dismiss", "unsubscribe"]
    for number, name in enumerate(names, start=1):
        op.execute(f"INSERT INTO event_types (id, name) VALUES ({number}, '{name}')")
    op.execute("INSERT INTO workspace (id, hash_key) VALUES (1, uuid_send(gen_random_uuid()))")
    op.execute("""INSERT INTO policies (definition, author) VALUES ('{}', 'migration')""")


def downgrade() -> None:
    """Take the change back."""
    op.drop_table('triggers')
    op.drop_index(op.f('ix_pushes_user_id'), table_name='pushes')
    op.drop_index(op.f('ix_pushes_run_id'), table_name='pushes', postgresql_where=sa.text("state = 'proposed'"))
    op.drop_index('ix_pushes_leased', table_name='pushes', postgresql_where=sa.text("state IN ('claimed', 'sending')"))
    op.drop_index('ix_pushes_due', table_name='pushes', postgresql_where=sa.text("state = 'planned'"))
    op.drop_table('pushes')
    op.drop_table('occurrence_users')
    op.drop_table('shards')
    op.drop_index(op.f('ix_occurrences_run_id'), table_name='occurrences')
    op.drop_table('occurrences')
    op.drop_table('runs')
    op.drop_table('item_versions')
    op.drop_index(op.f('ix_devices_user_id'), table_name='devices')
    op.drop_table('devices')
    op.drop_table('campaign_versions')
    op.drop_table('workspace')
    op.drop_index(op.f('ix_users_slot_id'), table_name='users')
    op.drop_table('users')
    op.drop_table('user_profiles')
    op.drop_table('user_item_profiles')
    op.drop_table('user_hour_profiles')
    op.drop_index(op.f('ix_unfolded_events_user_id'), table_name='unfolded_events')
    op.drop_index(op.f('ix_unfolded_events_slot'), table_name='unfolded_events')
    op.drop_table('unfolded_events')
    op.drop_table('ticks')
    op.drop_table('switches')
    op.drop_table('policies')
    op.drop_index('uq_models_one_champion', table_name='models', postgresql_where=sa.text("state = 'champion'"))
    op.drop_table('models')
    op.drop_table('items')
    op.drop_table('item_profiles')
    op.drop_index(op.f('ix_events_user_id_occurred_at'), table_name='events')
    op.drop_index(op.f('ix_events_occurred_at'), table_name='events', postgresql_using='brin')
    op.drop_table('events')
    op.drop_table('event_types')
    op.drop_table('event_keys')
    op.drop_index(op.f('ix_deliveries_user_id_at'), table_name='deliveries')
    op.drop_index(op.f('ix_deliveries_recorded_at'), table_name='deliveries', postgresql_using='brin')
    op.drop_index(op.f('ix_deliveries_push_id'), table_name='deliveries')
    op.drop_index(op.f('ix_deliveries_campaign_id_at'), table_name='deliveries')
    op.drop_table('deliveries')
    op.drop_index(op.f('ix_decisions_user_id_date'), table_name='decisions')
    op.drop_table('decisions')
    op.drop_index(op.f('ix_changed_users_slot'), table_name='changed_users')
    op.drop_table('changed_users')
    op.drop_table('campaigns')
