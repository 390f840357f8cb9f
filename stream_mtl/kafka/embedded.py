"""A broker inside this process: librdkafka's mock cluster. No Java, no durability, no transactions.

It listens on a real port, so other processes may connect. It keeps at most 5 MiB and 100,000 message sets a
partition and silently drops the oldest: pace producers by their consumers' lag. Cuts are therefore
published `at_least_once` on it, and everything is forgotten at exit.

The C interface (its header calls it experimental) is reached through the library inside the wheel. Where
that is not found, a plain mock is used, whose topics all have four partitions and which has no fault hooks.
"""

from __future__ import annotations

import ctypes
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import confluent_kafka
from confluent_kafka import Producer

from stream_mtl.errors import ConfigError
from stream_mtl.kafka.settings import quiet_logger

PRODUCE, FETCH = 0, 1  # api keys, for push_errors
_POINTER = ctypes.c_void_p
_SIGNATURES: dict[str, tuple[Any, list[Any]]] = {
    "rd_kafka_conf_new": (_POINTER, []),
    "rd_kafka_conf_set": (
        ctypes.c_int,
        [_POINTER, ctypes.c_char_p, ctypes.c_char_p, ctypes.c_char_p, ctypes.c_size_t],
    ),
    "rd_kafka_new": (_POINTER, [ctypes.c_int, _POINTER, ctypes.c_char_p, ctypes.c_size_t]),
    "rd_kafka_destroy": (None, [_POINTER]),
    "rd_kafka_mock_cluster_new": (_POINTER, [_POINTER, ctypes.c_int]),
    "rd_kafka_mock_cluster_destroy": (None, [_POINTER]),
    "rd_kafka_mock_cluster_bootstraps": (ctypes.c_char_p, [_POINTER]),
    "rd_kafka_mock_topic_create": (
        ctypes.c_int,
        [_POINTER, ctypes.c_char_p, ctypes.c_int, ctypes.c_int],
    ),
    "rd_kafka_mock_group_initial_rebalance_delay_ms": (None, [_POINTER, ctypes.c_int32]),
    "rd_kafka_mock_push_request_errors_array": (
        None,
        [_POINTER, ctypes.c_int16, ctypes.c_size_t, ctypes.POINTER(ctypes.c_int)],
    ),
    "rd_kafka_mock_broker_set_down": (ctypes.c_int, [_POINTER, ctypes.c_int32]),
    "rd_kafka_mock_broker_set_up": (ctypes.c_int, [_POINTER, ctypes.c_int32]),
}


def _library() -> ctypes.CDLL | None:
    """The wheel's librdkafka with typed signatures; None where it is laid out otherwise (macOS)."""
    folder = Path(confluent_kafka.__file__).parent.parent / "confluent_kafka.libs"
    found = next(iter(sorted(folder.glob("librdkafka*.so*"))), None)
    if found is None:
        return None
    library = ctypes.CDLL(str(found))
    for name, (result, arguments) in _SIGNATURES.items():
        function = getattr(library, name, None)
        if function is None:
            return None
        function.restype, function.argtypes = result, arguments
    return library


class EmbeddedBroker:
    """`with EmbeddedBroker({"shop.events": 4}) as broker: ... broker.bootstrap`; topic -> partitions."""

    def __init__(self, topics: Mapping[str, int]) -> None:
        self._topics = dict(topics)
        self._library: ctypes.CDLL | None = None
        self._handle: int | None = None
        self._cluster: int | None = None
        self._host: Producer | None = None  # of the plain form: the cluster dies with this object
        self.bootstrap = ""

    @property
    def full(self) -> bool:
        """Are partition counts and fault hooks available?"""
        return self._cluster is not None

    def __enter__(self) -> EmbeddedBroker:
        self._library = _library()
        if self._library is None:
            self._start_plain()
        else:
            self._start_full(self._library)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        tb: TracebackType | None,
    ) -> None:
        if self._library is not None and self._cluster is not None:
            self._library.rd_kafka_mock_cluster_destroy(self._cluster)
            self._library.rd_kafka_destroy(self._handle)
        self._cluster = self._handle = self._library = self._host = None

    def push_errors(self, api_key: int, errors: Sequence[int]) -> None:
        """The next requests of this kind are answered with these error codes, one each."""
        library, cluster = self._hooks()
        codes = (ctypes.c_int * len(errors))(*errors)
        library.rd_kafka_mock_push_request_errors_array(cluster, api_key, len(errors), codes)

    def set_down(self) -> None:
        """The broker refuses connections; its records are kept."""
        library, cluster = self._hooks()
        library.rd_kafka_mock_broker_set_down(cluster, 1)

    def set_up(self) -> None:
        library, cluster = self._hooks()
        library.rd_kafka_mock_broker_set_up(cluster, 1)

    def _hooks(self) -> tuple[ctypes.CDLL, int]:
        if self._library is None or self._cluster is None:
            raise ConfigError("this build of librdkafka does not show the mock's fault hooks")
        return self._library, self._cluster

    def _start_full(self, library: ctypes.CDLL) -> None:
        error = ctypes.create_string_buffer(512)
        conf = library.rd_kafka_conf_new()
        library.rd_kafka_conf_set(conf, b"log_level", b"2", error, len(error))  # critical only
        self._handle = library.rd_kafka_new(0, conf, error, len(error))
        if not self._handle:
            raise ConfigError(f"the embedded broker did not start: {error.value.decode()}")
        self._cluster = library.rd_kafka_mock_cluster_new(self._handle, 1)
        for topic, partitions in self._topics.items():
            library.rd_kafka_mock_topic_create(self._cluster, topic.encode(), partitions, 1)
        library.rd_kafka_mock_group_initial_rebalance_delay_ms(self._cluster, 100)
        self.bootstrap = library.rd_kafka_mock_cluster_bootstraps(self._cluster).decode()

    def _start_plain(self) -> None:
        self._host = Producer({"test.mock.num.brokers": 1}, logger=quiet_logger())
        for topic in self._topics:  # asking for a topic creates it
            self._host.list_topics(topic, timeout=10)
        brokers = self._host.list_topics(timeout=10).brokers.values()
        self.bootstrap = ",".join(f"{broker.host}:{broker.port}" for broker in brokers)
