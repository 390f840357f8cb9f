"""EWC, online: squared gradients say which parameters matter (Kirkpatrick et al. 2017; Schwarz et al., ICML 2018).

At a span's end the squared gradients of its rows' loss, a few rows a gradient, are added to `regularizer_keep` times the
older ones; the penalty is strength * sum(importance * (parameter - parameter then)^2), without the paper's 1/2.
"""

from __future__ import annotations

from typing import Any

from stream_mtl import config
from stream_mtl.regularizers.base import Clock, Method, Slots


def _make(settings: config.Rehearsal) -> Any:
    from avalanche.training.plugins import EWCPlugin

    return EWCPlugin(
        settings.regularizer_strength, mode="online", decay_factor=settings.regularizer_keep
    )


def _slots(plugin: Any, clock: Clock) -> Slots:
    last = clock.train_exp_counter - 1
    if last < 0:
        return {}
    return {"importance": plugin.importances[last], "saved": plugin.saved_params[last]}


def _install(plugin: Any, clock: Clock, slots: Slots) -> None:
    plugin.importances.clear()
    plugin.saved_params.clear()
    last = clock.train_exp_counter - 1
    if last >= 0:
        plugin.importances[last], plugin.saved_params[last] = slots["importance"], slots["saved"]


EWC = Method(_make, ("importance", "saved"), _slots, _install, passes=True)
