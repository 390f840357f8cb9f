"""Small cuts and publications for tests of the Kafka folder."""

from __future__ import annotations

import time
from collections.abc import Mapping

import pytest

from stream_mtl.config import Config
from stream_mtl.cut import Cut, Output
from stream_mtl.deadletters import DeadLetter
from stream_mtl.kafka.bounds import bounds
from stream_mtl.kafka.ownership import Place
from stream_mtl.kafka.produce import EventWriter, Published, ScoreReader
from stream_mtl.kafka.publication import Publication
from stream_mtl.kafka.settings import consumer_settings, open_consumer
from stream_mtl.kafka.source import Source

START_MS = 1_704_067_200_000  # 2024-01-01


def publication(
    number: int, positions: Mapping[Place, int], outputs: int = 3, note: str = ""
) -> Publication:
    """A cut with a few scores, one dead letter and a recognisable ledger record."""
    return Publication(
        cut=Cut(number, (), (), START_MS),
        outputs=[Output(f"user:{i}", b"%d/%d" % (number, i), START_MS) for i in range(outputs)],
        dead_letters=[DeadLetter(b"u1", b"\x00bad", START_MS, (("reason", b"field_missing"),))],
        ledger=b"ledger %d %s" % (number, note.encode()),
        positions=positions,
        acks=[Output(f"command {number}", b"{}", START_MS)],
    )


def write_events(config: Config, count: int, topic: str | None = None, first: int = 0) -> None:
    """`count` numbered events of ten users, one a millisecond."""
    writer = EventWriter(config)
    for i in range(first, first + count):
        writer.write(topic or config.topics.events[0], f"u{i % 10}", b"event %d" % i, START_MS + i)
    writer.flush()


def opened(config: Config, positions: Mapping[Place, int] | None = None) -> Source:
    """A source at these positions; its clock stands still."""
    source = Source(config, clock=lambda: START_MS)
    source.open(positions or {})
    return source


def first_cut(source: Source, patience_s: float = 300.0) -> Cut:
    """The first one that is not empty: on a crowded machine the broker may take longer than an interval."""
    deadline = time.monotonic() + patience_s
    while time.monotonic() < deadline:
        cut = source.next_cut(1)
        if cut is not None:
            return cut
    pytest.fail("the source gave nothing")


def settle(config: Config, topic: str, patience_s: float = 15.0) -> None:
    """Wait until what was committed can be seen: a commit is answered before its markers are written.

    A transaction that a test leaves open ends the wait by its length.
    """
    levels = ("read_committed", "read_uncommitted")
    settings = [{**consumer_settings(config), "isolation.level": level} for level in levels]
    readers = [open_consumer(one) for one in settings]
    partitions = readers[0].list_topics(topic, timeout=60).topics[topic].partitions
    places = [(topic, number) for number in partitions]
    deadline = time.monotonic() + patience_s
    while time.monotonic() < deadline:
        stable, written = (
            [bounds(one, place, config.kafka.bootstrap, known=True)[1] for place in places]
            for one in readers
        )
        if stable == written:
            break
        time.sleep(0.02)
    for one in readers:
        one.close()


def read_published(config: Config, topic: str | None = None) -> list[Published]:
    """What a subscriber sees when all that was committed can be seen."""
    settle(config, topic or config.topics.scores)
    reader = ScoreReader(config, topic)
    try:
        return reader.read_to_end()
    finally:
        reader.close()
