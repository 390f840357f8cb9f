"""Every task kind keeps what `tasks/base.py` promises."""

from __future__ import annotations

import math
import pkgutil

import pytest
import torch

from stream_mtl import tasks
from stream_mtl.tasks import TASKS
from stream_mtl.tasks.base import Place, Settings, TaskKind
from stream_mtl.testing_rows import rows

SETTINGS = {"multiclass": Settings(classes=2), "regression": Settings(scale=0.5)}
VARIANTS = {  # of the kinds: every loss that a setting chooses
    "binary-lambdarank": ("binary", Settings(listwise=0.5, ranking="lambdarank")),
    "binary-focal": ("binary", Settings(imbalance="focal")),
    "binary-weights": ("binary", Settings(imbalance="class_weights", class_weights=(1.0, 9.0))),
    "binary-thinned": ("binary", Settings(keep_negatives=0.2)),
    "funnel-thinned": ("funnel", Settings(keep_negatives=0.2)),
    "listwise-lambdarank": ("listwise", Settings(ranking="lambdarank")),
    "multiclass-focal": ("multiclass", Settings(classes=2, imbalance="focal")),
    "multiclass-weights": (
        "multiclass",
        Settings(classes=2, imbalance="class_weights", class_weights=(1.0, 9.0)),
    ),
}


def new(name: str, settings: Settings | None = None) -> TaskKind:
    """A kind whose head has the first columns and comes after the task of the next one."""
    settings = settings or SETTINGS.get(name, Settings(listwise=0.5))
    width = max(1, settings.classes)
    return TASKS[name](Place(0, 0, width), settings, [Place(1, width)])


KINDS = [pytest.param(new(name), id=name) for name in TASKS]
KINDS += [pytest.param(new(name, given), id=title) for title, (name, given) in VARIANTS.items()]
RATES = [one for one in KINDS if one.values[0].spread == "entropy"]  # type: ignore[union-attr]


def loss_of(kind: TaskKind, logit_BC: torch.Tensor, mask_B: torch.Tensor) -> torch.Tensor:
    batch = rows(len(logit_BC))
    return kind.loss(logit_BC, batch.label_BT[:, 0], mask_B, batch.list_key_B, mask_B)


@pytest.fixture
def logit_BC() -> torch.Tensor:
    return torch.randn(24, 2, generator=torch.Generator().manual_seed(3)).requires_grad_()


@pytest.mark.parametrize("kind", KINDS)
def test_loss_has_one_finite_value_a_row(kind: TaskKind, logit_BC: torch.Tensor) -> None:
    loss_B = loss_of(kind, logit_BC, torch.ones(24, dtype=torch.bool))
    assert loss_B.shape == (24,)
    assert loss_B.isfinite().all()
    assert (loss_B >= 0).all()


@pytest.mark.parametrize("kind", KINDS)
def test_gradients_stay_finite_at_extreme_logits(kind: TaskKind) -> None:
    ends = torch.tensor([-200.0, -30.0, -1e-4, 0.0, 1e-4, 30.0, 200.0])
    logit_BC = torch.cartesian_prod(ends, ends)[:48].clone().requires_grad_()
    loss_B = loss_of(kind, logit_BC, torch.ones(48, dtype=torch.bool))
    loss_B.sum().backward()
    assert loss_B.isfinite().all()
    assert logit_BC.grad is not None
    assert logit_BC.grad.isfinite().all()


@pytest.mark.parametrize("kind", KINDS)
def test_the_gradient_is_that_of_the_loss(kind: TaskKind, logit_BC: torch.Tensor) -> None:
    """Against differences, in double. A softmax that clamps at its top once had none for the top row of a list."""
    exact_BC = logit_BC.detach().double().requires_grad_()
    mask_B = torch.arange(24) % 6 != 1

    def total(logit_BC: torch.Tensor) -> torch.Tensor:
        batch = rows(len(logit_BC))
        label_B = batch.label_BT[:, 0].double()
        return kind.loss(logit_BC, label_B, mask_B, batch.list_key_B, mask_B).sum()

    assert torch.autograd.gradcheck(total, exact_BC)


@pytest.mark.parametrize("kind", KINDS)
def test_absent_labels_contribute_nothing(kind: TaskKind, logit_BC: torch.Tensor) -> None:
    """A masked row has no loss, gets no gradient and changes no other row's loss, in its list too."""
    mask_B = torch.arange(24) % 4 != 1
    loss_B = loss_of(kind, logit_BC, mask_B)
    loss_B.sum().backward()
    assert (loss_B[~mask_B] == 0).all()
    assert logit_BC.grad is not None
    assert (logit_BC.grad[~mask_B] == 0).all()
    moved_BT = torch.where(mask_B.unsqueeze(1), logit_BC.detach(), torch.tensor(55.0))
    assert torch.equal(loss_of(kind, moved_BT, mask_B), loss_B.detach())


