"""Tasks that may not use every field: of what a task must not use, nothing gets to its scores, and nothing learns from its labels.

The law may forbid an advertisement to depend on who its reader is; a task that tells what users are like may be asked to
tell it from what they do. To leave fields out of a tower would not do: what all tasks share has read them. So
the model is called once for each distinct set of hidden fields, with these missing, and every task takes its columns from
the call that hides its own. A missing field is what the model knows it as anyway: a zero embedding, a zero text vector, the
middle of a dense feature. Parameters are those of the model alone, under the same names, so a restricted task can join a
running lineage.

Legend: B rows, L looked-up fields, H embedding width, D dense features, C logits of all heads, V views.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase

import torch
from torch import Tensor, nn

from stream_mtl.batch import Batch, Spec
from stream_mtl.errors import ConfigError
from stream_mtl.layers import Parts
from stream_mtl.lookup import columns_of
from stream_mtl.models.base import Mixture, Model

TEXTS = ("title", "query")
PRIOR = "prior"  # the candidates' own order, which knows the reader's past


def restricted(model: Model, parts: Parts, hidden: Sequence[frozenset[str]]) -> Model:
    """The model as it is, or one that hides from every task what is `hidden` from it (`hidden_fields`).

    Raises ConfigError for a step of a funnel that may read less than the one before it, whose probability it multiplies.
    """
    if not any(hidden):
        return model
    if parts.settings.spare_experts:
        raise ConfigError(
            "model.spare_experts with tasks.X.fields: experts that are given up are judged by what all tasks read;"
            " drop one of the two"
        )
    for task, kind in enumerate(parts.kinds):
        for before in kind.tasks[1:]:
            read = sorted(hidden[task] - hidden[before])
            if read:
                name, first = parts.spec.tasks[task], parts.spec.tasks[before]
                raise ConfigError(
                    f"tasks.{name}.fields hides {', '.join(read)}, but {name!r} comes after {first!r}, which reads"
                    f" it: its score is P({first}) times a step; hide it in tasks.{first}.fields too"
                )
    return RestrictedFields(model, parts, hidden)


def hidden_fields(spec: Spec, task: str, patterns: Sequence[str]) -> frozenset[str]:
    """What `tasks.X.fields` leaves out: all that no pattern names, if there are any without `!`, and all that one with `!` does.

    Raises ConfigError for a pattern that names no field, and where the task may read none.
    """
    known = dict.fromkeys((*spec.sparse_fields, *spec.dense_fields, *TEXTS, PRIOR))
    groups = _groups(spec, known)
    named = {}
    for one in patterns:
        plain = one.removeprefix("!")
        found = groups.get(plain) or {name for name in known if fnmatchcase(name, plain)}
        if not found:
            raise ConfigError(
                f"tasks.{task}.fields has {one!r}, which names no field; the fields are: {', '.join(known)}; and in"
                f" groups: {', '.join(groups)}"
            )
        named[one] = found
    given = [found for one, found in named.items() if not one.startswith("!")]
    barred = [found for one, found in named.items() if one.startswith("!")]
    allowed = set().union(*given) if given else set(known)
    allowed -= set().union(*barred)
    if not allowed:
        raise ConfigError(f"tasks.{task}.fields = {list(patterns)} leaves the task nothing to read")
    return frozenset(known) - allowed


def _groups(spec: Spec, known: Collection[str]) -> dict[str, set[str]]:
    """Fields by whom they are of: the reader of a list, an item, or both (what the reader did with such items)."""
    item, reader = {*spec.item_fields, "title"}, set(spec.reader_fields)
    return {"@item": item, "@reader": reader, "@pair": set(known) - item - reader}


@dataclass(frozen=True, slots=True)
class _Hidden:
    """What one view does not see: places in the looked-up embeddings and in the dense features, and texts."""

    looked_up: list[int]
    dense: list[int]
    texts: list[str]
    others: list[str]  # columns of the batch that are 0 where nothing is known

    def embedding(self, embedding_BLH: Tensor) -> Tensor:
        if not self.looked_up:
            return embedding_BLH
        at = torch.tensor(self.looked_up, device=embedding_BLH.device)
        return embedding_BLH.index_fill(1, at, 0.0)

    def batch(self, batch: Batch) -> Batch:
        changed = {
            f"{name}_BE": torch.zeros_like(getattr(batch, f"{name}_BE")) for name in self.texts
        }
        if self.dense:
            at = torch.tensor(self.dense, device=batch.dense_BD.device)
            changed["dense_BD"] = batch.dense_BD.index_fill(1, at, 0.0)
        for name in self.others:
            changed[f"{name}_B"] = torch.zeros_like(getattr(batch, f"{name}_B"))
        return replace(batch, **changed) if changed else batch


class RestrictedFields(nn.Module):
    """The inner model, called once a view. What it shares stands view after view, so a balancer sees all of it."""

    inner: Model

    def __init__(self, model: Model, parts: Parts, hidden: Sequence[frozenset[str]]) -> None:
        """`hidden`: of every task."""
        super().__init__()
        self.inner = model
        views = list(dict.fromkeys(hidden))
        self._hidden = [_hidden(parts, view) for view in views]
        self._view_of = [views.index(one) for one in hidden]
        starts = [kind.columns[0] for kind in parts.kinds]
        self._columns = [
            slice(start, start + kind.width)
            for start, kind in zip(starts, parts.kinds, strict=True)
        ]
        self._tasks = parts.spec.tasks

    def named_parameters(
        self, prefix: str = "", recurse: bool = True, remove_duplicate: bool = True
    ) -> Iterator[tuple[str, nn.Parameter]]:
        """Under their own names: a wrapper that comes or goes with a task must not rename what a checkpoint holds."""
        assert isinstance(self.inner, nn.Module)
        yield from self.inner.named_parameters(prefix, recurse, remove_duplicate)

    def forward(self, embedding_BLH: Tensor, batch: Batch) -> Tensor:
        views = self._views(batch)
        return self._read(self._shared(embedding_BLH, views), views)

    def shared(self, embedding_BLH: Tensor, batch: Batch) -> tuple[Tensor, ...]:
        return self._shared(embedding_BLH, self._views(batch))

    def read(self, shared: Sequence[Tensor], batch: Batch) -> Tensor:
        return self._read(shared, self._views(batch))

    def _views(self, batch: Batch) -> list[Batch]:
        return [hidden.batch(batch) for hidden in self._hidden]

    def _shared(self, embedding_BLH: Tensor, views: Sequence[Batch]) -> tuple[Tensor, ...]:
        parts = [
            self.inner.shared(hidden.embedding(embedding_BLH), batch)
            for hidden, batch in zip(self._hidden, views, strict=True)
        ]
        return tuple(part for view in parts for part in view)

    def _read(self, shared: Sequence[Tensor], views: Sequence[Batch]) -> Tensor:
        each = len(shared) // len(views)
        logits = [
            self.inner.read(shared[view * each : (view + 1) * each], batch)
            for view, batch in enumerate(views)
        ]
        own = zip(self._view_of, self._columns, strict=True)
        return torch.cat([logits[view][:, columns] for view, columns in own], 1)

    def mixtures(self, embedding_BLH: Tensor, batch: Batch) -> list[Mixture]:
        """Every task's as it is in the task's own view."""
        found = []
        for view, hidden in enumerate(self._hidden):
            tasks = {t for t, of in zip(self._tasks, self._view_of, strict=True) if of == view}
            mixtures = self.inner.mixtures(hidden.embedding(embedding_BLH), hidden.batch(batch))
            found += [one for one in mixtures if one.gate.rpartition("/")[2] in tasks]
        return found

    def shared_parameters(self) -> list[nn.Parameter]:
        return self.inner.shared_parameters()

    def head_parameters(self, task: int) -> list[nn.Parameter]:
        return self.inner.head_parameters(task)


def _hidden(parts: Parts, names: frozenset[str]) -> _Hidden:
    return _Hidden(
        columns_of(parts.spec, parts.settings, names),
        [place for place, name in enumerate(parts.spec.dense_fields) if name in names],
        [name for name in TEXTS if name in names],
        [name for name in ("domain", PRIOR) if name in names],
    )
