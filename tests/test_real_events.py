"""The first records of the real sample: all decode, pieces change nothing, lists beat their candidates' order.

Reads events_v1.jsonl.gz in the folder that STREAM_MTL_SAMPLES names; skips loudly without.
"""

from __future__ import annotations

import gzip
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks import hit_rate, real_counts
from benchmarks.real_events import rules
from stream_mtl import Config, build
from stream_mtl.cut import CutResult
from stream_mtl.files import cuts_of_files
from stream_mtl.pipeline import Pipeline
from stream_mtl.retrieval import Candidates

RECORDS = 6_000
CONFIG = Config.model_validate({"features": {"table_rows": 2**14}})


@pytest.fixture(scope="module")
def lines() -> list[bytes]:
    """Records from the middle of the sample, where a shop without impressions is."""
    folder = os.environ.get("STREAM_MTL_SAMPLES", "")
    file = Path(folder) / "events_v1.jsonl.gz"
    if not folder or not file.is_file():
        pytest.skip(
            "NO REAL EVENTS, nothing about them was tested: set STREAM_MTL_SAMPLES to a folder with events_v1.jsonl.gz"
        )
    whole = gzip.decompress(file.read_bytes()).splitlines(keepends=True)
    first = next(n for n, line in enumerate(whole) if json.loads(line).get("domain") == "rees46")
    return whole[first : first + RECORDS]


def folded(files: Sequence[Path], watch: Any = None) -> tuple[Pipeline, list[CutResult]]:
    model = build(CONFIG, "backtest")
    if watch is not None:
        watch(model)
    return model, [model.step(cut) for cut in cuts_of_files(files, CONFIG)]


def write(folder: Path, lines: Sequence[bytes], pieces: int) -> list[Path]:
    files = [folder / f"{piece}.jsonl" for piece in range(pieces)]
    for piece, file in enumerate(files):
        start, stop = (n * len(lines) // pieces for n in (piece, piece + 1))
        file.write_bytes(b"".join(lines[start:stop]))
    return files


class CandidatesOrder:
    """Also keeps what would have been published without a model."""

    def __init__(self) -> None:
        self.lists = hit_rate.Lists()

    def watch(self, model: Pipeline) -> None:
        parts = model.parts
        retrieval = parts.scoring._retrieval
        for_users = retrieval.for_users

        def seen(user_U: np.ndarray[Any, np.dtype[np.int64]]) -> Candidates:
            chosen = for_users(user_U)
            for user, item_C in zip(user_U.tolist(), chosen.item_UC, strict=True):
                ids = parts.shop.item_ids(item_C[item_C >= 0])
                name = parts.shop.users.slots.names[user]
                entries = [{"item_id": item} for item in ids]
                self.lists.add(
                    {
                        "key": f"user:{name}",
                        "event_time": parts.shop.now_ms,
                        "lists": {"home": entries},
                    }
                )
            return chosen

        retrieval.for_users = seen  # type: ignore[method-assign, assignment]


@pytest.fixture(scope="module")
def whole(
    lines: list[bytes], tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, Pipeline, list[CutResult], CandidatesOrder]:
    order = CandidatesOrder()
    files = write(tmp_path_factory.mktemp("whole"), lines, 1)
    return files[0], *folded(files, order.watch), order


Whole = tuple[Path, Pipeline, list[CutResult], CandidatesOrder]


def test_every_record_is_read_and_exposures_and_clicks_are_those_of_an_independent_count(
    whole: Whole, lines: list[bytes]
) -> None:
    path, model, results, _ = whole
    found = real_counts.count(path, rules(CONFIG))
    assert sum(len(result.rejects) for result in results) == found.rejected == 0
    assert model.summary()["events_consumed"] == found.records == RECORDS
    counts = model.parts.join.counts
    exposures = sum(counts[path] for path in ("impression", "search", "click"))
    assert exposures - counts["withdrawn"] == found.exposures
    newest = max(json.loads(line)["event_time"] for line in lines)
    waiting = sum(  # clicks within the allowed disorder: their window is still open at the end
        json.loads(line)["type"] == "click"
        and json.loads(line)["event_time"] >= newest - CONFIG.join.out_of_order_ms
        for line in lines
    )
    positives = model.summary()["tasks"]["click"]["positives"]
    assert found.clicks - waiting <= positives <= found.clicks
    assert positives > 500 > waiting


def test_the_digest_does_not_depend_on_the_pieces(
    whole: Whole, lines: list[bytes], tmp_path: Path
) -> None:
    _, model, results, _ = whole
    again, of_pieces = folded(write(tmp_path, lines, 10))
    assert of_pieces[-1].digest == results[-1].digest
    assert again.state_digest() == model.state_digest()


def test_published_lists_are_at_least_as_good_as_their_candidates_order(whole: Whole) -> None:
    """Also of a young model; and better than visited-together filled with what is popular."""
    path, _, results, order = whole
    published = hit_rate.Lists()
    for result in results:
        for output in result.outputs:
            value = json.loads(output.value or b"{}")
            if output.key.startswith("popular:"):
                order.lists.add({"key": output.key, "event_time": output.event_time} | value)
            if not output.key.startswith("query:"):
                published.add({"key": output.key, "event_time": output.event_time} | value)
    events = list(hit_rate.read(path))
    ours = hit_rate.measure(events, published)
    theirs = hit_rate.measure(events, order.lists)
    rate, plain = ours["published@20", "all"], theirs["published@20", "all"]
    assert rate.asked > 1_000
    assert rate.hits >= ours["knn+popular", "all"].hits
    assert rate.hits >= plain.hits - 0.01 * rate.asked  # within the noise of a percent
