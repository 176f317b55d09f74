"""A web server on loopback that gives files of a folder by ranges of bytes, and remembers what it was asked."""

from __future__ import annotations

import hashlib
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

__all__ = ["WebServer", "web_server"]


@dataclass
class WebServer:
    """A running server."""

    url: str
    folder: Path
    requests: list[tuple[str, str, int]] = field(default_factory=list)  # method, path, bytes of the answer

    def take(self) -> list[tuple[str, str, int]]:
        """Return the requests since the last call."""
        taken, self.requests = self.requests, []
        return taken


@contextmanager
def web_server(folder: Path) -> Iterator[WebServer]:
    """Serve a folder inside the ``with`` block."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            name = unquote(urlsplit(self.path).path)
            path = Path(folder, name.lstrip("/"))
            data = path.read_bytes() if path.is_file() else None
            status, body = (404, b"") if data is None else (200, data)
            tag = f'"{hashlib.blake2b(data or b"", digest_size=8).hexdigest()}"'
            if data is not None and self.headers.get("If-Match", tag) != tag:
                status, body = 412, b""
            elif data is not None and (found := re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))):
                start, stop = int(found[1]), min(int(found[2] or len(data)) + 1, len(data))
                status, body = 206, data[start:stop]
            server.requests.append((self.command, name, 0 if self.command == "HEAD" else len(body)))
            self.send_response(status)
            if status == 206:
                self.send_header("Content-Range", f"bytes {start}-{stop - 1}/{len(data or b'')}")
            self.send_header("ETag", tag)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body)

        do_HEAD = do_GET

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as http:
        server = WebServer(f"http://127.0.0.1:{http.server_port}", folder)
        thread = threading.Thread(target=http.serve_forever, daemon=True)
        thread.start()
        try:
            yield server
        finally:
            http.shutdown()
            thread.join()
