"""The ledger: what it says of a cut, and that no fault in it goes unseen."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.scores import LedgerRecord, TopicIdentity
from stream_mtl.cut import Cut, CutResult, Output, Range
from stream_mtl.errors import ForeignState
from stream_mtl.ledger import (
    FOLD_VERSION,
    Context,
    Durable,
    Entry,
    decode,
    encode_cut,
    encode_lineage,
    links,
    ranges_of,
)
from stream_mtl.ledger_audit import Published, Report, verify

TOPICS = {"events": TopicIdentity(id="t1", partitions=2)}
CONTEXT = Context("shop", "l1", "i1", TOPICS, "c1", "k1", {"torch": "2"})


def outputs_of(number: int) -> tuple[Output, ...]:
    outputs = [Output(f"user:{number % 3}", b'{"cut":%d}' % number, number)]
    if number % 4 == 3:
        outputs.append(Output("user:gone", None, number))
    return tuple(outputs)


def result_of(number: int) -> CutResult:
    digest = hashlib.sha256(b"%d" % number).hexdigest()
    return CutResult(number, outputs_of(number), (), {"events": 2}, digest, digest, 1_000 + number)


def cut_of(number: int) -> Cut:
    """Partition 0 moves by two offsets a cut, partition 1 is idle."""
    ranges = (
        Range("events", 0, number * 2, number * 2 + 2, 2, "aa"),
        Range("events", 1, 5, 5, 0, "bb"),
    )
    return Cut(number, (), ranges, 9_000 + number)


def a_ledger(cuts: int, durable: Durable | None = None) -> list[Entry]:
    entries: list[Entry] = []
    for number in range(cuts):
        previous = entries[-1].hash if entries else ""
        raw = encode_cut(CONTEXT, previous, cut_of(number), result_of(number), durable)
        entries.append(decode(raw, number * 2))  # markers take an offset each
    return entries


def test_a_record_says_all_of_a_cut() -> None:
    """Ranges to read again, positions of every partition, counts, digests, the durable checkpoint."""
    entry = a_ledger(1, Durable("ck1-x", 0, "dd"))[0]
    record = entry.record
    assert ranges_of(record) == cut_of(0).ranges
    assert entry.positions == {("events", 0): 2, ("events", 1): 5}
    assert record.counts == {"events": 2, "outputs": 1, "tombstones": 0, "dead_letters": 0}
    assert (record.digest, record.published_at) == (result_of(0).digest, 9_000)
    assert record.checkpoint is not None
    assert (record.checkpoint.name, record.state_digest) == ("ck1-x", "dd")
    assert record.fold_version == FOLD_VERSION


def test_a_cut_sent_again_has_the_same_bytes() -> None:
    one, two = (encode_cut(CONTEXT, "", cut_of(3), result_of(3)) for _ in range(2))
    assert one == two


@pytest.mark.parametrize("raw", [None, b"", b"{}", b"hello", b"\xff", b"[" * 10_000])
def test_a_record_of_somebody_else_is_refused(raw: bytes | None) -> None:
    with pytest.raises(ForeignState) as refusal:
        decode(raw, 7)
    assert "7" in str(refusal.value)


def test_a_whole_ledger_has_no_fault() -> None:
    _, chain = links(a_ledger(10))
    assert (chain.cuts, chain.gaps, chain.overlaps, chain.repeats, chain.faults) == (
        10,
        0,
        0,
        0,
        [],
    )


def test_a_ledger_whose_old_records_expired_is_whole() -> None:
    _, chain = links(a_ledger(10)[4:])
    assert (chain.cuts, chain.gaps, chain.overlaps) == (6, 0, 0)


@given(st.integers(1, 8))
def test_a_missing_record_is_a_gap(missing: int) -> None:
    entries = a_ledger(10)
    del entries[missing]
    _, chain = links(entries)
    assert chain.gaps == 2  # the cut number, and the offsets it had read
    assert chain.overlaps == 0


def test_the_same_record_again_is_a_repeat_and_no_cut() -> None:
    entries = a_ledger(4)
    kept, chain = links([*entries, entries[-1]])
    assert [entry.cut for entry in kept] == [0, 1, 2, 3]
    assert (chain.cuts, chain.repeats, chain.gaps, chain.overlaps) == (4, 1, 0, 0)


def test_a_cut_committed_twice_with_other_content_is_an_overlap() -> None:
    entries = a_ledger(4)
    other = encode_cut(CONTEXT, entries[2].hash, cut_of(3), replace(result_of(3), digest="00"))
    _, chain = links([*entries, decode(other, 99)])
    assert chain.overlaps > 0


def test_a_record_of_another_history_breaks_the_chain() -> None:
    """Numbers and offsets fit, the predecessor does not: two writers, or a truncated log."""
    entries = a_ledger(4)
    foreign = encode_cut(CONTEXT, "ab" * 32, cut_of(4), result_of(4))
    _, chain = links([*entries, decode(foreign, 99)])
    assert chain.gaps == 1


def test_a_new_lineage_keeps_the_cut_numbers() -> None:
    entries = a_ledger(3)
    context = replace(CONTEXT, lineage="l2")
    begin = decode(encode_lineage(context, entries[-1], entries[-1].positions, 1, "test"), 50)
    after = decode(encode_cut(context, begin.hash, cut_of(3), result_of(3)), 51)
    assert (begin.record.kind, begin.cut, begin.record.ranges) == ("lineage", 2, [])
    assert begin.positions == entries[-1].positions
    _, chain = links([*entries, begin, after])
    assert (chain.cuts, chain.gaps, chain.overlaps) == (4, 0, 0)


# ---- the audit


class Refold:
    """Folds cuts again; `unreadable` cuts have no inputs any more."""

    def __init__(self, unreadable: Sequence[int] = (), digest: str = "") -> None:
        self._unreadable, self._digest, self._cut = unreadable, digest, -1

    def step(self, record: LedgerRecord) -> CutResult | None:
        self._cut = record.cut
        if record.cut in self._unreadable:
            return None
        result = result_of(record.cut)
        return replace(result, digest=self._digest) if self._digest else result

    def state_digest(self) -> str:
        return hashlib.sha256(b"state %d" % self._cut).hexdigest()


def published(cuts: int, copies: int = 1) -> Published:
    found = Published()
    for number in range(cuts):
        for output in outputs_of(number):
            for _ in range(copies):
                found.add(output.key, output.value, number)
    return found


def audit(found: Published, **how: object) -> Report:
    return verify(a_ledger(10), Refold(), found, **how)  # type: ignore[arg-type]


def test_a_true_ledger_is_clean() -> None:
    report = audit(published(10))
    assert report.clean
    assert report.as_json() == {
        "cuts": 10,
        "gaps": 0,
        "overlaps": 0,
        "digest_equal": True,
        "scores_missing": 0,
        "scores_doubled": 0,
        "cuts_unverifiable": 0,
        "faults": [],
    }


def test_a_lost_score_is_counted() -> None:
    found = published(10)
    found.by_cut[4].clear()
    report = audit(found)
    assert (report.scores_missing, report.scores_doubled, report.clean) == (1, 0, False)


def test_a_lost_tombstone_is_counted() -> None:
    found = published(10)
    del found.by_cut[3]["user:gone", ""]
    assert audit(found).scores_missing == 1


def test_every_copy_of_a_score_beyond_the_first_is_counted() -> None:
    assert audit(published(10, copies=2)).scores_doubled == 10 + 2  # lists and tombstones


def test_another_copy_is_allowed_where_delivery_says_so_but_other_content_is_not() -> None:
    assert audit(published(10, copies=2), repeats_allowed=True).clean
    found = published(10)
    found.add("user:1", b"other", 1)
    assert audit(found, repeats_allowed=True).scores_doubled == 1


def test_scores_without_their_ledger_record_are_counted() -> None:
    assert audit(published(11)).scores_doubled == 1
    found = published(10)
    found.add("user:1", b"foreign", -1)
    assert audit(found).scores_doubled == 1


def test_scores_below_the_compaction_horizon_are_not_missed() -> None:
    found = published(10)
    for number in range(6):
        del found.by_cut[number]
    report = audit(found, horizon=7)
    assert (report.scores_missing, report.scores_doubled) == (0, 0)


def test_a_digest_that_cannot_be_reached_again_is_a_fault() -> None:
    report = verify(a_ledger(3), Refold(digest="00"), published(3))
    assert not report.digest_equal
    assert not report.clean


def test_the_state_in_a_checkpoint_is_compared_too() -> None:
    """Equal digests of cuts and another state: what the chained digest does not cover."""
    right = hashlib.sha256(b"state 1").hexdigest()
    assert verify(a_ledger(3, Durable("ck1-x", 1, right)), Refold(), published(3)).clean
    assert not verify(a_ledger(3, Durable("ck1-x", 1, "00")), Refold(), published(3)).clean


def test_cuts_whose_inputs_are_gone_are_named_and_their_scores_still_counted() -> None:
    found = published(10)
    found.by_cut[1].clear()
    report = verify(a_ledger(10), Refold(unreadable=(0, 1, 2)), found)
    assert (report.cuts_unverifiable, report.scores_missing, report.digest_equal) == (3, 1, True)


def test_a_ledger_of_which_nothing_can_be_folded_again_is_not_said_to_be_equal() -> None:
    """On another kind of processor: scores are still counted, and nothing is known to be wrong."""
    report = verify(a_ledger(3), Refold(unreadable=(0, 1, 2)), published(3))
    assert (report.cuts_unverifiable, report.digest_equal, report.clean) == (3, None, True)
