"""One request by one person: who they are, what they may, how things are said to them, and the answers they get."""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from starlette.datastructures import URL
from starlette.requests import Request
from starlette.responses import HTMLResponse, RedirectResponse, Response

from engine.access.roles import scopes_of
from engine.access.sessions import LONGEST
from engine.access.users import User
from engine.errors import HoraeError
from engine.web.console.words import Words

if TYPE_CHECKING:
    from jinja2 import Environment

    from engine.web.console.links import Link

SESSION, FLASH, THEME, LANGUAGE = "horae_session", "horae_flash", "horae_theme", "horae_language"
"""Cookies."""

THEMES = ("auto", "light", "dark")
YEAR = 365 * 86_400
LONGEST_FLASH = 1_500

POLICY = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "img-src 'self' data:",
        "connect-src 'self'",
        "form-action 'self'",
        "frame-ancestors 'none'",
        "base-uri 'none'",
    )
)
HEADERS = {
    "Content-Security-Policy": POLICY,
    "Cross-Origin-Opener-Policy": "same-origin",
    "Referrer-Policy": "same-origin",  # without any, browsers would send the origin "null" with our own forms
    "Permissions-Policy": "camera=(), geolocation=(), microphone=(), payment=(), usb=()",
    "Vary": "Cookie, Accept-Language, HX-Request",
}
"""Beside those of engine.web.gate."""


@dataclass(frozen=True)
class Visit:
    """A request of the console.

    token: of the session, or of nobody's (then `user` is None) · fresh: the browser does not have it yet ·
    development: open to this machine, as nobody can log in yet · everything_stopped: the red switch is off.
    """

    request: Request
    templates: Environment
    links: tuple[Link, ...]
    token: str
    fresh: bool
    user: User | None
    development: bool
    words: Words
    everything_stopped: bool = False

    @property
    def known(self) -> bool:
        """Whether they may see pages at all."""
        return self.user is not None or self.development

    @property
    def actor(self) -> str:
        """Whom the audit log names."""
        return f"user:{self.user.name}" if self.user is not None else "development mode"

    @property
    def name(self) -> str:
        """Their name."""
        return self.user.name if self.user is not None else self.say("development mode")

    @property
    def role(self) -> str:
        """viewer, operator or admin; in development mode admin."""
        return self.user.role if self.user is not None else "admin"

    def may(self, scope: str) -> bool:
        """Whether they may do what needs `scope`: read, operate or admin (engine.access.roles)."""
        return self.known and scope in scopes_of(self.role)

    @property
    def csrf(self) -> str:
        """What proves that a form was made for this very browser."""
        return csrf_of(self.token)

    @property
    def theme(self) -> str:
        """auto, light or dark."""
        chosen = self.request.cookies.get(THEME, "auto")
        return chosen if chosen in THEMES else "auto"

    @property
    def by_htmx(self) -> bool:
        """Whether a fragment is wanted."""
        return self.request.headers.get("hx-request") == "true"

    @property
    def path(self) -> str:
        """The path and query of the page they look at, to come back to."""
        url = URL(self.request.headers.get("hx-current-url", "")) if self.by_htmx else self.request.url
        return safe_path(url.path + (f"?{url.query}" if url.query else ""))

    @property
    def back(self) -> str:
        """Where a form was sent from."""
        url = URL(self.request.headers.get("referer", ""))
        return safe_path(url.path + (f"?{url.query}" if url.query else ""))

    def with_token(self, token: str) -> Visit:
        """The same visit under another session, whose token the browser is given with the answer."""
        return replace(self, token=token, fresh=True)

    def say(self, text: str, **values: object) -> str:
        """`text` in their language."""
        return self.words.say(text, **values)

    def told(self, error: HoraeError) -> str:
        """What is wrong and what to do about it, in a line, in their language."""
        said = self.words.sentence(error.message)
        return f"{said} – {self.words.sentence(error.hint)}" if error.hint else said

    def page(self, template: str, *, status: int = 200, **values: Any) -> Response:
        """A whole page."""
        return self._answer(template, status, {**values, "flashes": self._flashes()})

    def part(self, template: str, *, status: int = 200, **values: Any) -> Response:
        """A fragment for htmx."""
        return self._answer(template, status, values)

    def go(self, path: str, said: str | None = None, *, kind: str = "done") -> Response:
        """Send them to another page, which says `said` once; kind: done, warning or error."""
        answer: Response
        if self.by_htmx:
            answer = Response(status_code=204, headers={"HX-Redirect": path})
        else:
            answer = RedirectResponse(path, 303)
        if said is not None:
            told = base64.urlsafe_b64encode(json.dumps([kind, said[:LONGEST_FLASH]]).encode()).decode()
            self.set_cookie(answer, FLASH, f"{told}.{_keyed(self.token, told)}", 60)
        return self._finished(answer)

    def set_cookie(self, answer: Response, name: str, value: str, seconds: int) -> None:
        """Set a cookie on `answer`; gone after `seconds`, at once where these are 0."""
        secure = is_https(self.request)
        name = f"__Host-{name}" if secure else name
        answer.set_cookie(name, value, max_age=seconds, path="/", secure=secure, httponly=True, samesite="lax")

    def _answer(self, template: str, status: int, values: Mapping[str, Any]) -> Response:
        text = self.templates.get_template(template).render({**values, "visit": self, "status": status})
        answer = HTMLResponse(text, status)
        if values.get("flashes"):
            self.set_cookie(answer, FLASH, "", 0)
        return self._finished(answer)

    def _finished(self, answer: Response) -> Response:
        answer.headers.update(HEADERS)
        if self.fresh:
            self.set_cookie(answer, SESSION, self.token, int(LONGEST.total_seconds()))
        return answer

    def _flashes(self) -> list[tuple[str, str]]:
        """What the page before wanted said: (kind, text). It is ours only if keyed by the session."""
        told, _, mark = cookie_of(self.request, FLASH).partition(".")
        if not told or not hmac.compare_digest(mark, _keyed(self.token, told)):
            return []
        try:
            kind, said = json.loads(base64.urlsafe_b64decode(told))
        except (binascii.Error, ValueError):
            return []
        return [(str(kind), str(said))]


def cookie_of(request: Request, name: str) -> str:
    """A cookie of ours, or "". Over TLS only one that was set over TLS for this very host."""
    return request.cookies.get(f"__Host-{name}" if is_https(request) else name, "")


def is_https(request: Request) -> bool:
    """Whether the browser speaks TLS: to us or, as it says, to the proxy before us. Who lies harms themselves."""
    return request.url.scheme == "https" or request.headers.get("x-forwarded-proto", "").lower() == "https"


def safe_path(path: str) -> str:
    """`path` where it leads to a page of the console, else the console's first."""
    inside = path == "/console" or path.startswith(("/console/", "/console?"))
    return path if inside and not path.startswith("/console/login") and path.isprintable() else "/console"


def csrf_of(token: str) -> str:
    """What proves that a form was made for the session of `token`."""
    return _keyed(token, "csrf")


def _keyed(token: str, what: str) -> str:
    digest = hmac.new(token.encode("utf-8", "replace"), what.encode(), hashlib.sha256).digest()
    return base64.urlsafe_b64encode(digest).decode().rstrip("=")
