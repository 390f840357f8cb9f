"""Negatives for clicks that nothing had shown.

Some are of the candidates that the user would have been shown then, and some drawn uniformly from the rest of the shop. Of
each of these two strata a known share w of the items was kept as negatives, while positives are kept always, so within a
stratum the log-odds in the sample are those in the shop + ln(1/w). That offset is given to every row of the stratum,
positive or negative; training adds it to the logit and serving leaves it out. With `features.rest = "clicked"` the second
stratum is drawn as items are clicked, each with an offset of its own (`clicked_items`).

Legend: C candidates, E exposures, F items drawn from the rest.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from stream_mtl import config
from stream_mtl.clicked_items import ClickedItems
from stream_mtl.events import Exposure
from stream_mtl.hashing import hash64, mix64
from stream_mtl.retrieval import Retrieval, Viewpoint
from stream_mtl.shop import Shop
from stream_mtl.shop.columns import Array, Ints
from stream_mtl.state import State, nest, unnest

_ATTEMPTS = 8  # uniform draws a wanted negative, before fewer are taken


class Negatives:
    """Draws them by hashes of the exposure. State, where the rest is drawn as clicked: what was clicked."""

    def __init__(self, shop: Shop, retrieval: Retrieval, settings: config.Features) -> None:
        self._shop, self._retrieval, self._settings = shop, retrieval, settings
        self._clicked = ClickedItems() if settings.rest == "clicked" else None

    def draw(
        self, exposures: Sequence[Exposure], view: Viewpoint, row_of: Mapping[str, int]
    ) -> dict[str, tuple[Ints, Array]]:
        """Per exposure: slots of its negatives, and the offset of its rows, the clicked item first."""
        if not exposures:
            return {}
        shop = self._shop
        item_UC = self._retrieval.choose(view).item_UC
        live = shop.items.sellable()
        count = int(np.count_nonzero(live))
        drawn = {
            e.exposure_id: self._of(e, item_UC[row_of[e.user_id]], live, count) for e in exposures
        }
        if self._clicked is not None:  # after the draws: a click must not be drawn for itself
            slot_E = np.array([shop.items.slots.index[e.items[0].item_id] for e in exposures])
            self._clicked.observe(slot_E, shop.items.slots.hashed[slot_E])
        return drawn

    def state(self) -> State:
        return {} if self._clicked is None else nest("clicked", self._clicked.state())

    def restore(self, state: Mapping[str, Any]) -> None:
        if self._clicked is not None:
            self._clicked.restore(unnest("clicked", state))

    def _of(self, exposure: Exposure, item_C: Array, live: Array, count: int) -> tuple[Ints, Array]:
        shop, key = self._shop, hash64(exposure.exposure_id, "negatives")
        clicked = shop.items.slots.index.get(exposure.items[0].item_id, -1)
        candidates = item_C[item_C >= 0].astype(np.int64)
        inside = bool((candidates == clicked).any())
        candidates = candidates[candidates != clicked]
        order = np.argsort(mix64(shop.items.slots.hashed[candidates] ^ key), kind="stable")
        near = candidates[order[: self._settings.negatives]]
        near_offset = np.log(len(candidates) / len(near)) if len(near) else 0.0
        if self._clicked is not None:
            far, own, far_offset_F = self._as_clicked(self._clicked, key, candidates, clicked, live)
            offset = [near_offset if inside else own] + [near_offset] * len(near)
            return np.concatenate([near, far]), np.array([*offset, *far_offset_F], np.float32)
        outside = count - len(candidates) - int(clicked >= 0 and bool(live[clicked]))
        far = self._uniform(
            key,
            {*candidates.tolist(), clicked},
            live,
            min(outside, self._settings.uniform_negatives),
        )
        far_offset = np.log(max(outside, 1) / len(far)) if len(far) else 0.0
        own = near_offset if inside else far_offset
        offset = [own] + [near_offset] * len(near) + [far_offset] * len(far)
        return np.concatenate([near, far]), np.array(offset, np.float32)

    def _as_clicked(
        self, clicks: ClickedItems, key: int, candidates: Ints, clicked: int, live: Array
    ) -> tuple[Ints, float, list[float]]:
        """Slots drawn outside the candidates, the offset of the clicked item there, and theirs."""
        hashed, excluded = self._shop.items.slots.hashed, {*candidates.tolist(), clicked}
        draws = self._settings.uniform_negatives
        far = clicks.draw(
            key, draws, lambda s, h: s not in excluded and bool(live[s]) and int(hashed[s]) == h
        )
        slots = np.concatenate([[clicked], far]).astype(np.int64)
        own, *offsets = clicks.offsets(hashed[slots], hashed[candidates], draws).tolist()
        return far, own, offsets

    def _uniform(self, key: int, excluded: set[int], live: Array, n: int) -> Ints:
        """n distinct sellable slots outside `excluded`, drawn by hashes of the exposure."""
        if n <= 0:
            return np.zeros(0, np.int64)
        draws = mix64(np.arange(n * _ATTEMPTS, dtype=np.int64) + key, 1) % len(live)
        good = [s for s in dict.fromkeys(draws.tolist()) if s not in excluded and live[s]]
        return np.array(good[:n], np.int64)
