"""A forked process saves the cut at which it was forked, and never troubles the fold."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from pathlib import Path

import pytest
import safetensors.torch
import torch

from stream_mtl import build, checkpoint_fork
from stream_mtl.checkpoint import CheckpointStore, SaveFailed
from stream_mtl.checkpoint_bytes import encode
from stream_mtl.checkpoint_fork import fork_save
from stream_mtl.checkpoint_pace import CheckpointPace
from stream_mtl.checkpoint_writer import BackgroundWriter
from stream_mtl.config import Checkpoint
from stream_mtl.failpoints import unarmed
from stream_mtl.manifest import TENSORS
from stream_mtl.snapshot import snapshot, view
from stream_mtl.state import State, digest
from tests.checkpoints import a_state, identity, save
from tests.folds import shop_cuts, small

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="forks on Linux only")


class Gate:
    """A failpoint that holds the writer at its first file until the fold has gone on."""

    def __init__(self) -> None:
        self.names: list[str] = []
        self._open = threading.Event()

    def __call__(self, name: str) -> None:
        self.names.append(name)
        if name == "checkpoint.writing":
            assert self._open.wait(600)

    def release(self) -> None:
        self._open.set()


@pytest.fixture
def store(tmp_path: Path) -> CheckpointStore:
    return CheckpointStore(tmp_path / "checkpoints")


def test_the_fold_goes_on_while_its_state_is_saved_and_the_checkpoint_is_of_the_cut_of_the_fork(
    store: CheckpointStore,
) -> None:
    """The fold takes further cuts while the writer stands before its first byte."""
    config = small()
    cuts, fold, gate = shop_cuts(config, 1_500), build(config, "test"), Gate()
    half = len(cuts) // 2
    for cut in cuts[:half]:
        fold.step(cut)
    writer = BackgroundWriter(store, gate, fork=True)
    before = fold.state_digest()
    assert writer.start(fold.state, identity(half), "a1", 0)
    for cut in cuts[half:]:
        fold.step(cut)
    assert fold.state_digest() != before
    gate.release()
    assert writer.wait(60)
    (written,) = writer.take()
    assert written.saved is not None, written.message
    assert written.saved.manifest.state_digest == before
    assert digest(store.load(written.saved.info.name)[0]) == before


def test_the_naive_view_on_a_thread_saves_a_mixture(store: CheckpointStore) -> None:
    """The same without fork and without copy: no cut ever had that state."""
    config = small()
    cuts, fold = shop_cuts(config, 1_500), build(config, "test")
    half = len(cuts) // 2
    for cut in cuts[:half]:
        fold.step(cut)
    before, aliases = fold.state_digest(), view(fold.state())
    for cut in cuts[half:]:
        fold.step(cut)
    saved = store.save(aliases, identity(half), "a1", 0)
    assert saved.manifest.state_digest not in (before, fold.state_digest())


def test_failpoints_that_the_writing_process_passes_are_hit_in_this_one(
    store: CheckpointStore,
) -> None:
    """A test that kills the worker at one of them must kill the worker."""
    hit: list[tuple[str, int]] = []
    forked = fork_save(store, a_state, identity(1), "a1", 0)
    forked.wait(lambda name: hit.append((name, os.getpid())))
    assert [name.removeprefix("checkpoint.") for name, _ in hit] == [
        *["writing", "written", "fsynced"] * 3,
        "renaming",
        "renamed",
        "durable",
    ]
    assert {process for _, process in hit} == {os.getpid()}


def test_a_writing_process_that_is_killed_is_a_failure_and_the_next_checkpoint_succeeds(
    store: CheckpointStore,
) -> None:
    def die() -> State:
        os.kill(os.getpid(), signal.SIGKILL)
        return {}

    writer = BackgroundWriter(store, fork=True)
    assert writer.start(die, identity(1), "a1", 0)
    assert writer.wait(30)
    assert [(w.saved, w.reason) for w in writer.take()] == [(None, "bug")]
    assert writer.start(a_state, identity(2), "a1", 0)
    assert writer.wait(30)
    assert [info.cut for info in store.list()] == [2]


def test_a_writing_process_that_falls_silent_is_ended(
    store: CheckpointStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a child looks like that waits for a lock which nobody holds any more."""
    monkeypatch.setattr(checkpoint_fork, "SILENT_S", 0.2)

    def hang() -> State:
        time.sleep(600)
        return {}

    forked = fork_save(store, hang, identity(1), "a1", 0)
    with pytest.raises(SaveFailed) as failure:
        forked.wait(unarmed)
    assert failure.value.reason == "stuck"
    with pytest.raises(ChildProcessError):
        os.waitpid(forked._process, os.WNOHANG)


