"""The pages, in the order of the navigation. Registering one is a line here."""

from __future__ import annotations

from engine.web.console.pages import (
    account,
    approvals,
    audiences,
    audit,
    campaigns,
    data,
    devices,
    editor,
    keys,
    overview,
    rules,
    sends,
    team,
    workers,
)

PAGES = (
    overview,
    campaigns,
    editor,
    sends,
    approvals,
    audiences,
    devices,
    data,
    rules,
    keys,
    team,
    audit,
    workers,
    account,
)
