"""Small cuts and publications for tests of the Kafka folder."""

from __future__ import annotations

from collections.abc import Mapping

from stream_mtl.config import Config
from stream_mtl.cut import Cut, Output
from stream_mtl.deadletters import DeadLetter
from stream_mtl.kafka.ownership import Place
from stream_mtl.kafka.produce import EventWriter, Published, ScoreReader
from stream_mtl.kafka.publication import Publication
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


def read_published(config: Config, topic: str | None = None) -> list[Published]:
    """What a subscriber sees now."""
    reader = ScoreReader(config, topic)
    try:
        return reader.read_to_end()
    finally:
        reader.close()
