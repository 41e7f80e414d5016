"""`horae demo`: real purchases, real servers, workers and beat, virtual days, and an honest report.

The demo has a data directory of its own, and thrown away is what an earlier demo left there. It takes the same ways as
a shop: files through `engine.ingest`, training, campaigns from YAML files, `horae up`. What it adds is a clock that is
stepped through some days of the data, feeding the purchases of each quarter of an hour as they happened.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import date, datetime, time, timedelta
from pathlib import Path

import numpy as np
from pyarrow import parquet
from rich.console import Console
from sqlalchemy import text

from engine import clock
from engine.campaigns import policy_store, store
from engine.campaigns.definition import Campaign
from engine.campaigns.review import require_sound, review
from engine.config import Settings
from engine.demo import aftermath, data, ledger
from engine.demo.campaigns import POLICY, audience_size, load_campaigns
from engine.demo.data import TIMEZONE, Journey
from engine.demo.driver import Driver
from engine.demo.progress import Advance, Stages
from engine.demo.report import Report
from engine.demo.workspace import fresh, horae_up, only_demo, restarts
from engine.errors import HoraeError
from engine.ingest import run as intake
from engine.learning import training
from engine.localtime import resolve, zone
from engine.planning.wake import BrokerWake
from engine.runtime import Runtime, open_runtime

FIRST_DAY = date(2017, 10, 16)
"""A Monday; 41 weeks of history before it, and weeks of data after it to look back on."""

AUTHOR = "demo"
HASH_KEY = b"horae demo: same"
"""Keys every draw (arms, instants, ties). A workspace makes its own; the demo has one, so that its runs are alike."""


@dataclass(frozen=True)
class Options:
    """What a demo runs: `days` virtual days from FIRST_DAY, on the first `households` (None: all), in `home`."""

    home: Path
    days: int = 4
    households: int | None = None

    @property
    def start(self) -> datetime:
        """Noon of the day before: an occurrence by local time is planned when the first zone of the world is due."""
        return resolve(datetime.combine(FIRST_DAY - timedelta(days=1), time(12)), zone(TIMEZONE))

    @property
    def end(self) -> datetime:
        """The midnight after the last day."""
        return resolve(datetime.combine(FIRST_DAY + timedelta(days=self.days), time()), zone(TIMEZONE))


def run(options: Options, console: Console) -> Report:
    """Run the demo, with progress on `console`.

    Raises BadInput where another demo runs in this home or the data is not installed, Unavailable where servers or
    workers do not get on. Its workers and beat are stopped however it ends; the embedded servers stay up.
    """
    stages = Stages(console)
    with only_demo(options.home):
        with stages.stage("servers", "starting PostgreSQL and Valkey"):
            settings = fresh(options.home)
            runtime = open_runtime(settings)
            with runtime.database.begin() as connection:
                clock.start_virtual(connection, options.start)
                connection.execute(text("UPDATE workspace SET hash_key = :key"), {"key": HASH_KEY})
                policy_store.save_policy(connection, lambda _: POLICY, AUTHOR)
        try:
            return _run(options, stages, runtime)
        finally:
            runtime.close()


def _run(options: Options, stages: Stages, runtime: Runtime) -> Report:
    settings = runtime.settings
    with stages.stage("data", "reading Complete Journey"):
        journey = data.prepare(options.start, options.households)
        files = data.write_files(journey, options.start, settings.home / "files")
    with stages.stage("ingest", "ingesting purchases") as advance:
        ingested = _ingest(runtime, files, options.start, advance)
    with horae_up(settings) as up:
        with stages.stage("training", "training") as advance:
            _train(runtime, options.start, advance)
        campaigns = load_campaigns()
        _create(runtime, campaigns, options.start)
        with stages.stage("days", f"living through {options.days} days") as advance:
            driver = Driver(runtime, journey, campaigns, up, BrokerWake(runtime.broker_url))
            driver.run(options.start, options.end, _narrator(runtime, options, advance))
        restarted = restarts(settings)
    with stages.stage("report", "looking back"):
        return _report(options, runtime, journey, campaigns, (ingested, restarted, stages.seconds))


def _ingest(runtime: Runtime, files: dict[str, Path], now: datetime, advance: Advance) -> int:
    """Users, items and events through the ingest of files; the number of events accepted."""
    total = parquet.read_metadata(files["events"]).num_rows

    def told(progress: intake.Progress) -> None:
        advance(progress.rows / total, f"{progress.rows:,} of {total:,}")

    summaries = [
        intake.ingest_users(runtime.database, [files["users"]], now),
        intake.ingest_items(runtime.database, [files["items"]], now),
        intake.ingest_events(runtime.database, [files["events"]], now, progress=told),
    ]
    if refused := sum(summary.refused for summary in summaries):
        raise HoraeError(f"{refused} rows of the demo's own files were refused", hint=f"see {files['events'].parent}")
    advance(1.0, f"{total:,} of {total:,}")
    return summaries[-1].accepted


def _train(runtime: Runtime, now: datetime, advance: Advance) -> None:
    training.train(runtime.database, now, lambda what, share: advance(share, what))


def _create(runtime: Runtime, campaigns: tuple[Campaign, ...], now: datetime) -> None:
    with runtime.database.begin() as connection:
        for campaign in campaigns:
            require_sound(review(connection, campaign, now, runtime.gateways), campaign.name)
            store.create(connection, campaign, now, AUTHOR)


def _narrator(runtime: Runtime, options: Options, advance: Advance) -> Callable[[datetime], None]:
    """What the progress says of each step: local time, and how many pushes have left by the hour."""
    tz, whole = zone(TIMEZONE), options.end - options.start
    sent = 0

    def seen(now: datetime) -> None:
        nonlocal sent
        if now.minute == 0:
            sent = ledger.sent_so_far(runtime.database)
        advance((now - options.start) / whole, f"{now.astimezone(tz):%a %d %b %H:%M}, {sent:,} sent")

    return seen


def _report(
    options: Options,
    runtime: Runtime,
    journey: Journey,
    campaigns: tuple[Campaign, ...],
    counted: tuple[int, int, dict[str, float]],
) -> Report:
    settings: Settings = runtime.settings
    journal = ledger.read_journal(settings.journal_path)
    audiences = {campaign.name: audience_size(campaign, journey.users) for campaign in campaigns}
    with runtime.database.begin() as connection:
        over = ledger.over(connection, TIMEZONE, options.end)
        ledgers = ledger.campaign_ledgers(connection, audiences, over)
        chance = ledger.chance(connection, over, (POLICY.holdout, campaigns[0].exploration))
        changed = ledger.rebound(connection, over)
    after = aftermath.look_back(journey, journal, options.start, np.random.default_rng(2017)) if len(journal) else None
    ingested, restarted, seconds = counted
    return Report(
        households=journey.users.num_rows,
        events_ingested=ingested,
        first_day=FIRST_DAY,
        last_day=FIRST_DAY + timedelta(days=options.days - 1),
        timezone=TIMEZONE,
        campaigns=ledgers,
        local_hours=ledger.local_hours(journal, TIMEZONE),
        caps=ledger.cap_checks(journal, POLICY, TIMEZONE),
        spacing=ledger.spacing(journal, POLICY, TIMEZONE),
        chance=chance,
        late=aftermath.late_binding(journey, changed, np.random.default_rng(2018)),
        aftermath=after,
        worker_restarts=restarted,
        seconds=seconds,
    )
