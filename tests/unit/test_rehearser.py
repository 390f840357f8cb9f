"""Rehearsal in the learner: every policy, sampler and loss together, and what each of them is for."""

from __future__ import annotations

from dataclasses import replace
from itertools import product
from typing import Any

import pytest
import torch
from torch import Tensor

from stream_mtl.batch import Batch, Spec
from stream_mtl.config import Config
from stream_mtl.errors import ConfigError
from stream_mtl.interference import Interference
from stream_mtl.learner import Learner
from stream_mtl.memory import MEMORIES
from stream_mtl.rehearsal import REHEARSALS
from stream_mtl.samplers import SAMPLERS
from stream_mtl.state import State, digest
from stream_mtl.testing_rows import rows as random_rows

CPU = torch.device("cpu")
TASKS: dict[str, dict[str, Any]] = {
    "click": {"kind": "binary"},
    "cart": {"kind": "funnel", "after": "click"},
    "search": {"kind": "listwise"},
    "intent": {"kind": "multiclass", "classes": 4},
    "dwell": {"kind": "regression", "center": 5.0, "scale": 2.0},
}
SPEC = Spec(("user", "item"), ("price", "rate"), tuple(TASKS), 128, 0)
INTENT = 3
COMBINATIONS = [
    pytest.param(policy, sampler, loss, id=f"{policy}-{sampler}-{loss}")
    for policy, sampler, loss in product(MEMORIES, SAMPLERS, REHEARSALS)
]


def learner(
    policy: str = "key_reservoir", sampler: str = "uniform", loss: str = "er", **more: Any
) -> Learner:
    settings: dict[str, Any] = {
        "tasks": TASKS,
        "scoring": {"value": {"click": 1.0}},
        "model": {"name": "shared_bottom", "embedding_dim": 2, "hidden": 16, "tower": 8},
        "memory": {"policy": policy, "rows": 200, "sampler": sampler},
        "rehearsal": {"loss": loss, "lwf_every": 2, "beta": 1.0},
        "balancer": {"name": "mean"},
        "optimizer": {"dense_lr": 5e-3, "first_lr": 5e-3},
    }
    for section, values in more.items():
        settings[section] = {**settings.get(section, {}), **values}
    return Learner(SPEC, Config.model_validate(settings), CPU)


def rows(count: int, first: int = 0) -> Batch:
    spec = replace(SPEC, tasks=("click", "purchase", "search"))
    batch = random_rows(count, first=first, spec=spec)
    click_B, cart_B, search_B = batch.label_BT.unbind(1)
    price_B, rate_B = batch.dense_BD.unbind(1)
    intent_B = 2.0 * (price_B > 0) + 1.0 * (rate_B > 0)
    labels = (click_B, cart_B, search_B, intent_B, 5 + 2 * price_B)
    return replace(
        batch,
        label_BT=torch.stack(labels, 1),
        mask_BT=torch.ones(count, len(labels), dtype=torch.bool),
        time_B=batch.time_B // 4000,
    )


def taught(model: Learner, steps: int, first: int = 0) -> Learner:
    for i in range(steps):
        model.step(rows(32, first=first + 32 * i))
    return model


def copied(state: State) -> State:
    return {k: v.clone() if isinstance(v, Tensor) else v for k, v in state.items()}


@pytest.mark.parametrize("policy, sampler, loss", COMBINATIONS)
def test_a_restored_learner_goes_on_bit_for_bit(policy: str, sampler: str, loss: str) -> None:
    model = taught(learner(policy, sampler, loss), 5)
    other = learner(policy, sampler, loss)
    other.restore(copied(model.state()))
    for i in range(2):
        batch = rows(32, first=7000 + 32 * i)
        assert model.step(batch) == other.step(batch)
    assert digest(model.state()) == digest(other.state())


@pytest.mark.parametrize("sampler, loss", [*product(SAMPLERS, ("er", "agem")), ("uniform", "lwf")])
def test_a_step_that_is_not_finite_is_refused_and_changes_nothing(sampler: str, loss: str) -> None:
    model = taught(learner(sampler=sampler, loss=loss), 4)
    before = copied(model.state())
    batch = rows(32, first=5000)
    broken = replace(batch, dense_BD=batch.dense_BD.clone().fill_(float("nan")))
    assert model.step(broken).nonfinite
    after = model.state()
    del before["skipped"], before["skipped_in_a_row"]
    assert digest(before) == digest({name: after[name] for name in before})


