"""Every sampler keeps what `samplers/base.py` promises, over every memory policy."""

from __future__ import annotations

import pkgutil
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Generator, Tensor

from stream_mtl import samplers
from stream_mtl.held import Held, Sample
from stream_mtl.memory import MEMORIES
from stream_mtl.samplers import SAMPLERS
from stream_mtl.samplers.base import Ask
from stream_mtl.testing_rows import SPEC, rows

CPU = torch.device("cpu")
ASK = Ask(
    2,
    50,
    lambda sparse_RF: 1.0 + (sparse_RF[:, 0] % 7).float(),
    lambda sample: sample.batch.dense_BD[:, 0],
)
CASES = [
    pytest.param(name, policy, whole, id=f"{name}-{policy}-{'lists' if whole else 'rows'}")
    for name in SAMPLERS
    for policy in MEMORIES
    for whole in (False, True)
]


def new(policy: str, whole: bool = False, size: int = 240) -> Any:
    task, columns = ("search", (2,)) if whole else ("purchase", (1, 0))
    return MEMORIES[policy](Held(SPEC, task, columns, whole, 0, CPU), size)


def filled(policy: str, whole: bool = False, size: int = 240, count: int = 1000) -> Any:
    held = new(policy, whole, size)
    for first in range(0, count, 100):
        batch = rows(100, first=first)
        batch = replace(batch, time_B=batch.time_B // 4000)
        held.add(batch, torch.zeros(100, 3), version=first)
    return held


def draw(name: str, held: Any, count: int = 40, seed: int = 1) -> Sample:
    sample = SAMPLERS[name](held, count, Generator().manual_seed(seed), ASK)
    assert sample is not None
    return sample


@pytest.mark.parametrize("name, policy, whole", CASES)
def test_as_many_rows_as_asked_for_and_lists_whole(name: str, policy: str, whole: bool) -> None:
    batch = draw(name, filled(policy, whole)).batch
    assert len(batch) == 40
    if whole:
        _, sizes = batch.list_key_B.unique_consecutive(return_counts=True)
        assert (sizes == 4).all()


@pytest.mark.parametrize("name, policy, whole", CASES)
def test_the_choice_follows_from_contents_and_generator(
    name: str, policy: str, whole: bool
) -> None:
    held, other = filled(policy, whole, 2400), new(policy, whole, 2400)  # MIR must have a choice
    other.restore(held.state())
    first, same = draw(name, held), draw(name, other)
    assert torch.equal(first.batch.row_key_B, same.batch.row_key_B)
    assert not torch.equal(first.batch.row_key_B, draw(name, held, seed=2).batch.row_key_B)


@pytest.mark.parametrize("name, policy, whole", CASES)
def test_nothing_comes_from_an_empty_memory_and_nothing_is_drawn_for_none(
    name: str, policy: str, whole: bool
) -> None:
    assert SAMPLERS[name](new(policy, whole), 10, Generator(), ASK) is None
    assert SAMPLERS[name](filled(policy, whole), 0, Generator(), ASK) is None


@pytest.mark.parametrize("name", SAMPLERS)
def test_a_memory_of_one_row_is_enough(name: str) -> None:
    held = filled("key_reservoir", count=0)
    batch = rows(1)
    held.add(batch, torch.zeros(1, 3), 0)
    keys = draw(name, held).batch.row_key_B.unique()
    assert keys.tolist() == batch.row_key_B.tolist()


def test_balanced_draws_every_class_alike_and_uniform_does_not() -> None:
    held = filled("key_reservoir")
    rare = float((held.column("label_B") > 0).float().mean())
    assert 0.04 < rare < 0.15
    share = {
        name: float(draw(name, held, 4000).batch.label_BT[:, 1].mean())
        for name in ("balanced", "uniform")
    }
    assert abs(share["balanced"] - 0.5) < 0.03
    assert abs(share["uniform"] - rare) < 0.03


@pytest.mark.parametrize("policy", MEMORIES)
def test_balanced_says_how_much_likelier_each_class_was(policy: str) -> None:
    """Log-odds of the draw less those of what is held (and of what that stands for in the stream)."""
    held = filled(policy)
    chance_K = draw("balanced", held).log_chance_K
    assert chance_K is not None
    share = np.bincount(held.classes()) / held.units()
    expected = np.log(0.5 / share[1]) - np.log(0.5 / share[0])
    own = held.log_chance()
    if own is not None:
        expected += float(own[1] - own[0])
    assert float(chance_K[1] - chance_K[0]) == pytest.approx(expected, abs=1e-5)
    assert float((-chance_K).exp().mean()) == pytest.approx(1.0)


def test_stale_rows_come_in_proportion_to_their_steps() -> None:
    held = filled("key_reservoir")
    sample = draw("staleness", held, 20_000)
    steps_R = ASK.staleness(sample.batch.sparse_BF)
    of_held_R = ASK.staleness(held.column("sparse_BF"))
    found = torch.bincount(steps_R.long(), minlength=8)[1:] / 20_000
    weight = torch.bincount(of_held_R.long(), minlength=8)[1:] * torch.arange(1, 8)
    torch.testing.assert_close(found, (weight / weight.sum()).float(), atol=0.015, rtol=0)


def test_mir_takes_those_whose_loss_grows_most() -> None:
    held = filled("key_reservoir")
    ask = replace(ASK, candidates=10_000)  # all of them
    sample = SAMPLERS["mir"](held, 10, Generator(), ask)
    assert sample is not None
    most = held.column("dense_BD")[:, 0].sort(descending=True).values[:10]
    assert torch.equal(sample.batch.dense_BD[:, 0], most)


def test_mir_looks_at_candidates_alone() -> None:
    seen: list[int] = []

    def growth(sample: Sample) -> Tensor:
        seen.append(len(sample.batch))
        return sample.batch.dense_BD[:, 0]

    for rows_wanted in (10, 40):
        SAMPLERS["mir"](
            filled("key_reservoir"), rows_wanted, Generator(), replace(ASK, growth=growth)
        )
    assert seen == [50, 80]


def test_every_file_is_registered() -> None:
    files = {m.name for m in pkgutil.iter_modules(samplers.__path__)} - {"base"}
    assert files == {f.__module__.rsplit(".", 1)[1] for f in SAMPLERS.values()}  # type: ignore[attr-defined]
