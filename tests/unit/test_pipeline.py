"""The fold as a whole: the same cuts give the same state, however they are fed and wherever it stops."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from concurrent.futures import Executor, Future
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from stream_mtl import build, cuts
from stream_mtl.config import Config
from stream_mtl.cut import Cut, Record
from stream_mtl.files import TOPIC
from stream_mtl.hashing import hash64
from stream_mtl.pipeline import Pipeline
from stream_mtl.simulator import as_line, simulate
from tests.folds import NOON, Fold, line, shop_cuts, small

EVENTS = 1_200


@pytest.fixture(scope="module")
def config() -> Config:
    return small()


@pytest.fixture(scope="module")
def stream(config: Config) -> list[Cut]:
    """A shop whose every tenth record is broken."""
    return shop_cuts(config, EVENTS, "dirty")


@pytest.fixture(scope="module")
def digests(config: Config, stream: list[Cut]) -> list[str]:
    """Of every cut of an undisturbed fold, the whole state's last."""
    return folded(build(config, "test"), stream)


def erasing(user: str) -> bytes:
    """The command that erases a user."""
    command = {"type": "erase_user", "schema_version": 1, "command_id": "c1", "issued_at": NOON}
    return json.dumps({**command, "user_id": user}).encode()


def folded(model: Pipeline, stream: list[Cut]) -> list[str]:
    return [*(model.step(cut).digest for cut in stream), model.state_digest()]


def saved(model: Pipeline) -> dict[str, Any]:
    """The state as a checkpoint keeps it: tensors copied, the rest through JSON."""
    return {
        name: value.clone() if isinstance(value, torch.Tensor) else json.loads(json.dumps(value))
        for name, value in model.state().items()
    }


def test_the_stream_is_worth_folding(config: Config, stream: list[Cut]) -> None:
    """It learns, publishes and refuses; else the tests below would prove nothing."""
    model = build(config, "test")
    for cut in stream:
        model.step(cut)
    for name in ("steps", "scores", "rejected", "duplicates", "example_rows"):
        assert model.totals[name] > 3, name


@pytest.mark.parametrize("where", [0.0, 0.2, 0.6, 1.0])
def test_a_restored_fold_goes_on_bit_for_bit(
    config: Config, stream: list[Cut], digests: list[str], where: float
) -> None:
    """Stop after any cut, save, go on in a new process: every later digest is the undisturbed one's."""
    stop = int(where * len(stream))
    first, second = build(config, "test"), build(config, "test")
    for cut in stream[:stop]:
        first.step(cut)
    kept = saved(first)
    for cut in stream[stop : stop + 3]:
        first.step(cut)  # what is saved must not change under the one that goes on
    second.restore(kept)
    assert folded(second, stream[stop:]) == digests[stop:]


@pytest.mark.parametrize("where", [0.1, 0.5, 0.9])
@pytest.mark.parametrize("index", [{}, {"search": "ivf", "index_from": 20, "probes": 2}])
def test_a_fold_with_learned_vectors_goes_on_bit_for_bit_too(
    stream: list[Cut], where: float, index: dict[str, Any]
) -> None:
    """Vectors, visits that wait, frequencies, remembered candidates and the index's lists are part of the state."""
    config = small(retrieval={"learned": True, "batch": 8, "again": 8, "first_steps": 2, **index})
    stop = int(where * len(stream))
    undisturbed, first, second = (build(config, "test") for _ in range(3))
    wanted = folded(undisturbed, stream)
    for cut in stream[:stop]:
        first.step(cut)
    second.restore(saved(first))
    assert folded(second, stream[stop:]) == wanted[stop:]
    assert undisturbed.parts.towers is not None
    assert undisturbed.parts.towers.steps > 3
    assert undisturbed.summary()["recall"]["sources"]["learned"] > 0
    assert ("learned/trained" in undisturbed.parts.searches.state()) == bool(index)


