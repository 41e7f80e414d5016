"""Servers and what runs on them: `horae up`, `down`, `status`, `migrate`."""

from __future__ import annotations

import json
from contextlib import closing
from typing import TYPE_CHECKING

import typer
from rich.console import Console
from rich.text import Text

if TYPE_CHECKING:
    from collections.abc import Iterator

    from engine.config import Settings
    from engine.status import Status, StoreStatus
    from engine.supervise.programs import Plan
    from engine.supervise.supervisor import Say

COLOURS = ("cyan", "green", "magenta", "yellow", "blue", "bright_red")

out = Console(highlight=False, soft_wrap=True)
err = Console(stderr=True, highlight=False, soft_wrap=True)


def register(app: typer.Typer) -> None:
    """Add this module's commands to `app`."""
    app.command()(up)
    app.command()(down)
    app.command()(status)
    app.command()(migrate)


def up() -> None:
    """Run everything in the foreground: servers, migrations, workers, beat, API, Flower.

    Where HORAE_DATABASE_URL or HORAE_REDIS_URL is not set, the embedded servers of HORAE_HOME are started. A program
    that dies is started again. Ctrl-C (or SIGTERM) lets workers finish what they do, at most 40 seconds; a second one
    does not wait. The embedded servers stay up, as after every command: `horae down` stops them.

    The API listens on this machine (http://127.0.0.1:8000, or the next free port; HORAE_API_PORT, 0: none). Development
    mode: while there is no key, whoever works on this machine needs none; `horae admin create-key` ends that.

    Flower (http://127.0.0.1:5555, or the next free port; HORAE_FLOWER_PORT, 0: none) shows the tasks, read-only. Its
    user is `horae`; the password is HORAE_FLOWER_PASSWORD, or is made and kept in HORAE_HOME/flower-password.
    """
    from engine.access.keys import any_live
    from engine.clock import machine_now
    from engine.config import read_settings
    from engine.delivery.gateways import build_gateways
    from engine.embedded.home import usable_home
    from engine.errors import HoraeError
    from engine.runtime import open_runtime, revive
    from engine.supervise import Supervisor, only_one, plan_programs

    settings = read_settings()
    build_gateways(settings)  # whoever starts it is here to read what is wrong with a credential
    with only_one(usable_home(settings.home)):
        with err.status("starting the servers, bringing the schema up to date …"):
            runtime = open_runtime(settings)
            with runtime.database.begin() as connection:
                keyed = any_live(connection, machine_now())
            runtime.close()
        with closing(plan_programs(settings)) as plan:
            _say_where(settings, plan, keyed)
            say = _interleave(plan)

            def look() -> None:
                try:
                    revive(settings)
                except HoraeError as error:  # the next look tries again
                    say("horae", str(error))

            Supervisor(plan.programs, say, look).run()
        out.print("stopped; embedded servers stay up until: horae down")


def down() -> None:
    """Stop a running `horae up` of this HORAE_HOME, then its embedded servers. Servers of your own are left alone."""
    from engine import embedded
    from engine.config import read_settings
    from engine.supervise import stop_other

    home = read_settings().home
    with err.status("stopping …"):
        pid = stop_other(home)
        stopped = ([f"horae up (process {pid})"] if pid else []) + embedded.stop(home)
    out.print(f"stopped: {', '.join(stopped)}" if stopped else f"nothing was running on {home}")


def migrate() -> None:
    """Bring the database's schema up to date. Safe to repeat and to run from several hosts at once.

    Where this version keeps other decayed counters, all profiles are computed again from the events.
    """
    from engine.cli.ingest import slices_bar
    from engine.config import read_settings
    from engine.ingest.replay import renew_profiles
    from engine.runtime import database_url
    from engine.store import schema
    from engine.store.database import Database

    database = Database(database_url(read_settings()))
    before = schema.version_state(database)
    schema.upgrade(database)
    with slices_bar() as told:
        renewed = renew_profiles(database, told)
    database.dispose()
    out.print("the schema was up to date" if before == "current" else f"the schema was {before} and is up to date now")
    if renewed:
        out.print("profiles computed again from the events; models trained before are of no use now: horae train")


