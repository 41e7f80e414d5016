"""A TCP proxy whose connections can be cut half-open: both ends stay connected, and nothing comes through any more."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Callable
from types import TracebackType
from typing import Self

Address = tuple[str, int] | str
"""Host and port, or the path of a unix socket."""


class HalfOpen:
    """Forwards connections to the address that `behind` gives at that moment; `port` is where it listens."""

    def __init__(self, behind: Callable[[], Address]) -> None:
        self._behind = behind
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._cut = threading.Event()
        self._frozen: list[socket.socket] = []
        threading.Thread(target=self._accept, daemon=True).start()

    def cut(self) -> None:
        """From now on nothing passes on the connections of before, and nobody is told. New ones work."""
        self._cut.set()
        self._cut = threading.Event()

    def close(self) -> None:
        """Let everything go."""
        self._listener.close()
        self._cut.set()
        for one in self._frozen:
            one.close()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            try:
                server = _connect(self._behind())
            except OSError:
                client.close()
                continue
            self._frozen += [client, server]
            for source, sink in ((client, server), (server, client)):
                threading.Thread(target=_pump, args=(source, sink, self._cut), daemon=True).start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()


def _connect(address: Address) -> socket.socket:
    if isinstance(address, str):
        server = socket.socket(socket.AF_UNIX)
        try:
            server.connect(address)
        except OSError:
            server.close()
            raise
        return server
    return socket.create_connection(address, timeout=5)


def _pump(source: socket.socket, sink: socket.socket, cut: threading.Event) -> None:
    """Carry bytes one way until an end closes; after the cut nothing more, not even that it closed."""
    with contextlib.suppress(OSError):
        source.settimeout(None)
        while data := source.recv(65536):
            if cut.is_set():
                return
            sink.sendall(data)
    if not cut.is_set():
        for one in (source, sink):
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
