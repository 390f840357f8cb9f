"""The joint update, as its users see it."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from stream_mtl.balancers import BALANCERS
from stream_mtl.base_rates import BaseRates, binary_entropy
from stream_mtl.batch import Batch, concat
from stream_mtl.config import Config
from stream_mtl.errors import ConfigError, NumericError, StateError
from stream_mtl.learner import Learner
from stream_mtl.memory import MEMORIES
from stream_mtl.models import MODELS
from stream_mtl.rehearsal import REHEARSALS
from stream_mtl.state import State, digest
from stream_mtl.tasks import TASKS
from stream_mtl.tasks.base import Place, Settings
from stream_mtl.testing_rows import SPEC, rows

CPU = torch.device("cpu")


def config(**sections: dict[str, Any]) -> Config:
    small: dict[str, dict[str, Any]] = {
        "model": {"embedding_dim": 4, "text_dim": 4, "experts": 2, "hidden": 16, "tower": 8},
        "memory": {"rows": 400},
    }
    return Config.model_validate(small | sections)


def learner(**sections: dict[str, Any]) -> Learner:
    return Learner(SPEC, config(**sections), CPU)


def taught(steps: int = 6, **sections: dict[str, Any]) -> Learner:
    model = learner(**sections)
    for i in range(steps):
        model.step(rows(64, first=64 * i))
    return model


def frozen(state: State) -> State:
    return {k: v.clone() if isinstance(v, Tensor) else v for k, v in state.items()}


def masked(batch: Batch, *tasks: int) -> Batch:
    mask_BT = batch.mask_BT.clone()
    mask_BT[:, list(tasks)] = False
    return replace(batch, mask_BT=mask_BT)


def test_lists_of_a_young_learner_are_exactly_in_the_order_of_their_candidates() -> None:
    batch = rows(100)
    prediction = learner().predict(batch, ranking=True)
    for column in (0, 2):
        assert torch.equal(prediction.prob_BT[:, column].argsort(), batch.prior_B.argsort())


def test_purchase_is_click_and_buy() -> None:
    prediction = taught().predict(rows(50, first=9000))
    product_B = prediction.prob_BT[:, 0] * prediction.extra["purchase_given_click"]
    torch.testing.assert_close(prediction.prob_BT[:, 1], product_B)


def test_predicting_changes_nothing() -> None:
    model = taught()
    before = digest(model.state())
    model.predict(rows(30, first=777))
    assert digest(model.state()) == before


def test_a_long_batch_is_predicted_like_its_parts_and_an_empty_one_too() -> None:
    model, batch = taught(), rows(2100, first=9000)
    whole_BT = model.predict(batch).prob_BT
    assert whole_BT.shape == (2100, 3)
    part_BT = model.predict(batch.rows(1000, 1100)).prob_BT
    torch.testing.assert_close(whole_BT[1000:1100], part_BT)
    assert model.predict(rows(0)).prob_BT.shape == (0, 3)


def test_sampling_offset_moves_training_but_not_serving() -> None:
    batch = rows(64)
    shifted = replace(batch, offset_B=batch.offset_B + 3)
    assert torch.equal(learner().predict(batch).prob_BT, learner().predict(shifted).prob_BT)
    assert learner().step(batch).losses != learner().step(shifted).losses


def test_it_learns() -> None:
    """Normalised click loss on rows it has seen falls well below its start."""
    model = learner(optimizer={"dense_lr": 0.01, "first_lr": 0.01})
    batch = rows(128)
    losses = [model.step(batch).losses["click"] for _ in range(60)]
    assert losses[-1] < 0.5 * losses[0]


def test_same_rows_give_the_same_bits() -> None:
    first, second = taught(), taught()
    torch.rand(3)  # the global generator plays no part
    assert digest(first.state()) == digest(second.state())
    report = first.step(rows(64, first=640))
    assert report.digest == second.step(rows(64, first=640)).digest
    assert len(report.digest) == 32


@pytest.mark.parametrize("loss", ["none", "er", "der++"])
@pytest.mark.parametrize("name", MODELS)
def test_restored_learner_goes_on_bit_for_bit(loss: str, name: str) -> None:
    model = {**config().model.model_dump(), "name": name}
    sections = {"rehearsal": {"loss": loss}, "model": model, "balancer": {"name": "weighted"}}
    straight = taught(**sections)
    resumed = learner(**sections, seed=0)  # type: ignore[arg-type]
    resumed.restore(frozen(straight.state()))
    for i in range(6, 10):
        report = straight.step(rows(64, first=64 * i))
        assert report == resumed.step(rows(64, first=64 * i))
    assert digest(straight.state()) == digest(resumed.state())
    assert resumed.version == 10


OPTIONS: list[dict[str, Any]] = [
    {"interactions": "fm+dcn", "domain_gates": True},
    {"dropout": 0.3},
    {"private_fields": ["item"]},
]


@pytest.mark.parametrize("option", OPTIONS, ids=lambda option: "+".join(option))
def test_restored_learner_with_options_goes_on_bit_for_bit(option: dict[str, Any]) -> None:
    model = {**config().model.model_dump(), **option}
    straight = taught(model=model)
    resumed = learner(model=model)
    resumed.restore(frozen(straight.state()))
    for i in range(6, 10):
        report = straight.step(rows(64, first=64 * i))
        assert report == resumed.step(rows(64, first=64 * i))
    assert digest(straight.state()) == digest(resumed.state())


def test_dropout_is_on_in_a_step_and_off_at_serving() -> None:
    """The loss of the first step differs from that without; what is predicted before it does not."""
    model = config().model.model_dump()
    for average in (0.0, 0.9):  # what is served may be the learning model itself
        served = {"average": average}
        plain, dropping = (
            taught(model={**model, "dropout": rate}, learner=served) for rate in (0.0, 0.5)
        )
        assert plain.step(rows(64)).losses != dropping.step(rows(64)).losses
        batch = rows(50, first=900)
        first_BT = dropping.predict(batch).prob_BT
        assert torch.equal(first_BT, dropping.predict(batch).prob_BT)
        whole = torch.cat([dropping.predict(batch.rows(i, i + 1)).prob_BT for i in range(50)])
        torch.testing.assert_close(first_BT, whole)


def test_state_that_does_not_fit_is_refused_with_its_parts_and_changes_nothing() -> None:
    model = taught()
    before = digest(model.state())
    state = frozen(learner(memory={"rows": 200}).state())
    with pytest.raises(StateError, match="memory/click/key_U has shape"):
        model.restore(state)
    del state["table_RH"]
    with pytest.raises(StateError, match="table_RH is missing"):
        model.restore(state)
    assert digest(model.state()) == before


def test_task_without_labels_keeps_its_head_its_memory_and_its_rate() -> None:
    """Not even weight decay or old momentum moves the head of a task that is absent."""
    model = taught(rehearsal={"loss": "none"})
    before = frozen(model.state())
    model.step(masked(rows(64, first=900), 2))
    after = model.state()
    own = [
        k for k in before if "heads.2." in k or "gates.2." in k or k.startswith("memory/search/")
    ]
    assert len(own) > 20
    for name in own:
        value = before[name]
        equal = (
            torch.equal(after[name], value) if isinstance(value, Tensor) else after[name] == value
        )
        assert equal, name
    assert torch.equal(after["rates/sums_2T"][:, 2], before["rates/sums_2T"][:, 2])
    assert not torch.equal(
        after["model/heads.0.hidden.weight"], before["model/heads.0.hidden.weight"]
    )


def test_absent_task_changes_nothing_in_any_other_task() -> None:
    """With search masked, the weights equal those of a learner whose search head is quite different."""
    settings = {"rehearsal": {"loss": "none"}, "balancer": {"name": "mean"}}
    first, second = learner(**settings), learner(**settings)
    state = frozen(second.state())
    state["model/heads.2.hidden.weight"] += 1
    second.restore(state)
    for model in (first, second):
        report = model.step(masked(rows(64), 2))
        assert report.weights == {"click": 0.5, "purchase": 0.5, "search": 0.0}
        assert set(report.losses) == {"click", "purchase"}
    for name, value in first.state().items():
        if isinstance(value, Tensor) and "heads.2." not in name:
            assert torch.equal(value, second.state()[name]), name


def test_purchase_alone_teaches_both_heads_of_the_funnel() -> None:
    model = taught(rehearsal={"loss": "none"})
    before = frozen(model.state())
    model.step(masked(rows(64, first=900), 0, 2))
    for task in (0, 1):
        name = f"model/heads.{task}.hidden.weight"
        assert not torch.equal(model.state()[name], before[name])


@pytest.mark.parametrize("field", ["dense_BD", "prior_B"])
def test_non_finite_rows_leave_everything_as_it_was(field: str) -> None:
    model = taught()
    before = frozen(model.state())
    batch = rows(64, first=900)
    report = model.step(replace(batch, **{field: getattr(batch, field) * float("nan")}))
    assert report.nonfinite
    after = frozen(model.state())
    for counter in ("skipped", "skipped_in_a_row"):
        assert (before.pop(counter), after.pop(counter)) == (0, 1)
    assert digest(before) == digest(after)
    assert not model.step(batch).nonfinite
    assert model.state()["skipped_in_a_row"] == 0


def test_too_many_non_finite_steps_in_a_row_stop_the_worker() -> None:
    model = taught(learner={"max_nonfinite": 3})
    batch = rows(64)
    bad = replace(batch, dense_BD=batch.dense_BD * float("inf") * 0)
    model.step(bad)
    model.step(bad)
    with pytest.raises(NumericError, match="3 steps in a row"):
        model.step(bad)


@pytest.mark.parametrize("loss", ["er", "der++"])
def test_methods_rehearse_equal_rows(loss: str) -> None:
    sections = {"rehearsal": {"loss": loss, "ratio": 0.5}, "memory": {"rows": 4000}}
    report = taught(**sections).step(rows(96, first=900))
    assert report.rows == 96
    assert 44 <= report.rehearsed <= 52  # lists are drawn whole


def test_first_step_has_nothing_to_rehearse_and_no_rows_are_no_step() -> None:
    model = learner()
    assert model.step(rows(0)).rows == 0
    assert model.version == 0
    assert model.step(rows(64)).rehearsed == 0
    assert model.memory_rows() == {"click": 64, "purchase": 64, "search": 32}


def test_rehearsal_keeps_what_fresh_rows_would_overwrite() -> None:
    """Old rows say one thing, new ones the opposite of others: with rehearsal old ones stay known."""

    def late_loss(loss: str) -> float:
        model = learner(
            rehearsal={"loss": loss},
            optimizer={"dense_lr": 0.01, "first_lr": 0.01},
            memory={"rows": 4000},
        )
        old = rows(128)
        old = replace(old, label_BT=(old.dense_BD[:, :1] > 0).float().expand(128, 3).contiguous())
        new = rows(128, first=5000)
        new = replace(new, label_BT=torch.zeros(128, 3))
        for _ in range(40):
            model.step(old)
        for _ in range(40):
            model.step(new)
        p_B = model.predict(old).prob_BT[:, 0]
        return torch.nn.functional.binary_cross_entropy(p_B, old.label_BT[:, 0]).item()

    forgotten = late_loss("none")
    assert late_loss("er") < 0.6 * forgotten
    assert late_loss("der++") < 0.6 * forgotten


def test_late_label_reaches_the_memory() -> None:
    model = taught(2)
    batch = masked(rows(64), 0, 2)
    assert model.correct(replace(batch, label_BT=1 - batch.label_BT)) == 64
    assert model.correct(masked(rows(64, first=9000), 0, 2)) == 0


def test_erased_user_is_in_no_memory() -> None:
    model = taught()
    assert model.erase(3) > 12
    for name, value in model.state().items():
        if name.endswith("user_key_B"):
            assert not (value == 3).any()


def test_text_is_optional() -> None:
    spec = replace(SPEC, text_dim=0)
    model = Learner(spec, config(), CPU)
    assert model.step(rows(32, spec=spec)).losses["click"] > 0


def test_listwise_term_of_a_binary_task_keeps_lists_whole() -> None:
    tasks = {"click": {"kind": "binary", "listwise": 1.0}}
    spec = replace(SPEC, tasks=("click",))
    model = Learner(spec, config(tasks=tasks), CPU)
    for i in range(4):
        report = model.step(rows(64, first=64 * i, spec=spec))
    assert report.rehearsed % 4 == 0
    assert report.losses["click"] > 0


@pytest.mark.parametrize(
    "section, key, valid",
    [
        ("model", "name", MODELS),
        ("balancer", "name", BALANCERS),
        ("memory", "policy", MEMORIES),
        ("rehearsal", "loss", REHEARSALS),
    ],
)
def test_wrong_name_is_refused_with_the_valid_ones(
    section: str, key: str, valid: dict[str, Any]
) -> None:
    with pytest.raises(ConfigError) as caught:
        learner(**{section: {key: "nonsense"}})
    assert f"{section}.{key} = 'nonsense'" in str(caught.value)
    assert f"use one of: {', '.join(sorted(valid))}" in str(caught.value)


def test_funnel_without_a_first_step_is_refused() -> None:
    with pytest.raises(ConfigError, match="after"):
        learner(tasks={n: {"kind": "funnel"} for n in SPEC.tasks})


def test_a_longer_batch_of_two_parts_is_one_step() -> None:
    model = learner()
    assert model.step(concat([rows(32), rows(32, first=32)])).rows == 64
    assert model.version == 1


def test_entropy_of_known_rates() -> None:
    rate_T = torch.tensor([0.5, 0.1])
    torch.testing.assert_close(binary_entropy(rate_T), torch.tensor([0.693147, 0.325083]))


def test_the_spread_follows_the_labels_of_every_kind() -> None:
    """Entropy of half positives; of shares 1/2, 1/4, 1/4; half the variance of targets -2 and 2."""
    kinds = [
        TASKS["binary"](Place(0, 0), Settings()),
        TASKS["multiclass"](Place(1, 1, 3), Settings(classes=3)),
        TASKS["regression"](Place(2, 4), Settings(center=10.0, scale=5.0)),
    ]
    rates = BaseRates(kinds, torch.device("cpu"))
    number_B = torch.arange(100)
    classes_B = torch.tensor([0, 1, 0, 2]).repeat(25)
    label_BT = torch.stack((number_B % 2, classes_B, 20 * (number_B % 2)), 1).float()
    known_BT = torch.ones(100, 3, dtype=torch.bool)
    for _ in range(300):
        rates.commit(rates.updated(label_BT, known_BT))
    spread_T = rates.spread(rates.updated(label_BT, known_BT))
    expected_T = torch.tensor([math.log(2), 1.5 * math.log(2), 2.0])
    torch.testing.assert_close(spread_T, expected_T, rtol=5e-3, atol=0)


def test_a_constant_label_does_not_blow_its_loss_up() -> None:
    """What a loss is divided by stays above a floor when a task's labels never vary."""
    kinds = [
        TASKS["multiclass"](Place(0, 0, 3), Settings(classes=3)),
        TASKS["regression"](Place(1, 3), Settings()),
    ]
    rates = BaseRates(kinds, torch.device("cpu"))
    label_BT, known_BT = torch.ones(512, 2), torch.ones(512, 2, dtype=torch.bool)
    for _ in range(2_000):
        rates.commit(rates.updated(label_BT, known_BT))
    assert (rates.spread(rates.updated(label_BT, known_BT)) >= 1e-3).all()


@pytest.mark.parametrize("balancer", [{"name": "pcgrad"}, {"affinity_every": 5}])
def test_a_projected_gradient_and_one_that_is_cut_are_refused_together(
    balancer: dict[str, Any],
) -> None:
    with pytest.raises(ConfigError, match="whole gradient"):
        learner(rehearsal={"loss": "agem"}, balancer=balancer)
