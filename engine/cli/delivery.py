"""Commands: test pushes (`campaign test`), stop switches (`stop`, `start`), what became of pushes (`deliveries`)."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import typer
from rich.console import Console
from rich.table import Table

from engine.cli.campaigns import AUTHOR, campaign_app, opened

if TYPE_CHECKING:
    from engine.delivery.switches import Switch

deliveries_app = typer.Typer(no_args_is_help=True, help="What became of pushes.")

AsJson = typer.Option(False, "--json", help="Print JSON.")
OfGateway = typer.Option(None, "--gateway", "--channel", help="One gateway: log, webhook, …")
OfCampaign = typer.Option(None, "--campaign", help="One campaign, by its name.")

stdout = Console(highlight=False)


def register(app: typer.Typer) -> None:
    """Add this module's commands to `app`; `test` belongs to `horae campaign`."""
    app.command("stop")(stop)
    app.command("start")(start)
    app.add_typer(deliveries_app, name="deliveries")


@campaign_app.command("test")
def send_test(
    name: str = typer.Argument(help="The campaign's name."),
    user: str = typer.Option(help="Who gets it: a user_id."),
    item: str | None = typer.Option(None, help="About this item_id; absent: the user's best item."),
    variant: str | None = typer.Option(None, help="An arm of the message's experiment; absent: the user's own."),
    data: str | None = typer.Option(None, help='Template data, a JSON object: \'{"code": "SPRING"}\'.'),
    as_json: bool = AsJson,
) -> None:
    """Send one marked push of a campaign to one user, now, rendered for them. It counts nowhere."""
    from engine.clock import business_now

    given = _object(data)
    with opened() as runtime:
        from engine.delivery import trial  # only now: it imports XGBoost, and a server that is down can be told at once

        with runtime.database.begin() as connection:
            now = business_now(connection)
        sent = trial.send_test(runtime, now, name, trial.Wanted(user, item, given, variant), AUTHOR)
    if as_json:
        _print_json(asdict(sent))
    else:
        about = f" about item {sent.item_id}" if sent.item_id else ""
        about += f", variant {sent.variant}" if sent.variant else ""
        why = f" ({sent.detail or sent.reason})" if sent.reason else ""
        stdout.print(f"{sent.gateway}: {sent.state}{why}: a test for user {sent.user_id}{about}", markup=False)
        stdout.print(f"  {sent.title}\n  {sent.body}", markup=False, soft_wrap=True)
        for key, value in sent.data.items():
            stdout.print(f"  {key}: {value}", markup=False, soft_wrap=True)
    if sent.state != "accepted":
        raise typer.Exit(1)


def stop(
    everything: bool = typer.Option(False, "--all", help="All pushes."),
    gateway: str | None = OfGateway,
    campaign: str | None = OfCampaign,
    why: str | None = typer.Option(None, help="The reason, for whoever asks later."),
    as_json: bool = AsJson,
) -> None:
    """Stop sending at once: everything, one gateway or one campaign. It says how many pushes it comes too late for.

    Stopped pushes wait, and expire when their window passes; `horae start` lets them go on.
    """
    from engine.delivery import switches

    chosen = _one_of(everything, gateway, campaign)
    with opened() as runtime, runtime.database.begin() as connection:
        scope = switches.scope_of(connection, **chosen)
        in_flight = switches.stop(connection, scope, AUTHOR, why)
    if as_json:
        _print_json({"stopped": scope, "may_still_leave": in_flight})
        return
    late = f"at most {in_flight} pushes were already on their way" if in_flight else "no push was on its way"
    stdout.print(f"stopped {_named(chosen)}; {late}", markup=False)


