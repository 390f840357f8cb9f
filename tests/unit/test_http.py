"""The endpoint of metrics and health."""

from __future__ import annotations

import socket
import ssl
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.client import HTTPConnection, HTTPSConnection
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import trustme

from stream_mtl.config import Config
from stream_mtl.config import Metrics as Section
from stream_mtl.cut import CutResult
from stream_mtl.errors import ConfigError
from stream_mtl.metrics import Metrics
from workers import http as served
from workers.http import Endpoint
from workers.http_access import access, exposure, line_for
from workers.observer import CutFacts
from workers.watch import Health, Watch


class Clock:
    """A clock that is set."""

    def __init__(self) -> None:
        self.now = 1_000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def health(clock: Clock) -> Health:
    return Health(clock)


@pytest.fixture
def endpoint(health: Health) -> Iterator[Endpoint]:
    with Endpoint("127.0.0.1:0", Metrics(Config()), health) as endpoint:
        yield endpoint


def _get(endpoint: Endpoint, path: str) -> tuple[int, str]:
    connection = HTTPConnection(urlsplit(endpoint.url).netloc, timeout=10)
    try:
        connection.request("GET", path)
        answer = connection.getresponse()
        return answer.status, answer.read().decode()
    finally:
        connection.close()


def _running(health: Health) -> Watch:
    watch = Watch(Metrics(Config()), health)
    watch.phase("running", partitions="shop.events-0")
    return watch


def test_metrics_are_served_and_other_paths_are_not(endpoint: Endpoint) -> None:
    """The stock server answers every path; ours has three."""
    status, body = _get(endpoint, "/metrics")
    assert status == 200
    assert "stream_mtl_commits_total" in body
    assert _get(endpoint, "/")[0] == 404
    assert _get(endpoint, "/metrics/../../etc/passwd")[0] == 404


def test_health_is_lost_when_the_main_loop_stands_still(
    endpoint: Endpoint, health: Health, clock: Clock
) -> None:
    """30 s are allowed, and a tick heals."""
    assert _get(endpoint, "/healthz") == (200, "ok\n")
    clock.now += 31
    assert _get(endpoint, "/healthz")[0] == 503
    _running(health).tick()
    assert _get(endpoint, "/healthz")[0] == 200


def test_a_worker_with_long_steps_gets_three_of_them(health: Health, clock: Clock) -> None:
    result = CutResult(0, (), (), {}, "", "", 0)
    _running(health).cut(result, CutFacts(step_seconds=20))
    clock.now += 59
    assert not health.ailments()
    clock.now += 2
    assert health.ailments()


def test_ready_needs_partitions_a_closed_breaker_and_fresh_commits(
    endpoint: Endpoint, health: Health, clock: Clock
) -> None:
    """Alive but not ready while restoring; an idle topic is no stall."""
    assert _get(endpoint, "/readyz")[0] == 503
    watch = _running(health)
    assert _get(endpoint, "/readyz") == (200, "ok\n")
    watch.trouble("breaker", open=1)
    assert "breaker" in _get(endpoint, "/readyz")[1]
    watch.trouble("breaker", open=0)
    result = CutResult(0, (), (), {}, "", "", 0)
    watch.cut(result, CutFacts(step_seconds=1, lag={("shop.events", 0): 5}))
    clock.now += 40
    watch.tick()
    assert "5 records waiting" in _get(endpoint, "/readyz")[1]
    watch.cut(result, CutFacts(step_seconds=1))
    clock.now += 40
    watch.tick()
    assert _get(endpoint, "/readyz")[0] == 200


