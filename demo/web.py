"""The server: a handful of fixed addresses on 127.0.0.1, and nothing that a request could widen.

Whoever opens a web page runs that page's scripts on this machine, so being local is no protection
by itself: the Host header is compared (DNS rebinding), requests of other pages are refused (Origin,
Sec-Fetch-Site, a content type that forms cannot send), and the answers let the browser load nothing
from elsewhere. No address is ever turned into a path.
"""

import json
import logging
import socket
import threading
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from uploads import Refused, too_large
from viewer import Viewer

log = logging.getLogger("demo")

PAGE = Path(__file__).parent / "page"
FILES = {
    "/": ("index.html", "text/html; charset=utf-8"),
    "/style.css": ("style.css", "text/css; charset=utf-8"),
    "/page.js": ("page.js", "text/javascript; charset=utf-8"),
    "/icon.svg": ("icon.svg", "image/svg+xml"),
}
LOCAL = ("127.0.0.1", "localhost")
HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; "
        "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; "
        "require-trusted-types-for 'script'"
    ),
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "Cache-Control": "no-store",
}
SECONDS = 20  # that a silent connection may stay
CONNECTIONS = 32
WRONG = "Something went wrong with this image; the terminal that runs the demo says what."
WORDS = {404: "There is nothing at this address.", 501: "Only GET and POST are answered."}


class Server(ThreadingHTTPServer):
    """Listens on this machine alone.

    Args:
        viewer: answers.
        port: 0 takes a free one.
    """

    daemon_threads = True  # Ctrl-C does not wait for a browser to hang up
    request_queue_size = CONNECTIONS

    def __init__(self, viewer: Viewer, port: int = 0) -> None:
        super().__init__(("127.0.0.1", port), Handler)
        self.viewer = viewer
        self._open = threading.BoundedSemaphore(CONNECTIONS)

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def process_request(self, request: Any, client_address: Any) -> None:
        if not self._open.acquire(blocking=False):
            self.shutdown_request(request)  # a thread each would be without bound
            return
        super().process_request(request, client_address)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._open.release()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A browser that hangs up is no news; handlers answer all else themselves."""
        log.debug("connection lost", exc_info=True)


class Handler(BaseHTTPRequestHandler):
    """One request: refused, or one of the fixed addresses."""

    server: Server
    timeout = SECONDS
    server_version, sys_version = "demo", ""  # versions are of use to attackers alone

    def do_GET(self) -> None:
        self._answer(self._get)

    def do_HEAD(self) -> None:
        self._answer(self._get)

    def do_POST(self) -> None:
        self._answer(self._post)

    def _answer(self, action: Callable[[str], tuple[str, bytes]]) -> None:
        """What the action returns, or a sentence; never a traceback or a path."""
        try:
            path = urlsplit(self.path).path
            self._check_sender(path)
            kind, body = action(path)
            self._send(200, kind, body)
        except Refused as refused:
            self._say(refused.status, refused.sentence)
        except (ConnectionError, TimeoutError):
            self.close_connection = True
        except Exception:
            log.exception("while answering %s %s", self.command, urlsplit(self.path).path)
            self._say(500, WRONG)

    def _check_sender(self, path: str) -> None:
        """From this machine's own page, or from a program that is no browser."""
        host = self.headers.get("Host", "")
        if _name_of(host) not in LOCAL:
            raise Refused(403, "Open the page by the address 127.0.0.1 or localhost.")
        if self.command == "GET" and path == "/":
            return  # a link may lead to the page, which holds nothing of anyone's
        origin, site = self.headers.get("Origin"), self.headers.get("Sec-Fetch-Site", "none")
        if origin not in (None, f"http://{host}") or site not in ("none", "same-origin"):
            raise Refused(403, "Requests of other web pages are not answered.")

    def _get(self, path: str) -> tuple[str, bytes]:
        viewer = self.server.viewer
        if path in FILES:
            name, kind = FILES[path]
            return kind, (PAGE / name).read_bytes()
        if path == "/about":
            return _json(viewer.about())
        folder, _, last = path.rpartition("/")
        if folder == "/thumbnail":
            return "image/jpeg", viewer.thumbnail(_number(last))
        raise Refused(404, WORDS[404])

    def _post(self, path: str) -> tuple[str, bytes]:
        viewer = self.server.viewer
        folder, _, last = path.rpartition("/")
        if path != "/look" and folder != "/look":
            raise Refused(404, WORDS[404])
        body = self._body()
        return _json(viewer.look(body) if path == "/look" else viewer.look_at_own(_number(last)))

    def _body(self) -> bytes:
        """The request's bytes, counted before they are read."""
        if self.headers.get("Content-Type") != "application/octet-stream":
            raise Refused(415, "Send the bytes of the image as application/octet-stream.")
        length = self.headers.get("Content-Length", "")
        if not (length.isascii() and length.isdigit()) or len(length) > 15:
            raise Refused(411, "Say the number of bytes in Content-Length.")
        if int(length) > self.server.viewer.limits.bytes:
            raise too_large(int(length), self.server.viewer.limits)
        body = self.rfile.read(int(length))
        if len(body) < int(length):
            raise Refused(400, "The upload ended early: send it again.")
        return body

    def _say(self, status: int, sentence: str) -> None:
        kind, body = _json({"error": sentence})
        self._send(status, kind, body)
        if self.command == "POST":
            self._drain()

    def _send(self, status: int, kind: str, body: bytes) -> None:
        self.send_response(status)
        for name, value in {**HEADERS, "Content-Type": kind}.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def _drain(self) -> None:
        """Let a refused upload end: a socket closed on unread bytes takes the answer with it."""
        try:
            self.connection.shutdown(socket.SHUT_WR)
            self.connection.settimeout(1)
            end = time.monotonic() + 5
            while time.monotonic() < end and self.connection.recv(1 << 16):
                pass
        except OSError:
            pass

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:
        """The base class's own refusals, which would be pages that repeat the request."""
        self.command = getattr(self, "command", None) or "GET"
        self.close_connection = True
        kind, body = _json({"error": WORDS.get(code, "This request is not understood.")})
        self._send(code, kind, body)

    def log_message(self, format: str, *args: Any) -> None:
        log.debug(format, *args)


def _name_of(host: str) -> str:
    """Without the port: a tunnel may have another one at its other end."""
    name, colon, port = host.rpartition(":")
    return (name if colon and port.isdigit() else host).lower()


def _number(text: str) -> int:
    if not (text.isascii() and text.isdigit()) or len(text) > 9:
        raise Refused(404, WORDS[404])
    return int(text)


def _json(value: Any) -> tuple[str, bytes]:
    return "application/json", json.dumps(value, allow_nan=False).encode()
