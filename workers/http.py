"""/metrics, /healthz and /readyz on one address; every other path is a 404.

The server runs in a daemon thread and reads numbers in memory, so it answers while a step is long, and
cannot keep the process alive. Connections are few, short and bounded in time.
"""

from __future__ import annotations

import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType

from stream_mtl.errors import ConfigError
from stream_mtl.metrics import CONTENT_TYPE, Metrics
from workers.watch import Health

_CONNECTIONS = 16  # at once; a scraper needs one, so more is a mistake or an attack
_TIMEOUT_S = 5.0  # of a client that is slow to ask or to read


class Endpoint:
    """`with Endpoint("127.0.0.1:9108", metrics, health) as endpoint: ...`; "off" listens nowhere."""

    def __init__(self, address: str, metrics: Metrics, health: Health) -> None:
        self._address, self._metrics, self._health = address, metrics, health
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
            self._server = _Server((host, int(port)), self._metrics, self._health)
        except OSError as error:
            raise ConfigError(
                f"cannot listen on metrics.address {self._address}: {error.strerror}; another worker may "
                "have it. Set another port (--set metrics.address=127.0.0.1:0 takes a free one, off none)"
            ) from error
        self.url = f"http://{host}:{self._server.server_address[1]}"
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

    def __init__(self, address: tuple[str, int], metrics: Metrics, health: Health) -> None:
        self.metrics, self.health = metrics, health
        self._free = threading.BoundedSemaphore(_CONNECTIONS)
        super().__init__(address, _Handler)

    def process_request(self, request: object, client_address: object) -> None:
        if not self._free.acquire(blocking=False):
            self.shutdown_request(request)  # type: ignore[arg-type]  # as the base class calls it
            return
        super().process_request(request, client_address)  # type: ignore[arg-type]

    def process_request_thread(self, request: object, client_address: object) -> None:
        try:
            super().process_request_thread(request, client_address)  # type: ignore[arg-type]
        finally:
            self._free.release()

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that went away is no news."""


class _Handler(BaseHTTPRequestHandler):
    server: _Server
    timeout = _TIMEOUT_S
    server_version = "stream-mtl"
    sys_version = ""

    def do_GET(self) -> None:
        match self.path.partition("?")[0]:
            case "/metrics":
                self._answer(200, self.server.metrics.render(), CONTENT_TYPE)
            case "/healthz":
                self._verdict(self.server.health.ailments())
            case "/readyz":
                self._verdict(self.server.health.unready())
            case _:
                self._answer(404, b"try /metrics, /healthz or /readyz\n")

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
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Scrapes are not news."""
