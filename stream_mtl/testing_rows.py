"""Random labelled rows for tests of everything behind `batch`: same seed, same rows."""

from __future__ import annotations

import numpy as np
import torch

from stream_mtl.batch import Batch, Spec
from stream_mtl.hashing import mix64

SPEC = Spec(("user", "item", "brand"), ("price", "rate"), ("click", "purchase", "search"), 512, 8)


def rows(count: int, seed: int = 0, spec: Spec = SPEC, first: int = 0, list_rows: int = 4) -> Batch:
    """Rows number `first` and on, in lists of `list_rows`; every list has one click, some are searches.

    Row and list keys are hashes of the running number, so rows of another `first` are other rows.
    The user key is the list's number divided by three.
    """
    random = torch.Generator().manual_seed(seed * 1_000_003 + first)
    number_B = np.arange(first, first + count)
    list_B = number_B // list_rows
    click_B = torch.from_numpy(number_B % list_rows == mix64(list_B, 7) % list_rows)
    purchase_B = click_B & torch.from_numpy(mix64(number_B, 8) % 3 == 0)
    mask_BT = torch.ones(count, len(spec.tasks), dtype=torch.bool)
    if "search" in spec.tasks:
        mask_BT[:, spec.tasks.index("search")] = torch.from_numpy(list_B % 2 == 0)
    columns = {"click": click_B, "purchase": purchase_B, "search": click_B}
    shape = (count, len(spec.sparse_fields))
    return Batch(
        sparse_BF=torch.randint(0, spec.table_rows, shape, generator=random),
        dense_BD=torch.randn(count, len(spec.dense_fields), generator=random),
        title_BE=torch.randn(count, spec.text_dim, generator=random).half(),
        query_BE=torch.randn(count, spec.text_dim, generator=random).half(),
        position_B=torch.from_numpy(number_B % list_rows + 1),
        prior_B=torch.randn(count, generator=random),
        offset_B=torch.zeros(count),
        label_BT=torch.stack([columns[name].float() for name in spec.tasks], 1),
        mask_BT=mask_BT,
        weight_B=torch.ones(count),
        row_key_B=torch.from_numpy(mix64(number_B, 1)),
        list_key_B=torch.from_numpy(mix64(list_B, 2)),
        user_key_B=torch.from_numpy(list_B // 3),
        time_B=torch.from_numpy(number_B * 1000),
        domain_B=torch.zeros(count, dtype=torch.int64),
    )