# --- samplers ---------------------------------------------------------------------------------------


def test_trying_a_step_leaves_the_learner_as_it_was() -> None:
    """With remembered rows that weigh nothing, MIR's virtual steps lead to the same model as no such steps."""

    def model_of(sampler: str) -> str:
        state = taught(learner(sampler=sampler, rehearsal={"beta": 0.0}), 6).state()
        return digest(
            {k: v for k, v in state.items() if k.startswith(("model/", "dense/", "table"))}
        )

    assert model_of("mir") == model_of("uniform")


def test_growth_is_what_a_real_step_does_to_each_rows_loss() -> None:
    """Against the learner's own next step on the same rows, by SGD."""
    settings = {"dense": "sgd", "weight_decay": 0.0, "clip_norm": 1e9, "table_lr": 1e-12}
    model = taught(learner(loss="none", optimizer=settings, learner={"average": 0.0}), 20)
    fresh = rows(32, first=4000)
    sample = model._memories[INTENT].take(torch.arange(100).numpy())
    spread_T = model._spread(model._rates.updated(fresh.label_BT, fresh.mask_BT))
    virtual = Interference(model._context, sgd=True).of(fresh, spread_T, 5e-3)
    growth_R = virtual.growth(INTENT, sample)

    def loss_R() -> Tensor:
        prob_RC = model.predict(sample.batch).output_BC[:, 3:7]
        return -prob_RC.gather(1, sample.batch.label_BT[:, [INTENT]].long()).squeeze(1).log()

    before_R = loss_R()
    model.step(fresh)
    real_R = loss_R() - before_R
    assert float(torch.corrcoef(torch.stack((growth_R, real_R)))[0, 1]) > 0.99


def test_under_adamw_the_virtual_step_is_as_long_as_a_real_one() -> None:
    """About the rate times the root of the number of parameters; a raw gradient would be lost in rounding."""
    model = taught(learner(loss="none"), 3)
    own = [p.detach() for _, p in model._model.named_parameters()]
    virtual = Interference(model._context, sgd=False).of(rows(32, first=4000), torch.ones(5), 5e-3)
    moved = zip(virtual.moved(), own, strict=True)
    square = sum(float((after - before).square().sum()) for after, before in moved)
    size = sum(p.numel() for p in own)
    assert square**0.5 == pytest.approx(5e-3 * size**0.5, rel=1e-3)


def test_ids_that_were_not_seen_for_long_are_stale() -> None:
    model = taught(learner(sampler="staleness"), 3)
    ids = torch.tensor([[5, 7], [5, 0], [0, 0]])
    model.rehearser.learned(torch.tensor([5]), 100)
    model.rehearser.learned(torch.tensor([7]), 90)
    steps_R = model.rehearser._staleness(109, ids)
    assert steps_R.tolist() == [15.0, 10.0, 1.0]


# --- prior shift ------------------------------------------------------------------------------------


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def known(count: int, first: int) -> Batch:
    """Rows of a known law: log-odds of a click 1.5 price - 3; intent 3, 2 or 1 with 2, 5 and 13 %, else 0."""
    batch = rows(count, first)
    price_B, uniform_B = batch.dense_BD[:, 0], torch.rand(count, generator=generator(first + 1))
    label_BT = batch.label_BT.clone()
    label_BT[:, 0] = (uniform_B < (1.5 * price_B - 3).sigmoid()).float()
    shares = torch.tensor([0.80, 0.93, 0.98])
    label_BT[:, INTENT] = torch.bucketize(uniform_B, shares).float()
    mask_BT = torch.zeros_like(batch.mask_BT)
    mask_BT[:, 0] = mask_BT[:, INTENT] = True
    return replace(batch, label_BT=label_BT, mask_BT=mask_BT, sparse_BF=batch.sparse_BF * 0)


