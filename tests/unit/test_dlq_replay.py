"""A dead letter leads back to the record that it was, and nowhere else."""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.scores import ConnectHeader, Reason
from stream_mtl.config import DeadLetters
from stream_mtl.cut import Headers, Record, Reject
from stream_mtl.deadletters import KEPT_BYTES, MOST_BYTES, dead_letter
from stream_mtl.dlq_replay import (
    Letter,
    counted_headers,
    is_the_whole,
    read_letter,
    receipt,
    receipt_of,
    refusal,
)

RECORD = Record("shop.events", 3, 41, b"u", b"{", 1_704_103_200_000, (("trace", b"\x00\xff"),))
TOPICS = ("shop.events",)
Style = Literal["connect", "streams"]


def written(
    record: Record,
    reason: str = "not_json",
    style: Style = "connect",
    place: tuple[int, int] = (1, 2),
) -> Record:
    """The letter as it lies in the dead-letter topic."""
    letter = dead_letter(
        Reject(record, reason, "serde"), 7, "shop", 0, DeadLetters(header_style=style)
    )
    return Record("shop.dlq", *place, letter.key, letter.value, letter.timestamp_ms, letter.headers)


def read(record: Record) -> Letter:
    letter = read_letter(record)
    assert letter is not None
    return letter


HEADER = st.tuples(
    st.sampled_from(["a", "stream_mtl.cut", *ConnectHeader]), st.none() | st.binary(max_size=5)
)


@given(
    st.builds(
        Record,
        st.just("shop.events"),
        st.integers(0, 9),
        st.integers(0, 10**12),
        st.none() | st.binary(max_size=9),
        st.none() | st.binary(max_size=99),
        st.integers(1, 10**13),
        st.lists(HEADER, max_size=14).map(tuple),
    ),
    st.sampled_from(["connect", "streams"]),
    st.sampled_from([r.value for r in Reason]),
)
def test_a_letter_gives_the_record_back_byte_for_byte(
    record: Record, style: Style, reason: str
) -> None:
    """Also one that carries headers of the same names, as of an earlier dead letter."""
    letter = read(written(record, reason, style))
    assert letter.original == record
    assert (letter.reason, letter.replays, letter.whole_bytes) == (reason, 0, None)


def test_each_replay_that_fails_again_counts_and_the_bound_ends_it() -> None:
    """The counter goes to the input topic and comes back among the original headers of the next letter."""
    record = RECORD
    for replays in range(3):
        letter = read(written(record))
        assert letter.replays == replays
        assert refusal(letter, TOPICS, 3, crash_named=False) is None
        record = replace(record, headers=counted_headers(letter.original.headers, replays + 1))
        assert len(record.headers) == 2
    assert refusal(read(written(record)), TOPICS, 3, crash_named=False) == "max_replays"


@pytest.mark.parametrize("counter", [b"", b"-3", b"x", None, b"9" * 40])
def test_a_counter_that_is_no_number_counts_nothing(counter: bytes | None) -> None:
    headers: Headers = (("stream_mtl.replays", counter),)
    assert read(written(replace(RECORD, headers=headers))).replays == 0


def test_what_is_no_letter_of_ours_is_not_sent() -> None:
    letter = written(RECORD)
    assert read_letter(replace(letter, headers=())) is None
    assert read_letter(replace(letter, headers=letter.headers[1:2])) is None
    assert read_letter(replace(letter, headers=letter.headers[:-1])) is None


def test_a_letter_may_not_choose_where_we_write() -> None:
    """Whoever can write to the dead-letter topic cannot make us write to a topic that we do not read."""
    forged = written(replace(RECORD, topic="payments"))
    assert refusal(read(forged), TOPICS, 3, crash_named=False) == "foreign_topic"


def test_a_row_of_the_learner_is_no_record() -> None:
    example = written(replace(RECORD, topic="", partition=-1, offset=-1), "nonfinite")
    assert refusal(read(example), TOPICS, 3, crash_named=False) == "example"


def test_what_killed_the_worker_is_sent_only_when_it_is_named() -> None:
    letter = read(written(RECORD, "crash"))
    assert refusal(letter, TOPICS, 3, crash_named=False) == "crash"
    assert refusal(letter, TOPICS, 3, crash_named=True) is None


def test_a_record_cut_short_is_known_again_at_its_coordinates() -> None:
    """Another record at the same offset, of a topic created anew, is not."""
    whole = replace(RECORD, value=b"x" * (KEPT_BYTES + 5))
    letter = read(written(whole, "too_large"))
    assert letter.whole_bytes == KEPT_BYTES + 5
    assert letter.original.value == b"x" * KEPT_BYTES
    assert is_the_whole(letter, whole)
    assert not is_the_whole(letter, replace(whole, value=b"y" * (KEPT_BYTES + 5)))
    assert not is_the_whole(letter, replace(whole, value=b"x" * KEPT_BYTES))


@pytest.mark.parametrize(
    "large",
    [
        replace(RECORD, key=b"k" * 3_000_000),
        replace(RECORD, value=b"v" * 3_000_000),
        replace(RECORD, headers=(("h", b"h" * 3_000_000), ("stream_mtl.replays", b"2"))),
    ],
)
def test_every_letter_fits_its_topic_and_keeps_the_counter(large: Record) -> None:
    """Whatever of the record is large: a letter that the topic refuses would block the cut for ever."""
    letter = written(large, "field_invalid")
    size = len(letter.key or b"") + len(letter.value or b"")
    assert size + sum(len(n) + len(v or b"") for n, v in letter.headers) < MOST_BYTES
    assert read(letter).whole_bytes == len(large.value or b"")
    assert read(letter).replays == (2 if len(large.headers) == 2 else 0)


def test_a_receipt_names_its_letter_and_is_no_letter() -> None:
    record = Record("shop.dlq", 1, 9, None, None, 1, receipt((1, 2)))
    assert receipt_of(record) == (1, 2)
    assert read_letter(record) is None
    assert receipt_of(written(RECORD)) is None
