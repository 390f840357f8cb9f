"""Task kinds: how labels of one task become a loss on logits, and logits a prediction."""

from __future__ import annotations

from stream_mtl.tasks.base import NewKind
from stream_mtl.tasks.binary import Binary
from stream_mtl.tasks.funnel import Funnel
from stream_mtl.tasks.listwise import Listwise
from stream_mtl.tasks.multiclass import MultiClass
from stream_mtl.tasks.regression import Regression

TASKS: dict[str, NewKind] = {
    "binary": Binary,
    "funnel": Funnel,
    "listwise": Listwise,
    "multiclass": MultiClass,
    "regression": Regression,
}
