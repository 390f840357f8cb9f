"""Reads what a run left behind, after it: topics, checkpoint folders, the diary of calls. Nothing of the worker.

Which input is poison is decided here once more, by decoding the topics; what each cut should have given, by
folding the ledger's ranges again in this process, without any fault.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

from confluent_kafka import TopicPartition

from benchmarks.soak.history import (
    Call,
    Checkpoint,
    Folded,
    History,
    LedgerCut,
    Partition,
    Place,
    Span,
    Spot,
)
from schemas.scores import CUT_HEADER, ConnectHeader
from stream_mtl import Config, build
from stream_mtl.checkpoint import CheckpointStore
from stream_mtl.cut import Record, Reject
from stream_mtl.errors import StateError
from stream_mtl.kafka.ledger_log import read_ledger
from stream_mtl.kafka.reading import read_topic
from stream_mtl.kafka.settings import consumer_settings, open_consumer
from stream_mtl.kafka.source import Source
from stream_mtl.kafka.topics import input_topics
from stream_mtl.ledger import Entry, cut_of, decode, ranges_of
from stream_mtl.serde import decode as decode_record


def look(
    config: Config,
    folders: Sequence[Path],
    diary: Path | None = None,
    complete: bool = True,
    fold: bool = True,
) -> History:
    """The history of an app's topics. `folders`: state folders of its workers. `fold` False leaves out the
    fault-free fold, which takes as long as the run did.
    """
    entries = [decode(raw, offset) for offset, raw in read_ledger(config)]
    cuts = [entry for entry in entries if entry.record.kind == "cut"]
    history = History(complete=complete)
    history.cuts = [_ledger_cut(entry) for entry in cuts]
    history.told_states = {
        entry.record.checkpoint.cut: entry.record.state_digest
        for entry in cuts
        if entry.record.checkpoint and entry.record.state_digest
    }
    history.scores = _scores(config)
    history.letters = _letters(config)
    history.inputs, history.poison = _inputs(config)
    history.checkpoints = [one for folder in folders for one in _checkpoints(folder)]
    history.calls = read_calls(diary) if diary is not None else []
    if fold and cuts:
        wanted = {one.cut for one in history.checkpoints} | history.told_states.keys()
        history.folded = refold(config, cuts, wanted)
    return history


def read_calls(diary: Path) -> list[Call]:
    """The whole lines of a diary; one that a death cut short is left out."""
    text = diary.read_text() if diary.exists() else ""
    return [Call(**json.loads(line)) for line in text[: text.rfind("\n") + 1].splitlines()]


def refold(config: Config, cuts: Sequence[Entry], wanted: set[int]) -> dict[int, Folded]:
    """Cut -> what an undisturbed fold gives; the state's digest after the `wanted` ones and the last."""
    fold = build(config, cuts[0].record.lineage)
    source = Source(config, lambda: 0)
    source.open({(r.topic, r.partition): r.start for r in cuts[0].record.ranges})
    folded = {}
    for entry in cuts:
        record, ranges = entry.record, ranges_of(entry.record)
        fold.lineage = record.lineage
        result = fold.step(cut_of(record, tuple(source.read(ranges))))
        scores = Counter((output.key, value_hash(output.value)) for output in result.outputs)
        state = fold.state_digest() if entry.cut in wanted or entry is cuts[-1] else ""
        folded[entry.cut] = Folded(result.digest, scores, state)
    source.close()
    return folded


def value_hash(value: bytes | None) -> str:
    """Of a score's bytes; "" for a tombstone."""
    return "" if value is None else hashlib.blake2b(value, digest_size=8).hexdigest()


def _ledger_cut(entry: Entry) -> LedgerCut:
    record = entry.record
    spans = tuple(Span((r.topic, r.partition), r.start, r.stop) for r in record.ranges)
    return LedgerCut(record.cut, entry.hash, record.previous, record.digest, spans, record.instance)


def _scores(config: Config) -> Counter[tuple[int, str, str]]:
    found: Counter[tuple[int, str, str]] = Counter()
    for record in read_topic(config, config.topics.scores):
        cut = dict(record.headers).get(CUT_HEADER) or b"-1"
        key = (record.key or b"").decode(errors="replace")
        found[int(cut), key, value_hash(record.value)] += 1
    return found


def _letters(config: Config) -> Counter[Spot]:
    found: Counter[Spot] = Counter()
    for record in read_topic(config, config.topics.dlq):
        told = {name: (value or b"").decode() for name, value in record.headers}
        found[
            told[ConnectHeader.TOPIC],
            int(told[ConnectHeader.PARTITION]),
            int(told[ConnectHeader.OFFSET]),
        ] += 1
    return found


def _inputs(config: Config) -> tuple[dict[Place, Partition], set[Spot]]:
    inputs: dict[Place, Partition] = {}
    poison: set[Spot] = set()
    for topic in input_topics(config):
        records = list(read_topic(config, topic))
        poison |= _poison(config, records)
        offsets: dict[int, set[int]] = {}
        for record in records:
            offsets.setdefault(record.partition, set()).add(record.offset)
        for number, (low, high) in _ends(config, topic).items():
            own = frozenset(offsets.get(number, set()))
            inputs[topic, number] = Partition(low, high, own)
    return inputs, poison


def _poison(config: Config, records: Iterable[Record]) -> set[Spot]:
    return {
        (record.topic, record.partition, record.offset)
        for record in records
        if isinstance(decode_record(record, config.source, config.topics), Reject)
    }


def _ends(config: Config, topic: str) -> dict[int, tuple[int, int]]:
    consumer = open_consumer(consumer_settings(config))
    try:
        numbers = consumer.list_topics(topic, timeout=10).topics[topic].partitions
        return {
            number: consumer.get_watermark_offsets(TopicPartition(topic, number), timeout=10)
            for number in numbers
        }
    finally:
        consumer.close()


def _checkpoints(folder: Path) -> list[Checkpoint]:
    if not (folder / "checkpoints").is_dir():
        return []
    store = CheckpointStore(folder / "checkpoints")
    found = []
    for info in store.list():
        try:
            _, manifest = store.load(info.name)
        except StateError:
            found.append(Checkpoint(info.name, info.cut, "", "", False, {}))
            continue
        identity = manifest.identity
        positions = {
            (topic, int(number)): at
            for topic, offsets in identity.positions.items()
            for number, at in offsets.items()
        }
        found.append(
            Checkpoint(
                info.name, info.cut, identity.ledger_hash, manifest.state_digest, True, positions
            )
        )
    return found