def start(
    everything: bool = typer.Option(False, "--all", help="What `stop --all` stopped; other stops stay."),
    gateway: str | None = OfGateway,
    campaign: str | None = OfCampaign,
    as_json: bool = AsJson,
) -> None:
    """Let what was stopped send again; without options, list what is stopped."""
    from engine.delivery import switches

    if not (everything or gateway or campaign):
        with opened() as runtime, runtime.database.begin() as connection:
            found = switches.stopped(connection)
        _print_switches(found, as_json=as_json)
        return
    chosen = _one_of(everything, gateway, campaign)
    with opened() as runtime, runtime.database.begin() as connection:
        scope = switches.scope_of(connection, **chosen)
        was = switches.start(connection, scope, AUTHOR)
        left = switches.stopped(connection)
    if as_json:
        _print_json({"started": scope, "was_stopped": was, "still_stopped": [switch.scope for switch in left]})
        return
    stdout.print(f"{_named(chosen)} {'sends again' if was else 'was not stopped'}", markup=False)
    if left:
        stdout.print(f"still stopped: {', '.join(switch.scope for switch in left)}", markup=False)


@deliveries_app.command("list")
def list_deliveries(
    campaign: str | None = OfCampaign,
    user: str | None = typer.Option(None, help="One user, by user_id."),
    state: str | None = typer.Option(None, help="accepted, rejected, unknown, expired, cancelled, suppressed, …"),
    days: int = typer.Option(7, min=1, help="How many days back."),
    most: int = typer.Option(50, "--limit", min=1, max=10_000, help="How many at most."),
    as_json: bool = AsJson,
) -> None:
    """List what became of pushes, newest first."""
    from datetime import timedelta

    from engine.campaigns import store
    from engine.clock import business_now
    from engine.delivery.ledger import recent
    from engine.errors import UnknownName, did_you_mean
    from engine.store.tables import OUTCOMES

    if state is not None and state not in OUTCOMES:
        raise UnknownName(f"{state!r} is no state", hint=did_you_mean(state, OUTCOMES) or ", ".join(OUTCOMES))
    with opened() as runtime, runtime.database.begin() as connection:
        if campaign is not None:
            store.get(connection, campaign)
        since = (business_now(connection) - timedelta(days=days)).date()
        found = recent(connection, since, most, campaign=campaign, user=user, state=state)
    if as_json:
        _print_json([asdict(delivery) for delivery in found])
        return
    table = Table("at (UTC)", "campaign", "user", "item", "outcome", "gateway", "attempts", box=None, pad_edge=False)
    for one in found:
        outcome = f"{one.state}: {one.reason}" if one.reason else one.state
        table.add_row(
            f"{one.at:%Y-%m-%d %H:%M:%S}",
            one.campaign + (" (test)" if one.test else ""),
            *(one.user_id or "erased", one.item_id or "–", outcome, one.gateway, str(one.attempts)),
        )
    stdout.print(table if found else "No push came to its end in this time.")


# --- inside ----------------------------------------------------------------------------------------------------------


def _one_of(everything: bool, gateway: str | None, campaign: str | None) -> dict[str, str | None]:
    from engine.errors import BadInput

    if [everything, gateway is not None, campaign is not None].count(True) != 1:
        raise BadInput("say what: --all, --gateway NAME or --campaign NAME")
    return {"gateway": gateway, "campaign": campaign}


def _named(chosen: dict[str, str | None]) -> str:
    return next((f"{kind} {name}" for kind, name in chosen.items() if name is not None), "everything")


def _print_switches(found: list[Switch], *, as_json: bool) -> None:
    if as_json:
        _print_json([asdict(switch) for switch in found])
        return
    for switch in found:
        by = f" by {switch.author}" if switch.author else ""
        why = f": {switch.why}" if switch.why else ""
        stdout.print(f"{switch.scope}, stopped {switch.stopped_at:%Y-%m-%d %H:%M} UTC{by}{why}", markup=False)
    if not found:
        stdout.print("nothing is stopped")


def _object(text: str | None) -> dict[str, Any]:
    from engine.errors import BadInput

    try:
        value = json.loads(text) if text is not None else {}
    except json.JSONDecodeError as error:
        raise BadInput(f"--data is not JSON: {error}") from error
    if not isinstance(value, dict):
        raise BadInput('--data must be a JSON object, such as {"code": "SPRING"}')
    return value


def _print_json(value: Any) -> None:
    typer.echo(json.dumps(value, indent=2, ensure_ascii=False, default=str))
