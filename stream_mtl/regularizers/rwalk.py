"""RWalk: importances of every step (EWC++) and of a parameter's way together (Chaudhry et al., ECCV 2018).

Runs a forward and backward of its own in every step, so a step costs almost twice as much. Scores are taken every tenth
step, the last steps of a span count for nothing, and a span should be much longer. Where no step of a span lowered the loss, the plugin divides 0 by 0: no penalty then.
"""

from __future__ import annotations

from typing import Any

from stream_mtl import config
from stream_mtl.regularizers.base import Clock, Method, Slots

_EVERY_STEP = ("checkpoint_params", "checkpoint_loss", "checkpoint_scores")
_EVERY_SPAN = ("exp_scores", "exp_params", "exp_importance", "exp_penalties")


def _make(settings: config.Rehearsal) -> Any:
    from avalanche.training.plugins import RWalkPlugin

    return RWalkPlugin(settings.regularizer_strength)


def _names(clock: Clock) -> tuple[str, ...]:
    stepped = ("iter_importance",) if clock.train_iterations else ()
    return (*_EVERY_STEP, *stepped, *(_EVERY_SPAN if clock.train_exp_counter else ()))


def _slots(plugin: Any, clock: Clock) -> Slots:
    return {name: getattr(plugin, name) for name in _names(clock)}


def _install(plugin: Any, clock: Clock, slots: Slots) -> None:
    for name in ("iter_importance", *_EVERY_SPAN):
        setattr(plugin, name, None)
    for name in _names(clock):
        setattr(plugin, name, slots[name])


def _mend(plugin: Any, hook: str) -> None:
    if hook == "after_training_exp":
        for one in plugin.exp_penalties.values():
            one.data.nan_to_num_(nan=0.0, posinf=0.0, neginf=0.0)


RWALK = Method(_make, (*_EVERY_STEP, "iter_importance", *_EVERY_SPAN), _slots, _install, mend=_mend)
