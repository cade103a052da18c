"""A web server on this machine whose answers can go wrong in many ways."""

from __future__ import annotations

import hashlib
import threading
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

Fault = Callable[["Handler", bytes], None]


class _Server(ThreadingHTTPServer):
    """Says nothing of clients that go away."""

    daemon_threads = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Go on."""


class Site:
    """Files at addresses.

    Args:
        folder: A folder to serve too.
    """

    def __init__(self, folder: Path | None = None) -> None:
        self.files: dict[str, bytes] = {}
        self.folder = folder
        self.faults: dict[str, list[Fault]] = {}
        self.log: list[tuple[str, dict[str, str]]] = []
        self.has_ranges = True
        site = self

        class Own(Handler):
            pass

        Own.site = site
        self._server = _Server(("127.0.0.1", 0), Own)
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def __enter__(self) -> Site:
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    def content(self, path: str) -> bytes | None:
        """The file at a path."""
        if path in self.files:
            return self.files[path]
        if self.folder is not None and (self.folder / path.lstrip("/")).is_file():
            return (self.folder / path.lstrip("/")).read_bytes()
        return None

    def asked(self, path: str) -> list[dict[str, str]]:
        """The headers of the requests for a path."""
        return [headers for asked, headers in self.log if asked == path]


class Handler(BaseHTTPRequestHandler):
    """Serves one request."""

    site: Site
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing."""

    def do_GET(self) -> None:
        """Answer, wrongly if that is next."""
        site = self.site
        site.log.append((self.path, {key.lower(): value for key, value in self.headers.items()}))
        body = site.content(self.path)
        faults = site.faults.get(self.path, [])
        if faults:
            faults.pop(0)(self, body or b"")
        elif body is None:
            self.answer(404, b"nothing")
        else:
            self.serve(body)

    def serve(self, body: bytes) -> None:
        """Answer as a good server does: with a tag, in parts, and not again what is there."""
        etag = f'"{hashlib.sha256(body).hexdigest()[:16]}"'
        wanted = self.headers.get("range", "")
        if self.headers.get("if-none-match") == etag:
            self.answer(304, b"", etag=etag)
        elif self.site.has_ranges and wanted and self.headers.get("if-range", etag) == etag:
            start = int(wanted.removeprefix("bytes=").rstrip("-"))
            if start >= len(body):
                self.answer(416, b"")
                return
            self.answer(206, body[start:], etag=etag, content_range=f"bytes {start}-{len(body) - 1}/{len(body)}")
        else:
            self.answer(200, body, etag=etag)

    def answer(self, status: int, body: bytes, length: int | None = None, **headers: str) -> None:
        """Send an answer, and the length of it or another one."""
        self.send_response(status)
        if status != 304:
            self.send_header("content-length", str(len(body) if length is None else length))
        for key, value in headers.items():
            self.send_header(key.replace("_", "-"), value)
        self.end_headers()
        self.wfile.write(body)

    def tagged(self, status: int, body: bytes, whole: bytes, length: int) -> None:
        """Send an answer with the tag of another body."""
        self.answer(status, body, length, etag=f'"{hashlib.sha256(whole).hexdigest()[:16]}"')


def status(code: int) -> Fault:
    """An answer without a file."""
    return lambda handler, body: handler.answer(code, b"no")


def redirect(target: str) -> Fault:
    """An answer that sends elsewhere."""
    return lambda handler, body: handler.answer(302, b"", location=target)


def cut(at: int) -> Fault:
    """An answer that ends too early."""

    def fault(handler: Handler, body: bytes) -> None:
        handler.tagged(200, body[:at], body, len(body))
        handler.close_connection = True
        handler.connection.close()

    return fault


def cut_without_length(at: int) -> Fault:
    """An answer that ends too early, of which nobody can know."""

    def fault(handler: Handler, body: bytes) -> None:
        handler.send_response(200)
        handler.send_header("connection", "close")
        handler.end_headers()
        handler.wfile.write(body[:at])
        handler.close_connection = True

    return fault


def silent(seconds: float) -> Fault:
    """An answer that does not come."""
    return lambda handler, body: time.sleep(seconds)


def dripping(pause: float) -> Fault:
    """An answer byte by byte."""

    def fault(handler: Handler, body: bytes) -> None:
        handler.send_response(200)
        handler.send_header("content-length", str(len(body)))
        handler.end_headers()
        for number in range(len(body)):
            try:
                handler.wfile.write(body[number : number + 1])
                handler.wfile.flush()
            except OSError:
                return
            time.sleep(pause)

    return fault


def endless(handler: Handler, body: bytes) -> None:
    """An answer without an end."""
    handler.send_response(200)
    handler.send_header("connection", "close")
    handler.end_headers()
    handler.close_connection = True
    try:
        while True:
            handler.wfile.write(b"0" * 65536)
    except OSError:
        return