def ratios(policy: str, sampler: str, corrected: bool) -> tuple[float, float]:
    """Predicted over true rate of the click, and of the rarest intent, when rehearsal is nearly all there is."""
    model = learner(
        policy,
        sampler,
        rehearsal={"ratio": 8.0, "beta": 8.0},
        memory={"rows": 2000},
        learner={"average": 0.99},
        optimizer={"dense_lr": 3e-3, "first_lr": 3e-3},
    )
    if not corrected:
        lessons = model.rehearser._lessons
        model.rehearser._lessons = lambda task, draw, sample, version: lessons(  # type: ignore[method-assign]
            task, draw, replace(sample, log_chance_K=None), version
        )
    for i in range(250):
        model.step(known(48, 48 * i))
    unseen = known(4000, 500_000)
    prediction = model.predict(unseen)
    rate = (1.5 * unseen.dense_BD[:, 0] - 3).sigmoid().mean()
    return (
        float(prediction.prob_BT[:, 0].mean() / rate),
        float(prediction.output_BC[:, 6].mean() / 0.02),
    )


CORRECTED = [
    ("key_reservoir", "balanced"),
    ("class_balanced", "uniform"),
    ("class_balanced", "balanced"),
]


@pytest.mark.parametrize("policy, sampler", CORRECTED)
def test_balanced_rehearsal_with_the_shift_keeps_probabilities_calibrated(
    policy: str, sampler: str
) -> None:
    click, intent = ratios(policy, sampler, corrected=True)
    assert 0.85 < click < 1.18
    assert 0.7 < intent < 1.4


def test_without_the_shift_balanced_rehearsal_miscalibrates() -> None:
    """The naive variant beside it: a rare click is predicted several times too often."""
    click, intent = ratios("key_reservoir", "balanced", corrected=False)
    assert click > 2
    assert intent > 4


def test_the_shift_is_the_exact_log_of_the_sampling_odds() -> None:
    """Bayes: log-odds under sampling are those of the stream plus ln of how much likelier a click was drawn."""
    model = taught(learner("key_reservoir", "balanced"), 10)
    fresh = rows(32, 999)
    drawn = model.rehearser.draw(fresh, 10, torch.ones(5), 0.1)
    (click,) = (one for one in drawn if one.task == 0)
    share = float(model._memories[0].column("label_B").mean())
    expected = torch.tensor([0.5 / share]).log() - torch.tensor([0.5 / (1 - share)]).log()
    assert click.shift_W is not None
    torch.testing.assert_close(click.shift_W, expected)


@pytest.mark.parametrize("task", [1, 2, 4])
def test_what_has_no_one_distribution_a_row_is_weighted_by_the_inverse_chance(task: int) -> None:
    """Funnel, lists and values: the weighted mean of a draw is that of the memory, class by class."""
    model = taught(
        learner("key_reservoir", "balanced", memory={"rows": 4000}, rehearsal={"ratio": 200.0}), 10
    )
    drawn = model.rehearser.draw(rows(32, 999), 10, torch.ones(5), 0.1)
    (one,) = (one for one in drawn if one.task == task)
    memory = model._memories[task]
    weight_R, label_R = one.sample.batch.weight_B, one.sample.batch.label_BT[:, task]
    assert one.shift_W is None
    weighted = float((weight_R * label_R).sum() / weight_R.sum())
    held = float(memory.column("label_B").mean())
    assert weighted == pytest.approx(held, rel=0.12)
    assert float(weight_R.mean()) == pytest.approx(1.0, rel=0.1)


# --- losses -----------------------------------------------------------------------------------------


def only(batch: Batch, *classes: int) -> Batch:
    wanted_B = torch.isin(batch.label_BT[:, INTENT], torch.tensor(classes).float())
    return batch.select(wanted_B)


def head_bias(model: Learner) -> Tensor:
    value: Tensor = model.state()[f"model/heads.{INTENT}.out.bias"]
    return value.clone()


def test_er_ace_does_not_push_down_classes_that_are_absent_now() -> None:
    """Their biases stay, while plain ER pushes them; a class that was never seen is pushed by both."""
    moved = {}
    for loss in ("er_ace", "er"):
        settings = {"dense": "sgd", "weight_decay": 0.0, "dense_lr": 0.1, "first_lr": 0.1}
        model = learner(loss=loss, optimizer=settings, rehearsal={"ratio": 0.0})
        model.step(only(rows(64), 0, 1))
        before = head_bias(model)
        model.step(only(rows(64, 640), 2))
        moved[loss] = head_bias(model) - before
    assert (moved["er_ace"][:2] == 0).all()
    assert (moved["er"][:2] < 0).all()
    assert moved["er_ace"][3] < 0
    assert moved["er_ace"][2] > 0


