"""What every released version wrote is still read: ledgers, checkpoints, events. See `tests/golden/make.py`."""

from __future__ import annotations

import gzip
import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

from schemas.scores import LedgerRecord
from stream_mtl import build
from stream_mtl.carry_over import carried, part_of
from stream_mtl.checkpoint import CheckpointStore
from stream_mtl.config import Config, fold_hash
from stream_mtl.cut import Cut, CutResult
from stream_mtl.environment import arithmetic, environment
from stream_mtl.errors import ForeignState
from stream_mtl.files import cuts_of_records
from stream_mtl.ledger import FOLD_VERSION, Context, Entry, decode, links
from stream_mtl.pipeline import Pipeline
from stream_mtl.recovery import moved, refuse_foreign
from tests.folds import as_records
from tests.golden.make import defaults

FOLDERS = sorted(path for path in (Path(__file__).parent.parent / "golden").glob("fold-*"))


@dataclass(frozen=True)
class Golden:
    version: int
    config: Config
    ledger: list[Entry]
    cuts: list[Cut]
    expected: dict[str, Any]
    digests: dict[str, Any]  # by the arithmetic of the machine
    store: CheckpointStore


@pytest.fixture(params=FOLDERS, ids=[path.name for path in FOLDERS])
def golden(request: pytest.FixtureRequest, tmp_path: Path) -> Golden:
    folder: Path = request.param
    config = Config.model_validate_json((folder / "config.json").read_bytes())
    lines = gzip.decompress((folder / "events.jsonl.gz").read_bytes()).splitlines()
    raws = (folder / "ledger.jsonl").read_bytes().splitlines()
    shutil.copytree(folder / "checkpoints", tmp_path / "checkpoints")
    return Golden(
        int(folder.name.removeprefix("fold-")),
        config,
        [decode(raw, offset) for offset, raw in enumerate(raws)],
        list(cuts_of_records(as_records(lines), config)),
        json.loads((folder / "expected.json").read_text()),
        json.loads(known.read_text()) if (known := folder / "digests.json").exists() else {},
        CheckpointStore(tmp_path / "checkpoints"),
    )


def context_of(config: Config) -> Context:
    return Context(
        app=config.app,
        lineage="60000001",
        instance="0123456789abcdef",
        topic_ids={},
        config_hash=fold_hash(config),
        code="today",
        environment=environment("cpu", config.threads, 1),
    )


def folded(model: Pipeline, cuts: list[Cut]) -> list[CutResult]:
    return [model.step(cut) for cut in cuts]


def test_the_present_version_has_its_golden_files() -> None:
    assert f"fold-{FOLD_VERSION}" in [path.name for path in FOLDERS], "python -m tests.golden.make"


def test_no_default_has_changed_under_the_present_version() -> None:
    """The hash of a configuration leaves out what is as by default: a changed default would fold otherwise unseen."""
    there = json.loads((FOLDERS[-1].parent / f"fold-{FOLD_VERSION}" / "defaults.json").read_bytes())
    changed = sorted(_leaves(there) - _leaves(defaults()))
    assert changed == [], "raise FOLD_VERSION and run python -m tests.golden.make"


def test_a_new_key_at_its_default_keeps_the_hash_of_a_configuration() -> None:
    """And one that is set does not, nor does a shop's own task."""
    shop = {
        "retrieval": {"rebuy": 30.0},
        "tasks": {"dwell": {"kind": "regression", "label": "dwell"}},
    }
    said = {**shop, "retrieval": {"rebuy": 30.0, "search": "exact"}}
    other = {**shop, "retrieval": {"rebuy": 30.0, "search": "ivf"}}
    more = {**shop, "tasks": {"dwell": {"kind": "regression", "label": "dwell", "weight": 0.5}}}
    hashes = [fold_hash(Config.model_validate(one)) for one in (shop, said, other, more)]
    assert hashes[0] == hashes[1]
    assert len(set(hashes)) == 3


def _leaves(value: Any, prefix: str = "") -> set[str]:
    if isinstance(value, dict) and value:
        return {
            leaf for name, inner in value.items() for leaf in _leaves(inner, f"{prefix}.{name}")
        }
    return {f"{prefix} = {value!r}"}


def test_an_old_ledger_is_read_and_its_chain_is_whole(golden: Golden) -> None:
    kept, chain = links(golden.ledger)
    assert (chain.broken, chain.gaps, chain.overlaps, chain.repeats) == (0, 0, 0, 0)
    assert [entry.record.fold_version for entry in kept] == [golden.version] * len(golden.cuts)


def test_an_old_checkpoint_is_whole_and_read_as_it_was_saved(golden: Golden) -> None:
    (info,) = golden.store.list()
    state, manifest = golden.store.load(info.name)
    assert manifest.identity.ledger_hash == golden.ledger[info.cut].hash
    assert isinstance(state["learner/table_RH"], torch.Tensor)


def test_another_version_is_refused_by_name_and_with_the_code_that_must_catch_up(
    golden: Golden,
) -> None:
    last: LedgerRecord = golden.ledger[-1].record
    if golden.version == FOLD_VERSION:
        refuse_foreign(last, context_of(golden.config), new_lineage=_elsewhere(golden))
        return
    with pytest.raises(
        ForeignState, match=f"fold_version is {FOLD_VERSION} here, {golden.version} there"
    ):
        refuse_foreign(last, context_of(golden.config), new_lineage=False)
    refuse_foreign(last, context_of(golden.config), new_lineage=True)


def test_a_new_lineage_takes_over_what_an_old_version_had_learned(golden: Golden) -> None:
    """Roll forward with today's code from yesterday's checkpoint: nothing starts afresh, nothing is read twice."""
    (info,) = golden.store.list()
    saved = golden.store.load(info.name)[0]
    found = carried(saved, lambda: build(golden.config, "60000002"))
    assert found.afresh == ()
    model = build(golden.config, "60000002")
    model.restore(found.state)
    now = model.state()
    for name in saved:
        if part_of(name) in ("network", "embeddings") and isinstance(saved[name], torch.Tensor):
            assert torch.equal(now[name], saved[name]), name
    folded(model, golden.cuts[info.cut + 1 :])
    assert model.totals["events"] == golden.expected["totals"]["events"]
    assert model.totals["steps"] > 0


def test_a_fold_that_has_changed_has_another_version(golden: Golden) -> None:
    """The same events give the same counts, and on a kind of machine that was seen before the same bits, or FOLD_VERSION
    must rise."""
    if golden.version != FOLD_VERSION:
        pytest.skip("of an older version: its fold has changed, and says so")
    model = build(golden.config, "60000001")
    results = folded(model, golden.cuts)
    assert dict(model.totals) == golden.expected["totals"]
    known = golden.digests.get(arithmetic(golden.config.threads))
    if known is None:
        return  # another processor or torch rounds differently: only the counts can be compared
    assert [r.digest for r in results] == known["cuts"]
    assert model.state_digest() == known["state"]


def _elsewhere(golden: Golden) -> bool:
    return moved(golden.ledger[-1].record, context_of(golden.config))
