"""Exact search and an index beside each other: what the nearest items of a list cost, and how many of them are found.

    python -m benchmarks.item_index [--sizes N ...] [--rows U] [--json]

Catalogues of 20,000 to a million items, a vector of 32 numbers (learned ones) and of 384 (titles, up to 200,000). An item is the
unit sum of its category's vector, of 300, and of six words', by Zipf's law out of 20,000, at half the length: titles of
random words are the hard case, since items about the same thing share little else. Readers seek the mean of five items.
Asked: the defaults' `probes`, for the 100 nearest of a list; from `retrieval.index_from` on the index must be cheaper and hold
nine of ten. CPU time of one thread, the better of three rounds.

Real titles: every title of the samples' four shops (`STREAM_MTL_SAMPLES`) as MiniLM reads them, the index forced on.
"""

from __future__ import annotations

import gzip
import json
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch

from benchmarks.report import Figure, note, parser, tell
from benchmarks.shop_stream import minilm
from stream_mtl.config import Retrieval
from stream_mtl.retrieval import CLOSE, NEAREST
from stream_mtl.searches import SEARCHES, Search, Setup, Sought
from stream_mtl.shop.columns import Array
from stream_mtl.text import load_encoder

SIZES, DIMS = (20_000, 200_000, 1_000_000), (32, 384)
LARGEST = {32: 1_000_000, 384: 200_000}  # that fit into memory beside each other
WORDS, CATEGORIES, TITLE = 20_000, 300, 6
ROUNDS = 3
DEFAULTS = Retrieval()
FOUND = 0.9


def unit(vector_ND: Array) -> Array:
    return np.asarray(vector_ND / np.linalg.norm(vector_ND, axis=1, keepdims=True), np.float32)


def catalogue(items: int, dim: int, seed: int = 0) -> Array:
    random = np.random.default_rng(seed)
    word_WD = random.standard_normal((WORDS, dim), np.float32)
    share_W = 1 / (np.arange(WORDS) + 10)
    of_NT = random.choice(WORDS, (items, TITLE), p=share_W / share_W.sum())
    vector_ND = random.standard_normal((CATEGORIES, dim), np.float32)[
        random.integers(CATEGORIES, size=items)
    ]
    for place in range(TITLE):
        vector_ND += word_WD[of_NT[:, place]] / 2
    return unit(vector_ND)


def sought(vector_ND: Array, rows: int, least: float) -> Sought:
    random = np.random.default_rng(1)
    query_UD = unit(vector_ND[random.integers(len(vector_ND), size=(rows, 5))].mean(1))
    return Sought(query_UD, vector_ND, random.uniform(size=len(vector_ND)) < 0.95, NEAREST, least)


def ms_a_row(search: Search, wanted: Sought) -> float:
    best = float("inf")
    for _ in range(ROUNDS):
        began = time.process_time()
        search.find(wanted)
        best = min(best, time.process_time() - began)
    return 1_000 * best / len(wanted.query_UD)


def beside(name: str, vector_ND: Array, rows: int, least: float) -> Iterator[Figure]:
    wanted = sought(vector_ND, rows, least)
    exact, index = (SEARCHES[kind](Setup(1, DEFAULTS.probes, 0, 1)) for kind in ("exact", "ivf"))
    began = time.process_time()
    index.find(wanted)
    made = time.process_time() - began
    right, some = (
        set(zip(found.row_K.tolist(), found.item_K.tolist(), strict=True))
        for found in (exact.find(wanted), index.find(wanted))
    )
    share = len(right & some) / max(1, len(right))
    exact_ms, index_ms = ms_a_row(exact, wanted), ms_a_row(index, wanted)
    large = len(vector_ND) >= DEFAULTS.index_from
    note(f"{name}: exact {exact_ms:.2f} ms a list, index {index_ms:.2f}, finds {share:.3f}")
    yield Figure(f"{name}: exact, ms a list", exact_ms, "", None)
    yield Figure(f"{name}: index, ms a list", index_ms, "", None)
    yield Figure(
        f"{name}: index to exact", index_ms / exact_ms, "< 1" if large else "",
        index_ms < exact_ms if large else None,
    )  # fmt: skip
    yield Figure(
        f"{name}: share of {len(right)} near items that the index finds", share, f">= {FOUND}" if large else "",
        share >= FOUND if large else None,
    )  # fmt: skip
    yield Figure(f"{name}: to make the index, s", made, "", None)


def titles() -> list[str]:
    """Every title of the four shops; empty without the samples."""
    folder = os.environ.get("STREAM_MTL_SAMPLES")
    if not folder:
        note("STREAM_MTL_SAMPLES is not set: real titles are left out")
        return []
    with gzip.open(Path(folder) / "events_v1.jsonl.gz", "rt") as lines:
        records = (json.loads(line) for line in lines)
        return list(dict.fromkeys(r["title"] for r in records if r.get("title")))


def main() -> int:
    options = parser(__doc__)
    options.add_argument("--sizes", type=int, nargs="+", default=SIZES)
    options.add_argument("--rows", type=int, default=20, help="lists of one cut")
    args = options.parse_args()
    torch.set_num_threads(1)
    figures: list[Figure] = []
    for dim in DIMS:
        least = 0.0 if dim == DIMS[0] else CLOSE
        for items in args.sizes:
            if items <= LARGEST[dim]:
                name = f"{items:,} items, {dim} numbers"
                figures += beside(name, catalogue(items, dim), args.rows, least)
    real = titles()
    if real:
        vector_ND = load_encoder(minilm().text).encode(real).float().numpy()
        figures += beside(
            f"{len(real):,} real titles, 384 numbers", unit(vector_ND), args.rows, CLOSE
        )
    return tell(figures, args.json)


if __name__ == "__main__":
    sys.exit(main())