def test_er_ace_is_er_for_tasks_without_classes() -> None:
    models = [learner(loss=loss) for loss in ("er", "er_ace")]
    for i in range(4):
        batch = rows(32, 32 * i)
        mask_BT = batch.mask_BT.clone()
        mask_BT[:, INTENT] = False
        reports = [model.step(replace(batch, mask_BT=mask_BT)) for model in models]
        assert reports[0] == reports[1]


def test_er_ace_refuses_smoothed_labels() -> None:
    smoothed = {**TASKS, "intent": {**TASKS["intent"], "smoothing": 0.1}}
    with pytest.raises(ConfigError, match="smoothing = 0 for intent"):
        learner(loss="er_ace", tasks=smoothed)


def test_lwf_keeps_a_task_whose_labels_have_stopped_closer_to_what_it_was() -> None:
    """Its predictions on new rows move less than without distillation, though nothing teaches it any more."""
    moved = {}
    for loss in ("lwf", "none"):
        model = learner(
            loss=loss, rehearsal={"lwf_every": 0, "alpha": 4.0}, learner={"average": 0.0}
        )
        taught(model, 30)
        model.consolidate()
        unseen = rows(500, 90_000)
        before_BT = model.predict(unseen).output_BC[:, 3:7]
        for i in range(40):
            batch = rows(32, 20_000 + 32 * i)
            mask_BT = batch.mask_BT.clone()
            mask_BT[:, INTENT] = False
            model.step(replace(batch, mask_BT=mask_BT))
        moved[loss] = float((model.predict(unseen).output_BC[:, 3:7] - before_BT).abs().mean())
    assert moved["lwf"] < 0.5 * moved["none"]


def test_lwf_teaches_nothing_before_there_is_an_earlier_model() -> None:
    first, second = learner(loss="lwf", rehearsal={"lwf_every": 0}), learner(loss="none")
    for i in range(3):
        batch = rows(32, 32 * i)
        assert first.step(batch) == second.step(batch)


def test_agem_slows_forgetting_when_fresh_rows_go_against_what_is_remembered() -> None:
    """Every intent turned round: the old rows' loss grows less than half as fast as without."""
    grown = {}
    for loss in ("agem", "none"):
        model = learner(
            loss=loss,
            optimizer={"dense": "sgd", "dense_lr": 0.05, "first_lr": 0.1, "lr_half_life": 50},
            learner={"average": 0.0},
            rehearsal={"ratio": 8.0},
        )
        for i in range(300):
            model.step(of_intent(rows(32, 32 * i)))
        old = rows(1000, 0)
        class_B1 = old.label_BT[:, [INTENT]].long()
        before = model.predict(old).output_BC[:, 3:7].gather(1, class_B1).log().mean()
        for i in range(16):
            batch = of_intent(rows(32, 40_000 + 32 * i))
            model.step(replace(batch, label_BT=3 - batch.label_BT))
        after = model.predict(old).output_BC[:, 3:7].gather(1, class_B1).log().mean()
        grown[loss] = float(before - after)
    assert grown["none"] > 0.5
    assert grown["agem"] < 0.5 * grown["none"]


def of_intent(batch: Batch) -> Batch:
    """Only the intent is known."""
    mask_BT = torch.zeros_like(batch.mask_BT)
    mask_BT[:, INTENT] = True
    return replace(batch, mask_BT=mask_BT)


# --- the staleness rule, and learning by heart -------------------------------------------------------


def test_logits_older_than_the_limit_teach_nothing_and_labels_still_do() -> None:
    model = taught(learner(loss="der++"), 10)
    model.rehearser.max_version_age = 4
    drawn = model.rehearser.draw(rows(64, 999), 10, torch.ones(5), 0.1)
    for one in drawn:
        if one.draw.logit_weight > 0:
            assert (one.sample.version_R >= 6).all()
        else:
            assert one.sample.version_R.min() < 6
    assert {one.draw.logit_weight > 0 for one in drawn} == {True, False}


def test_without_young_logits_only_labels_are_rehearsed() -> None:
    model = taught(learner(loss="der++", rehearsal={"max_version_age": 3}), 6)
    drawn = model.rehearser.draw(rows(64, 999), 500, torch.ones(5), 0.1)
    assert drawn
    assert all(one.draw.logit_weight == 0 for one in drawn)


