"""Checkpoints: what is loaded is what was saved, and nothing else is ever loaded."""

from __future__ import annotations

import errno
import json
import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from stream_mtl import checkpoint_folder
from stream_mtl.checkpoint import CheckpointStore, SaveFailed
from stream_mtl.checkpoint_writer import BackgroundWriter
from stream_mtl.errors import CheckpointCorrupt, StorageError
from stream_mtl.manifest import MANIFEST, TENSORS, VALUES
from stream_mtl.snapshot import snapshot
from stream_mtl.state import digest
from tests.checkpoints import a_state, identity, save

HOUR = 3_600_000
FILES = (MANIFEST, TENSORS, VALUES)


@pytest.fixture
def store(tmp_path: Path) -> CheckpointStore:
    return CheckpointStore(tmp_path / "checkpoints", keep=3, keep_hours=24)


def test_a_state_comes_back_byte_for_byte(store: CheckpointStore) -> None:
    """Every dtype, shape and JSON value survives; the digest in the manifest is the state's own."""
    state = a_state()
    info = store.save(snapshot(state), identity(4), "a1", 99).info
    loaded, manifest = store.load(info.name)
    assert digest(loaded) == digest(state) == manifest.state_digest
    assert {n: v.dtype for n, v in loaded.items() if isinstance(v, torch.Tensor)} == {
        n: v.dtype for n, v in state.items() if isinstance(v, torch.Tensor)
    }
    assert manifest.identity == identity(4)
    assert manifest.saved_at == 99
    assert info.name.startswith("ck1-000000000004-a1-")


def test_an_empty_state_and_one_without_tensors_are_states(store: CheckpointStore) -> None:
    for cut, state in enumerate([{}, {"a": 1}, {"t": torch.ones(2)}]):
        info = store.save(snapshot(state), identity(cut), "a1", 0).info
        assert digest(store.load(info.name)[0]) == digest(state)


def test_the_newest_checkpoint_is_listed_first(store: CheckpointStore) -> None:
    for cut in (2, 10, 9):
        save(store, cut)
    assert [info.cut for info in store.list()] == [10, 9, 2]


def _flip(position: Callable[[int], int]) -> Callable[[Path], None]:
    def damage(path: Path) -> None:
        raw = bytearray(path.read_bytes())
        raw[position(len(raw))] ^= 0x10
        path.write_bytes(raw)

    return damage


def _truncate(path: Path) -> None:
    os.truncate(path, path.stat().st_size - 1)


def _empty(path: Path) -> None:
    os.truncate(path, 0)


def _grow(path: Path) -> None:
    with path.open("ab") as file:
        file.write(b"\0")


def _lose_content(path: Path) -> None:
    """What a file looks like whose data never left the page cache: its size, and zeros."""
    path.write_bytes(bytes(path.stat().st_size))


def _link(path: Path) -> None:
    elsewhere = path.parent.parent / f"elsewhere-{path.name}"
    path.rename(elsewhere)
    path.symlink_to(elsewhere)


