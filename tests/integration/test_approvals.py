"""Approvals: what may not be launched or sent, who may approve, and which version goes on meanwhile."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from sqlalchemy import Connection
from typer.testing import CliRunner

from engine import audit
from engine.campaigns import approving, audience_store, store
from engine.campaigns.definition import Campaign
from engine.campaigns.policy_store import save_policy
from engine.campaigns.review import define
from engine.campaigns.saved_audience import SavedAudience
from engine.cli.app import app
from engine.errors import BadInput
from engine.planning.trigger import Request, trigger
from tests.planning_shop import NOW, daily


@pytest.fixture
def undone(shared_database) -> Iterator[Connection]:
    """A transaction of this test's own, rolled back after it."""
    with shared_database.engine.connect() as connection:
        yield connection


def ask_for(connection: Connection, approvals: str) -> None:
    save_policy(connection, lambda policy: policy.model_copy(update={"approvals": approvals}))


def defined(connection: Connection, author: str = "anna", **changes: Any) -> store.Created:
    return define(connection, sale(**changes), NOW, {"log"}, author).created


def sale(**changes: Any) -> Campaign:
    return daily(name="sale", items="none", message={"title": "Sale", "body": "Now"}, **changes)


def launched(connection: Connection) -> None:
    defined(connection)
    approving.request(connection, "sale", "anna")
    approving.approve(connection, "sale", NOW, "ben")
    store.launch(connection, "sale", NOW, "anna")


@pytest.mark.parametrize("approvals", ["required", "four_eyes"])
def test_a_new_campaign_is_a_draft_that_launches_only_when_its_version_is_approved(undone, approvals):
    ask_for(undone, approvals)
    assert defined(undone).stored.state == "draft"
    with pytest.raises(BadInput, match="version 1 of campaign sale has not been approved"):
        store.launch(undone, "sale", NOW)
    approving.request(undone, "sale", "anna")
    assert [one.name for one in approving.waiting(undone)] == ["sale"]
    with pytest.raises(BadInput, match="version 1 of campaign sale is requested"):
        store.launch(undone, "sale", NOW)
    approving.approve(undone, "sale", NOW, "ben", 1)
    assert approving.waiting(undone) == []
    assert store.launch(undone, "sale", NOW).state == "running"


def test_an_edit_of_an_approved_draft_needs_an_approval_of_its_own(undone):
    ask_for(undone, "required")
    defined(undone)
    approving.approve(undone, "sale", NOW, "ben")
    assert defined(undone, priority=2).outcome == "edited"
    with pytest.raises(BadInput, match="version 2 of campaign sale has not been approved"):
        store.launch(undone, "sale", NOW)


def test_an_edit_of_a_launched_campaign_waits_and_the_approved_version_goes_on_until_it_is_approved(undone):
    ask_for(undone, "four_eyes")
    launched(undone)
    made = defined(undone, "carl", priority=2)
    assert (made.outcome, made.pending, made.stored.version) == ("pending", 2, 1)
    assert defined(undone, "carl", priority=2).outcome == "unchanged"
    assert store.get(undone, "sale").definition.priority == 1
    assert approving.approve(undone, "sale", NOW, "ben", 2).in_force
    assert (store.get(undone, "sale").version, store.get(undone, "sale").definition.priority) == (2, 2)


def test_a_rejected_edit_never_comes_into_force_and_its_reason_is_told(undone):
    ask_for(undone, "required")
    launched(undone)
    defined(undone, priority=2)
    with pytest.raises(BadInput, match="needs a reason"):
        approving.reject(undone, "sale", " ", "ben")
    approving.reject(undone, "sale", "too loud", "ben")
    with pytest.raises(BadInput, match="version 2 of campaign sale was rejected: too loud"):
        approving.approve(undone, "sale", NOW, "ben")
    assert store.get(undone, "sale").version == 1
    assert defined(undone, priority=2).pending == 3
    approving.approve(undone, "sale", NOW, "ben")
    assert store.get(undone, "sale").version == 3


