"""A trainer in a process of its own that tells, cut by cut, what it did and what it cost.

The worker's own loop on a real broker (`workers.trainer.run_trainer`) with two differences: text vectors are
looked up in a file, and an observer appends one JSON line a committed cut: monotonic seconds, CPU
seconds of the process with all its threads, and the cut's counts.

    python -m benchmarks.trainer_process CONFIG.json VECTORS STATS.jsonl [--until-idle]
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Any

from safetensors.torch import load_file, save_file

from benchmarks.shop_stream import Vectors
from stream_mtl import Config, composition
from stream_mtl.cut import CutResult
from workers.observer import CutFacts, Silent
from workers.startup import TrainerOptions
from workers.stop import Stop
from workers.trainer import run_trainer


class Diary(Silent):
    """One line a committed cut."""

    def __init__(self, stream: IO[str]) -> None:
        self._stream = stream

    def cut(self, result: CutResult, facts: CutFacts) -> None:
        line = {
            "cut": result.number,
            "at": time.monotonic(),
            "cpu": time.process_time(),
            "step_seconds": facts.step_seconds,
            "commit_seconds": facts.commit_seconds,
            "rehearsed": sum(report.rehearsed for report in facts.reports),
            "fresh": sum(report.rows for report in facts.reports),
            **result.counts,
        }
        self._stream.write(json.dumps(line) + "\n")
        self._stream.flush()


def save_vectors(vectors: Vectors, folder: Path) -> None:
    """The texts of a `Vectors` and what it gives them, for `load_vectors` in another process."""
    texts, vector_NE = vectors.table()
    save_file({"vector_NE": vector_NE}, folder / "vectors.safetensors")
    (folder / "texts.json").write_text(json.dumps(texts))


def load_vectors(folder: Path) -> Vectors:
    texts = json.loads((folder / "texts.json").read_text())
    vector_NE = load_file(folder / "vectors.safetensors")["vector_NE"]
    return Vectors(int(vector_NE.shape[1]), dict(zip(texts, vector_NE, strict=True)))


def read_diary(path: Path) -> list[dict[str, Any]]:
    """The whole lines written so far."""
    text = path.read_text() if path.exists() else ""
    return [json.loads(line) for line in text[: text.rfind("\n") + 1].splitlines()]


def main(arguments: Sequence[str]) -> int:
    config_file, folder, diary, *options = arguments
    config = Config.model_validate_json(Path(config_file).read_text())
    vectors = load_vectors(Path(folder))
    composition.load_encoder = lambda text: vectors
    with Path(diary).open("w", encoding="utf-8") as stream, Stop() as stop:
        told = TrainerOptions(until_idle="--until-idle" in options)
        run_trainer(config, told, stop, Diary(stream))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