@pytest.mark.parametrize(
    "learned", [{}, {"learned": True, "batch": 8, "again": 8, "first_steps": 2}]
)
def test_lists_prepared_beside_the_steps_are_those_prepared_after_them(
    stream: list[Cut], learned: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a second thread does while the model learns is what one thread does when it has learned."""
    config = small(retrieval=learned)
    beside = folded(build(config, "test"), stream)
    monkeypatch.setattr("stream_mtl.pipeline.ThreadPoolExecutor", AfterTheSteps)
    assert folded(build(config, "test"), stream) == beside
    assert AfterTheSteps.calls > 3


class AfterTheSteps(Executor):
    """An executor without a thread: calls run when its `with` ends."""

    calls = 0

    def __init__(self, *_: object) -> None:
        self._waiting: list[tuple[Future[Any], Callable[[], Any]]] = []

    def submit(self, call: Callable[..., Any], /, *given: Any, **named: Any) -> Future[Any]:
        future: Future[Any] = Future()
        self._waiting.append((future, partial(call, *given, **named)))
        return future

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        for future, call in self._waiting:
            future.set_result(call())
            AfterTheSteps.calls += 1


def test_who_is_erased_in_a_cut_gets_no_list_of_that_cut(config: Config, stream: list[Cut]) -> None:
    """Though the cut has events of the user and rows for a step, beside which lists would be prepared."""
    model = build(config, "test")
    for at, cut in enumerate(stream):  # noqa: B007
        known = {key for key, _ in model.state()["scoring/published"]}
        result = model.step(cut)
        listed = {o.key for o in result.outputs if o.key.startswith("user:") and o.value}
        if result.counts.get("steps") and listed & known:
            break
    user = min(listed & known).removeprefix("user:")
    command = Record(TOPIC, 0, 10**9, None, erasing(user))
    again = build(config, "test")
    for earlier in stream[:at]:
        again.step(earlier)
    result = again.step(replace(cut, records=(*cut.records, command)))
    assert result.counts["steps"]
    assert [o.value for o in result.outputs if o.key == f"user:{user}"] == [None]


def test_a_fold_that_compares_gradients_says_which_tasks_agree(stream: list[Cut]) -> None:
    model = build(small(balancer={"affinity_every": 1}), "test")
    folded(model, stream)
    sharing, tasks = model.summary()["sharing"], set(model.config.tasks)
    assert {task for group in sharing["groups"] for task in group} == tasks
    assert -1 <= sharing["cosines"]["click"]["search"] <= 1
    assert sharing["cosines"]["click"]["search"] == sharing["cosines"]["search"]["click"]
    assert set(sharing["cosines"]["click"]) == tasks - {"click"}
    assert build(small(), "test").summary()["sharing"] is None


def test_the_summary_tells_what_happened_by_itself(stream: list[Cut]) -> None:
    """Which paths exposures took, what was decided, which domain is known how well, and how the experts are."""
    model = build(small(evaluation={"probe_share": 0.5, "probe_rows": 60}), "test")
    folded(model, stream)
    summary = model.summary()
    assert summary["exposures"]["impression"] > 100
    assert summary["late_events"] > 0  # of a dirty shop
    assert (summary["cuts_held_back"], summary["drift_alarms"]) == (0, {})
    assert summary["decisions"] == {}
    domains = {one["domain"] for one in summary["tasks"]["click"]["probes"]}
    assert len(domains) > 1
    assert domains <= {
        None,
        *model.parts.shop.items.domains.names,
    }  # None: an event that named none
    assert all(one["rows"] > 0 for one in summary["tasks"]["click"]["probes"])
    assert 0 <= summary["tasks"]["click"]["expert_zero_rate"] <= 1
    assert set(summary["experts"]["gate_entropy"]) == set(model.config.tasks)
    assert (
        max(summary["experts"]["zero_rate"].values())
        >= summary["tasks"]["click"]["expert_zero_rate"]
    )


def test_the_summary_counts_decisions_and_what_was_not_carried_out() -> None:
    fold = Fold()
    pause, add = {"type": "pause"}, {"type": "add_task", "task": "click", "kind": "binary"}
    for number, command in enumerate((pause, pause, add)):
        said = {**command, "command_id": f"c{number}", "issued_at": 1}
        fold.outputs([json.dumps(said).encode()])
    assert fold.model.summary()["decisions"] == {"pause": 2, "add_task: refused": 1}


def test_learned_vectors_and_recall_forget_an_erased_user() -> None:
    fold = Fold(small(retrieval={"learned": True, "batch": 500}))
    clicks = [line("click", NOON + k, user_id="me", item_id=f"i{k % 7}") for k in range(9)]
    fold.cut(*clicks)
    parts = fold.model.parts
    assert parts.towers is not None
    assert len(parts.towers.state()["visits/user"]) > 3
    assert len(parts.recall.state()["place"]) == 1
    fold.cut(erasing("me"))
    assert len(parts.recall.state()["place"]) == 0
    assert (parts.towers.state()["visits/item"] == -1).all()
    assert not parts.towers.state()["visits/user"].any()


def test_ten_files_give_the_state_of_one(config: Config, tmp_path: Path) -> None:
    """Pieces are the same log: line numbers run on and cuts do not end with files."""
    lines = [as_line(record) + b"\n" for record in simulate("dirty", EVENTS, 3)]
    whole = tmp_path / "whole.jsonl"
    whole.write_bytes(b"".join(lines))
    pieces = []
    for number in range(10):
        pieces.append(tmp_path / f"{number}.jsonl")
        share = lines[number * EVENTS // 10 : (number + 1) * EVENTS // 10]
        pieces[-1].write_bytes(b"".join(share))
    one, ten = (folded(build(config), list(cuts(p, config))) for p in ([whole], pieces))
    assert one == ten


def test_no_clock_is_read_inside_a_step(
    config: Config, stream: list[Cut], digests: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Event time inside: a step that asked for the time of day could not be repeated."""
    model = build(config, "test")

    def forbidden() -> float:
        raise AssertionError("a step read a clock")

    with monkeypatch.context() as patch:
        for name in ("time", "time_ns", "monotonic", "monotonic_ns", "perf_counter"):
            patch.setattr(time, name, forbidden)
        told = [model.step(cut).digest for cut in stream]
    assert told == digests[:-1]


def test_global_randomness_does_not_enter(
    config: Config, stream: list[Cut], digests: list[str]
) -> None:
    """Whatever else in the process draws numbers, the fold is the same."""
    model, told = build(config, "test"), []
    for cut in stream:
        torch.rand(3)
        np.random.rand(3)
        told.append(model.step(cut).digest)
    assert told == digests[:-1]


POISON = [
    b"",
    b"null",
    b"[]",
    b"not json",
    b"\xff\xfe\x00",
    b'{"type":"click"}',
    b'{"type":"unheard of","event_time":1704110400000}',
    line("click", NOON, user_id="", item_id="i1"),
    line("click", -1, user_id="u", item_id="i1"),
    line("item", NOON, item_id="i1", price=float("nan")),
    line("impression", NOON, user_id="u", items="i1"),
    line("purchase", NOON, user_id="u", item_id="i" * 10_000),
    b"{" * 5_000,
]


@pytest.mark.parametrize("poison", POISON, ids=[repr(p[:24]) for p in POISON])
def test_a_poison_record_is_refused_and_nothing_else_notices(poison: bytes) -> None:
    """It is counted and handed back; its neighbours in the cut take effect."""
    fold = Fold()
    good = line("click", NOON, user_id="ann", item_id="i1", domain="toys")
    assert "user:ann" in fold.cut(poison, good, poison)
    assert fold.model.totals["rejected"] == 2
    assert fold.model.totals["events"] == 3


def test_empty_cuts_and_unknown_items_pass() -> None:
    """Nothing to read, and a click on what no catalogue has announced."""
    fold = Fold()
    assert fold.cut() == {}
    out = fold.cut(line("click", NOON, user_id="ann", item_id="never announced"))
    assert "user:ann" in out
    assert fold.cut() == {}


@pytest.mark.parametrize("after", [15, 1_000])
def test_an_erased_user_is_nowhere_in_the_state(
    config: Config, stream: list[Cut], after: int
) -> None:
    """Neither id nor hash is left, in tables, histories, windows, queues, memories and probe sets."""
    fold = Fold(config)
    for cut in stream[:after]:
        fold.model.step(cut)
    user = busiest(fold.model)
    assert traces(fold.model, user)  # the search finds what is there
    out = fold.cut(erasing(user))
    assert out[f"user:{user}"] is None
    assert traces(fold.model, user) == []


def busiest(model: Pipeline) -> str:
    """The user with the most rows in the memories."""
    state = model.state()
    found = torch.cat([v for k, v in state.items() if k.endswith("/user_key_B") and "memory" in k])
    keys, counts = torch.unique(found[found != 0], return_counts=True)
    by_key = {hash64(name, "user"): name for name in model.parts.shop.users.slots.names if name}
    order = [int(k) for k in keys[counts.argsort(descending=True)]]
    return next(by_key[key] for key in order if key in by_key)


def traces(model: Pipeline, user: str) -> list[str]:
    """Names of the parts of the state that hold the user's id or one of its hashes."""
    hashes = torch.tensor([hash64(user), hash64(user, "user")])
    found = []
    for name, value in model.state().items():
        if isinstance(value, torch.Tensor):
            there = value.dtype == torch.int64 and bool(torch.isin(value, hashes).any())
        else:
            there = json.dumps(user) in json.dumps(value) or f"user:{user}" in json.dumps(value)
        found += [name] * there
    return found
