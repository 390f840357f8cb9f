"""`ledger verify` on a real log: reads the ledger, folds its cuts again, reads the score topic, compares."""

from __future__ import annotations

from collections.abc import Sequence

from schemas.scores import CUT_HEADER, LedgerRecord
from stream_mtl.checkpoint import CheckpointStore
from stream_mtl.config import Config, fold_hash
from stream_mtl.cut import CutResult, Record
from stream_mtl.errors import CheckpointCorrupt, PositionLost, TopicChanged
from stream_mtl.ledger import Entry, cut_of, decode, links, ranges_of
from stream_mtl.ledger_audit import Published, Rebuild, Report, verify
from stream_mtl.recovery import COLD_START, Fold, ReadRanges, lineage_reason
from workers.context import environment_of
from workers.ports import wall_ms
from workers.stores import existing_store, saved_states


class Refold:
    """Folds the newest lineage again: the only one whose digests today's code can be asked for.

    It starts from the empty state where the lineage began empty, else from the oldest checkpoint of that
    lineage. Cuts before that, and those whose input expired, cannot be verified.
    """

    def __init__(self, fold: Fold, read: ReadRanges, first_cut: int) -> None:
        self._fold, self._read, self._first = fold, read, first_cut
        self._lost = False

    def step(self, record: LedgerRecord) -> CutResult | None:
        if record.cut < self._first or self._lost:
            return None
        try:
            records = self._read(ranges_of(record))
        except PositionLost:
            self._lost = True  # without this cut no later state can be reached
            return None
        return self._fold.step(cut_of(record, tuple(records)))

    def state_digest(self) -> str:
        return self._fold.state_digest()


def verify_ledger(config: Config) -> Report:
    """Audit the ledger of `config`. Reads topics and the state folder, changes neither."""
    from stream_mtl import build
    from stream_mtl.kafka.ledger_log import read_ledger
    from stream_mtl.kafka.source import Source

    entries = [decode(raw, offset) for offset, raw in read_ledger(config)]
    published, horizon = _published(config)
    repeats_allowed = config.kafka.delivery == "at_least_once"
    if not entries:
        return verify([], _Nothing(), published, horizon, repeats_allowed)
    kept, _ = links(entries)
    lineage = kept[-1].record.lineage
    fold = build(config, lineage)
    store = existing_store(config)
    first = _first_cut(fold, kept, _comparable(config, kept[-1].record), store)
    hashes = {e.hash for e in kept if e.record.lineage == lineage}
    states = {} if store is None else saved_states(store, hashes)
    source = Source(config, wall_ms)
    try:
        source.open(kept[-1].positions)
        rebuild: Rebuild = Refold(fold, source.read, first)
        return verify(entries, rebuild, published, horizon, repeats_allowed, states)
    except TopicChanged:
        return verify(entries, _Nothing(), published, horizon, repeats_allowed)
    finally:
        source.close()


class _Nothing:
    """When no cut can be folded again."""

    def step(self, record: LedgerRecord) -> CutResult | None:
        return None

    def state_digest(self) -> str:
        return ""


def _comparable(config: Config, record: LedgerRecord) -> bool:
    """Digests say something only under the same config and in the same environment."""
    from stream_mtl.environment import unlike

    same = record.config_hash == fold_hash(config)
    return same and not unlike(environment_of(config), record.environment)


def _first_cut(
    fold: Fold, kept: Sequence[Entry], comparable: bool, store: CheckpointStore | None
) -> int:
    """The first cut that can be folded again with equal digests; puts the state before it into `fold`."""
    last = kept[-1].record
    never = last.cut + 1
    if not comparable:
        return never
    begin = next(place for place, e in enumerate(kept) if e.record.lineage == last.lineage)
    entry = kept[begin]
    if entry.record.kind == "cut" and entry.cut == 0:
        return 0
    if lineage_reason(entry.record) == COLD_START:
        return entry.cut + 1
    if store is None:
        return never
    hashes = {e.hash for e in kept[begin:]}
    for info in reversed(store.list()):
        try:
            if store.manifest(info.name).identity.ledger_hash in hashes:
                fold.restore(store.load(info.name)[0])
                return info.cut + 1
        except CheckpointCorrupt:
            continue
    return never


def _published(config: Config) -> tuple[Published, int]:
    """What a subscriber finds, and the newest cut that compaction may have thinned out (-1: none)."""
    from stream_mtl.kafka.reading import read_topic

    published = Published()
    seen: dict[int, _Partition] = {}
    for record in read_topic(config, config.topics.scores):
        cut = _cut_of(record)
        key = (record.key or b"").decode(errors="replace")
        published.add(key, record.value, cut)
        seen.setdefault(record.partition, _Partition()).see(key, record.offset, cut)
    return published, max((one.horizon for one in seen.values()), default=-1)


class _Partition:
    """Up to where compaction may have removed records of one partition.

    What has been compacted holds each key once. So everything from the first key that comes a second
    time on is whole; and all is, when nothing but one marker a transaction is missing between offsets.
    """

    def __init__(self) -> None:
        self._keys: set[str] = set()
        self._next, self._cut, self._before_repeat = 0, -1, -1
        self._repeated = self._holes = False

    @property
    def horizon(self) -> int:
        return self._before_repeat if self._holes else -1

    def see(self, key: str, offset: int, cut: int) -> None:
        marker = self._next > 0 and cut != self._cut
        hole = offset - self._next - marker
        if hole > 0 and not self._repeated:
            self._holes = True
        self._repeated = self._repeated or key in self._keys
        if not self._repeated:
            self._keys.add(key)
            self._before_repeat = cut
        self._next, self._cut = offset + 1, cut


def _cut_of(record: Record) -> int:
    """The cut in the record's header; -1 for a record that is not ours."""
    for name, value in record.headers:
        if name == CUT_HEADER and (value or b"").isdigit():
            return int(value or b"")
    return -1
