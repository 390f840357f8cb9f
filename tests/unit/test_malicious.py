"""Every checkpoint of the corpus is refused, and none of them runs."""

from __future__ import annotations

import pickle
from pathlib import Path

import pytest

from stream_mtl import build
from stream_mtl.pipeline import Pipeline
from tests.folds import shop_cuts, small
from tests.malicious import CANARY, CASES, pickle_as_tensors, verdict


@pytest.fixture(scope="module")
def model() -> Pipeline:
    """A fold that has learned a little."""
    config = small()
    made = build(config, "l")
    for cut in shop_cuts(config, 300):
        made.step(cut)
    return made


@pytest.mark.parametrize("name", CASES)
def test_a_malicious_checkpoint_is_refused(tmp_path: Path, model: Pipeline, name: str) -> None:
    """CheckpointCorrupt or another StateError; no other exception, and no code of theirs."""
    said = verdict(tmp_path / "checkpoints", name, model, lambda: build(small(), "l"))
    assert said.startswith("refused"), said


def test_the_good_checkpoint_of_the_corpus_is_loaded(
    tmp_path: Path, model: Pipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is refused above is refused for the attack, not for the way in which the corpus is made."""
    monkeypatch.setitem(CASES, "nothing", lambda folder: folder.name)
    assert verdict(tmp_path / "c", "nothing", model, lambda: build(small(), "l")) == "accepted"


def test_the_bomb_is_one(tmp_path: Path) -> None:
    """A loader that unpickles, the naive variant, runs it: so the canary would tell."""
    folder = tmp_path / "checkpoints" / "c"
    folder.mkdir(parents=True)
    for file in ("manifest.json", "state.json"):
        (folder / file).write_text('{"files": {}, "state_digest": ""}')
    name = pickle_as_tensors(folder)
    raw = (folder.parent / name / "tensors.safetensors").read_bytes()
    pickle.loads(raw).close()
    assert (folder.parent / CANARY).exists()
