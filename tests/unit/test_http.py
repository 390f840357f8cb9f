"""The endpoint of metrics and health."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from http.client import HTTPConnection
from urllib.parse import urlsplit

import pytest

from stream_mtl.config import Config
from stream_mtl.cut import CutResult
from stream_mtl.errors import ConfigError
from stream_mtl.metrics import Metrics
from workers.http import Endpoint
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
    for _ in range(50):
        try:
            assert _get(endpoint, "/healthz")[0] == 200
            break
        except OSError:
            continue
    else:
        pytest.fail("never served again")
