"""Products of features below a model, against their definitions."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch

from stream_mtl.interactions import CrossLayers, DomainGates, FactorTerms, pairs
from stream_mtl.testing_rows import rows


def drawn(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_pairs_are_the_double_sum_over_fields() -> None:
    """Rendle 2010: sum over i < j of v_i * v_j, here for every dimension."""
    v = drawn(7, 6, 5).double().numpy()
    expected = np.zeros((7, 5))
    for i in range(6):
        for j in range(i + 1, 6):
            expected += v[:, i] * v[:, j]
    np.testing.assert_allclose(pairs(torch.from_numpy(v)).numpy(), expected, atol=1e-12)


def test_every_column_has_a_diagonal_of_its_own_that_starts_at_one() -> None:
    """Multi-task FM: the sum over dimensions of r_f * pairs_f; at the start the plain FM, times a scale of 0."""
    terms, pairs_BGH = FactorTerms([1, 3], 5), drawn(7, 1, 5)
    assert (terms(pairs_BGH) == 0).all()
    for scale in terms.scale:
        scale.data.fill_(0.1)  # in units of 10
    plain_B = pairs_BGH.sum((1, 2))
    torch.testing.assert_close(terms(pairs_BGH), plain_B.unsqueeze(1).expand(-1, 4))
    terms.diagonal[1].data = drawn(3, 5, seed=2)
    moved_BC = terms(pairs_BGH)
    torch.testing.assert_close(moved_BC[:, 0], plain_B)
    expected_B = sum(terms.diagonal[1][2, f] * pairs_BGH[:, 0, f] for f in range(5))
    torch.testing.assert_close(moved_BC[:, 3], expected_B)


def test_a_scale_at_zero_still_learns() -> None:
    terms = FactorTerms([1], 5)
    terms(drawn(7, 1, 5)).sum().backward()
    assert terms.scale[0].grad is not None
    assert terms.scale[0].grad.abs() > 0


def test_cross_layers_are_the_paper_s_and_start_as_the_identity() -> None:
    """x_{l+1} = x_0 * (U V x_l + b) + x_l, with the matrix W = U V written out."""
    layers, x_BX = CrossLayers(8, 3, 0, torch.Generator().manual_seed(0)), drawn(5, 8)
    assert torch.equal(layers(x_BX), x_BX)
    assert layers.down[0].weight.shape == (2, 8)  # a quarter of the width
    for parameter in layers.parameters():
        parameter.data = drawn(*parameter.shape, seed=3)
    for b in range(5):
        first = x = x_BX[b].double().numpy()
        for down, up in zip(layers.down, layers.up, strict=True):
            w = up.weight.detach().double().numpy() @ down.weight.detach().double().numpy()
            x = first * (w @ x + up.bias.detach().double().numpy()) + x
        np.testing.assert_allclose(layers(x_BX)[b].detach().numpy(), x, rtol=2e-4)


def test_gates_start_at_one_and_then_tell_domains_apart() -> None:
    gates, x_BX = DomainGates(8, 4, torch.Generator().manual_seed(0)), drawn(6, 8)
    batch = replace(rows(6), domain_B=torch.tensor([0, 1, 2, 3, 63, 10_000]))
    assert torch.equal(gates(x_BX, batch), x_BX)
    gates.out.weight.data = drawn(8, 4, seed=3)
    same_BX = x_BX[:1].expand(6, -1)
    gated_BX = gates(same_BX, batch)
    assert ((gated_BX / same_BX > 0) & (gated_BX / same_BX < 2)).all()
    assert len(torch.unique(gated_BX, dim=0)) == 5  # domains beyond the last share its row
    torch.testing.assert_close(gated_BX[4], gated_BX[5])


def test_a_gate_sends_no_gradient_into_what_it_looks_at() -> None:
    """Only the product does: d(x * g)/dx = g where g reads x without a gradient."""
    gates = DomainGates(8, 4, torch.Generator().manual_seed(0))
    gates.out.weight.data = drawn(8, 4, seed=3)
    x_BX = drawn(6, 8).requires_grad_()
    gated_BX = gates(x_BX, rows(6))
    (gradient_BX,) = torch.autograd.grad(gated_BX.sum(), x_BX)
    torch.testing.assert_close(gradient_BX, (gated_BX / x_BX).detach())
