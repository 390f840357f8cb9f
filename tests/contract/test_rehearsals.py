"""Every rehearsal method keeps what `rehearsal/base.py` promises."""

from __future__ import annotations

import pkgutil

import pytest

from stream_mtl import config, rehearsal
from stream_mtl.rehearsal import REHEARSALS

SETTINGS = config.Rehearsal(alpha=0.5, beta=1.0)
NAMES = list(REHEARSALS)


@pytest.mark.parametrize("rows", [0, 1, 7, 512])
@pytest.mark.parametrize("name", [n for n in NAMES if n != "none"])
def test_draws_add_up_so_that_methods_cost_the_same(name: str, rows: int) -> None:
    assert sum(draw.rows for draw in REHEARSALS[name](rows, SETTINGS)) == rows


@pytest.mark.parametrize("name", NAMES)
def test_weights_come_from_the_settings(name: str) -> None:
    for draw in REHEARSALS[name](10, SETTINGS):
        assert draw.label_weight in (0.0, SETTINGS.beta)
        assert draw.logit_weight in (0.0, SETTINGS.alpha)
        assert draw.label_weight + draw.logit_weight > 0


def test_none_draws_nothing() -> None:
    assert REHEARSALS["none"](100, SETTINGS) == ()


def test_derpp_draws_labels_and_logits_apart() -> None:
    labels, logits = REHEARSALS["der++"](11, SETTINGS)
    assert (labels.logit_weight, logits.label_weight) == (0.0, 0.0)
    assert (labels.rows, logits.rows) == (6, 5)


def test_every_file_is_registered() -> None:
    files = {m.name for m in pkgutil.iter_modules(rehearsal.__path__)} - {"base"}
    assert files == {f.__module__.rsplit(".", 1)[1] for f in REHEARSALS.values()}  # type: ignore[attr-defined]
