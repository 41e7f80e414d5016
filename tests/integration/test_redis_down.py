"""Commands that a person waits for, with a Redis that is not there or says nothing."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import pytest
from sqlalchemy import text
from typer.testing import CliRunner

from engine.cli.app import app
from engine.errors import RedisUnavailable
from engine.planning.wake import BrokerWake
from engine.runtime import Runtime
from tests.delivery_store import DeliveryShop


@pytest.fixture
def silent() -> Iterator[str]:
    """A server that accepts connections and never says a word."""
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen(50)
        yield f"redis://127.0.0.1:{server.getsockname()[1]}/0"


@pytest.mark.parametrize(
    "command",
    [["campaign", "trigger", "bread", "--yes"], ["campaign", "test", "bread", "--user", "u1"]],
)
@pytest.mark.parametrize("where", ["away", "silent"])
def test_a_redis_that_does_not_answer_is_said_and_the_store_stays_as_it_was(
    runtime: Runtime, silent: str, command: list[str], where: str
) -> None:
    shop = DeliveryShop(runtime.database)
    shop.campaign()
    shop.user("u1")
    environment = {
        "HORAE_HOME": str(runtime.settings.home),
        "HORAE_DATABASE_URL": runtime.database.libpq_url,
        "HORAE_REDIS_URL": silent if where == "silent" else "redis://127.0.0.1:1/0",
    }

    done = CliRunner().invoke(app, command, env=environment)

    assert isinstance(done.exception, RedisUnavailable)  # which the program prints, and exits with 2
    assert "does not answer" in str(done.exception)
    assert "HORAE_REDIS_URL" in str(done.exception)
    with runtime.database.begin() as connection:
        assert connection.execute(text("SELECT count(*) FROM occurrences")).scalar_one() == 1
        assert connection.execute(text("SELECT count(*) FROM deliveries")).scalar_one() == 0


def test_a_broker_that_says_nothing_is_asked_once_and_costs_no_work(silent: str) -> None:
    wake = BrokerWake(silent)

    for shard in range(100):
        wake("horae.plan_shard", 1, shard)

    assert wake.lost
