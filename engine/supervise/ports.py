"""Ports of this machine for programs that have not begun to listen yet.

A program takes seconds to start and listens only then: two `horae up` that look at the same moment both find a port
free, and the one that comes second answers for the first. So a port is claimed by holding the UDP port of the same
number, which nothing of ours speaks: only one process can, and it ends with that process, however that ends.
"""

from __future__ import annotations

import socket
from dataclasses import dataclass

from engine.errors import BadInput

HOST = "127.0.0.1"
PORTS_TRIED = 20


@dataclass(frozen=True)
class Port:
    """A TCP port on loopback that no other claims until it is closed."""

    number: int
    claim: socket.socket

    def close(self) -> None:
        """Let others claim it."""
        self.claim.close()


def claim_port(wanted: int, whose: str, variable: str) -> Port:
    """The first port from `wanted` on that nothing listens on and nobody has claimed.

    Raises BadInput, naming `whose` port it is and the environment's `variable`, where none of PORTS_TRIED is free.
    """
    for number in range(wanted, min(wanted + PORTS_TRIED, 65536)):
        claim = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        try:
            claim.bind((HOST, number))
            with socket.socket() as probe:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # whoever listened last may be gone
                probe.bind((HOST, number))
        except OSError:
            claim.close()
            continue
        return Port(number, claim)
    raise BadInput(f"no port from {wanted} on is free for {whose}", hint=f"set {variable}, or 0 to go without")
