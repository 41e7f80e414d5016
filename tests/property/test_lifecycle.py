"""The lifecycle of campaigns: whatever is asked in whatever order, only the allowed moves happen, each one is told."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import cast

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import text

from engine import audit
from engine.campaigns import store
from engine.campaigns.definition import Campaign
from engine.errors import BadInput

NOW = datetime(2026, 3, 2, 5, tzinfo=UTC)
ALLOWED = {
    ("draft", "launch"): "running",
    ("running", "paused"): "paused",
    ("paused", "running"): "running",
    **{(state, "cancelled"): "cancelled" for state in ("draft", "running", "paused")},
    **{(state, "done"): "done" for state in ("running", "paused")},
}
BASE = {"name": "one", "class": "marketing", "message": {"title": "a", "body": "b"}}


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    draft=st.booleans(),
    moves=st.lists(st.sampled_from(["launch", "running", "paused", "cancelled", "done", "edit"]), max_size=8),
)
def test_only_the_moves_of_the_lifecycle_happen_and_each_is_in_the_audit_log(shared_database, draft, moves):
    with shared_database.begin() as connection:
        connection.execute(text("TRUNCATE campaigns, audit_log CASCADE"))
        made = store.create(connection, Campaign.model_validate(BASE), NOW, "ada", draft=draft)
        state, version, told = str(made.stored.state), 1, 1
        assert state == ("draft" if draft else "running")
        for number, move in enumerate(moves):
            if move == "edit":
                allowed, following = state not in ("cancelled", "done"), state
            else:
                allowed = (state, move) in ALLOWED or state == move
                following = ALLOWED.get((state, move), state)
            if not allowed:
                with pytest.raises(BadInput):
                    ask(connection, move, number)
                continue
            told += move == "edit" or following != state
            version += move == "edit"
            ask(connection, move, number)
            state = following
            stored = store.get(connection, "one")
            assert (stored.state, stored.version) == (state, version)
            assert store.get_version(connection, stored.id, 1) == Campaign.model_validate(BASE)
        assert len(audit.read(connection)) == told


def ask(connection, move: str, number: int) -> None:
    if move == "launch":
        store.launch(connection, "one", NOW, "ada")
    elif move == "edit":
        store.create(connection, Campaign.model_validate({**BASE, "description": f"edit {number}"}), NOW, "ada")
    else:
        store.set_state(connection, "one", cast("store.State", move), "ada")
