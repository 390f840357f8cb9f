"""Settings that answer something the fold sees of itself, and would do nothing where it does not look: refused.

Else a worker runs for months with an answer to drift that never comes.
"""

from __future__ import annotations

from stream_mtl.config import Config
from stream_mtl.errors import ConfigError
from stream_mtl.rehearsal import REHEARSALS

_SOME = 100  # rows to draw, to see what a method draws


def check_reactions(config: Config, measures_affinity: bool) -> None:
    """Raises ConfigError with what is missing. `measures_affinity`: whether tasks' gradients are compared."""
    adapt = config.adapt
    if config.learner.mode == "alternating" and config.balancer.affinity_every:
        raise ConfigError(
            "balancer.affinity_every compares what tasks ask for in one step, and with learner.mode = 'alternating'"
            " a step is of one task; use mode = 'joint', or leave it out"
        )
    if adapt.grow:
        _check_growth(config, measures_affinity)
    answers = {
        "adapt.drift_rate": adapt.drift_rate != 1,
        "adapt.drift_version_age": adapt.drift_version_age > 0,
        "adapt.grow": adapt.grow,
    }
    for name, wanted in answers.items():
        if wanted and not config.drift.on:
            raise ConfigError(f"{name} answers drift alarms, and drift.on is false: set it to true")
    _check_spans(config)
    draws = REHEARSALS[config.rehearsal.loss].draws(_SOME, config.rehearsal)
    if adapt.drift_version_age and not any(draw.logit_weight for draw in draws):
        raise ConfigError(
            f"adapt.drift_version_age is about remembered logits, of which rehearsal.loss ="
            f" {config.rehearsal.loss!r} learns nothing; use 'der' or 'der++', or leave it out"
        )
    if adapt.forgetting_ratio != 1 and not draws:
        raise ConfigError(
            f"adapt.forgetting_ratio asks for more rehearsal, and rehearsal.loss = {config.rehearsal.loss!r} draws"
            " no rows; use 'er' or 'der++', or leave it out"
        )
    if adapt.forgetting_ratio != 1 and not config.evaluation.probe_share:
        raise ConfigError(
            "adapt.forgetting_ratio answers what is forgotten, and evaluation.probe_share = 0 keeps no rows to see it"
            " by; set it, for example to 0.05"
        )


def _check_growth(config: Config, measures_affinity: bool) -> None:
    if config.model.name != "cgc" or not config.model.spare_experts:
        raise ConfigError(
            f"adapt.grow needs model.name = 'cgc' with model.spare_experts; found {config.model.name!r} with"
            f" {config.model.spare_experts}"
        )
    if not measures_affinity:
        raise ConfigError(
            "adapt.grow asks whether a task's gradient pulls against the others: set balancer.affinity_every"
            " (for example 20), or choose a gradient balancer"
        )


def _check_spans(config: Config) -> None:
    rehearsal = config.rehearsal
    if config.drift.on or rehearsal.span_ms:
        return
    if rehearsal.regularizer != "none":
        raise ConfigError(
            f"rehearsal.regularizer = {rehearsal.regularizer!r} holds on to what was learned by the end of a span, and"
            " none ever ends: set rehearsal.span_ms (for example 86400000, a day), or drift.on = true"
        )
    if rehearsal.loss == "lwf" and not rehearsal.lwf_every:
        raise ConfigError(
            "rehearsal.loss = 'lwf' learns from a copy of the model, which is never made: set rehearsal.lwf_every or"
            " rehearsal.span_ms, or drift.on = true"
        )