@pytest.mark.parametrize("kind", RATES)
def test_prediction_is_a_probability(kind: TaskKind, logit_BC: torch.Tensor) -> None:
    prob_B = kind.score(logit_BC.detach() * 5)
    assert prob_B.shape == (24,)
    assert ((prob_B > 0) & (prob_B < 1)).all()


@pytest.mark.parametrize("kind", KINDS)
def test_outputs_are_as_wide_as_the_head_and_one_row_has_one_score(
    kind: TaskKind, logit_BC: torch.Tensor
) -> None:
    assert kind.outputs(logit_BC).shape == (24, kind.width)
    assert kind.score(logit_BC).shape == (24,)
    assert len(kind.columns) >= kind.width


@pytest.mark.parametrize("kind", KINDS)
def test_the_best_logit_of_a_label_has_no_gradient(kind: TaskKind) -> None:
    """Gradient descent on the logits alone finds the label: the loss points where the label says."""
    logit_BC = torch.zeros(24, 2, requires_grad=True)
    before = loss_of(kind, logit_BC, torch.ones(24, dtype=torch.bool)).sum()
    for _ in range(200):
        loss = loss_of(kind, logit_BC, torch.ones(24, dtype=torch.bool)).sum()
        (gradient_BC,) = torch.autograd.grad(loss, logit_BC)
        logit_BC = (logit_BC - 0.3 * gradient_BC).detach().requires_grad_()
    assert loss_of(kind, logit_BC, torch.ones(24, dtype=torch.bool)).sum() < 0.2 * before


@pytest.mark.parametrize("kind", RATES)
def test_a_new_head_predicts_its_base_rate(kind: TaskKind) -> None:
    """Where the sigmoid of its logit is `base_rate`, a rare yes is predicted, whatever the loss makes of logits."""
    start = torch.tensor(kind.base_rate, dtype=torch.float64).logit()
    start_BC = torch.stack((start, torch.tensor(40.0).double())).unsqueeze(0)
    assert 0.04 < kind.score(start_BC).item() < 0.11


@pytest.mark.parametrize("kind", KINDS)
def test_labels_are_parted_into_ascending_classes_in_the_unit_of_the_label(kind: TaskKind) -> None:
    assert len(kind.edges) >= 1
    assert list(kind.edges) == sorted(set(kind.edges))
    target_E = kind.target(torch.tensor(kind.edges))
    assert (target_E.diff() > 0).all()


@pytest.mark.parametrize("kind", KINDS)
def test_no_rows_give_no_loss(kind: TaskKind) -> None:
    assert loss_of(kind, torch.zeros(0, 2), torch.zeros(0, dtype=torch.bool)).shape == (0,)


def test_every_file_is_registered() -> None:
    files = {m.name for m in pkgutil.iter_modules(tasks.__path__)} - {"base"}
    assert files == {kind.__module__.rsplit(".", 1)[1] for kind in TASKS.values()}  # type: ignore[attr-defined]


def test_funnel_loss_equals_the_textbook_form_in_double_precision() -> None:
    """-[z log(pq) + (1-z) log(1-pq)], p and q sigmoids of click and buy-given-click."""
    kind = new("funnel")
    logit_BC = 4 * torch.randn(500, 2, generator=torch.Generator().manual_seed(5))
    label_B = (torch.arange(500) % 3 == 0).float()
    mask_B = torch.ones(500, dtype=torch.bool)
    loss_B = kind.loss(logit_BC, label_B, mask_B, torch.zeros(500, dtype=torch.int64), ~mask_B)
    p_B = logit_BC.double().sigmoid().prod(1)
    expected_B = -(label_B * p_B.log() + (1 - label_B) * torch.log1p(-p_B))
    torch.testing.assert_close(loss_B.double(), expected_B, rtol=2e-5, atol=1e-7)


def test_funnel_loss_teaches_both_heads(logit_BC: torch.Tensor) -> None:
    loss_of(new("funnel"), logit_BC, torch.ones(24, dtype=torch.bool)).sum().backward()
    assert logit_BC.grad is not None
    assert (logit_BC.grad.abs() > 0).all()


def test_funnel_survives_where_the_plain_form_does_not() -> None:
    """log(1 - pq) is -inf once pq rounds to 1; the log-space form stays finite."""
    certain_BT = torch.full((1, 2), 40.0)
    assert torch.log(1 - certain_BT.sigmoid().prod(1)).isinf().all()
    no = torch.zeros(1)
    mask_B = torch.ones(1, dtype=torch.bool)
    loss_B = new("funnel").loss(certain_BT, no, mask_B, torch.zeros(1).long(), ~mask_B)
    assert loss_B.item() == pytest.approx(-math.log(1e-6), rel=1e-2)


def test_list_without_a_positive_gives_only_its_bce() -> None:
    kind = new("listwise")
    logit_BC = torch.tensor([[0.3], [1.0], [-2.0]])
    loss_B = kind.loss(
        logit_BC,
        torch.zeros(3),
        torch.ones(3, dtype=torch.bool),
        torch.zeros(3).long(),
        torch.zeros(3, dtype=torch.bool),
    )
    torch.testing.assert_close(loss_B, 0.2 * torch.nn.functional.softplus(logit_BC[:, 0]))


