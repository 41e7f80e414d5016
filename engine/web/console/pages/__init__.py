"""The pages, in the order of the navigation. Registering one is a line here."""

from __future__ import annotations

from engine.web.console.pages import account, audit, data, devices, keys, overview, rules, team, workers

PAGES = (
    overview,
    devices,
    data,
    rules,
    keys,
    team,
    audit,
    workers,
    account,
)
