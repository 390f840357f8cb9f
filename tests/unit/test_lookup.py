"""Which embedding rows a batch reads, and whose losses move them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

from stream_mtl import config
from stream_mtl.batch import Spec
from stream_mtl.config import Config
from stream_mtl.errors import ConfigError
from stream_mtl.hashing import mix64
from stream_mtl.learner import Learner
from stream_mtl.lookup import lookup, own
from stream_mtl.testing_rows import SPEC, rows

TASKS: dict[str, Any] = {
    "click": {"kind": "binary"},
    "purchase": {"kind": "binary", "weight": 0.5},
    "search": {"kind": "listwise"},
}


WIDE = replace(SPEC, table_rows=2**20)


def learner(spec: Spec = SPEC, **model: Any) -> Learner:
    small = {"embedding_dim": 4, "text_dim": 4, "experts": 2, "hidden": 16, "tower": 8}
    settings = {
        "tasks": TASKS,
        "model": small | model,
        "rehearsal": {"loss": "none"},
        "optimizer": {"clip_norm": 1e9},
    }
    return Learner(spec, Config.model_validate(settings), torch.device("cpu"))


def test_own_rows_are_the_project_s_hash_of_the_id_and_the_task() -> None:
    ids = torch.cat([torch.arange(1, 200), torch.tensor([2**17 + 5, 2**40])])
    expected = mix64(ids.numpy(), 1_002) % (SPEC.table_rows - 1) + 1
    assert own(ids, 2, SPEC.table_rows).tolist() == expected.tolist()


def test_a_missing_id_is_missing_for_every_task() -> None:
    row_BL = lookup(SPEC, config.Model(private_fields=("item",)))(torch.tensor([[4, 0, 7]]))
    assert row_BL[0, :3].tolist() == [4, 0, 7]
    assert row_BL[0, 3:].tolist() == [0, 0, 0]


def test_tasks_rows_of_one_id_are_different_rows() -> None:
    wide = replace(SPEC, table_rows=2**18)
    ids_BF = torch.arange(1, 3001).view(-1, 3)
    row_BL = lookup(wide, config.Model(private_fields=("user", "item")))(ids_BF)
    assert row_BL.shape == (1000, 3 + 3 * 2)
    assert len(torch.unique(row_BL)) > 0.97 * (3000 + 6000)  # by chance a few share a row


def test_unknown_private_field_is_refused_with_the_valid_ones() -> None:
    with pytest.raises(ConfigError, match=r"private_fields names shop; use some of: user, item"):
        lookup(SPEC, config.Model(private_fields=("shop",)))


def test_private_fields_of_independent_networks_are_refused() -> None:
    with pytest.raises(ConfigError, match="share no embeddings anyway"):
        learner(name="single", private_fields=["item"])


@pytest.mark.parametrize("model", [{"private_fields": ["item"]}, {"name": "single"}])
def test_a_task_moves_no_other_task_s_rows(model: dict[str, Any]) -> None:
    """Purchase alone is known: the rows that click and search have to themselves stay as they are."""
    taught = learner(**model)
    for i in range(4):  # away from the start, where private experts say nothing yet
        taught.step(rows(64, first=64 * i))
    before_RH = taught.state()["table_RH"].clone()
    batch = rows(8, first=900)
    mask_BT = torch.zeros_like(batch.mask_BT)
    mask_BT[:, 1] = True
    taught.step(replace(batch, mask_BT=mask_BT))
    moved_R = (taught.state()["table_RH"] != before_RH).any(1)
    own_R = [set(own(batch.sparse_BF, t, SPEC.table_rows).flatten().tolist()) for t in range(3)]
    item_R = set(own(batch.sparse_BF[:, 1], 1, SPEC.table_rows).tolist())
    common_R = set(batch.sparse_BF.flatten().tolist()) if "name" not in model else set()
    assert all(moved_R[row] for row in item_R)
    for other in (0, 2):
        assert not any(moved_R[row] for row in own_R[other] - own_R[1] - common_R)


def test_independent_networks_do_not_know_of_each_other() -> None:
    """Purchase predicts the same whether click and search are learned beside it or not; in a shared model it does not.

    The optimisers do not care for the scale of a gradient, so neither for the other tasks' weights. The table is wide, so
    that no rows of different tasks are the same by chance.
    """

    def apart(name: str) -> float:
        both, alone = learner(WIDE, name=name), learner(WIDE, name=name)
        for i in range(5):
            batch = rows(64, first=64 * i, spec=WIDE)
            mask_BT = batch.mask_BT & torch.tensor([False, True, False])
            both.step(batch)
            alone.step(replace(batch, mask_BT=mask_BT))
        asked = rows(64, spec=WIDE)
        return float(
            (both.predict(asked).logit_BC - alone.predict(asked).logit_BC)[:, 1].abs().max()
        )

    assert apart("single") < 0.1 * apart("shared_bottom")
