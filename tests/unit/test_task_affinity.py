"""Cosines of tasks' gradients, and which tasks to let share."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from stream_mtl.state import digest
from stream_mtl.task_affinity import TaskAffinity, groups


def gram(*gradients: tuple[float, ...]) -> Tensor:
    gradient_TN = torch.tensor(gradients)
    return gradient_TN @ gradient_TN.T


def test_cosine_is_that_of_the_gradients_whatever_their_size() -> None:
    affinity = TaskAffinity(3, on=True)
    affinity.take(gram((1, 0), (5, 5), (-0.01, 0)))
    half = math.sqrt(0.5)
    expected_TT = torch.tensor([[1, half, -1], [half, 1, -half], [-1, -half, 1]])
    torch.testing.assert_close(affinity.cosines().float(), expected_TT)


def test_absent_task_leaves_its_pairs_as_they_were() -> None:
    affinity = TaskAffinity(2, on=True)
    affinity.take(gram((1, 0), (1, 0)))
    before_TT = affinity.cosines()
    for _ in range(50):
        affinity.take(gram((1, 0), (0, 0)))
    assert torch.equal(affinity.cosines(), before_TT)
    affinity.take(gram((1, 0), (-1, 0)))
    assert -0.1 < affinity.cosines()[0, 1] < 0.1  # one of each


def test_pairs_that_never_met_are_not_known() -> None:
    affinity = TaskAffinity(2, on=True)
    affinity.take(gram((1, 0), (0, 0)))
    assert affinity.cosines()[0, 1].isnan()


def test_restored_affinity_goes_on() -> None:
    first, second = TaskAffinity(2, on=True), TaskAffinity(2, on=True)
    first.take(gram((1, 0), (1, 1)))
    second.restore(first.state())
    for one in (first, second):
        one.take(gram((1, 2), (1, 1)))
    assert digest(first.state()) == digest(second.state())
    assert TaskAffinity(2, on=False).state() == {}


def test_tasks_that_agree_are_grouped_and_those_against_them_are_not() -> None:
    cosine_TT = torch.tensor(
        [[1, 0.6, -0.2, -0.3], [0.6, 1, -0.1, -0.2], [-0.2, -0.1, 1, 0.3], [-0.3, -0.2, 0.3, 1]]
    )
    assert groups(cosine_TT) == ((0, 1), (2, 3))
    assert groups(cosine_TT, least=0.5) == ((0, 1), (2,), (3,))


def test_a_task_joins_a_group_only_if_it_agrees_with_it_on_the_whole() -> None:
    """Close to one of two, far from the other: a chain of likings is no group."""
    cosine_TT = torch.tensor([[1, 0.9, -0.6], [0.9, 1, 0.4], [-0.6, 0.4, 1]])
    assert groups(cosine_TT) == ((0, 1), (2,))


def test_tasks_of_which_nothing_is_known_go_on_sharing() -> None:
    """And those that are at right angles: to part them is what has to be shown to help."""
    assert groups(torch.full((3, 3), torch.nan)) == ((0, 1, 2),)
    assert groups(torch.tensor([[1, 0.2, 0], [0.2, 1, -0.02], [0, -0.02, 1]])) == ((0, 1, 2),)
    assert groups(torch.tensor([[1, 0.2, -0.1], [0.2, 1, -0.1], [-0.1, -0.1, 1]])) == ((0, 1), (2,))
