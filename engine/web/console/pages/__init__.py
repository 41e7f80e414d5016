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
    models,
    overview,
    people,
    rules,
    runs,
    sends,
    team,
    workers,
)

PAGES = (
    overview,
    campaigns,
    editor,
    sends,
    runs,
    people,
    audiences,
    models,
    approvals,
    rules,
    devices,
    data,
    keys,
    team,
    audit,
    workers,
    account,
)
