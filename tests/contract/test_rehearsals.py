"""Every rehearsal method keeps what `rehearsal/base.py` promises."""

from __future__ import annotations

import pkgutil

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from stream_mtl import config, rehearsal
from stream_mtl.rehearsal import REHEARSALS
from stream_mtl.rehearsal.agem import project
from stream_mtl.rehearsal.lwf import distance
from stream_mtl.tasks import TASKS
from stream_mtl.tasks.base import Place, Settings

SETTINGS = config.Rehearsal(alpha=0.5, beta=1.0)
NAMES = list(REHEARSALS)
WITHOUT_MEMORY = ("lwf", "none")


@pytest.mark.parametrize("rows", [0, 1, 7, 512])
@pytest.mark.parametrize("name", [n for n in NAMES if n not in WITHOUT_MEMORY])
def test_draws_add_up_so_that_methods_cost_the_same(name: str, rows: int) -> None:
    assert sum(draw.rows for draw in REHEARSALS[name].draws(rows, SETTINGS)) == rows


@pytest.mark.parametrize("name", NAMES)
def test_weights_come_from_the_settings_and_no_draw_is_for_nothing(name: str) -> None:
    for draw in REHEARSALS[name].draws(10, SETTINGS):
        assert draw.label_weight in (0.0, SETTINGS.beta)
        assert draw.logit_weight in (0.0, SETTINGS.alpha)
        assert (draw.label_weight + draw.logit_weight > 0) != draw.reference


@pytest.mark.parametrize("name", WITHOUT_MEMORY)
def test_what_needs_no_memory_draws_nothing(name: str) -> None:
    assert REHEARSALS[name].draws(100, SETTINGS) == ()


def test_derpp_draws_labels_and_logits_apart() -> None:
    labels, logits = REHEARSALS["der++"].draws(11, SETTINGS)
    assert (labels.logit_weight, logits.label_weight) == (0.0, 0.0)
    assert (labels.rows, logits.rows) == (6, 5)


def test_agem_leaves_a_gradient_that_helps_and_turns_one_that_hurts_by_the_papers_formula() -> None:
    """Against numpy, equation 11; and afterwards the step is at a right angle to the reference."""
    random = np.random.default_rng(1)
    shapes = [(3, 2), (4,)]
    for sign in (1.0, -1.0):
        r = [random.normal(size=shape) for shape in shapes]
        g = [sign * x + 0.3 * random.normal(size=x.shape) for x in r]
        flat_g, flat_r = (np.concatenate([x.ravel() for x in v]) for v in (g, r))
        expected = flat_g
        if flat_g @ flat_r < 0:
            expected = flat_g - (flat_g @ flat_r) / (flat_r @ flat_r) * flat_r
            assert abs(expected @ flat_r) < 1e-12
        found = project([torch.from_numpy(x) for x in g], [torch.from_numpy(x) for x in r])
        np.testing.assert_allclose(torch.cat([x.flatten() for x in found]).numpy(), expected)


def test_agem_without_any_reference_gradient_changes_nothing() -> None:
    g = [torch.tensor([1.0, -2.0])]
    assert torch.equal(project(g, [torch.zeros(2)])[0], g[0])


def logits() -> torch.Tensor:
    return torch.randn(50, 4, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize(
    "name, settings",
    [
        ("binary", Settings()),
        ("listwise", Settings()),
        ("funnel", Settings()),
        ("regression", Settings()),
        ("multiclass", Settings(classes=3)),
    ],
)
def test_distillation_is_zero_at_agreement_and_grows_away_from_it(
    name: str, settings: Settings
) -> None:
    width = max(1, settings.classes)
    kind = TASKS[name](Place(0, 0, width), settings, [Place(1, width)])
    taught_BC = logits()
    assert distance(kind, taught_BC, taught_BC).abs().max() < 1e-6
    direction_BC = torch.randn(50, 4, generator=torch.Generator().manual_seed(2))
    near, far = (distance(kind, taught_BC + step * direction_BC, taught_BC) for step in (0.5, 2.0))
    assert (near > 0).all()
    assert (far > near).all()
    other_BC = torch.cat((taught_BC[:, :width], logits()[:, width:] + 9), 1)
    assert distance(kind, other_BC, taught_BC).abs().max() < 1e-6  # of the own head alone


def test_distillation_of_classes_is_torchs_divergence_at_temperature_two() -> None:
    kind = TASKS["multiclass"](Place(0, 0, 4), Settings(classes=4))
    now_BC, taught_BC = logits(), logits().flip(0)
    expected_B = F.kl_div(
        (now_BC / 2).log_softmax(1),
        (taught_BC / 2).log_softmax(1),
        reduction="none",
        log_target=True,
    ).sum(1)
    torch.testing.assert_close(distance(kind, now_BC, taught_BC), expected_B)


def test_every_file_is_registered() -> None:
    files = {m.name for m in pkgutil.iter_modules(rehearsal.__path__)} - {"base"}
    made = [part for one in REHEARSALS.values() for part in (one.draws, one.aid)]
    assert files == {part.__module__.rsplit(".", 1)[1] for part in made}  # type: ignore[attr-defined]