def status(as_json: bool = typer.Option(False, "--json", help="One JSON object.")) -> None:
    """Say what runs, how deep the queues are and how late the oldest due push is. Starts nothing.

    Exit code 0 where everything that pushes need is running (PostgreSQL with the current schema, Redis, a worker for
    each queue, beat), 1 where something is down; `down` names it.
    """
    from engine.config import read_settings
    from engine.status import gather

    with err.status("asking …"):
        found = gather(read_settings())
    if as_json:
        typer.echo(json.dumps(found.as_dict(), indent=2))
    else:
        lines = [*_server_lines(found), *(_store_lines(found.store) if found.store else ())]
        for name, what in lines:
            out.print(f"[bold]{name:<18}[/]{what}")
    raise typer.Exit(1 if found.down else 0)


def _say_where(settings: Settings, plan: Plan, keyed: bool) -> None:
    out.print(f"[bold]Horae is up[/], data in {settings.home}")
    if plan.api_url is not None:
        opened_by = "with a key" if keyed else "[yellow]development mode[/]: open to this machine until there is a key"
        out.print(f"API: {plan.api_url}, {opened_by} (horae admin create-key)")
    if plan.flower_url is not None:
        where = f"in {plan.flower_password_file}" if plan.flower_password_file else "HORAE_FLOWER_PASSWORD"
        out.print(f"Flower: {plan.flower_url}, user horae, password {where}")
    out.print("Ctrl-C stops workers, beat, API and Flower\n")


def _interleave(plan: Plan) -> Say:
    names = ["horae", *(program.name for program in plan.programs)]
    width = max(map(len, names))
    colours = dict(zip(names, ("bold", *COLOURS), strict=False))

    def say(name: str, line: str) -> None:
        out.print(Text.assemble((f"{name:<{width}} │ ", colours.get(name, "white")), line))

    return say


def _server_lines(found: Status) -> Iterator[tuple[str, str]]:
    yield "data directory", str(found.home)
    for name, server in (("PostgreSQL", found.postgres), ("Redis", found.redis)):
        kind = "embedded" if server.embedded else "own"
        state = f"[green]running[/], {kind}, {server.address}" if server.running else f"[red]down[/], {kind}"
        yield name, f"{state} {server.problem or ''}".rstrip()
    yield "schema", found.schema
    yield "horae up", f"process {found.up}" if found.up else "not running"
    for worker in found.workers:
        yield "worker", f"{worker.name}: {', '.join(worker.queues)}"
    yield "beat", "[green]running[/]" if found.beat else "[red]down[/]"
    yield "messages waiting", ", ".join(f"{name} {n}" for name, n in found.queues.items()) or "unknown"
    for alarm in found.alarms:
        yield "alarm", f"[red]{alarm}[/]"
    yield "down", f"[red]{', '.join(found.down)}[/]" if found.down else "nothing"


def _store_lines(store: StoreStatus) -> Iterator[tuple[str, str]]:
    yield "business time", f"{store.business_now:%Y-%m-%d %H:%M:%S} UTC" + " (virtual)" * store.virtual_clock
    yield "campaigns", _listed(store.campaigns)
    yield "pushes", _listed(store.pushes)
    late = f", the oldest {store.oldest_due_late_seconds:.1f} s late" if store.pushes_due else ""
    yield "due now", f"{store.pushes_due:,}{late}"
    runs = (f"{run['id']} {run['state']} {run['shards_done']}/{run['shards_total']} shards" for run in store.runs)
    yield "runs in progress", "; ".join(runs) or "none"
    yield "events to fold", f"{store.events_unfolded:,}"
    if store.leases_expired:
        yield "leases expired", f"{store.leases_expired:,} (upkeep takes them over)"
    ticks = (f"{name} {age:.0f} s" for name, age in store.ticks.items())
    yield "ticks ended ago", ", ".join(ticks) or "none yet"
    yield "last 24 hours", _listed(store.outcomes_last_day)
    yield "of these unknown", f"{store.unknown_last_day:,} (counted, never sent again)"
    model = store.model
    yield "model", f"{model['version']}, {model['regime']}, as of {model['as_of']}" if model else "none yet"


def _listed(counts: dict[str, int]) -> str:
    return ", ".join(f"{name} {n:,}" for name, n in counts.items()) or "none"
