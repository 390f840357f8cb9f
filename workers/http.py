"""/metrics, /healthz and /readyz on one address; every other path is a 404.

The server runs in a daemon thread and reads numbers in memory, so it answers while a step is long, and
cannot keep the process alive. Connections are few, short and bounded in bytes and time, whoever asks.
"""

from __future__ import annotations

import io
import socket
import threading
import time
from http.client import LineTooLong
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType

from stream_mtl.errors import ConfigError
from stream_mtl.metrics import CONTENT_TYPE, Metrics
from workers.http_access import Access
from workers.watch import Health

_CONNECTIONS = 16  # at once; a scraper needs one, so more is a mistake or an attack
_TIMEOUT_S = 5.0  # of a whole request: a client that is slow to ask or to read
_REQUEST_BYTES = 8_192  # request line and headers


class Endpoint:
    """`with Endpoint("127.0.0.1:9108", metrics, health) as endpoint: ...`; "off" listens nowhere."""

    def __init__(
        self, address: str, metrics: Metrics, health: Health, access: Access | None = None
    ) -> None:
        self._address, self._metrics, self._health = address, metrics, health
        self._access = access or Access()
        self._server: _Server | None = None
        self.url = ""

    def __enter__(self) -> Endpoint:
        """Raises ConfigError when the address cannot be used."""
        if self._address == "off":
            return self
        host, _, port = self._address.rpartition(":")
        if not host or not port.isdigit() or int(port) > 65535:
            raise ConfigError(
                f"metrics.address: expected HOST:PORT or off, found {self._address!r}; "
                "example: 127.0.0.1:9108"
            )
        host = host.strip("[]")
        try:
            self._server = _Server((host, int(port)), self._metrics, self._health, self._access)
        except OSError as error:
            raise ConfigError(
                f"cannot listen on metrics.address {self._address}: {error.strerror}; another worker may "
                "have it. Set another port (--set metrics.address=127.0.0.1:0 takes a free one, off none)"
            ) from error
        scheme = "https" if self._access.tls else "http"
        self.url = f"{scheme}://{host}:{self._server.server_address[1]}"
        threading.Thread(target=self._server.serve_forever, name="metrics", daemon=True).start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        tb: TracebackType | None,
    ) -> None:
        if self._server is not None:
            self._server.shutdown()
            self._server.server_close()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False
    request_queue_size = _CONNECTIONS

    def __init__(
        self, address: tuple[str, int], metrics: Metrics, health: Health, access: Access
    ) -> None:
        self.metrics, self.health, self.access = metrics, health, access
        self._free = threading.BoundedSemaphore(_CONNECTIONS)
        super().__init__(address, _Handler)

    def process_request(self, request: object, client_address: object) -> None:
        if not self._free.acquire(blocking=False):
            self.shutdown_request(request)  # type: ignore[arg-type]  # as the base class calls it
            return
        super().process_request(request, client_address)  # type: ignore[arg-type]

    def process_request_thread(self, request: object, client_address: object) -> None:
        assert isinstance(request, socket.socket)
        try:
            request.settimeout(_TIMEOUT_S)
            # The handshake is here, in the connection's own thread: a silent client must hold up no other.
            if self.access.tls is not None:
                request = self.access.tls.wrap_socket(request, server_side=True)
            super().process_request_thread(request, client_address)
        except OSError:
            request.close()  # no TLS, or a certificate that is not accepted
        finally:
            self._free.release()

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that went away is no news."""


class _Bounded(io.RawIOBase):
    """What a client sends, up to a number of bytes and a moment."""

    def __init__(self, connection: socket.socket, deadline: float) -> None:
        self._connection, self._deadline, self._left = connection, deadline, _REQUEST_BYTES

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        """Raises LineTooLong beyond the bytes, TimeoutError beyond the moment."""
        if self._left <= 0:
            raise LineTooLong("request")
        self._connection.settimeout(max(0.001, self._deadline - time.monotonic()))
        count = self._connection.recv_into(buffer[: self._left])
        self._left -= count
        return count


class _Handler(BaseHTTPRequestHandler):
    server: _Server
    timeout = _TIMEOUT_S
    server_version = "stream-mtl"
    sys_version = ""

    def setup(self) -> None:
        super().setup()
        self._deadline = time.monotonic() + _TIMEOUT_S
        self.rfile = io.BufferedReader(_Bounded(self.connection, self._deadline))

    def handle_one_request(self) -> None:
        try:
            super().handle_one_request()
        except LineTooLong:  # in the request line; in the headers the base class answers 431 itself
            self.requestline, self.request_version, self.command = "", "HTTP/1.0", ""
            self.close_connection = True
            self._answer(414, b"the request is too long\n")

    def do_GET(self) -> None:
        match self.path.partition("?")[0]:
            case "/metrics" if self._stranger():
                self._answer(401, b"a name and its password are wanted\n")
            case "/metrics":
                self._answer(200, self.server.metrics.render(), CONTENT_TYPE)
            case "/healthz":
                self._verdict(self.server.health.ailments())
            case "/readyz":
                self._verdict(self.server.health.unready())
            case _:
                self._answer(404, b"try /metrics, /healthz or /readyz\n")

    do_HEAD = do_GET

    def do_POST(self) -> None:
        self._answer(405, b"only GET and HEAD\n")

    do_PUT = do_DELETE = do_PATCH = do_OPTIONS = do_POST

    def _stranger(self) -> bool:
        """Health is for probes, which have no password; numbers are not."""
        passwords = self.server.access.passwords
        header = self.headers.get("Authorization", "")
        return passwords is not None and not passwords.let_in(header)

    def _verdict(self, complaints: list[str]) -> None:
        text = "\n".join(complaints) or "ok"
        self._answer(503 if complaints else 200, text.encode() + b"\n")

    def _answer(
        self, status: int, body: bytes, content_type: str = "text/plain; charset=utf-8"
    ) -> None:
        self.send_response(status)
        self.send_header("Content-Type", content_type)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Cache-Control", "no-store")
        if status == 401:
            self.send_header("WWW-Authenticate", 'Basic realm="metrics", charset="UTF-8"')
        if status == 405:
            self.send_header("Allow", "GET, HEAD")
        self.connection.settimeout(max(0.001, self._deadline - time.monotonic()))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Scrapes are not news."""
