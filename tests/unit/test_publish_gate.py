"""The publish gate: harm is seen, the last good model serves, and the way back is open."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from stream_mtl import build
from stream_mtl.batch import Batch
from stream_mtl.config import Config
from stream_mtl.errors import ConfigError
from stream_mtl.files import cuts_of_records
from stream_mtl.learner import Learner
from stream_mtl.publish_gate import PublishGate
from stream_mtl.simulator import as_line, simulate
from stream_mtl.state import State
from stream_mtl.testing_rows import SPEC, rows
from tests.folds import as_records, small
from tests.unit.test_task_set import command, stream

CPU = torch.device("cpu")
SMALL = {"embedding_dim": 4, "text_dim": 4, "experts": 2, "hidden": 16, "tower": 8}
WINDOW = 1_024
NOTHING_LOST = dict.fromkeys(SPEC.tasks)


def learnable(first: int, count: int = 256) -> Batch:
    batch = rows(count, first=first)
    label_B = (batch.dense_BD[:, 0] > 0.5).float()
    label_BT = torch.stack((label_B, label_B * (batch.dense_BD[:, 1] > 0), label_B), 1)
    return replace(batch, label_BT=label_BT)


class Shop:
    """A learner and its gate, and rows that never end."""

    def __init__(self, **gate: Any) -> None:
        given = {"publish": True, "window": WINDOW, "users": 50, "calibration": (0.5, 2.0)} | gate
        fast = {"first_lr": 0.01, "dense_lr": 0.01}
        self.config = Config.model_validate({"model": SMALL, "gate": given, "optimizer": fast})
        self.learner = Learner(SPEC, self.config, CPU)
        self.row = 0
        self.learn(40)
        self.gate = PublishGate(self.config.gate, SPEC.tasks, self.learner.serving, seed=0)

    def learn(self, steps: int) -> None:
        for _ in range(steps):
            self.learner.step(learnable(self.row))
            self.row += 256

    def window(self) -> list[dict[str, object]]:
        """Shown, judged; no learning."""
        verdicts = []
        for _ in range(WINDOW // 256):
            batch = learnable(self.row)
            self.row += 256
            champion_BC = self.gate.also(batch)
            assert champion_BC is not None
            self.gate.observe(champion_BC, self.learner.predict(batch).output_BC, batch)
            verdicts += self.gate.decide(lambda: NOTHING_LOST)
        return verdicts

    def spoil(self, by: float = 1.5) -> None:
        generator = torch.Generator().manual_seed(5)
        for parameter in self.learner.serving.model.head_parameters(0):
            with torch.no_grad():
                parameter += by * torch.randn(parameter.shape, generator=generator)


def test_harm_is_answered_by_the_last_good_model_until_the_live_one_is_better_again() -> None:
    shop = Shop()
    ahead = learnable(900_000)
    good = shop.gate.predict(ahead).prob_BT
    assert torch.equal(good, shop.learner.predict(ahead).prob_BT)

    shop.spoil()
    assert not torch.equal(shop.gate.predict(ahead).prob_BT, good), "the newest model serves"
    (verdict,) = shop.window()
    assert (verdict["verdict"], verdict["held"]) == ("roll back", True)
    assert "click: worse beyond doubt" in str(verdict["reasons"])
    assert torch.equal(shop.gate.predict(ahead).prob_BT, good)

    (still,) = shop.window()
    assert (still["verdict"], still["held"]) == ("hold back", True)
    assert torch.equal(shop.gate.predict(ahead).prob_BT, good)

    shop.learn(60)  # it was never kept from learning
    for _ in range(20):
        (again,) = shop.window()
        if not again["held"]:
            break
        shop.learn(20)
    assert again["verdict"] == "promote"
    assert torch.equal(shop.gate.predict(ahead).prob_BT, shop.learner.predict(ahead).prob_BT)


def test_a_model_that_goes_on_as_it_was_is_not_held_back() -> None:
    """Twenty windows of the same model against its own copy: no false alarm, and no proof either."""
    shop = Shop(max_windows=100)
    verdicts = [verdict for _ in range(20) for verdict in shop.window()]
    assert [v["verdict"] for v in verdicts] == ["hold back"] * 20
    assert not any(v["held"] for v in verdicts)


def test_the_last_good_model_is_renewed_when_nothing_speaks_against_the_live_one() -> None:
    shop = Shop(max_windows=2)
    shop.spoil(0.02)  # too little to be told apart
    ahead = learnable(900_000)
    live, copy = shop.learner.predict(ahead).prob_BT, shop.gate._champion.predict(ahead).prob_BT
    assert not torch.equal(live, copy)
    shop.window()
    shop.window()
    assert torch.equal(shop.gate._champion.predict(ahead).prob_BT, live)


def test_an_erased_user_is_in_no_window() -> None:
    shop = Shop()
    batch = learnable(shop.row)
    shop.gate.observe(*(shop.learner.predict(batch).output_BC,) * 2, batch)
    user = int(batch.user_key_B[0])

    def held() -> bool:
        state = shop.gate.state()
        users = [state[f"rows/{name}"][:, 0].contiguous().view(torch.int64) for name in SPEC.tasks]
        return any(bool((one == user).any()) for one in users)

    assert held()
    shop.gate.erase(user)
    assert not held()


def test_a_target_that_cannot_be_judged_is_refused() -> None:
    with pytest.raises(ConfigError, match="use one of: click, purchase, search"):
        Shop(target="basket")


# ---- in the fold


def frozen(state: State) -> State:
    return {k: v.clone() if isinstance(v, Tensor) else v for k, v in state.items()}


def gated(**gate: Any) -> Config:
    return small(
        learner={"batch_rows": 64, "first_rows": 64},
        join={"click_window_ms": 60_000, "purchase_window_ms": 1_200_000, "late_ms": 60_000},
        gate=gate,
    )


def test_a_fold_with_a_gate_goes_on_bit_for_bit_and_publishes_what_it_would_without_one() -> None:
    config = gated(publish=True, window=400, users=5)
    lines = [as_line(one) for one in simulate("steady", 1_500, 3)]
    cuts = list(cuts_of_records(as_records(lines), config))
    whole, plain = build(config, "test"), build(gated(), "test")
    results = [whole.step(cut) for cut in cuts]
    without = [plain.step(cut) for cut in cuts]
    verdicts = [d for r in results for d in r.decisions if d["kind"] == "publish_gate"]
    assert len(verdicts) > 3
    first_held = next(
        (n for n, r in enumerate(results) if any(d.get("held") for d in r.decisions)), len(cuts)
    )
    assert [r.outputs_digest for r in results[:first_held]] == [
        r.outputs_digest for r in without[:first_held]
    ]
    first, second = build(config, "test"), build(config, "test")
    stop = len(cuts) // 2
    for cut in cuts[:stop]:
        first.step(cut)
    second.restore(frozen(first.state()))
    assert [second.step(cut).digest for cut in cuts[stop:]] == [r.digest for r in results[stop:]]


def test_promote_overrules_the_gate_and_says_so_where_there_is_nothing_to_overrule() -> None:
    config = gated(publish=True, window=10**9)
    cuts = stream(config, command("promote"))
    model = build(config, "test")
    model.parts.publish_gate.held = True
    decisions = [d for cut in cuts for d in model.step(cut).decisions]
    assert [d["done"] for d in decisions] == [True]
    assert not model.parts.publish_gate.held
    again = build(config, "test")
    (refused,) = [d for cut in cuts for d in again.step(cut).decisions]
    assert refused["done"] is False
    assert "nothing to promote" in str(refused["reason"])


def test_a_task_that_comes_later_is_judged_too() -> None:
    config = gated(publish=True, window=10**9)
    cart = command("add_task", task="cart", kind="funnel", after="click", weight=0.5)
    model = build(config, "test")
    for cut in stream(config, cart):
        model.step(cut)
    assert len(model.parts.publish_gate.state()["rows/cart"]) > 0
    model.parts.publish_gate.promote()
    model.state()
