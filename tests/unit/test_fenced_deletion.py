"""Kafka fences a producer, not a disk: a worker that lost its job must leave the successor's checkpoints alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from stream_mtl.errors import Fenced
from stream_mtl.kafka.publication import Committed, Publication
from stream_mtl.testing import MemoryTransactions
from tests.unit.test_recovery import PLACES, World
from workers.trainer import Trainer


def deletions_after_the_last_commit(folder: Path, commits: int) -> int:
    """By a worker that is fenced at its commit number `commits`."""
    told: list[str] = []

    class FencedLater(MemoryTransactions):
        left = commits

        def commit(self, publication: Publication) -> Committed:
            self.left -= 1
            if self.left < 0:
                raise Fenced("another worker took over")
            done = super().commit(publication)
            told.append("committed")
            return done

    world = World(folder, sink=FencedLater, checkpoint_every=3)
    world.log.fill(PLACES, [b"7"] * 150)
    with pytest.raises(Fenced):
        world.run(told.append)
    last = len(told) - told[::-1].index("committed") if "committed" in told else 0
    # what the commit itself allows is deleted before the next cut is frozen
    after = told[last:]
    frozen = after.index("cut.frozen") if "cut.frozen" in after else 0
    return after[frozen:].count("checkpoint.deleting")


def test_a_fenced_worker_deletes_nothing(tmp_path: Path) -> None:
    """Wherever between two deletions it is fenced, its own later commit is what is missing."""
    for commits in range(1, 12):
        assert deletions_after_the_last_commit(tmp_path / f"{commits}", commits) == 0


def test_pruning_as_soon_as_a_checkpoint_is_durable_would_delete(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The naive variant: durable is taken for owned."""
    fold = Trainer._fold_and_commit

    def late(self: Trainer, cut: Any, tried: bool = False) -> Any:
        self._prune()  # before the commit, not after it
        return fold(self, cut, tried)

    monkeypatch.setattr(Trainer, "_fold_and_commit", late)
    deleted = [
        deletions_after_the_last_commit(tmp_path / f"{commits}", commits)
        for commits in range(1, 12)
    ]
    assert any(deleted)
