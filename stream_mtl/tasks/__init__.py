"""Task kinds: how labels of one task become a loss on logits, and logits a probability."""

from __future__ import annotations

from collections.abc import Callable

from stream_mtl.tasks.base import Columns, TaskKind
from stream_mtl.tasks.binary import Binary
from stream_mtl.tasks.funnel import Funnel
from stream_mtl.tasks.listwise import Listwise

TASKS: dict[str, Callable[[Columns], TaskKind]] = {
    "binary": Binary,
    "funnel": Funnel,
    "listwise": Listwise,
}
