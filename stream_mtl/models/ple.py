"""Progressive layered extraction: levels of shared and private experts on top of each other (Tang et al., RecSys 2020, section 4.2).

Below the last level every task has a stream (its gate mixes the shared experts and its own), and so has what is shared (a gate
over all experts): so a task's experts there teach the others too, and all of it belongs to what is shared. A
task's own parts are those of the last level, which is a `cgc` on the streams. Experts as in HoME: normalised, with SiLU.
Legend: B rows, X inputs, E shared experts, P private ones, T tasks, H width, A experts of all.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from stream_mtl.batch import Batch
from stream_mtl.experts import Experts, gate_logits, mix
from stream_mtl.layers import Parts
from stream_mtl.linear import linear
from stream_mtl.models.base import Mixture


class Level(nn.Module):
    """Experts and gates of one level; the last one has no shared gate."""

    def __init__(self, parts: Parts, width: int, last: bool) -> None:
        super().__init__()
        settings, new = parts.settings, parts.generator
        own, hidden, tasks = settings.private_experts, settings.hidden, parts.kinds
        self.shared = Experts(width, settings.experts, hidden, new)
        self.private = nn.ModuleList(Experts(width, own, hidden, new) for _ in tasks)
        self.gates = nn.ModuleList(linear(width, settings.experts + own, new) for _ in tasks)
        if not last:
            self.shared_gate = linear(width, settings.experts + own * len(tasks), new)

    def pools(self, streams: Sequence[Tensor]) -> list[Tensor]:
        """Outputs of every task's experts, B x P x H."""
        return [own(stream) for own, stream in zip(self.private, streams, strict=True)]

    def shares(self, streams: Sequence[Tensor]) -> list[Tensor]:
        """What every task's gate gives the shared experts and its own, B x (E + P)."""
        if all(stream is streams[0] for stream in streams):  # the first level: one input for all
            return [logit.softmax(1) for logit in gate_logits(self.gates, streams[0])]
        return [gate(x_BX).softmax(1) for gate, x_BX in zip(self.gates, streams, strict=True)]


class PLE(nn.Module):
    """`levels` of them; with one it is `cgc`."""

    def __init__(self, parts: Parts) -> None:
        super().__init__()
        settings = parts.settings
        self._tasks = parts.spec.tasks
        self.inputs = parts.inputs()
        widths = [self.inputs.width, *[settings.hidden] * (settings.levels - 1)]
        self.levels = nn.ModuleList(
            Level(parts, width, place == len(widths) - 1) for place, width in enumerate(widths)
        )
        self.heads = nn.ModuleList(parts.heads(settings.hidden))

    def forward(self, embedding_BFH: Tensor, batch: Batch) -> Tensor:
        return self.read(self.shared(embedding_BFH, batch), batch)

    def shared(self, embedding_BFH: Tensor, batch: Batch) -> tuple[Tensor, ...]:
        """The last level's shared experts B x E x H, and the task's streams that its own parts read."""
        streams, shared_BX, _ = self._below(embedding_BFH, batch)
        last: Level = self._level(-1)
        if len(self.levels) == 1:
            return last.shared(shared_BX), shared_BX
        return last.shared(shared_BX), *streams

    def read(self, shared: Sequence[Tensor], batch: Batch) -> Tensor:
        last = self._level(-1)
        expert_BEH, *streams = shared
        streams = streams if len(streams) == len(self.heads) else streams * len(self.heads)
        parts = zip(self.heads, last.shares(streams), last.pools(streams), strict=True)
        logits = [
            head(mix(share_BE, (expert_BEH, own_BPH)), batch) for head, share_BE, own_BPH in parts
        ]
        return torch.cat(logits, 1)

    def _level(self, place: int) -> Level:
        level = self.levels[place]
        assert isinstance(level, Level)
        return level

    def _below(
        self, embedding_BFH: Tensor, batch: Batch
    ) -> tuple[list[Tensor], Tensor, list[Mixture]]:
        """The tasks' and the shared input of the last level, and what the gates below it did."""
        shared_BX = self.inputs(embedding_BFH, batch)
        streams = [shared_BX] * len(self.heads)
        mixtures: list[Mixture] = []
        for place in range(len(self.levels) - 1):
            level = self._level(place)
            shared_BEH, pools = level.shared(shared_BX), level.pools(streams)
            shares = level.shares(streams)
            all_share_BA = level.shared_gate(shared_BX).softmax(1)
            mixtures += self._told(f"{place}/", shares, shared_BEH, pools)
            streams = [
                mix(share_BE, (shared_BEH, own_BPH))
                for share_BE, own_BPH in zip(shares, pools, strict=True)
            ]
            shared_BX = mix(all_share_BA, (shared_BEH, *pools))
        return streams, shared_BX, mixtures

    def _told(
        self, level: str, shares: Sequence[Tensor], shared_BEH: Tensor, pools: Sequence[Tensor]
    ) -> list[Mixture]:
        mixtures = []
        for task, share_BE, own_BPH in zip(self._tasks, shares, pools, strict=True):
            names = [f"{level}shared{e}" for e in range(shared_BEH.shape[1])]
            names += [f"{level}{task}{p}" for p in range(own_BPH.shape[1])]
            pool_BEH = torch.cat((shared_BEH, own_BPH), 1)
            mixtures.append(Mixture(f"{level}{task}", tuple(names), pool_BEH, share_BE))
        return mixtures

    def mixtures(self, embedding_BFH: Tensor, batch: Batch) -> list[Mixture]:
        streams, shared_BX, mixtures = self._below(embedding_BFH, batch)
        last = self._level(-1)
        return mixtures + self._told(
            "", last.shares(streams), last.shared(shared_BX), last.pools(streams)
        )

    def shared_parameters(self) -> list[nn.Parameter]:
        layers = (self.inputs, *list(self.levels)[:-1], self._level(-1).shared)
        return [parameter for layer in layers for parameter in layer.parameters()]

    def head_parameters(self, task: int) -> list[nn.Parameter]:
        last = self._level(-1)
        own = (last.private[task], last.gates[task], self.heads[task])
        return [parameter for layer in own for parameter in layer.parameters()]