def test_a_limit_that_no_logit_reaches_changes_nothing() -> None:
    models = [
        taught(learner(loss="der++", rehearsal={"max_version_age": age}), 6) for age in (0, 100)
    ]
    batch = rows(32, 999)
    assert models[0].step(batch) == models[1].step(batch)


def test_logits_count_more_the_longer_the_model_that_stored_them_had_learned() -> None:
    """Half after `young_steps`; those of the very first steps next to nothing, in a draw with a limit of age too."""
    for more in ({}, {"max_version_age": 8}):
        model = taught(learner(loss="der++", rehearsal={"young_steps": 5, **more}), 10)
        drawn = model.rehearser.draw(rows(64, 999), 10, torch.ones(5), 0.1)
        lessons = [one for one in drawn if one.draw.logit_weight > 0]
        assert lessons
        for one in lessons:
            assert one.grown_R is not None
            expected_R = [v / (v + 5) for v in one.sample.version_R.tolist()]
            assert one.grown_R.tolist() == pytest.approx(expected_R)


def test_logits_of_a_model_that_knows_nothing_yet_are_as_good_as_none() -> None:
    """Their labels are rehearsed as ever. In full, as published, they would hold the next model to them."""
    steps = {}
    for name, given in {
        "young": {"young_steps": 1_000_000_000},
        "none": {"alpha": 0.0, "young_steps": 0},
        "published": {"young_steps": 0},
    }.items():
        model = taught(learner(loss="der++", rehearsal=given), 6)
        steps[name] = model.step(rows(32, 999)).losses
    assert steps["young"] == pytest.approx(steps["none"], rel=1e-3)
    assert steps["published"] != pytest.approx(steps["none"], rel=1e-3)


def test_a_memory_that_is_learned_by_heart_shows_and_one_that_is_not_does_not() -> None:
    """Labels that nothing predicts, few rows rehearsed over and over; against a fresh model."""

    def noise(count: int, first: int) -> Batch:
        batch = of_intent(rows(count, first))
        label_BT = torch.randint(0, 4, batch.label_BT.shape, generator=generator(first)).float()
        return replace(batch, label_BT=label_BT)

    model = learner(
        memory={"rows": 24},
        model={"hidden": 64, "tower": 32},
        rehearsal={"ratio": 4.0, "beta": 4.0},
        optimizer={"dense_lr": 0.02, "first_lr": 0.02},
    )
    unseen = noise(1000, 100_000)
    model.step(noise(32, 0))
    before = digest(model.state())
    young = model.overfitting(unseen)
    assert digest(model.state()) == before
    for i in range(1, 40):
        model.step(noise(32, 32 * i))
    assert abs(young["intent"]) < 0.15
    assert model.overfitting(unseen)["intent"] > 0.4
    assert set(young) == {"intent"}  # nothing is remembered of the others


def test_capacity_in_bytes_is_held_and_too_little_is_refused() -> None:
    model = taught(learner(memory={"bytes": 30_000}), 20)
    for name, memory in zip(TASKS, model._memories, strict=True):
        state = memory.state()
        assert sum(v.nbytes for v in state.values() if isinstance(v, Tensor)) <= 30_000
        assert len(memory) > (20 if name == "search" else 100)
    with pytest.raises(ConfigError, match=r"memory\.bytes = 50 holds 0 rows.*raise it"):
        learner(memory={"bytes": 50})


def test_values_are_balanced_by_ranges_around_their_center() -> None:
    """Quartiles of a normal law with the configured center and deviation."""
    model = taught(learner("class_balanced"), 20)
    edges = model._held[4].edges
    assert edges == pytest.approx((5 - 2 * 0.6745, 5.0, 5 + 2 * 0.6745))
    label_R = model._memories[4].column("label_B")
    held = torch.bucketize(label_R, torch.tensor(edges)).bincount(minlength=4)
    assert held.tolist() == [50, 50, 50, 50]


@pytest.mark.parametrize(
    "section, key, valid",
    [
        ("memory", "policy", "class_balanced, key_reservoir, recency_ring, two_store"),
        ("memory", "sampler", "balanced, mir, staleness, uniform"),
        ("rehearsal", "loss", r"agem, der, der\+\+, er, er_ace, lwf, none"),
    ],
)
def test_a_wrong_name_lists_the_valid_ones(section: str, key: str, valid: str) -> None:
    with pytest.raises(ConfigError, match=rf"{section}\.{key} = 'nope'.*{valid}"):
        learner(**{section: {key: "nope"}})
