"""Every regulariser keeps what `regularizers/base.py` promises, driven as the fold drives it."""

from __future__ import annotations

import pkgutil
import subprocess
import sys
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from stream_mtl import regularizers
from stream_mtl.batch import Batch
from stream_mtl.config import Config
from stream_mtl.errors import ConfigError, StateError
from stream_mtl.learner import Learner
from stream_mtl.regularizers import REGULARIZERS
from stream_mtl.state import State, digest
from stream_mtl.testing_rows import SPEC, rows

# Avalanche's own imports warn
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")
NAMES = [name for name in REGULARIZERS if name != "none"]
STRONG = {"ewc": 1e5, "mas": 10.0, "rwalk": 100.0, "si": 100.0}
ROWS, SPAN = 48, 12  # fresh rows of a step, steps of a span


def learner(name: str, strength: float = 1.0, **sections: Any) -> Learner:
    settings: dict[str, dict[str, Any]] = {
        "model": {"embedding_dim": 4, "text_dim": 4, "experts": 2, "hidden": 16, "tower": 8},
        "memory": {"rows": 400},
        "rehearsal": {
            "regularizer": name,
            "regularizer_strength": strength,
            "regularizer_rows": 96,
        },
    }
    return Learner(SPEC, Config.model_validate(settings | sections), torch.device("cpu"))


def lesson(step: int) -> Batch:
    """The second span has other rows, with the labels of the clicks turned round."""
    batch = rows(ROWS, first=ROWS * step)
    if step < SPAN:
        return batch
    return replace(batch, label_BT=1 - batch.label_BT, dense_BD=batch.dense_BD + 1)


def run(model: Learner, start: int, stop: int) -> None:
    for step in range(start, stop):
        if step and step % SPAN == 0:
            model.consolidate()
        model.step(lesson(step))


def frozen(state: State) -> State:
    return {k: v.clone() if isinstance(v, Tensor) else v for k, v in state.items()}


def moved(model: Learner, start: State) -> float:
    """How far dense parameters are from where they were."""
    now = model.state()
    parts = [now[k] - v for k, v in start.items() if k.startswith("model/")]
    return float(torch.cat([part.flatten() for part in parts]).norm())


@pytest.mark.parametrize("name", NAMES)
def test_parameters_stay_nearer_to_where_they_were_when_the_span_ended(name: str) -> None:
    """The same stream, the same first span to the bit; then the penalty alone makes the difference."""
    distances = {}
    for strength in (0.0, STRONG[name]):
        model = learner(name, strength)
        run(model, 0, SPAN)
        start = frozen(model.state())
        run(model, SPAN, 2 * SPAN)
        distances[strength] = moved(model, start)
    free, held = distances.values()
    assert held < 0.8 * free


@pytest.mark.parametrize("name", NAMES)
def test_before_the_first_span_has_ended_it_is_as_without(name: str) -> None:
    plain, with_it = learner("none"), learner(name, 1e6)
    for model in (plain, with_it):
        run(model, 0, SPAN)
    assert plain.dense_digest() == with_it.dense_digest()


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("at", [0, 1, 9, SPAN, SPAN + 1, 2 * SPAN + 5])
def test_a_restored_learner_goes_on_bit_for_bit(name: str, at: int) -> None:
    """Killed before any step, within a span, right after its end and later."""
    whole = learner(name)
    run(whole, 0, at)
    saved = frozen(whole.state())
    resumed = learner(name)
    resumed.restore(saved)
    assert digest(resumed.state()) == digest(saved)
    for model in (whole, resumed):
        run(model, at, 3 * SPAN)
    assert digest(resumed.state()) == digest(whole.state())


@pytest.mark.parametrize("name", NAMES)
def test_its_state_has_the_same_names_and_shapes_from_the_start_and_is_tensors_and_numbers(
    name: str,
) -> None:
    model = learner(name)
    shapes = []
    for at in (0, SPAN, 2 * SPAN + 1):
        run(model, max(0, at - SPAN), at)
        state = {k: v for k, v in model.state().items() if k.startswith("regularizer/")}
        assert all(type(v) in (Tensor, int) for v in state.values())
        shapes.append(
            {k: tuple(v.shape) if isinstance(v, Tensor) else () for k, v in state.items()}
        )
    assert shapes[0] == shapes[1] == shapes[2]
    assert any(name.startswith("regularizer/importance") or "exp_" in name for name in shapes[0])


@pytest.mark.parametrize("name", NAMES)
def test_a_refused_step_leaves_no_trace_in_it(name: str) -> None:
    model = learner(name)
    run(model, 0, SPAN + 2)
    before = frozen(model.state())
    bad = lesson(SPAN + 2)
    bad.dense_BD[0, 0] = float("nan")
    assert model.step(bad).nonfinite
    after = {k: v for k, v in model.state().items() if k.startswith("regularizer/")}
    assert digest(after) == digest({k: before[k] for k in after})


@pytest.mark.parametrize("name", NAMES)
def test_a_task_without_labels_and_a_span_without_steps_do_no_harm(name: str) -> None:
    model = learner(name)
    run(model, 0, SPAN)
    model.consolidate()
    model.consolidate()  # nothing was learned in between
    batch = lesson(SPAN)
    mask_BT = batch.mask_BT.clone()
    mask_BT[:, 2] = False
    assert not model.step(replace(batch, mask_BT=mask_BT)).nonfinite


@pytest.mark.parametrize("name", NAMES)
def test_it_goes_with_gradient_balancers_and_every_memory(name: str) -> None:
    for policy in ("class_balanced", "two_store", "recency_ring"):
        model = learner(name, balancer={"name": "pcgrad"}, memory={"rows": 400, "policy": policy})
        run(model, 0, 2 * SPAN)
        assert model.version == 2 * SPAN


def test_a_state_of_another_regulariser_does_not_fit() -> None:
    with pytest.raises(StateError, match="regularizer"):
        learner("mas").restore(learner("si").state())


def test_an_unknown_name_lists_the_valid_ones() -> None:
    with pytest.raises(ConfigError, match="ewc, mas, none, rwalk, si"):
        learner("lasso")


def test_avalanche_is_imported_when_one_is_made_and_not_before() -> None:
    said = subprocess.run(
        [
            sys.executable,
            "-c",
            "import sys, stream_mtl, stream_mtl.learner, stream_mtl.composition, stream_mtl.tensor_strategy\n"
            "from stream_mtl import build, Config\n"
            "build(Config(), 'x')\n"
            "print('avalanche' in sys.modules)",
        ],
        capture_output=True,
        text=True,
        check=True,
    )
    assert said.stdout.strip() == "False"


def test_every_file_is_registered() -> None:
    files = {m.name for m in pkgutil.iter_modules(regularizers.__path__)} - {"base", "none"}
    assert files == set(REGULARIZERS) - {"none"}
