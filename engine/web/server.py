"""The server: uvicorn.

It serves an application object inside this process, so that the runtime is opened once and handed over, where Granian
(faster by itself) imports an application by name in processes it starts. The API's time goes into the store, not into
HTTP; more cores are used by more processes behind one proxy.
"""

from __future__ import annotations

import sys

import uvicorn

from engine.runtime import Runtime, spare_collector
from engine.web.app import create_app
from engine.web.connections import Bounded

IDLE_SECONDS = 30
GRACE_SECONDS = 30
"""For requests under way when the server is asked to stop."""

SWITCH_SECONDS = 0.0005
"""How long a thread computes before another one may: a batch asks the store a dozen times, and after each answer its
thread would wait Python's 5 ms for one that reads the next batch."""


def serve(runtime: Runtime, host: str, port: int, *, development: bool = False) -> None:
    """Serve until SIGINT or SIGTERM; requests under way are answered first. The process is the server's: Python's
    collector and its threads are set for it."""
    serving = server(runtime, host, port, development=development)
    spare_collector()
    sys.setswitchinterval(SWITCH_SECONDS)
    serving.run()


def server(runtime: Runtime, host: str, port: int, *, development: bool = False) -> uvicorn.Server:
    """The server, not yet running."""
    config = uvicorn.Config(
        create_app(runtime, development=development),
        host=host,
        port=port,
        loop="uvloop",
        http=Bounded,
        ws="none",
        log_level=runtime.settings.log_level.lower(),
        access_log=False,  # paths hold users' ids
        proxy_headers=False,  # who asks is whoever is connected: a header may say anything
        server_header=False,
        timeout_keep_alive=IDLE_SECONDS,
        timeout_graceful_shutdown=GRACE_SECONDS,
    )
    return uvicorn.Server(config)