def test_a_paused_worker_is_alive_and_not_ready(
    endpoint: Endpoint, health: Health, clock: Clock
) -> None:
    """The reason names the remedy; the stillness itself is no second reason, nor one just after it ended."""
    watch = _running(health)
    result = CutResult(0, (), (), {}, "", "", 0)
    watch.cut(result, CutFacts(step_seconds=1, lag={("shop.events", 0): 5}))
    watch.holding(True, {("shop.events", 0): 70})
    clock.now += 100
    watch.holding(True, {("shop.events", 0): 71})
    code, said = _get(endpoint, "/readyz")
    assert code == 503
    assert "control resume" in said
    assert "waiting" not in said
    assert _get(endpoint, "/healthz")[0] == 200
    watch.holding(False, {("shop.events", 0): 71})
    assert _get(endpoint, "/readyz") == (200, "ok\n")


def test_a_port_in_use_names_the_remedy(endpoint: Endpoint, health: Health) -> None:
    address = urlsplit(endpoint.url).netloc
    with (
        pytest.raises(ConfigError, match=r"metrics.address.*another worker.*off none"),
        Endpoint(address, Metrics(Config()), health),
    ):
        pass


@pytest.mark.parametrize("address", ["9108", "localhost:http", "localhost:70000", ":1"])
def test_an_address_that_is_none_is_refused(address: str, health: Health) -> None:
    with (
        pytest.raises(ConfigError, match="expected HOST:PORT or off"),
        Endpoint(address, Metrics(Config()), health),
    ):
        pass


def test_off_listens_nowhere(health: Health) -> None:
    with Endpoint("off", Metrics(Config()), health) as endpoint:
        assert endpoint.url == ""


def test_clients_that_hang_do_not_shut_others_out_for_good(endpoint: Endpoint) -> None:
    """More connections than are served at once are dropped, and the place is free again when they go."""
    place = urlsplit(endpoint.url)
    assert place.hostname
    assert place.port
    hanging = [
        socket.create_connection((place.hostname, place.port), timeout=10) for _ in range(40)
    ]
    for one in hanging:
        one.close()
    deadline = time.monotonic() + 120
    while True:
        try:
            assert _get(endpoint, "/healthz")[0] == 200
            break
        except OSError:
            assert time.monotonic() < deadline, "never served again"
            time.sleep(0.05)


# ---- bounds, whoever asks


def _raw(endpoint: Endpoint, sent: bytes) -> bytes:
    """What comes back until the server closes the connection."""
    place = urlsplit(endpoint.url)
    assert place.port
    got = b""
    with socket.create_connection(("127.0.0.1", place.port), timeout=20) as connection:
        try:
            connection.sendall(sent)
            while part := connection.recv(65_536):
                got += part
        except ConnectionError:
            pass  # closed with bytes of ours unread
    return got


@pytest.mark.parametrize(
    "request_line",
    [
        b"GET /" + b"a" * 1_000_000 + b" HTTP/1.1\r\n\r\n",
        b"GET /healthz HTTP/1.1\r\n" + b"X: " + b"a" * 1_000_000 + b"\r\n\r\n",
        b"GET /healthz HTTP/1.1\r\n" + b"X: a\r\n" * 100_000 + b"\r\n",
        b"GET /healthz HTTP/1.1\r\n" + b"X: a\r\n" * 90 + b"Y: " + b"b" * 8_000 + b"\r\n\r\n",
    ],
    ids=["line", "header", "headers", "altogether"],
)
def test_a_request_is_read_up_to_8_kib_and_no_further(
    endpoint: Endpoint, request_line: bytes
) -> None:
    """The stock server takes 65 kB a line, 100 lines long. What is longer gets no answer but a refusal."""
    answer = _raw(endpoint, request_line)
    assert answer == b"" or answer.split()[1] in (b"414", b"431")


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS", "PATCH"])
def test_nothing_can_be_done_but_reading(endpoint: Endpoint, method: str) -> None:
    answer = _raw(endpoint, method.encode() + b" /metrics HTTP/1.1\r\n\r\n")
    assert b" 405 " in answer
    assert b"Allow: GET, HEAD" in answer


