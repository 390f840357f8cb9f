"""An answer to what the fold never looks at is refused when the worker starts, with what is missing."""

from __future__ import annotations

from typing import Any

import pytest

from stream_mtl import build
from stream_mtl.config import Config
from stream_mtl.errors import ConfigError
from tests.folds import shop_cuts, small

# Avalanche's own imports, of its regularisers
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")
CGC = {"name": "cgc", "spare_experts": 1}


@pytest.mark.parametrize(
    "sections,missing",
    [
        ({"adapt": {"drift_rate": 2.0}, "drift": {"on": False}}, "drift.on is false"),
        ({"adapt": {"drift_version_age": 9}, "drift": {"on": False}}, "drift.on is false"),
        (
            {
                "adapt": {"grow": True},
                "model": CGC,
                "balancer": {"affinity_every": 5},
                "drift": {"on": False},
            },
            "drift.on is false",
        ),
        ({"adapt": {"grow": True}}, "needs model.name = 'cgc'"),
        ({"adapt": {"grow": True}, "model": CGC}, "set balancer.affinity_every"),
        (
            {"adapt": {"drift_version_age": 9}, "rehearsal": {"loss": "er"}},
            "use 'der' or 'der\\+\\+'",
        ),
        ({"adapt": {"forgetting_ratio": 2.0}, "rehearsal": {"loss": "lwf"}}, "draws no rows"),
        (
            {"adapt": {"forgetting_ratio": 2.0}, "evaluation": {"probe_share": 0.0}},
            "probe_share = 0",
        ),
        ({"rehearsal": {"regularizer": "ewc"}, "drift": {"on": False}}, "set rehearsal.span_ms"),
        (
            {"rehearsal": {"loss": "lwf", "lwf_every": 0}, "drift": {"on": False}},
            "set rehearsal.lwf_every",
        ),
        (
            {"learner": {"mode": "alternating"}, "balancer": {"affinity_every": 5}},
            "a step is of one task",
        ),
    ],
)
def test_what_would_never_answer_is_refused(sections: dict[str, Any], missing: str) -> None:
    with pytest.raises(ConfigError, match=missing):
        build(Config.model_validate(sections))


@pytest.mark.parametrize(
    "sections",
    [
        {"adapt": {"drift_rate": 2.0, "drift_version_age": 9, "forgetting_ratio": 2.0}},
        {"adapt": {"grow": True}, "model": CGC, "balancer": {"affinity_every": 5}},
        {"rehearsal": {"regularizer": "ewc", "span_ms": 1_000}, "drift": {"on": False}},
        {"rehearsal": {"loss": "lwf"}, "drift": {"on": False}},
    ],
)
def test_what_answers_is_not(sections: dict[str, Any]) -> None:
    """It is built as it was asked for, and folds."""
    config = small(**sections)
    model = build(config)
    folded = [model.step(cut).counts["events"] for cut in shop_cuts(config, 60)]
    assert sum(folded) == 60
    assert model.parts.learner.measures_affinity == ("balancer" in sections)
    assert model.parts.learner.consolidates == ("rehearsal" in sections)
