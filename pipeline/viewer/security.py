"""Who may ask the viewer: programs of this machine that know the token, by pages of the viewer alone.

The server listens on loopback only. That is not enough: any page that a browser shows can send requests to it, and a name server can
make such a page's own name point here. So every request needs the cookie that the printed URL sets, and names this server as its host.
Browsers send a cookie to every port of a host: users of one machine are kept apart only as long as none opens the server of another.
"""

from __future__ import annotations

import hmac
import json
from http.cookies import CookieError, SimpleCookie
from typing import TYPE_CHECKING
from urllib.parse import parse_qs

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

__all__ = ["Guard"]

POLICY = {
    "default-src": "'self'",
    "img-src": "'self' data: blob:",
    "style-src": "'self'",
    "base-uri": "'none'",
    "form-action": "'none'",
    "frame-ancestors": "'none'",
    "object-src": "'none'",
}
HEADERS = {
    b"content-security-policy": "; ".join(f"{key} {value}" for key, value in POLICY.items()).encode(),
    b"x-content-type-options": b"nosniff",
    b"referrer-policy": b"no-referrer",
    b"cross-origin-resource-policy": b"same-origin",
    b"cross-origin-opener-policy": b"same-origin",
}
"""Of every response: only this server's files run and load, and no page of another server reads them."""


class Guard:
    """Lets through what may pass, and refuses the rest before the application sees it.

    Args:
        app: answers.
        token: what the printed URL holds.
        port: that the server listens on.
    """

    def __init__(self, app: ASGIApp, token: str, port: int) -> None:
        self._app, self._token = app, token
        self._port, self._hosts = port, {f"127.0.0.1:{port}".encode(), f"localhost:{port}".encode()}
        self._cookie = f"gigaseg-{port}"

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            return
        status, text, more = self._check(scope)
        if status == 200:
            await self._app(scope, receive, self._with_headers(send))
            return
        body = json.dumps({"error": text}).encode()
        headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode()), *more]
        guarded = self._with_headers(send)
        await guarded({"type": "http.response.start", "status": status, "headers": headers})
        await guarded({"type": "http.response.body", "body": b"" if scope["method"] == "HEAD" else body})

    def _check(self, scope: Scope) -> tuple[int, str, list[tuple[bytes, bytes]]]:
        """Return the status, what to say, and headers; 200: the application answers."""
        headers = [(key.lower(), value) for key, value in scope["headers"]]
        if [value for key, value in headers if key == b"host"] not in ([host] for host in self._hosts):
            way_out = f"through SSH, forward the same port: ssh -L {self._port}:127.0.0.1:{self._port} HOST"
            return 403, f"this server answers to 127.0.0.1:{self._port} and localhost:{self._port} alone; {way_out}", []
        if scope["method"] not in ("GET", "HEAD"):
            return 405, "nothing can be changed here", [(b"allow", b"GET, HEAD")]
        given = parse_qs(scope["query_string"].decode("latin-1")).get("token")
        if given is not None and scope["path"] == "/":
            if not self._is_token(given[0]):
                return 403, "the token is wrong: open the URL that `gigaseg view` has printed", []
            cookie = f"{self._cookie}={self._token}; Path=/; HttpOnly; SameSite=Strict"
            return 303, "", [(b"location", b"/"), (b"set-cookie", cookie.encode())]
        if not any(self._is_token(text) for text in self._cookies(headers)):
            return 403, "no token: open the URL that `gigaseg view` has printed", []
        return 200, "", []

    def _cookies(self, headers: list[tuple[bytes, bytes]]) -> list[str]:
        found = []
        for key, value in headers:
            if key == b"cookie":
                try:
                    jar = SimpleCookie(value.decode("latin-1"))
                except CookieError:
                    continue
                found += [jar[self._cookie].value] if self._cookie in jar else []
        return found

    def _is_token(self, text: str) -> bool:
        """Compare in a time that does not tell how much is right."""
        return hmac.compare_digest(text.encode(), self._token.encode())

    def _with_headers(self, send: Send) -> Send:
        async def sending(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = list(message.get("headers", []))
                names = {key.lower() for key, _ in headers}
                headers += HEADERS.items()
                headers += [] if b"cache-control" in names else [(b"cache-control", b"no-store")]
                message = {**message, "headers": headers}
            await send(message)

        return sending