DAMAGES: dict[str, Callable[[Path], None]] = {
    "first_byte": _flip(lambda size: 0),
    "middle_byte": _flip(lambda size: size // 2),
    "last_byte": _flip(lambda size: size - 1),
    "truncated": _truncate,
    "empty": _empty,
    "longer": _grow,
    "zeros": _lose_content,
    "missing": Path.unlink,
    "link": _link,
}


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("file", FILES)
def test_a_damaged_file_is_never_loaded(store: CheckpointStore, file: str, damage: str) -> None:
    """Whatever happens to whichever file: load and verify say CheckpointCorrupt."""
    info = save(store, 5)
    DAMAGES[damage](info.path / file)
    with pytest.raises(CheckpointCorrupt):
        store.load(info.name)
    with pytest.raises(CheckpointCorrupt):
        store.verify(info.name)


def test_every_single_flipped_bit_of_the_manifest_is_seen(store: CheckpointStore) -> None:
    """The manifest is hashed into the folder's name: no byte of it can change unnoticed."""
    info = save(store, 5)
    path = info.path / MANIFEST
    whole = path.read_bytes()
    for at in range(len(whole)):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
        with pytest.raises(CheckpointCorrupt):
            store.manifest(info.name)
    path.write_bytes(whole)
    store.verify(info.name)


def test_a_further_file_in_the_folder_is_refused(store: CheckpointStore) -> None:
    info = save(store, 5)
    (info.path / "state.pkl").write_bytes(b"\x80\x04.")
    with pytest.raises(CheckpointCorrupt):
        store.load(info.name)


def test_a_manifest_of_another_checkpoint_is_refused(store: CheckpointStore) -> None:
    """Also when it is whole in itself."""
    one, two = save(store, 5), save(store, 6)
    (one.path / MANIFEST).write_bytes((two.path / MANIFEST).read_bytes())
    with pytest.raises(CheckpointCorrupt):
        store.load(one.name)


def test_a_renamed_folder_is_refused(store: CheckpointStore) -> None:
    """A checkpoint of cut 5 cannot be passed off as one of cut 6."""
    info = save(store, 5)
    forged = info.name.replace("000000000005", "000000000006")
    info.path.rename(info.path.parent / forged)
    with pytest.raises(CheckpointCorrupt):
        store.load(forged)


@pytest.mark.parametrize(
    "change",
    [
        {"files": {}},
        {"files": {"../../etc/passwd": {"size": 1, "sha256": "0" * 64}}},
        {"format": "ck2"},
        {"further": 1},
        {"saved_at": -1},
        {"incarnation": "../x"},
    ],
    ids=lambda change: next(iter(change)),
)
def test_a_manifest_of_a_stranger_is_refused_even_with_its_hash(
    store: CheckpointStore, change: dict[str, object]
) -> None:
    """A fitting name does not make a manifest valid: its schema is strict."""
    import hashlib

    info = save(store, 5)
    content = json.loads((info.path / MANIFEST).read_bytes()) | change
    raw = json.dumps(content).encode()
    name = f"ck1-000000000005-a1-{hashlib.sha256(raw).hexdigest()[:16]}"
    info.path.rename(info.path.parent / name)
    (info.path.parent / name / MANIFEST).write_bytes(raw)
    with pytest.raises(CheckpointCorrupt):
        store.load(name)


@pytest.mark.parametrize(
    "name", ["../checkpoints", "ck1-5-a1-0", "", "/etc", "ck1-000000000005-a1-" + "0" * 16]
)
def test_a_name_that_is_no_checkpoint_is_refused(store: CheckpointStore, name: str) -> None:
    with pytest.raises(CheckpointCorrupt):
        store.load(name)


@pytest.mark.parametrize("file", FILES)
def test_an_error_of_fsync_is_final_and_leaves_no_checkpoint(
    store: CheckpointStore, monkeypatch: pytest.MonkeyPatch, file: str
) -> None:
    """The same descriptor is never fsynced again: after an error the kernel forgets what was lost."""
    calls: list[int] = []
    fail_at = FILES.index(file) + 1

    def fsync(descriptor: int) -> None:
        calls.append(descriptor)
        if len(calls) == fail_at:
            raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(checkpoint_folder.os, "fsync", fsync)
    with pytest.raises(SaveFailed) as failure:
        save(store, 5)
    assert failure.value.reason == "fsync"
    assert len(calls) == fail_at
    assert store.list() == []
    save(store, 5)
    assert len(store.list()) == 1


def test_a_full_disk_is_noticed_before_anything_is_written(
    store: CheckpointStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store.storage, "free_bytes", lambda: 10)
    with pytest.raises(SaveFailed) as failure:
        save(store, 5)
    assert failure.value.reason == "disk_low"
    assert store.list() == []


def test_a_disk_that_fills_up_meanwhile_leaves_no_checkpoint(
    store: CheckpointStore, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def refuse(path: Path) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "rename", lambda self, target: refuse(self))
    with pytest.raises(SaveFailed):
        save(store, 5)
    assert list((tmp_path / "checkpoints").iterdir()) == []


def test_a_checkpoint_is_never_overwritten(store: CheckpointStore) -> None:
    first = save(store, 5)
    with pytest.raises(SaveFailed):
        save(store, 5)
    store.verify(first.name)
    save(store, 5, incarnation="b2")
    assert len(store.list()) == 2


class Died(BaseException):
    """Stands for SIGKILL: no handler of the code under test may see it as an error of its own."""


@pytest.mark.parametrize(
    ("failpoint", "hits", "durable"),
    [
        ("checkpoint.written", 1, False),
        ("checkpoint.fsynced", 1, False),
        ("checkpoint.written", 3, False),
        ("checkpoint.fsynced", 3, False),
        ("checkpoint.renamed", 1, True),
        ("checkpoint.durable", 1, True),
    ],
)
def test_a_crash_at_any_step_leaves_a_whole_checkpoint_or_none(
    tmp_path: Path, failpoint: str, hits: int, durable: bool
) -> None:
    seen: list[str] = []

    def die(name: str) -> None:
        seen.append(name)
        if seen.count(failpoint) == hits and name == failpoint:
            raise Died

    with pytest.raises(Died):
        save(CheckpointStore(tmp_path / "s", failpoint=die), 5)
    again = CheckpointStore(tmp_path / "s")
    assert len(again.list()) == int(durable)
    for info in again.list():
        again.verify(info.name)
    again.sweep()
    assert len(list((tmp_path / "s").iterdir())) == int(durable)
    save(again, 6)


def test_old_checkpoints_go_only_when_both_bounds_allow_it(store: CheckpointStore) -> None:
    """At least 3, and a day back; and never one that is not behind an own commit."""
    for cut in range(1, 7):
        save(store, cut, now_ms=cut * HOUR)
    assert store.prune(committed_cut=7, now_ms=24 * HOUR) == ()
    assert store.prune(committed_cut=3, now_ms=1000 * HOUR) == ()
    gone = store.prune(committed_cut=7, now_ms=26 * HOUR + 1)
    assert [int(name.split("-")[1]) for name in gone] == [2, 1]
    assert [info.cut for info in store.list()] == [6, 5, 4, 3]
    store.prune(committed_cut=7, now_ms=1000 * HOUR)
    assert [info.cut for info in store.list()] == [6, 5, 4]


def test_a_day_of_checkpoints_is_kept_as_one_an_hour(store: CheckpointStore) -> None:
    """The newest of each hour; a checkpoint a minute for a day would fill the disk."""
    for cut in range(12):
        save(store, cut, now_ms=cut * HOUR // 4)
    store.prune(committed_cut=12, now_ms=3 * HOUR)
    assert [info.cut for info in store.list()] == [11, 10, 9, 7, 3]


def test_a_folder_that_cannot_be_made_is_a_storage_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError) as failure:
        CheckpointStore(tmp_path / "file" / "checkpoints")
    assert failure.value.exit_code == 74


# ---- in the background


@pytest.fixture
def slow(tmp_path: Path) -> Iterator[tuple[CheckpointStore, threading.Event]]:
    """A store whose writes wait until the event is set."""
    go = threading.Event()

    def wait(name: str) -> None:
        if name == "checkpoint.written":
            assert go.wait(120)

    yield CheckpointStore(tmp_path / "slow", failpoint=wait), go
    go.set()


def test_what_is_written_is_the_state_at_the_start_of_the_write(
    slow: tuple[CheckpointStore, threading.Event],
) -> None:
    """The fold changes its tensors and lists in place meanwhile; the checkpoint does not see it."""
    store, go = slow
    state = a_state()
    before = digest(state)
    writer = BackgroundWriter(store)
    assert writer.start(lambda: state, identity(1), "a1", 0)
    state["learner/table"].add_(1)
    state["join/open"].append("later")
    go.set()
    assert writer.wait(120)
    (written,) = writer.take()
    assert written.saved is not None
    assert digest(store.load(written.saved.info.name)[0]) == before


def test_a_checkpoint_that_comes_due_during_a_write_is_skipped(
    slow: tuple[CheckpointStore, threading.Event],
) -> None:
    store, go = slow
    writer = BackgroundWriter(store)
    assert writer.start(a_state, identity(1), "a1", 0)
    assert not writer.start(a_state, identity(2), "a1", 0)
    go.set()
    assert writer.wait(120)
    assert [info.cut for info in store.list()] == [1]
    assert writer.start(a_state, identity(3), "a1", 0)
    assert writer.wait(120)
    assert [written.cut for written in writer.take()] == [1, 3]
    assert writer.take() == []


def test_a_failed_write_is_told_and_does_not_reach_the_fold(
    store: CheckpointStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store.storage, "free_bytes", lambda: 0)
    writer = BackgroundWriter(store)
    assert writer.start(a_state, identity(1), "a1", 0)
    assert writer.wait(120)
    (written,) = writer.take()
    assert (written.saved, written.reason) == (None, "disk_low")
    assert isinstance(writer.last_error, StorageError)
