"""The proxy of the soak, between a client and a server that answers every request with its correlation id."""

from __future__ import annotations

import contextlib
import socket
import socketserver
import struct
import threading
from collections.abc import Iterator

import pytest

from benchmarks.soak.proxy import END_TXN, Proxy, until

PRODUCE = 0


class Echo(socketserver.BaseRequestHandler):
    """Notes the kinds of requests, answers each."""

    def handle(self) -> None:
        with contextlib.suppress(ConnectionResetError):
            self._answer_all()

    def _answer_all(self) -> None:
        while size := self.request.recv(4, socket.MSG_WAITALL):
            frame = self.request.recv(struct.unpack(">i", size)[0], socket.MSG_WAITALL)
            api_key, _, correlation = struct.unpack_from(">hhi", frame)
            self.server.seen.append(api_key)  # type: ignore[attr-defined]
            self.request.sendall(struct.pack(">ii", 4, correlation))


class Server(socketserver.ThreadingTCPServer):
    daemon_threads = True
    seen: list[int]


class Client:
    def __init__(self, port: int) -> None:
        self._socket = socket.create_connection(("127.0.0.1", port), timeout=5.0)
        self._correlation = 0

    def ask(self, api_key: int) -> None:
        self._correlation += 1
        self._socket.sendall(struct.pack(">ihhi", 8, api_key, 0, self._correlation))

    def answer(self, timeout_s: float = 5.0) -> int | None:
        """The correlation id; None when the connection is gone or nothing comes."""
        self._socket.settimeout(timeout_s)
        try:
            raw = self._socket.recv(8, socket.MSG_WAITALL)
        except OSError:
            return None
        return int(struct.unpack(">ii", raw)[1]) if len(raw) == 8 else None

    def close(self) -> None:
        self._socket.close()


@pytest.fixture
def server() -> Iterator[Server]:
    with Server(("127.0.0.1", 0), Echo) as one:
        one.seen = []
        thread = threading.Thread(target=one.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield one
        one.shutdown()
        thread.join()


@pytest.fixture
def proxy(server: Server) -> Iterator[Proxy]:
    with Proxy(server.server_address[1]) as one:
        yield one


@pytest.fixture
def client(proxy: Proxy) -> Iterator[Client]:
    one = Client(proxy.port)
    yield one
    one.close()


def test_frames_pass_both_ways(client: Client, server: Server) -> None:
    client.ask(PRODUCE)
    assert client.answer() == 1
    assert server.seen == [PRODUCE]


def test_a_held_request_comes_to_the_broker_though_its_client_is_gone(
    proxy: Proxy, client: Client, server: Server
) -> None:
    """Only the kind asked for is held; it arrives after what was sent later."""
    proxy.hold(END_TXN, 1, "cut")
    client.ask(END_TXN)
    assert client.answer() is None
    again = Client(proxy.port)
    again.ask(END_TXN)
    again.ask(PRODUCE)
    assert (again.answer(), again.answer()) == (1, 2)
    assert server.seen == [END_TXN, PRODUCE]
    assert proxy.release() == 1
    assert until(lambda: server.seen == [END_TXN, PRODUCE, END_TXN], 5.0)
    again.close()


def test_a_lost_answer_means_that_the_broker_has_acted(
    proxy: Proxy, client: Client, server: Server
) -> None:
    proxy.drop_answers(END_TXN)
    client.ask(END_TXN)
    assert client.answer() is None
    assert server.seen == [END_TXN]


def test_a_partition_of_some_connections_leaves_the_others(
    proxy: Proxy, client: Client, server: Server
) -> None:
    """What was sent meanwhile arrives when it heals."""
    other = Client(proxy.port)
    proxy.freeze(lambda keys: END_TXN in keys)
    client.ask(END_TXN)
    other.ask(PRODUCE)
    assert other.answer() == 1
    assert client.answer(0.2) is None
    assert server.seen == [PRODUCE]
    proxy.thaw()
    assert client.answer() == 1
    other.close()


def test_a_half_open_connection_stays_silent_after_healing(proxy: Proxy, client: Client) -> None:
    """A new connection works, the old one neither answers nor ends."""
    client.ask(PRODUCE)
    assert client.answer() == 1
    proxy.freeze()
    proxy.thaw("half-open")
    client.ask(PRODUCE)
    fresh = Client(proxy.port)
    fresh.ask(PRODUCE)
    assert fresh.answer() == 1
    assert client.answer(0.2) is None
    fresh.close()