def test_head_says_how_long_the_answer_would_be_and_nothing_more(endpoint: Endpoint) -> None:
    head, _, body = _raw(endpoint, b"HEAD /healthz HTTP/1.1\r\n\r\n").partition(b"\r\n\r\n")
    assert b" 200 " in head
    assert b"Content-Length: 3" in head
    assert body == b""


@pytest.mark.parametrize(
    "rubbish", [b"\r\n", b"\x16\x03\x01\x02", b"GET\r\n\r\n", b"\0" * 100 + b"\r\n"]
)
def test_rubbish_does_not_stop_the_server(endpoint: Endpoint, rubbish: bytes) -> None:
    _raw(endpoint, rubbish + b"\r\n\r\n")
    assert _get(endpoint, "/healthz")[0] == 200


def test_a_client_that_asks_a_byte_at_a_time_is_cut_off(
    health: Health, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The time is for the whole request: a limit for each byte would let one client stay for ever."""
    monkeypatch.setattr(served, "_TIMEOUT_S", 0.5)
    with Endpoint("127.0.0.1:0", Metrics(Config()), health) as endpoint:
        port = urlsplit(endpoint.url).port
        with socket.create_connection(("127.0.0.1", port), timeout=20) as slow:
            sent = 0
            try:
                while sent < 1_000:  # far more than the time allows, each byte well within it
                    slow.sendall(b"G")
                    sent += 1
                    time.sleep(0.05)
            except ConnectionError:
                pass
        assert sent < 1_000


# ---- TLS, certificates, passwords


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture
def files(authority: trustme.CA, tmp_path: Path) -> dict[str, str]:
    """A certificate with its key for 127.0.0.1, and the CA's."""
    made = authority.issue_cert("127.0.0.1")
    made.private_key_and_cert_chain_pem.write_to_path(str(tmp_path / "both.pem"))
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    return {"tls_cert_file": str(tmp_path / "both.pem"), "client_ca_file": str(tmp_path / "ca.pem")}


@contextmanager
def serving(health: Health, **section: str) -> Iterator[Endpoint]:
    guard = access(Section(**section))
    with Endpoint("127.0.0.1:0", Metrics(Config()), health, guard) as endpoint:
        yield endpoint


def _get_tls(
    endpoint: Endpoint, authority: trustme.CA, path: str, own: trustme.LeafCert | None = None
) -> int:
    context = ssl.create_default_context()
    authority.configure_trust(context)
    if own is not None:
        own.configure_cert(context)
    connection = HTTPSConnection(urlsplit(endpoint.url).netloc, timeout=20, context=context)
    try:
        connection.request("GET", path)
        return connection.getresponse().status
    finally:
        connection.close()


def test_with_a_certificate_there_is_only_tls(
    health: Health, files: dict[str, str], authority: trustme.CA
) -> None:
    with serving(health, tls_cert_file=files["tls_cert_file"]) as endpoint:
        assert endpoint.url.startswith("https://")
        assert _get_tls(endpoint, authority, "/metrics") == 200
        assert b"stream_mtl" not in _raw(endpoint, b"GET /metrics HTTP/1.1\r\n\r\n")
        assert _get_tls(endpoint, authority, "/metrics") == 200


def test_a_client_needs_a_certificate_of_the_named_ca(
    health: Health, files: dict[str, str], authority: trustme.CA
) -> None:
    with serving(health, **files) as endpoint:
        own, strange = (ca.issue_cert("scraper.invalid") for ca in (authority, trustme.CA()))
        assert _get_tls(endpoint, authority, "/metrics", own) == 200
        for other in (None, strange):
            with pytest.raises(OSError, match=r"alert|reset|EOF|closed|pipe"):
                _get_tls(endpoint, authority, "/metrics", other)


def test_hanging_tls_clients_do_not_hold_up_others(
    health: Health, files: dict[str, str], authority: trustme.CA
) -> None:
    """The handshake is each connection's own: one that says nothing stops nobody."""
    with serving(health, tls_cert_file=files["tls_cert_file"]) as endpoint:
        port = urlsplit(endpoint.url).port
        with socket.create_connection(("127.0.0.1", port), timeout=20):
            assert _get_tls(endpoint, authority, "/healthz") == 200


def _authorised(endpoint: Endpoint, header: str | None, path: str = "/metrics") -> int:
    connection = HTTPConnection(urlsplit(endpoint.url).netloc, timeout=20)
    try:
        connection.request("GET", path, headers={} if header is None else {"Authorization": header})
        return connection.getresponse().status
    finally:
        connection.close()


def _basic(pair: str) -> str:
    import base64

    return "Basic " + base64.b64encode(pair.encode()).decode()


def test_numbers_are_for_those_with_a_password_and_health_for_probes(
    health: Health, tmp_path: Path
) -> None:
    file = tmp_path / "users"
    file.write_text("# who scrapes\n" + line_for("prometheus", b"pa:ss") + "\n")
    with serving(health, basic_auth_file=str(file)) as endpoint:
        for _ in range(2):  # the second time it is remembered
            assert _authorised(endpoint, _basic("prometheus:pa:ss")) == 200
        wrong = [None, "", "Basic", "Basic !", "Bearer x", _basic("prometheus:pass"), _basic("prometheus"),
                 _basic("root:pa:ss"), _basic("prometheus:"), "Basic " + "/" * 4, "Basic \xe9"]  # fmt: skip
        assert {_authorised(endpoint, one) for one in wrong} == {401}
        assert _authorised(endpoint, None, "/healthz") == 200


@pytest.mark.parametrize(
    "content",
    ["", "user", "user:plain", "user:scrypt$3$8$1$AA==$AA==", "user:scrypt$99999999999$8$1$AA==$AA==", "\0:$", "é:scrypt$"],
)  # fmt: skip
def test_a_password_file_that_is_none_is_refused_with_the_remedy(
    tmp_path: Path, content: str
) -> None:
    file = tmp_path / "users"
    file.write_text(content)
    with pytest.raises(
        ConfigError, match=r"metrics\.basic_auth_file.*python -m workers\.http_access"
    ):
        access(Section(basic_auth_file=str(file)))


def test_files_that_do_not_fit_are_refused(files: dict[str, str], tmp_path: Path) -> None:
    absent = str(tmp_path / "absent")
    for section, named in (
        ({"basic_auth_file": absent}, "basic_auth_file"),
        ({"tls_cert_file": absent}, "tls_cert_file"),
        ({"tls_cert_file": files["client_ca_file"]}, "tls_cert_file"),  # no key in it
        ({"tls_key_file": files["tls_cert_file"]}, "needs metrics.tls_cert_file"),
        ({"client_ca_file": files["client_ca_file"]}, "needs metrics.tls_cert_file"),
        ({**files, "client_ca_file": absent}, "client_ca_file"),
    ):
        with pytest.raises(ConfigError, match=named):
            access(Section(**section))


@pytest.mark.parametrize(
    "section, warned",
    [
        ({}, ""),
        ({"address": "off"}, ""),
        ({"address": "[::1]:1"}, ""),
        ({"address": "0.0.0.0:9108"}, "open to the network"),
        ({"address": "0.0.0.0:9108", "tls_cert_file": "c"}, "open to the network"),
        ({"address": "[::]:9108", "basic_auth_file": "f"}, "in the clear"),
        ({"address": "0.0.0.0:9108", "tls_cert_file": "c", "basic_auth_file": "f"}, ""),
        ({"address": "0.0.0.0:9108", "tls_cert_file": "c", "client_ca_file": "f"}, ""),
    ],
)  # fmt: skip
def test_an_endpoint_that_is_open_to_others_is_warned_of(
    section: dict[str, str], warned: str
) -> None:
    said = exposure(Section(**section))
    assert (warned in said) if warned else said == ""
