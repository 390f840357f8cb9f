"""Two workers of one job: the second notices before it does harm."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from stream_mtl.cut import Cut, CutResult
from stream_mtl.errors import Fenced, StorageError
from stream_mtl.kafka.publication import Claim
from stream_mtl.ledger import Context, Entry, decode, encode_cut
from workers.instance import InstanceLock, refuse_second


def committed(instance: str, published_at: int) -> Entry:
    context = Context("shop", "l1", instance, {}, "c", "k", {})
    result = CutResult(0, (), (), {}, "", "00", 0)
    return decode(encode_cut(context, "", Cut(0, (), (), published_at), result), 0)


def test_a_folder_keeps_its_id_and_each_process_has_its_incarnation(tmp_path: Path) -> None:
    with InstanceLock(tmp_path / "state") as first:
        pass
    with InstanceLock(tmp_path / "state") as second:
        pass
    assert first.id == second.id
    assert first.incarnation != second.incarnation
    with InstanceLock(tmp_path / "other") as other:
        assert other.id != first.id


def test_a_second_process_on_the_same_folder_is_refused(tmp_path: Path) -> None:
    with InstanceLock(tmp_path), pytest.raises(Fenced) as refusal, InstanceLock(tmp_path):
        pass
    assert refusal.value.exit_code == 76
    with InstanceLock(tmp_path):
        pass


def test_the_lock_dies_with_the_process(tmp_path: Path) -> None:
    """kill -9 leaves the file behind and the folder free."""
    code = (
        "import os, signal, sys; from pathlib import Path\n"
        "from workers.instance import InstanceLock\n"
        "InstanceLock(Path(sys.argv[1])).__enter__(); os.kill(os.getpid(), signal.SIGKILL)"
    )
    ended = subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=False)
    assert ended.returncode == -9
    assert (tmp_path / "lock").exists()
    with InstanceLock(tmp_path):
        pass


def test_a_damaged_id_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "instance").write_text("\0")
    with InstanceLock(tmp_path) as instance:
        assert len(instance.id) == 16


def test_a_folder_that_cannot_be_made_is_a_storage_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError), InstanceLock(tmp_path / "file" / "state"):
        pass


def test_another_instance_that_lives_is_not_fenced_by_a_second_copy() -> None:
    with pytest.raises(Fenced) as refusal:
        refuse_second(committed("other", 1_000_000), "mine", 1_029_999, take_over=False)
    assert "--take-over" in str(refusal.value)


def test_a_start_goes_on_when_the_other_is_silent_or_it_is_told_to() -> None:
    refuse_second(None, "mine", 0, take_over=False)
    refuse_second(committed("mine", 1_000_000), "mine", 1_000_001, take_over=False)
    with pytest.raises(Fenced):  # a millisecond before it counts as silent
        refuse_second(committed("other", 1_000_000), "mine", 1_029_999, take_over=False)
    refuse_second(committed("other", 1_000_000), "mine", 1_030_000, take_over=False)
    refuse_second(committed("other", 1_000_000), "mine", 1_000_001, take_over=True)


def test_an_instance_that_restores_and_commits_nothing_has_claimed_the_job() -> None:
    """Its claim counts as a commit does; ours and an old one are no hindrance."""
    silent = committed("gone", 1_000_000)
    now = 2_000_000

    def start(*claims: Claim, take_over: bool = False) -> None:
        refuse_second(silent, "mine", now, take_over, lambda: claims)

    with pytest.raises(Fenced, match=r"instance other took the job 5 s ago and is restoring"):
        start(Claim("mine", now - 9_000), Claim("other", now - 5_000))
    start(Claim("mine", now - 1), Claim("other", now - 30_000))
    start(Claim("other", now - 1), take_over=True)
