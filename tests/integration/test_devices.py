"""Devices: registered from files, refreshed, dead and alive again, listed without their tokens."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text
from typer.testing import CliRunner

from engine.cli.app import app
from engine.delivery.dispatch import dispatch_due
from engine.delivery.gateways import Kind, Outcome, Outgoing, device_gateways
from engine.errors import HoraeError, UnknownName
from engine.ingest.run import ingest_devices
from engine.ingest.summary import Summary
from engine.runtime import Runtime
from tests.delivery_store import NOON, DeliveryShop

Register = Callable[..., Summary]


class Accepting:
    """A gateway to devices that takes everything."""

    name, needs_device, timeout = "fcm", True, timedelta(seconds=1)

    def __init__(self) -> None:
        self.reached: list[str] = []

    def send_many(self, messages: Sequence[Outgoing], start_by: float = math.inf) -> list[Outcome]:
        self.reached += [message.device.token for message in messages if message.device]
        return [Outcome(Kind.ACCEPTED)] * len(messages)

    def close(self) -> None:
        pass


@pytest.fixture
def register(runtime: Runtime, shop: DeliveryShop, tmp_path: Path) -> Register:
    """Ingest registrations, given as dictionaries."""

    def ingest(*rows: dict[str, Any], now: datetime = NOON) -> Summary:
        path = tmp_path / "devices.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        return ingest_devices(runtime.database, [path], now, gateways=device_gateways())

    return ingest


def row(token: str = "t1", user: str = "ada", at: datetime | None = NOON, **more: Any) -> dict[str, Any]:
    registered = {} if at is None else {"registered_at": at.isoformat()}
    return {"user_id": user, "token": token, "platform": "android", **registered, **more}


def devices(runtime: Runtime) -> list[dict[str, Any]]:
    with runtime.database.begin() as connection:
        rows = connection.execute(
            text(
                "SELECT u.external_id AS user, d.token, d.gateway, d.seen_at, d.dead_at, d.dead_reason, d.attributes"
                " FROM devices d JOIN users u ON u.id = d.user_id ORDER BY token"
            )
        )
        return [dict(each._mapping) for each in rows]


def counted(summary: Summary) -> tuple[int, int, int, int]:
    return summary.created, summary.updated, summary.unchanged, summary.refused


def test_a_file_registers_devices_by_platform_or_gateway_once(register: Register, runtime: Runtime) -> None:
    rows = [
        row("a", app_version="4.2"),
        row("b", platform="iOS"),
        row("c", platform="web", keys={"p256dh": "P", "auth": "A"}),
        row("d", platform="android", gateway="webpush"),
        row("e", user="new", at=None),
    ]

    assert counted(register(*rows)) == (5, 0, 0, 0)
    assert counted(register(*rows)) == (0, 0, 5, 0)

    found = devices(runtime)
    assert [each["gateway"] for each in found] == ["fcm", "apns", "webpush", "webpush", "fcm"]
    assert found[0]["attributes"] == {"platform": "android", "app_version": "4.2"}
    assert found[2]["attributes"]["keys"] == {"p256dh": "P", "auth": "A"}
    assert (found[4]["user"], found[4]["seen_at"]) == ("new", NOON)


def test_a_token_belongs_to_the_user_of_its_newest_registration(register: Register, runtime: Runtime) -> None:
    register(row(user="ada", at=NOON - timedelta(days=2)))
    newer, older = row(user="bob", at=NOON - timedelta(days=1)), row(user="eve", at=NOON - timedelta(days=3))

    assert counted(register(newer, older)) == (0, 1, 1, 0)
    assert [each["user"] for each in devices(runtime)] == ["bob"]
    assert counted(register(row(user="eve", at=None))) == (0, 0, 1, 0), "it does not say when"


def test_the_dead_live_again_by_a_newer_registration_only(
    register: Register, runtime: Runtime, shop: DeliveryShop
) -> None:
    register(row(at=NOON - timedelta(days=5)))
    died = NOON - timedelta(days=1)
    shop.sql("UPDATE devices SET dead_at = :at, dead_reason = 'UNREGISTERED'", at=died)

    register(row(at=NOON - timedelta(days=5)), row(at=None))
    register(row(at=died - timedelta(hours=1)))
    assert [(each["dead_at"], each["dead_reason"]) for each in devices(runtime)] == [(died, "UNREGISTERED")]

    register(row(at=died + timedelta(seconds=1)))
    assert [(each["dead_at"], each["dead_reason"]) for each in devices(runtime)] == [(None, None)]


def test_rows_that_cannot_be_registered_say_why(register: Register, runtime: Runtime) -> None:
    summary = register(
        row(""),
        row("t", user=""),
        row("t", platform=None),
        row("t", platform="toaster"),
        row("t", gateway="fmc"),
        row("t", at=NOON + timedelta(days=1)),
        row("t" * 3000),
        row("fine"),
    )

    assert summary.rejected == {
        "token: missing": 1,
        "user_id: missing": 1,
        "gateway, platform: both missing": 1,
        "platform: unknown": 1,
        "gateway: unknown": 1,
        "registered_at: in the future": 1,
        "token: longer than 2000 bytes": 1,
    }
    assert [each["token"] for each in devices(runtime)] == ["fine"]


# --- commands --------------------------------------------------------------------------------------------------------


@pytest.fixture
def horae(runtime: Runtime, shop: DeliveryShop) -> Callable[..., str]:
    environment = {
        "HORAE_HOME": str(runtime.settings.home),
        "HORAE_DATABASE_URL": runtime.database.libpq_url,
        "HORAE_REDIS_URL": runtime.redis_url,
        "COLUMNS": "200",
    }

    def invoke(*arguments: str, exits: int = 0) -> str:
        result = CliRunner().invoke(app, list(arguments), env=environment)
        if isinstance(result.exception, HoraeError):
            raise result.exception
        assert result.exit_code == exits, result.output
        return result.output

    return invoke


def test_devices_are_ingested_listed_and_their_tokens_not_shown(
    horae: Callable[..., str], tmp_path: Path, shop: DeliveryShop
) -> None:
    path = tmp_path / "devices.csv"
    path.write_text("user_id,token,platform,registered_at\nada,s3cret,android,2026-03-01T00:00:00Z\nbob,t,ios,\n")
    assert "created" in horae("ingest", "devices", str(path))
    shop.sql("UPDATE devices SET dead_at = now(), dead_reason = 'HTTP 410 Unregistered' WHERE token = 't'")

    listed = horae("devices", "list")
    [dead] = json.loads(horae("devices", "list", "--dead", "--json"))

    assert "s3cret" not in listed
    assert sha256(b"s3cret").hexdigest()[:12] in listed
    assert (dead["user_id"], dead["gateway"], dead["dead_reason"]) == ("bob", "apns", "HTTP 410 Unregistered")
    with pytest.raises(UnknownName, match="no gateway 'fmc'"):
        horae("devices", "list", "--gateway", "fmc")


def test_stale_devices_are_counted_by_gateway_and_listed(horae: Callable[..., str], shop: DeliveryShop) -> None:
    assert "There are no devices" in horae("devices", "stale")
    for days in (1, 40, 300):
        shop.device("ada", f"t{days}", "fcm", seen_at=NOON - timedelta(days=days))
    shop.device("bob", "gone", "fcm", dead_at=NOON)

    found = json.loads(horae("devices", "stale", "--json"))

    assert found["gateways"] == [{"gateway": "fcm", "live": 3, "stale": 2, "expired": 1, "dead": 1, "users": 1}]
    assert len(found["stale"]) == 2
    assert len(json.loads(horae("devices", "stale", "--days", "60", "--json"))["stale"]) == 1


def test_a_cap_that_holds_nobody_is_said_to(horae: Callable[..., str], shop: DeliveryShop) -> None:
    shop.campaign("bread", tags=["spring"])
    shop.item("i1", category="Bakery")

    for scope, says in (
        ("campaign:bred", "did you mean bread?"),
        ("channel:fmc", "no channel 'fmc'"),
        ("channel:fcm", "not configured here"),
        ("tag:sprung", "no tag 'sprung' yet"),
        ("category:Bakry", "no category 'Bakry' yet"),
    ):
        assert says in horae("caps", "add", "--limit", "1", "--per", "day", "--scope", scope)
    for scope in ("all", "campaign:bread", "channel:log", "tag:spring", "category:Bakery"):
        assert "holds nobody" not in horae("caps", "add", "--limit", "1", "--per", "day", "--scope", scope)


def test_a_device_given_up_for_dead_gets_pushes_again_once_it_is_registered_anew(
    register: Register, runtime: Runtime, shop: DeliveryShop
) -> None:
    shop.user("ada")
    register(row(user="ada", at=NOON - timedelta(days=5)))
    shop.campaign(gateway="fcm")
    shop.sql("UPDATE devices SET dead_at = :at, dead_reason = 'UNREGISTERED'", at=NOON - timedelta(days=1))
    fcm = Accepting()
    object.__setattr__(runtime, "gateways", {"fcm": fcm})

    shop.push("ada")
    assert dispatch_due(runtime, NOON) == {"suppressed.no_device": 1}
    register(row(user="ada", at=NOON))
    shop.another_occurrence("bread", "second")
    shop.push("ada")

    assert dispatch_due(runtime, NOON) == {"accepted": 1}
    assert fcm.reached == ["t1"]
