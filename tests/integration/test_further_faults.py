"""What happens to a job beside crashes: somebody moves offsets, adds partitions, trims the ledger, turns the clock."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import pytest
from confluent_kafka import ConsumerGroupTopicPartitions, TopicPartition
from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewPartitions

from benchmarks.soak.nursery import Nursery
from benchmarks.soak.shop import fill
from benchmarks.soak.stage import Stage
from stream_mtl.kafka.ledger_log import committed_offsets, read_ledger
from stream_mtl.kafka.produce import EventWriter
from stream_mtl.kafka.settings import group_id
from stream_mtl.ledger import decode
from stream_mtl.simulator import simulate
from workers.simulate import to_topics

pytestmark = [pytest.mark.integration, pytest.mark.timeout(3_600)]
_EVENTS = 250


@pytest.fixture(scope="module")
def nursery() -> Iterator[Nursery]:
    with Nursery() as one:
        yield one


@pytest.fixture
def stage(nursery: Nursery, bootstrap: str, tmp_path: Path) -> Stage:
    """An app whose input was read to its end by a worker that left in order."""
    made = Stage(nursery, bootstrap, tmp_path)
    fill(made.config(), _EVENTS, seed=4)
    made.finish()
    return made


@pytest.fixture
def admin(bootstrap: str) -> AdminClient:
    return AdminClient({"bootstrap.servers": bootstrap})


def ended(stage: Stage, *options: str, clock_ms: int = 0) -> int:
    """The exit code of another run to the end of the input."""
    return stage.start("--until-idle", *options, clock_ms=clock_ms).wait(240.0)


def more(stage: Stage, events: int = 100) -> None:
    """Records that are new to the worker: the simulated ones behind those it has read."""
    writer = EventWriter(stage.config())
    records = simulate("dirty", _EVENTS + events, 4)
    to_topics(islice(records, _EVENTS, None), stage.config(), writer)
    writer.flush()


def test_offsets_that_were_moved_by_hand_are_refused_and_lost_ones_are_restored(
    stage: Stage, admin: AdminClient
) -> None:
    """Exit 78 names the partition; without any committed offset the ledger's positions count."""
    config = stage.config()
    place, (offset, _) = next(p for p in committed_offsets(config).items() if p[1][0] > 10)
    moved = [TopicPartition(*place, offset - 5)]
    asked = ConsumerGroupTopicPartitions(group_id(config), moved)
    admin.alter_consumer_group_offsets([asked])[group_id(config)].result()
    assert ended(stage) == 78
    assert f"{place[0]}[{place[1]}]" in stage.tail()
    admin.delete_consumer_groups([group_id(config)])[group_id(config)].result()
    more(stage)
    assert ended(stage) == 0
    assert stage.look() == ()
    assert place in committed_offsets(config)


def test_added_partitions_are_refused(stage: Stage, admin: AdminClient) -> None:
    """Keys have moved between partitions, so join windows are split: exit 78, and nothing is read."""
    topic, before = stage.config().topics.events[0], stage.cut()
    admin.create_partitions([NewPartitions(topic, 4)])[topic].result()
    more(stage)
    assert ended(stage) == 78
    assert "had 2 partitions, now 4" in stage.tail()
    assert stage.cut() == before


def test_a_trimmed_ledger_is_anchored_by_the_checkpoint(stage: Stage, admin: AdminClient) -> None:
    """Older records may go. Once the newest checkpoint's own record is gone, nothing proves it: exit 65."""
    config = stage.config()
    entries = [decode(raw, offset) for offset, raw in read_ledger(config)]
    _trim(admin, config.topics.ledger, entries[-1].offset)
    more(stage)
    assert ended(stage) == 0
    assert stage.cut() > entries[-1].cut
    end = [offset for offset, _ in read_ledger(config)][-1]
    for folder in sorted((stage.folder / "state" / "checkpoints").iterdir())[-1:]:
        folder.rename(stage.folder / folder.name)  # the one that the ledger still knows
    _trim(admin, config.topics.ledger, end)
    more(stage, 200)
    assert ended(stage) == 65
    assert "--cold-start" in stage.tail()


def _trim(admin: AdminClient, topic: str, before: int) -> None:
    place = TopicPartition(topic, 0, before)
    for future in admin.delete_records([place]).values():
        future.result()


@pytest.mark.parametrize("hours", [-1, 1])
def test_a_clock_that_jumps_changes_nothing_for_the_same_worker(stage: Stage, hours: int) -> None:
    """Wall time is only written down: cuts go on, digests stay those of the fold, then back again."""
    more(stage)
    assert ended(stage, clock_ms=hours * 3_600_000) == 0
    more(stage, 200)
    assert ended(stage) == 0
    assert stage.look() == ()


def test_a_cut_of_nothing_but_poison_is_a_cut(stage: Stage) -> None:
    """All of it is dead-lettered once, no score comes of it, and the next start goes on behind it."""
    before = stage.cut()
    writer = EventWriter(stage.config())
    for number in range(80):
        writer.write(stage.config().topics.events[0], b"u1", b"poison %d" % number)
    writer.flush()
    assert ended(stage) == 0
    poison = [decode(raw, at).record for at, raw in read_ledger(stage.config())][before + 1 :]
    assert sum(record.counts["dead_letters"] for record in poison) == 80
    assert all(record.counts["events"] == record.counts["dead_letters"] for record in poison)
    more(stage)
    assert ended(stage) == 0
    assert stage.look() == ()


def test_a_stranger_between_two_cuts_breaks_the_ledger_and_is_found(
    stage: Stage,
) -> None:
    """Somebody else's record in the ledger topic: the next start refuses with exit 65."""
    writer = EventWriter(stage.config())
    writer.write(stage.config().topics.ledger, None, b'{"not": "ours"}')
    writer.flush()
    assert ended(stage) == 65
    assert "only the worker may write" in stage.tail()
