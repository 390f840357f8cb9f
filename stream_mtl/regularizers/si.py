"""SI: parameters matter by how much their way through a span lowered the loss (Zenke et al., ICML 2017).

Needs no rows at a span's end. What the plugin calls the state before an update aliases the parameters themselves on a CPU
(`.cpu().flatten()` copies nothing there), moves with them, and leaves every importance at 0: we copy it after
the hooks that take it.
"""

from __future__ import annotations

from typing import Any

from stream_mtl import config
from stream_mtl.regularizers.base import Clock, Method, Slots

_KEPT = ("trajectory", "cum_trajectory")  # the plugin's others are rewritten in every step


def _make(settings: config.Rehearsal) -> Any:
    from avalanche.training.plugins import SynapticIntelligencePlugin

    return SynapticIntelligencePlugin(settings.regularizer_strength)


def _slots(plugin: Any, clock: Clock) -> Slots:
    del clock
    saved, importance = plugin.ewc_data
    kept = {name: plugin.syn_data[name] for name in _KEPT}
    return {"saved": saved, "importance": importance, **kept}


def _install(plugin: Any, clock: Clock, slots: Slots) -> None:
    del clock
    live = _slots(plugin, Clock())
    for slot, saved in slots.items():
        for name, one in saved.items():
            live[slot][name].data = one.data.flatten()


def _mend(plugin: Any, hook: str) -> None:
    taken = {
        "before_training_exp": plugin.ewc_data[0],
        "before_training_iteration": plugin.syn_data["old_theta"],
    }
    for one in taken.get(hook, {}).values():
        one.data = one.data.clone()


SI = Method(_make, ("saved", "importance", *_KEPT), _slots, _install, mend=_mend)
