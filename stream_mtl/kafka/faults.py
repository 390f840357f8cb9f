"""What an error of the client means to us."""

from __future__ import annotations

from typing import Any

from confluent_kafka import KafkaError, KafkaException

from stream_mtl.errors import BrokerUnavailable, ConfigError, StreamMtlError, TopicMissing

CALL_S = 10.0  # how long one request of start-up may take before the broker counts as away

_MISSING = {
    KafkaError.UNKNOWN_TOPIC_OR_PART,
    KafkaError._UNKNOWN_TOPIC,
    KafkaError._UNKNOWN_PARTITION,
}
_DAMAGED = {
    KafkaError._BAD_MSG,
    KafkaError._BAD_COMPRESSION,
    KafkaError.INVALID_MSG,
}
_FENCED = {
    KafkaError._FENCED,
    KafkaError.PRODUCER_FENCED,
    KafkaError.INVALID_PRODUCER_EPOCH,
}
_DENIED = {
    KafkaError.TOPIC_AUTHORIZATION_FAILED,
    KafkaError.GROUP_AUTHORIZATION_FAILED,
    KafkaError.CLUSTER_AUTHORIZATION_FAILED,
    KafkaError.TRANSACTIONAL_ID_AUTHORIZATION_FAILED,
    KafkaError._AUTHENTICATION,
    KafkaError.SASL_AUTHENTICATION_FAILED,
}


def is_missing(error: KafkaError) -> bool:
    """Does the error say that a topic or partition does not exist?"""
    return error.code() in _MISSING


def is_damaged(error: KafkaError) -> bool:
    """Is it of records that cannot be read? The client goes on behind them as if they had never been."""
    return error.code() in _DAMAGED


def is_fenced(error: KafkaError) -> bool:
    """Has another producer of the same transactional id come?"""
    return error.code() in _FENCED


def is_denied(error: KafkaError) -> bool:
    """Does the broker know us or our rights not? Waiting does not help then."""
    return error.code() in _DENIED


def error_of(error: KafkaException) -> KafkaError:
    """The error inside the exception."""
    inner: Any = error.args[0]
    assert isinstance(inner, KafkaError)
    return inner


def damaged(error: KafkaError, place: tuple[str, int], at: int) -> str:
    """What to tell of records that cannot be read."""
    return (
        f"{place[0]}[{place[1]}]: the records from offset {at} on are damaged ({error.name()}: {error.str()}); nothing"
        " is read past them. Start again, in case it happened on the way; else have the broker's disk looked at, and"
        " the partition restored from another replica"
    )


def explain(error: KafkaError, doing: str, bootstrap: str) -> StreamMtlError:
    """The exception of ours for an error met while `doing` something; the caller raises it."""
    if is_missing(error):
        return TopicMissing(
            f"{doing}: no such topic or partition at {bootstrap}; create it, or set topics.create"
        )
    if is_denied(error):
        return ConfigError(
            f"{doing}: {error.name()} at {bootstrap}; check credentials and ACLs (kafka.client)"
        )
    return BrokerUnavailable(
        f"{doing}: {error.name()} ({error.str()}) at {bootstrap}; is the broker up and reachable?"
    )
