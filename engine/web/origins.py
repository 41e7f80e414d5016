"""Which web pages may ask: those of the origins that a deployment names, for SDKs in browsers; none by default."""

from __future__ import annotations

from collections.abc import Sequence

from starlette.middleware.cors import CORSMiddleware

from engine.web.gate import Application, Receive, Scope, Send

OPEN = "/v1/callbacks/"
"""What a push' own token proves may come from any page, and says so itself."""


class Origins:
    """ASGI middleware: CORS for `origins` (or *), without cookies: whoever asks has a key."""

    def __init__(self, app: Application, origins: Sequence[str]) -> None:
        self._app = app
        self._cors = CORSMiddleware(
            app,
            allow_origins=origins,
            allow_methods=["GET", "POST"],
            allow_headers=["Authorization", "Content-Type", "Content-Encoding"],
            max_age=86_400,
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request, or one of the server's own messages."""
        opened = scope["type"] == "http" and scope["path"].startswith(OPEN)
        await (self._app if opened else self._cors)(scope, receive, send)
