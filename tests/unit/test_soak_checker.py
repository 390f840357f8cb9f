"""The soak's checker on made-up histories: a clean one passes, one planted fault of each kind is found by name."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import replace

import pytest

from benchmarks.soak.checker import KINDS, judge, judge_sink
from benchmarks.soak.history import (
    Call,
    Checkpoint,
    Folded,
    History,
    LedgerCut,
    Partition,
    Span,
)

EVENTS, ITEMS = ("events", 0), ("items", 0)
CUTS = 4


def clean() -> History:
    """Four cuts of three event offsets each; offset 4 is poison, offset 8 a hole; the items stand still."""
    history = History()
    for number in range(CUTS):
        spans = (Span(EVENTS, 3 * number, 3 * number + 3), Span(ITEMS, 0, 0))
        previous = f"h{number - 1}" if number else ""
        history.cuts.append(LedgerCut(number, f"h{number}", previous, f"d{number}", spans))
        scores = Counter({(f"user:{number}", "v"): 1, ("user:0", f"v{number}"): 1})
        history.folded[number] = Folded(f"d{number}", scores, f"s{number}")
        history.scores.update({(number, *score): n for score, n in scores.items()})
        for outcome in ("invoked", "ok"):
            history.calls.append(Call("commit", outcome, number, "a", float(number)))
    history.inputs = {
        EVENTS: Partition(0, 12, frozenset(range(12)) - {8}),
        ITEMS: Partition(0, 0, frozenset()),
    }
    history.poison, history.letters = {(*EVENTS, 4)}, Counter({(*EVENTS, 4): 1})
    history.checkpoints = [
        Checkpoint("ck1-2", 2, "h2", "s2", usable=True, positions={EVENTS: 9, ITEMS: 0}),
        Checkpoint("ck1-3", 3, "", "", usable=False, positions={}),
    ]
    history.told_states = {1: "s1"}
    return history


def _with_spans(history: History, number: int, start: int, stop: int) -> None:
    cut = history.cuts[number]
    spans = (Span(EVENTS, start, stop), *cut.spans[1:])
    history.cuts[number] = replace(cut, spans=spans)


def missing_score(history: History) -> None:
    history.scores[2, "user:2", "v"] -= 1
    history.scores += Counter()


def doubled_score(history: History) -> None:
    history.scores[2, "user:2", "v"] += 1


def foreign_score(history: History) -> None:
    history.scores[2, "user:2", "another"] += 1


def score_without_record(history: History) -> None:
    history.scores[CUTS, "user:9", "v"] += 1


def gap(history: History) -> None:
    _with_spans(history, 2, 7, 9)


def gap_where_no_record_lies(history: History) -> None:
    _with_spans(history, 2, 6, 8)  # offset 8 is a hole; the next cut begins at 9


def overlap(history: History) -> None:
    _with_spans(history, 2, 5, 9)


def beyond_the_end(history: History) -> None:
    _with_spans(history, 3, 9, 14)


def unread(history: History) -> None:
    history.inputs[EVENTS] = Partition(0, 13, frozenset(range(13)) - {8})


def poison_twice(history: History) -> None:
    history.letters[*EVENTS, 4] += 1


def poison_never(history: History) -> None:
    history.letters.clear()


def clean_record_dead_lettered(history: History) -> None:
    history.letters[*EVENTS, 5] += 1


def digest_of_one_cut(history: History) -> None:
    history.cuts[1] = replace(history.cuts[1], digest="another")


def digest_of_a_saved_state(history: History) -> None:
    history.checkpoints[0] = replace(history.checkpoints[0], state_digest="another")


def digest_of_a_state_that_the_ledger_names(history: History) -> None:
    history.told_states[1] = "another"


def no_checkpoint(history: History) -> None:
    history.checkpoints.clear()


def no_whole_checkpoint(history: History) -> None:
    history.checkpoints[0] = replace(history.checkpoints[0], usable=False)


def checkpoint_of_another_ledger(history: History) -> None:
    history.checkpoints[0] = replace(history.checkpoints[0], ledger_hash="never committed")


def rollforward_expired(history: History) -> None:
    history.inputs[EVENTS] = replace(history.inputs[EVENTS], low=10)


def ledger_record_lost(history: History) -> None:
    history.cuts[2] = replace(history.cuts[2], previous="another")


def ledger_begins_late(history: History) -> None:
    history.cuts[0] = replace(history.cuts[0], previous="something before")


def cut_twice(history: History) -> None:
    history.cuts.insert(2, history.cuts[1])


def committed_but_lost(history: History) -> None:
    history.calls += [
        Call("commit", "invoked", CUTS, "a", 9.0),
        Call("commit", "ok", CUTS, "a", 9.1),
    ]


def failed_but_there(history: History) -> None:
    history.calls[-1] = replace(history.calls[-1], outcome="failed")


PLANTED: list[tuple[Callable[[History], None], str]] = [
    (missing_score, "score missing"),
    (doubled_score, "score doubled"),
    (foreign_score, "score of another content"),
    (score_without_record, "score without ledger record"),
    (gap, "gap"),
    (gap_where_no_record_lies, "gap"),
    (overlap, "overlap"),
    (beyond_the_end, "beyond the end"),
    (unread, "unread"),
    (poison_twice, "poison dead-lettered twice"),
    (poison_never, "poison not dead-lettered"),
    (clean_record_dead_lettered, "clean record dead-lettered"),
    (digest_of_one_cut, "digest"),
    (digest_of_a_saved_state, "state digest"),
    (digest_of_a_state_that_the_ledger_names, "state digest"),
    (no_checkpoint, "no usable checkpoint"),
    (no_whole_checkpoint, "no usable checkpoint"),
    (checkpoint_of_another_ledger, "no usable checkpoint"),
    (rollforward_expired, "roll-forward expired"),
    (ledger_record_lost, "ledger chain"),
    (ledger_begins_late, "ledger chain"),
    (cut_twice, "cut twice"),
    (committed_but_lost, "committed but lost"),
    (failed_but_there, "failed but there"),
]


def test_a_clean_history_passes() -> None:
    """Holes, poison, an unusable newest checkpoint and idle partitions are nobody's fault."""
    assert judge(clean()) == ()


