"""Who may talk to the dashboard: browsers of this machine that hold its token, and no page of another site.

A request must name this host, come from no foreign origin, and bring the token: in the link that is
printed, then in a cookie. Everything else is refused before anything reads it, and logged.
"""

import logging
import re
import secrets
from dataclasses import dataclass, field
from typing import Any

LOG = logging.getLogger("mpsearch.dashboard")
MOST_BYTES = 4_000_000
"""Largest body of a request: a brush over all points that are drawn takes a tenth of it."""


@dataclass(frozen=True, slots=True)
class Guard:
    """What is asked of every request.

    Attributes:
        port: Port that is served.
        token: What the link brings.
    """

    port: int
    token: str = field(default_factory=lambda: secrets.token_urlsafe(32))

    @property
    def link(self) -> str:
        """The address that opens the dashboard."""
        return f"http://127.0.0.1:{self.port}/?token={self.token}"

    @property
    def cookie(self) -> str:
        """Name of the cookie: dashboards at two ports share their host's cookies."""
        return f"mpsearch_{self.port}"

    @property
    def hosts(self) -> tuple[str, ...]:
        """What requests may call this host."""
        return (f"127.0.0.1:{self.port}", f"localhost:{self.port}")

    def refusal(self, request: Any) -> tuple[int, str] | None:
        """Return status and reason if a Flask request is refused, else None; its body is not read."""
        if request.host not in self.hosts:
            return 421, "the host must be 127.0.0.1"
        origin = request.headers.get("Origin")
        if origin is not None and origin not in {f"http://{host}" for host in self.hosts}:
            return 403, "requests must come from the dashboard's own pages"
        if request.headers.get("Sec-Fetch-Site", "none") not in ("none", "same-origin"):
            return 403, "requests must come from the dashboard's own pages"
        given = request.args.get("token") or request.cookies.get(self.cookie) or ""
        if not secrets.compare_digest(given.encode(), self.token.encode()):
            return 403, "open the link that mpsearch dashboard printed"
        if (request.content_length or 0) > MOST_BYTES:
            return 413, f"a request must be smaller than {MOST_BYTES} bytes"
        return None


def protect(server: Any, guard: Guard, policy: str) -> None:
    """Make a Flask ``server`` ask ``guard`` first, and send ``policy`` and other headers with every answer."""
    from flask import Response, redirect, request

    server.config["MAX_CONTENT_LENGTH"] = MOST_BYTES

    @server.before_request
    def ask() -> Any:
        refused = guard.refusal(request)
        if refused is not None:
            status, why = refused
            LOG.warning("refused %s %s: %s", request.method, _plain(request.path), why)
            answer = Response(f"{why}\n", status, mimetype="text/plain")
            answer.headers["Connection"] = "close"  # what was sent is not read
            return answer
        if "token" in request.args:
            answer = redirect("/")
            answer.set_cookie(guard.cookie, guard.token, httponly=True, samesite="Strict")
            return answer
        return None

    @server.after_request
    def mark(answer: Any) -> Any:
        answer.headers["Content-Security-Policy"] = policy
        answer.headers["X-Content-Type-Options"] = "nosniff"
        answer.headers["X-Frame-Options"] = "DENY"
        answer.headers["Referrer-Policy"] = "no-referrer"
        answer.headers["Cross-Origin-Opener-Policy"] = "same-origin"
        answer.headers["Cross-Origin-Resource-Policy"] = "same-origin"
        if "Cache-Control" not in answer.headers or answer.mimetype in ("text/html", "text/plain"):
            answer.headers["Cache-Control"] = "no-store"
        return answer


def policy_of(hashes: list[str]) -> str:
    """Return the content security policy of pages whose inline scripts have ``hashes``; nothing else runs."""
    scripts = " ".join(("'self'", *hashes))
    return "; ".join(
        (
            "default-src 'none'",
            f"script-src {scripts}",
            "style-src 'self' 'unsafe-inline'",
            "img-src 'self' data: blob:",
            "font-src 'self' data:",
            "connect-src 'self'",
            "base-uri 'none'",
            "form-action 'none'",
            "frame-ancestors 'none'",
        )
    )


def _plain(text: str) -> str:
    """A path of a stranger as one short word of a log."""
    return re.sub(r"[^\x21-\x7e]", "?", text)[:120]
