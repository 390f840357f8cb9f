"""Dead letters keep the record and add context; the breaker opens on a flood, not on poison."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

from schemas.generate import FOLDER
from schemas.scores import LETTERS, Reason
from stream_mtl.config import DeadLetters
from stream_mtl.cut import Record, Reject
from stream_mtl.deadletters import KEPT_BYTES, MOST_BYTES, Breaker, dead_letter
from stream_mtl.errors import StateError

RECORD = Record(
    topic="shop.events",
    partition=3,
    offset=41,
    key=b"u\xff",
    value=b'{"broken',
    timestamp_ms=1_704_103_200_000,
    headers=(("trace", b"\x00\xff"), ("empty", None)),
)
REJECT = Reject(record=RECORD, reason="not_json", stage="serde", message="not one JSON object")
CONNECT_TEXT = DeadLetters(include_message=True)


def test_a_dead_letter_is_the_record_byte_for_byte() -> None:
    """Key, value, time and original headers are untouched, so a repaired reader can take them again."""
    letter = dead_letter(REJECT, 7, "shop", 0, DeadLetters())
    assert (letter.key, letter.value) == (RECORD.key, RECORD.value)
    assert letter.timestamp_ms == RECORD.timestamp_ms
    assert letter.headers[:2] == RECORD.headers


def test_connect_headers_say_where_and_why() -> None:
    """The names are those of Kafka Connect, so that its tools read ours."""
    letter = dead_letter(REJECT, 7, "shop", 2, CONNECT_TEXT)
    assert dict(letter.headers[2:]) == {
        "__connect.errors.topic": b"shop.events",
        "__connect.errors.partition": b"3",
        "__connect.errors.offset": b"41",
        "__connect.errors.connector.name": b"shop",
        "__connect.errors.task.id": b"2",
        "__connect.errors.stage": b"serde",
        "__connect.errors.class.name": b"stream_mtl.serde",
        "__connect.errors.exception.class.name": b"not_json",
        "__connect.errors.exception.message": b"not one JSON object",
        "__connect.errors.exception.stacktrace": b"",
        "stream_mtl.cut": b"7",
    }
    assert all(type(name) is str for name, _ in letter.headers)


def test_streams_headers_say_where_and_why() -> None:
    """The names are those of Kafka Streams."""
    config = DeadLetters(header_style="streams", include_message=True)
    assert dict(dead_letter(REJECT, 7, "shop", 0, config).headers[2:]) == {
        "__streams.errors.exception": b"not_json",
        "__streams.errors.stacktrace": b"",
        "__streams.errors.message": b"not one JSON object",
        "__streams.errors.topic": b"shop.events",
        "__streams.errors.partition": b"3",
        "__streams.errors.offset": b"41",
        "stream_mtl.cut": b"7",
    }


@pytest.mark.parametrize("style", sorted(LETTERS))
@pytest.mark.parametrize("reason", list(Reason))
def test_the_headers_of_every_letter_are_what_the_published_schema_says(
    style: str, reason: Reason
) -> None:
    """What subscribers build on: also of a value cut short, and of a learner's row that no record stands for."""
    config = DeadLetters.model_validate({"header_style": style})
    for topic, partition, size in (("shop.events", 3, 8), ("", -1, MOST_BYTES + 1)):
        record = Record(topic, partition, partition, None, b"x" * size)
        letter = dead_letter(Reject(record, reason, "serde"), 7, "shop", 0, config)
        headers = {name: (value or b"").decode() for name, value in letter.headers}
        schema = json.loads((FOLDER / f"dead_letter_{style}.v1.json").read_text())
        Draft202012Validator(schema).validate(headers)
        read = LETTERS[style].model_validate(headers)
        assert (read.reason, read.whole_bytes) == (reason, None if size == 8 else str(size)), read


@pytest.mark.parametrize("style", ["connect", "streams"])
def test_the_message_is_left_out_unless_asked_for(style: str) -> None:
    """Error text may hold personal data some day; the default does not let it out."""
    config = DeadLetters.model_validate({"header_style": style})
    letter = dead_letter(REJECT, 7, "shop", 0, config)
    assert not any(value == REJECT.message.encode() for _, value in letter.headers)


def test_only_an_oversized_value_is_cut_short() -> None:
    """A large record refused for another reason stays whole; an oversized one never blocks the topic."""
    large = Record("shop.events", 0, 5, None, json.dumps("x" * (2 * KEPT_BYTES)).encode())
    whole = dead_letter(Reject(large, "field_invalid", "serde"), 1, "shop", 0, DeadLetters())
    short = dead_letter(Reject(large, "too_large", "serde"), 1, "shop", 0, DeadLetters())
    assert large.value is not None
    assert whole.value == large.value
    assert short.value == large.value[:KEPT_BYTES]
    assert dict(short.headers)["__connect.errors.offset"] == b"5"


def test_a_null_value_stays_null() -> None:
    """A refused tombstone is dead-lettered as a tombstone, not as empty bytes."""
    null = Record("shop.events", 0, 5, b"u", None)
    assert dead_letter(Reject(null, "null_value", "serde"), 1, "s", 0, DeadLetters()).value is None


def test_one_bad_record_at_the_start_does_not_open_the_breaker() -> None:
    """All of the first record is bad: that is poison, not a broken producer."""
    breaker = Breaker(DeadLetters())
    assert not breaker.feed(1, 1)


def test_the_breaker_opens_above_the_share_and_not_at_it() -> None:
    """200 of 1,000 are allowed, 201 are not."""
    at, above = Breaker(DeadLetters()), Breaker(DeadLetters())
    assert not at.feed(1_000, 200)
    assert above.feed(1_000, 201)


def test_old_rejects_leave_the_window() -> None:
    """150 rejects an hour ago and 150 now are two bad spells of 15 %, not one of 30 %."""
    breaker = Breaker(DeadLetters())
    breaker.feed(500, 150)
    breaker.feed(1_000, 0)
    assert not breaker.feed(500, 150)


def test_an_open_breaker_stays_open_until_it_is_closed() -> None:
    """Good records do not close it; `close` does, and forgets the bad spell."""
    breaker = Breaker(DeadLetters())
    breaker.feed(1_000, 900)
    assert breaker.feed(5_000, 0)
    breaker.close()
    assert not breaker.open
    assert not breaker.feed(100, 100)


CUTS = st.lists(
    st.integers(0, 700).flatmap(lambda n: st.tuples(st.just(n), st.integers(0, n))), max_size=30
)


@given(CUTS, CUTS)
def test_a_restored_breaker_goes_on_as_if_nothing_had_happened(
    before: list[tuple[int, int]], after: list[tuple[int, int]]
) -> None:
    """State round trip through JSON at any cut changes no later verdict."""
    straight, stopped = Breaker(DeadLetters()), Breaker(DeadLetters())
    for cut in before:
        straight.feed(*cut)
        stopped.feed(*cut)
    resumed = Breaker(DeadLetters())
    resumed.restore(json.loads(json.dumps(stopped.state())))
    assert [straight.feed(*c) for c in after] == [resumed.feed(*c) for c in after]
    assert straight.state() == resumed.state()


def test_a_foreign_state_is_refused() -> None:
    """Another component's state is named, not guessed at."""
    with pytest.raises(StateError, match="expected cuts and open"):
        Breaker(DeadLetters()).restore({"rows": 1})
