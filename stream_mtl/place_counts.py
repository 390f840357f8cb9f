"""How often items were shown and clicked on each place of a list: files of events, joined as a worker joins them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from stream_mtl.config import Config
from stream_mtl.events import Exposure, Outcome
from stream_mtl.files import cuts_of_files
from stream_mtl.join_state import NEVER
from stream_mtl.label_join import Joined, LabelJoin
from stream_mtl.labels import joining
from stream_mtl.serde import FILE_TOPIC, decode_all
from stream_mtl.watermark import Watermark


@dataclass
class PlaceCounts:
    """Of exposures whose click window has closed; places count from 1. An item without a place does not count."""

    surface: str = ""  # empty: lists of all surfaces
    shown: Counter[int] = field(default_factory=Counter)
    clicked: Counter[int] = field(default_factory=Counter)
    surfaces: Counter[str] = field(default_factory=Counter)  # lists with places on each
    _open: dict[str, list[int]] = field(default_factory=dict)

    def take(self, joined: Joined) -> None:
        self._opened(joined.exposures)
        self._labelled(joined.outcomes)

    def by_place(self) -> tuple[list[int], list[int]]:
        """Clicks and showings of places 1, 2, ... up to the last that was shown."""
        places = range(1, max(self.shown, default=0) + 1)
        return [self.clicked[place] for place in places], [self.shown[place] for place in places]

    def _opened(self, exposures: Iterable[Exposure]) -> None:
        for one in exposures:
            places = [shown.position or 0 for shown in one.items]
            if one.needs_negatives or not any(places):
                continue
            self.surfaces[one.surface] += 1
            if self.surface in ("", one.surface):
                self._open[one.exposure_id] = places

    def _labelled(self, outcomes: Iterable[Outcome]) -> None:
        for outcome in outcomes:
            clicks = outcome.labels.get("click")
            if clicks is not None and not outcome.provisional:
                for place, label in zip(
                    self._open.pop(outcome.exposure_id, []), clicks, strict=False
                ):
                    if place and label is not None:
                        self.shown[place] += 1
                        self.clicked[place] += label > 0
            if outcome.closed:
                self._open.pop(outcome.exposure_id, None)


def place_counts(paths: Sequence[str | Path], config: Config, surface: str = "") -> PlaceCounts:
    """Of the lists on a surface. What is open at the end of the files is closed."""
    join = LabelJoin(joining(config.join, config.tasks))
    watermark = Watermark(config.join.out_of_order_ms, config.cut.idle_cuts)
    counts = PlaceCounts(surface)
    for cut in cuts_of_files(paths, config):
        decoded = decode_all(cut.records, config.source, config.topics)
        counts.take(join.feed(decoded.events))
        counts.take(join.advance(watermark.observe(decoded.partition_times, [(FILE_TOPIC, 0)])))
    counts.take(join.advance(NEVER - 1))
    return counts
