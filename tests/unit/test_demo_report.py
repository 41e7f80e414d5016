"""The demo's report says what it must, and says so when something is wrong."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import date
from pathlib import Path

import pytest

from engine.cli.app import app
from engine.demo.outcomes import Comparison, Estimate
from engine.demo.report import (
    Aftermath,
    CampaignLedger,
    CapCheck,
    Chance,
    LateBinding,
    Report,
    Spacing,
    as_dict,
    next_steps,
    render,
)

NEVER = Estimate(0.0, 0.0, 0.0)
BOUGHT = Comparison(Estimate(0.24, 0.22, 0.25), Estimate(0.15, 0.14, 0.16), Estimate(0.09, 0.08, 0.1), 900, 500)
DAILY = CampaignLedger("daily-pick", 4, 250, 950, 900, {"capped": 40, "holdout": 50, "expired at dispatch": 10})
REPORT = Report(
    households=250,
    events_ingested=1_000,
    first_day=date(2017, 10, 16),
    last_day=date(2017, 10, 19),
    timezone="America/New_York",
    campaigns=(DAILY,),
    local_hours={9: 300, 17: 600},
    caps=(CapCheck("per user and local day", 1, 1),),
    spacing=Spacing(12.0, 12.5, "22:00–08:00", 0, 0, 0),
    chance=Chance(0.049, 0.05, 0.052, 0.05),
    late=LateBinding(950, 60, 50, 20, 2, 10, 3, replace(BOUGHT, pushes=40)),
    aftermath=Aftermath(BOUGHT, "Milk", replace(BOUGHT, gain=NEVER), 16, "household 7 got milk"),
    worker_restarts=0,
    seconds={"ingest": 20.4, "days": 60.0},
)


def test_counts_add_up_to_the_audience_of_every_occurrence() -> None:
    assert DAILY.expected == 1_000
    assert REPORT.adds_up
    assert "sent + not sent = 1,000 of 1,000: it adds up" in render(REPORT)


def test_a_lost_user_is_said_loudly() -> None:
    lost = replace(REPORT, campaigns=(replace(DAILY, sent=899),))

    assert not lost.adds_up
    assert "999 of 1,000: IT DOES NOT ADD UP" in render(lost)


def test_every_reason_and_rule_is_shown_with_its_number() -> None:
    text = render(REPORT)

    for piece in ("not sent: capped", "not sent: expired at dispatch", "at most, per user and local day", "12.5 h"):
        assert piece in text
    assert "24.0 % [22.0, 25.0]" in text
    assert "gain +9.0 points [+8.0, +10.0]" in text
    assert "foresight is measured, not effect" in text


def test_late_binding_is_counted_and_compared_with_what_was_planned_first() -> None:
    assert "60 of 950 planned pushes changed (50 their item, 20 their window), 2 ended" in render(REPORT)
    assert "10 had an item that was bought meanwhile: they left with another" in render(REPORT)
    assert "the item planned first, same pushes" in render(REPORT)
    none = render(replace(REPORT, late=LateBinding(950, 0, 0, 0, 0, 0, 0, None)))
    assert "0 of 950 planned pushes changed" in none
    assert "the item planned first" not in none


def test_hours_between_the_first_and_the_last_are_shown_though_empty() -> None:
    lines = [line for line in render(REPORT).splitlines() if ":00  " in line]

    assert len(lines) == 9
    assert lines[-1].count("█") == 2 * lines[0].count("█")
    assert "█" not in lines[1]


def test_restarts_of_the_worker_are_told() -> None:
    assert "died" not in render(REPORT)
    assert "the worker died and was started again: 3 ×" in render(replace(REPORT, worker_restarts=3))


def test_a_demo_that_sent_nothing_reports_too() -> None:
    silent = replace(
        REPORT,
        campaigns=(replace(DAILY, sent=0, planned=0, reasons={"capped": 1_000}),),
        local_hours={},
        aftermath=None,
        spacing=replace(REPORT.spacing, smallest_gap_hours=None),
    )

    assert "Nothing was sent" in render(silent)


def test_lines_fit_a_terminal() -> None:
    assert max(len(line) for line in render(REPORT).splitlines()) <= 110


def test_the_report_is_one_json_object() -> None:
    found = json.loads(json.dumps(as_dict(REPORT), default=str))

    assert found["adds_up"] is True
    assert found["campaigns"][0]["reasons"]["capped"] == 40


@pytest.mark.parametrize(
    "line",
    [line.split("  ")[1] for line in next_steps(Path("x")).splitlines() if line.startswith("  horae")],
)
def test_what_to_try_next_exists(line: str) -> None:
    import typer.main

    command = typer.main.get_command(app)
    for word in line.split()[1:]:
        if not hasattr(command, "commands"):
            break
        assert word in command.commands, line
        command = command.commands[word]