def test_four_eyes_are_those_of_somebody_who_wrote_nothing_of_what_is_approved(undone):
    ask_for(undone, "four_eyes")
    defined(undone, "anna")
    defined(undone, "ben", priority=2)
    assert approving.standing(undone, "sale").authors == ("anna", "ben")
    for author in ("anna", "ben"):
        with pytest.raises(BadInput, match=f"approved by somebody else: {author} wrote some of it"):
            approving.approve(undone, "sale", NOW, author)
    with pytest.raises(BadInput, match="nobody is named"):
        approving.approve(undone, "sale", NOW)
    approving.approve(undone, "sale", NOW, "carl")
    store.launch(undone, "sale", NOW, "anna")
    defined(undone, "carl", priority=3)
    assert approving.standing(undone, "sale").authors == ("carl",)
    approving.approve(undone, "sale", NOW, "anna")


def test_what_was_looked_at_is_what_is_approved(undone):
    ask_for(undone, "required")
    defined(undone)
    defined(undone, priority=2)
    with pytest.raises(BadInput, match="version 1 of campaign sale is not the newest: 2 is"):
        approving.approve(undone, "sale", NOW, "ben", 1)
    approving.approve(undone, "sale", NOW, "ben", 2)
    with pytest.raises(BadInput, match="approved already"):
        approving.approve(undone, "sale", NOW, "ben")


def test_every_word_is_audited(undone):
    ask_for(undone, "required")
    launched(undone)
    defined(undone, priority=2)
    approving.reject(undone, "sale", "too loud", "ben")
    found = [(entry.action, entry.actor) for entry in audit.read(undone, subject="campaign:sale")]
    assert found == [
        ("campaign.reject", "ben"), ("campaign.propose", "anna"), ("campaign.launch", "anna"),
        ("campaign.approve", "ben"), ("campaign.request_approval", "anna"), ("campaign.create", "anna"),
    ]  # fmt: skip


def test_an_audience_of_a_launched_campaign_is_not_edited_behind_the_approvers_back(undone):
    ask_for(undone, "required")
    for name, rules in (("inner", {"seen_within": "3d"}), ("outer", {"audience": "inner"})):
        audience_store.create(undone, SavedAudience.model_validate({"name": name, "rules": rules}))
    changed = SavedAudience.model_validate({"name": "inner", "rules": {"seen_within": "9d"}})
    defined(undone, audience={"audience": "outer"})
    assert audience_store.edit(undone, changed).version == 2
    approving.approve(undone, "sale", NOW, "ben")
    store.launch(undone, "sale", NOW)
    with pytest.raises(BadInput, match=r"used by launched campaigns \(sale\)"):
        audience_store.edit(undone, SavedAudience.model_validate({"name": "inner", "rules": {"seen_within": "8d"}}))


def test_a_send_by_hand_of_a_version_never_approved_is_refused_and_commands_say_how_it_goes_on(runtime, tmp_path):
    environment = {
        "HORAE_DATABASE_URL": runtime.database.libpq_url,
        "HORAE_REDIS_URL": runtime.settings.redis_url or "",
        "HORAE_HOME": str(tmp_path / "home"),
        "COLUMNS": "200",
    }

    def horae(*arguments: str) -> str:
        result = CliRunner().invoke(app, list(arguments), env=environment)
        if result.exception is not None:
            raise result.exception
        return result.stdout

    with runtime.database.begin() as connection:
        assert define(connection, sale(schedule=None), NOW, {"log"}, "anna").created.stored.state == "running"
    assert "four eyes" in horae("workspace", "set", "--approvals", "four_eyes")
    with pytest.raises(BadInput, match="version 1 of campaign sale has not been approved"):
        trigger(runtime.database, NOW, "sale", Request())
    assert "waits for an approval" in horae("campaign", "request-approval", "sale")
    assert "anna" in horae("campaign", "approvals")
    assert "is rejected" in horae("campaign", "reject", "sale", "--reason", "no")
    assert "version 1 is rejected" in horae("campaign", "show", "sale")
    horae("campaign", "request-approval", "sale")
    assert "approved, and in force" in horae("campaign", "approve", "sale", "--version", "1")
    assert trigger(runtime.database, NOW, "sale", Request()).campaign == "sale"