def test_list_softmax_sums_to_one_cross_entropy_a_list() -> None:
    from stream_mtl.list_softmax import list_softmax_loss

    logit_B = torch.tensor([0.1, 2.0, -1.0, 0.5, 0.4])
    label_B = torch.tensor([0.0, 1.0, 0.0, 1.0, 0.0])
    key_B = torch.tensor([7, 7, 7, 3, 3])
    loss_B = list_softmax_loss(logit_B, label_B, torch.ones(5, dtype=torch.bool), key_B)
    first = -logit_B[:3].log_softmax(0)[1]
    second = -logit_B[3:].log_softmax(0)[0]
    torch.testing.assert_close(loss_B, torch.tensor([0.0, first, 0.0, second, 0.0]))


def test_binary_task_ranks_only_lists_that_were_drawn() -> None:
    """A list that a shop has shown gives the plain BCE, whatever `listwise` is."""
    kind, plain = new("binary", Settings(listwise=1.0)), new("binary", Settings())
    logit_BC, label_B = torch.tensor([[0.3], [1.0], [-2.0]]), torch.tensor([0.0, 1.0, 0.0])
    known_B, key_B = torch.ones(3, dtype=torch.bool), torch.zeros(3).long()
    shown_B = kind.loss(logit_BC, label_B, known_B, key_B, ~known_B)
    drawn_B = kind.loss(logit_BC, label_B, known_B, key_B, known_B)
    torch.testing.assert_close(shown_B, plain.loss(logit_BC, label_B, known_B, key_B, known_B))
    assert drawn_B[1] > shown_B[1]


def test_a_funnel_of_three_steps_multiplies_the_whole_way() -> None:
    kind = TASKS["funnel"](Place(2, 2), Settings(), [Place(1, 1), Place(0, 0)])
    logit_BC = torch.randn(50, 3, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(kind.score(logit_BC), logit_BC.sigmoid().prod(1))
    assert (kind.tasks, kind.columns) == ((2, 1, 0), (2, 1, 0))


def test_multiclass_loss_is_the_cross_entropy_of_its_own_columns() -> None:
    """With smoothing, the cross-entropy against the smoothed label (Szegedy et al. 2016, section 7)."""
    logit_BC = torch.randn(60, 5, generator=torch.Generator().manual_seed(2)).double()
    label_B = torch.arange(60).double() % 3
    known_B = torch.ones(60, dtype=torch.bool)
    kind = TASKS["multiclass"](Place(1, 1, 3), Settings(classes=3, smoothing=0.3))
    loss_B = kind.loss(logit_BC, label_B, known_B, torch.zeros(60).long(), ~known_B)
    log_p_BW = logit_BC[:, 1:4] - logit_BC[:, 1:4].exp().sum(1, keepdim=True).log()
    target_BW = torch.eye(3)[label_B.long()].double() * 0.7 + 0.1
    torch.testing.assert_close(loss_B, -(target_BW * log_p_BW).sum(1))
    torch.testing.assert_close(kind.outputs(logit_BC).sum(1), torch.ones(60).double())


def test_a_smoothed_yes_is_a_little_less_than_certain() -> None:
    """BCE against labels s/2 and 1 - s/2: the best probability of a sure yes is 1 - s/2."""
    kind = new("binary", Settings(smoothing=0.2))
    logit_BC = torch.linspace(-4, 4, 60).double().unsqueeze(1)
    label_B, known_B = torch.arange(60).double() % 2, torch.ones(60, dtype=torch.bool)
    loss_B = kind.loss(logit_BC, label_B, known_B, torch.zeros(60).long(), ~known_B)
    p_B, target_B = logit_BC[:, 0].sigmoid(), 0.1 + 0.8 * label_B
    torch.testing.assert_close(loss_B, -target_B * p_B.log() - (1 - target_B) * (1 - p_B).log())


def test_regression_predicts_in_the_unit_of_the_label() -> None:
    """What the loss calls right, the score gives back; an absurd label teaches no more than a far one."""
    kind = TASKS["regression"](Place(0, 0), Settings(center=3.0, scale=1.5, log=True))
    label_B = torch.tensor([0.0, 5.0, 200.0])
    right_BC = ((label_B.log1p() - 3.0) / 1.5).unsqueeze(1)
    known_B = torch.ones(3, dtype=torch.bool)
    key_B = torch.zeros(3).long()
    torch.testing.assert_close(kind.score(right_BC), label_B, rtol=1e-4, atol=1e-4)
    assert kind.loss(right_BC, label_B, known_B, key_B, ~known_B).max() < 1e-9
    absurd = kind.loss(
        torch.zeros(1, 1), torch.tensor([1e30]), known_B[:1], key_B[:1], ~known_B[:1]
    )
    assert absurd.item() == 50.0
