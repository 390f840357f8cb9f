"""The stages of the fold, together; `composition` builds them, `pipeline` runs them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from stream_mtl import state as states
from stream_mtl.evaluation import Evaluation
from stream_mtl.features import Features
from stream_mtl.label_join import LabelJoin
from stream_mtl.learner import Learner
from stream_mtl.pending import Pending
from stream_mtl.publish_gate import PublishGate
from stream_mtl.reactions import Reactions
from stream_mtl.recall import Recall
from stream_mtl.row_limit import RowLimit
from stream_mtl.scoring import Scoring
from stream_mtl.searches import Searches
from stream_mtl.shop import Shop
from stream_mtl.spans import Spans
from stream_mtl.text import Encoder
from stream_mtl.throttle import Throttle
from stream_mtl.two_tower import TwoTower
from stream_mtl.watermark import Watermark


@dataclass(slots=True)
class Parts:
    """In the order of the flow."""

    watermark: Watermark
    throttle: Throttle
    join: LabelJoin
    shop: Shop
    features: Features
    row_limit: RowLimit
    evaluation: Evaluation
    pending: Pending
    learner: Learner
    spans: Spans
    publish_gate: PublishGate
    scoring: Scoring
    encoder: Encoder  # frozen: no state
    reactions: Reactions  # no state
    recall: Recall
    towers: TwoTower | None  # where vectors are learned
    searches: Searches

    def stateful(self) -> dict[str, states.Stateful]:
        """Those that keep something between steps, by the names their state is saved under."""
        whole: dict[str, states.Stateful] = {
            "watermark": self.watermark,
            "throttle": self.throttle,
            "join": self.join,
            "shop": self.shop,
            "features": self.features,
            "row_limit": self.row_limit,
            "evaluation": self.evaluation,
            "pending": self.pending,
            "learner": self.learner,
            "spans": self.spans,
            "publish_gate": self.publish_gate,
            "scoring": self.scoring,
            "recall": self.recall,
            "searches": self.searches,
        }
        return whole if self.towers is None else whole | {"towers": self.towers}

    def state(self) -> states.State:
        whole: states.State = {}
        for name, part in self.stateful().items():
            whole |= states.nest(name, part.state())
        return whole

    def restore(self, state: Mapping[str, Any]) -> None:
        for name, part in self.stateful().items():
            part.restore(states.unnest(name, state))