def test_an_error_there_is_told_here(
    store: CheckpointStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store.storage, "free_bytes", lambda: 0)
    with pytest.raises(SaveFailed) as failure:
        fork_save(store, a_state, identity(1), "a1", 0).wait(unarmed)
    assert failure.value.reason == "disk_low"
    assert "twice its size" in str(failure.value)


def test_where_no_process_can_be_made_a_copy_is_written(
    store: CheckpointStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse() -> int:
        raise OSError(11, "Resource temporarily unavailable")

    monkeypatch.setattr(checkpoint_fork.os, "fork", refuse)
    writer = BackgroundWriter(store, fork=True)
    assert writer.start(a_state, identity(1), "a1", 0)
    assert writer.wait(30)
    assert [w.reason for w in writer.take()] == [""]
    assert [info.cut for info in store.list()] == [1]


def test_the_lock_of_the_parent_is_not_held_by_its_writer(
    store: CheckpointStore, tmp_path: Path
) -> None:
    """Else a worker that died could not start again before its orphan is gone."""
    import fcntl

    lock = os.open(tmp_path / "lock", os.O_RDWR | os.O_CREAT)
    fcntl.flock(lock, fcntl.LOCK_EX)
    told: list[bool] = []

    def take(name: str) -> None:
        if not told:  # the child has let go of everything by now; this process alone holds the lock
            os.close(lock)
            other = os.open(tmp_path / "lock", os.O_RDWR)
            try:
                fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
                told.append(True)
            finally:
                os.close(other)

    fork_save(store, a_state, identity(1), "a1", 0).wait(take)
    assert told == [True]


def test_threads_of_torch_in_the_parent_do_not_hang_the_writer(store: CheckpointStore) -> None:
    """The pool's threads are not there after a fork; an operation that waits for them never ends."""
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        table = torch.randn(1_000_000)
        (table * 2).sum()  # the pool exists now
        forked = fork_save(store, lambda: {"t": torch.cat([table, table])}, identity(1), "a1", 0)
        saved = forked.wait(unarmed)
    finally:
        torch.set_num_threads(before)
    assert torch.equal(store.load(saved.info.name)[0]["t"], torch.cat([table, table]))


def test_the_files_are_those_that_the_library_writes() -> None:
    """Byte for byte, so that any reader of safetensors reads them."""
    copied = snapshot(a_state())
    ours = b"".join(bytes(piece) for piece in encode(copied)[TENSORS].pieces())
    theirs = safetensors.torch.save(dict(copied.tensors))
    assert ours == theirs


def test_work_makes_a_checkpoint_due_before_time_does() -> None:
    pace = CheckpointPace(Checkpoint(interval_s=60, max_fold_s=5, max_cuts=100))
    pace.began(0.0)
    pace.folded(4.9)
    assert not pace.due(10.0, busy=False)
    pace.folded(0.2)
    assert pace.due(10.0, busy=False)
    assert not pace.due(10.0, busy=True)
    assert pace.due(60.0, busy=True)
    pace.began(60.0)
    for _ in range(100):
        assert not pace.due(61.0, busy=False)
        pace.folded(0.001)
    assert pace.due(61.0, busy=False)


def test_after_a_roll_forward_the_first_cut_makes_one_due() -> None:
    """Else a worker that dies again and again starts from further back each time."""
    pace = CheckpointPace(Checkpoint())
    pace.began(0.0, behind=True)
    assert not pace.due(1.0, busy=False)
    pace.folded(0.01)
    assert pace.due(1.0, busy=False)


def test_a_failed_sync_of_the_parent_folder_leaves_no_checkpoint(
    store: CheckpointStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody knows whether its name would outlive a power cut, so it is not there at all."""
    from stream_mtl import checkpoint_folder

    calls: list[int] = []

    def fsync(descriptor: int) -> None:
        calls.append(descriptor)
        if len(calls) == 5:  # three files, the folder, its parent
            raise OSError(5, "Input/output error")

    monkeypatch.setattr(checkpoint_folder.os, "fsync", fsync)
    with pytest.raises(SaveFailed):
        save(store, 5)
    assert store.list() == []
