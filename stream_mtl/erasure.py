"""One person forgotten: by the join, the shop, open exposures, waiting rows, memories, probes, and what is published.

The rows of the embedding table that stand for the person are set to zero, with their moments, in the model that learns and in
the gate's copy; not where somebody or something else that is known shares the row by its hash, since then it is theirs
as well. The other weights have learned from the person among all others, and that is not unlearned. Sums over all
users stay, they name nobody.

An earlier state that comes back (`rollback`) has the rows as they were: the places are kept, with the cut, until no
checkpoint can be so old, and zeroed again. A place in the table is no name: the table has fewer rows than a shop has people.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt
import torch

from stream_mtl.cut import Output
from stream_mtl.description import table_rows_of
from stream_mtl.hashing import hash64
from stream_mtl.parts import Parts
from stream_mtl.scoring import Moment

Ints = npt.NDArray[np.int64]

KEPT_MS = 30 * 24 * 3_600_000  # an erased place in the table: longer than a checkpoint is kept


@dataclass(frozen=True, slots=True)
class Erased:
    """Where there was something, and how much of it; the tombstone; places of the embedding table."""

    counts: dict[str, int]
    outputs: tuple[Output, ...]
    rows: tuple[int, ...]


class Fold(Protocol):
    parts: Parts


def erase(fold: Fold, user_id: str, moment: Moment) -> Erased:
    """Forget a user. What was found is counted; a stranger gives zeros and a tombstone all the same."""
    parts, key, hashed = fold.parts, hash64(user_id, "user"), hash64(user_id)
    rows = own_rows(parts, hashed)
    counts = {
        "windows": parts.join.erase(user_id),
        "exposures": parts.features.erase_user(user_id),
        "memory_rows": parts.learner.erase(key),
        "pending_rows": parts.pending.erase(key),
        "probe_rows": parts.evaluation.erase(key),
        "histories": int(parts.shop.erase_user(user_id)),
        "embedding_rows": len(rows),
    }
    parts.throttle.erase(user_id)
    parts.row_limit.erase(key)
    parts.recall.erase(hashed)
    if parts.towers is not None:
        parts.towers.erase(hashed)
    parts.publish_gate.erase(key)
    forget_rows(parts, rows)
    return Erased(counts, (parts.scoring.erase_user(user_id, moment),), tuple(rows))


def own_rows(parts: Parts, user_hash: int) -> list[int]:
    """Places of the table that stand for this user and for nothing else that is known."""
    described = parts.features.description

    def places(hash_N: Ints, field: str) -> torch.Tensor:
        row_NF = table_rows_of(hash_N, field, described.table_rows)
        return parts.learner.places(torch.from_numpy(row_NF))

    taken = [
        places(hash_N[(hash_N != user_hash) | (field != "user")], field)
        for field, hash_N in described.known().items()
    ]
    own = set(places(np.array([user_hash]), "user").tolist())
    return sorted(own - set(torch.cat(taken).tolist()))


def forget_rows(parts: Parts, rows: Sequence[int]) -> None:
    """Zero these places in every table that is kept."""
    if rows:
        row_U = torch.tensor(list(rows), dtype=torch.int64)
        parts.learner.forget_rows(row_U)
        parts.publish_gate.forget_rows(row_U)


class Erasures:
    """Erased places of the table, with the cut and the time of it; part of the state."""

    def __init__(self) -> None:
        self.done: list[list[int]] = []  # cut, wall time in ms, places

    def note(self, cut: int, published_at: int, rows: Sequence[int]) -> None:
        self.done = [one for one in self.done if published_at - one[1] <= KEPT_MS]
        self.done.append([cut, published_at, *rows])

    def since(self, cut: int) -> list[int]:
        """Places that were erased after a cut."""
        return sorted({row for at, _, *rows in self.done if at > cut for row in rows})

    def due(self, then_ms: int) -> int:
        """The newest cut with an erasure before this time; -1 without one. No state of an earlier cut may be left."""
        return max((cut for cut, at, *_ in self.done if at <= then_ms), default=-1)
