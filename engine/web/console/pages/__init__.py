"""The pages, in the order of the navigation. Registering one is a line here."""

from __future__ import annotations

from engine.web.console.pages import account, campaigns, editor, models, overview, people, runs, sends

PAGES = (
    overview,
    campaigns,
    editor,
    sends,
    runs,
    people,
    models,
    account,
)
