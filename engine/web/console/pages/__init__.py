"""The pages, in the order of the navigation. Registering one is a line here."""

from __future__ import annotations

from engine.web.console.pages import account, models, overview, people, runs

PAGES = (
    overview,
    runs,
    people,
    models,
    account,
)
