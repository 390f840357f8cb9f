"""MAS: what moves the outputs matters, whatever the labels say (Aljundi et al., ECCV 2018).

At a span's end the absolute gradients of the mean squared length of its rows' logits; the old ones keep a part of
`regularizer_keep`. All heads count alike, trained or not.
"""

from __future__ import annotations

from typing import Any

from stream_mtl import config
from stream_mtl.regularizers.base import Clock, Method, Slots


def _make(settings: config.Rehearsal) -> Any:
    from avalanche.training.plugins import MASPlugin

    return MASPlugin(settings.regularizer_strength, alpha=settings.regularizer_keep)


def _slots(plugin: Any, clock: Clock) -> Slots:
    if not clock.train_exp_counter:
        return {}
    return {"importance": plugin.importance, "saved": plugin.params}


def _install(plugin: Any, clock: Clock, slots: Slots) -> None:
    known = bool(clock.train_exp_counter)
    plugin.importance = slots["importance"] if known else None
    plugin.params = slots["saved"] if known else None


MAS = Method(_make, ("importance", "saved"), _slots, _install, passes=True)