@pytest.mark.parametrize(("plant", "kind"), PLANTED, ids=lambda one: getattr(one, "__name__", one))
def test_a_planted_fault_is_found_by_name(plant: Callable[[History], None], kind: str) -> None:
    """One fault in a clean history: it is named, and at most its direct consequences beside it."""
    history = clean()
    plant(history)
    found = {violation.kind for violation in judge(history)}
    assert kind in found
    assert len(found) <= 3, found


def test_every_kind_has_a_planted_fault() -> None:
    assert {kind for _, kind in PLANTED} == set(KINDS)


def test_a_worker_that_was_still_running_need_not_have_read_everything() -> None:
    history = clean()
    unread(history)
    history.complete = False
    assert judge(history) == ()


def test_a_commit_of_unknown_outcome_may_be_there_or_not() -> None:
    """Neither an indeterminate commit nor one that died with its process says anything of the log."""
    history = clean()
    history.calls[-1] = replace(history.calls[-1], outcome="indeterminate")
    history.calls.append(Call("commit", "invoked", CUTS, "b", 9.0))
    assert judge(history) == ()


def test_a_commit_that_failed_and_was_sent_again_may_be_there() -> None:
    history = clean()
    before = [Call("commit", outcome, 3, "a", 2.9) for outcome in ("invoked", "failed")]
    history.calls[-2:-2] = before
    assert judge(history) == ()


def test_a_sink_alone_is_judged_by_its_transactions() -> None:
    """No checkpoint and no input is asked of it, a doubled cut is."""
    history = clean()
    history.checkpoints.clear()
    history.inputs.clear()
    assert judge_sink(history) == ()
    cut_twice(history)
    assert {violation.kind for violation in judge_sink(history)} >= {"cut twice"}
