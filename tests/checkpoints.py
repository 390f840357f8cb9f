"""States and identities to make checkpoints of, for tests of where they are kept and how they break."""

from __future__ import annotations

import torch

from stream_mtl.checkpoint import CheckpointInfo, CheckpointStore
from stream_mtl.manifest import Identity, Topic
from stream_mtl.snapshot import snapshot
from stream_mtl.state import State


def identity(cut: int) -> Identity:
    return Identity(
        cluster="c1",
        app="shop",
        job="trainer",
        lineage="l1",
        cut=cut,
        ledger_hash="ab" * 32,
        ledger_offset=cut,
        positions={"shop.events": {"0": 7}},
        topic_ids={"shop.events": Topic(id="id1", partitions=1)},
        fold_version=1,
        config_hash="cd" * 8,
        code="ef" * 8,
        environment={"torch": torch.__version__, "threads": "1"},
    )


def a_state(seed: int = 0) -> State:
    """One tensor of each kind that components keep, odd shapes included, and JSON values."""
    generator = torch.Generator().manual_seed(seed)
    table = torch.randn(50, 8, generator=generator)
    return {
        "learner/table": table,
        "learner/view": table.t(),  # aliases live memory and is not contiguous
        "learner/step": torch.tensor(3, dtype=torch.int64),
        "learner/half": table.bfloat16(),
        "memory/empty": torch.zeros(0, 4),
        "memory/full": torch.tensor([True, False]),
        "generator": generator.get_state(),
        "join/open": [["u1", 5, None], ["ü2", 6, 0.1]],
        "pipeline/totals": {"events": 3, "cuts": 1},
        "evaluation/nan": float("nan"),
    }


def save(
    store: CheckpointStore, cut: int, now_ms: int = 1, incarnation: str = "a1"
) -> CheckpointInfo:
    return store.save(snapshot(a_state(cut)), identity(cut), incarnation, now_ms).info
