"""Ports that are claimed before anything listens on them."""

from __future__ import annotations

import socket
from contextlib import closing

import pytest

from engine.errors import BadInput
from engine.supervise import ports
from engine.supervise.ports import HOST, claim_port


@pytest.fixture
def free() -> int:
    """A port that nothing listens on, with room above it."""
    while True:
        with socket.socket() as probe:
            probe.bind((HOST, 0))
            number: int = probe.getsockname()[1]
        if number + ports.PORTS_TRIED < 65536:
            return number


def test_a_claimed_port_is_given_to_nobody_else_until_it_is_closed(free: int) -> None:
    first = claim_port(free, "the API", "HORAE_API_PORT")
    with closing(first), closing(claim_port(first.number, "the API", "HORAE_API_PORT")) as second:
        assert second.number > first.number
    with closing(claim_port(first.number, "the API", "HORAE_API_PORT")) as again:
        assert again.number == first.number


def test_whoever_it_was_claimed_for_can_listen_on_it(free: int) -> None:
    with closing(claim_port(free, "Flower", "HORAE_FLOWER_PORT")) as port, socket.socket() as server:
        server.bind((HOST, port.number))
        server.listen()


def test_a_port_that_something_listens_on_is_passed_over(free: int) -> None:
    with socket.socket() as server:
        server.bind((HOST, free))
        server.listen()
        with closing(claim_port(free, "Flower", "HORAE_FLOWER_PORT")) as port:
            assert port.number > free


def test_without_any_free_port_it_says_which_setting_to_change(free: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ports, "PORTS_TRIED", 1)
    with closing(claim_port(free, "Flower", "HORAE_FLOWER_PORT")) as port, pytest.raises(BadInput) as told:
        claim_port(port.number, "Flower", "HORAE_FLOWER_PORT")
    assert "for Flower" in str(told.value)
    assert "HORAE_FLOWER_PORT" in str(told.value)
