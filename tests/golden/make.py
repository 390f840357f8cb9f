"""Writes the golden files of the present fold version: a ledger, a checkpoint, and the events they are of.

    python -m tests.golden.make

Run it once for each value of `FOLD_VERSION` that is released, and commit the folder: what is there stays for ever, so that
every later release shows that it still reads it. Run again on another kind of processor it adds the digests that
come out there, and nothing else; do that only with a fold that a known kind has found unchanged.
"""

from __future__ import annotations

import gzip
import json
import sys
from pathlib import Path
from typing import Any

from stream_mtl import Config, build
from stream_mtl.checkpoint import CheckpointStore
from stream_mtl.config import SECTION_CLASS, fold_hash
from stream_mtl.environment import environment
from stream_mtl.files import cuts_of_records
from stream_mtl.ledger import FOLD_VERSION, Context, Entry, decode, encode_cut
from stream_mtl.manifest import Identity
from stream_mtl.pipeline import Pipeline
from stream_mtl.simulator import as_line, simulate
from stream_mtl.snapshot import snapshot
from tests.folds import as_records

FOLDER = Path(__file__).parent
EVENTS, SEED, LINEAGE = 900, 11, "60000001"
SETTINGS = {  # tiny: it is kept for ever
    "app": "golden",
    "features": {"table_rows": 256, "history": 8, "neighbours": 8},
    "model": {"embedding_dim": 4, "hidden": 8, "experts": 2, "tower": 8},
    "memory": {"rows": 60},
    "learner": {"batch_rows": 64, "first_rows": 64},
    "scoring": {"candidates": 10, "published": 3},
    "cut": {"file_span_ms": 1_800_000},
    "join": {"click_window_ms": 60_000, "purchase_window_ms": 1_200_000, "late_ms": 60_000},
    "evaluation": {"probe_every": 3, "probe_rows": 20},
}


def main() -> int:
    folder = FOLDER / f"fold-{FOLD_VERSION}"
    here = environment("cpu", 1)
    if not folder.exists():
        write(folder)
    known = folder / "digests.json"
    digests = json.loads(known.read_text()) if known.exists() else {}
    if here["arithmetic"] in digests:
        sys.stderr.write(f"{folder.name} is there already; golden files are never written again\n")
        return 64
    digests[here["arithmetic"]] = {"processor": here["processor"], **folded_again(folder)}
    known.write_text(json.dumps(digests, indent=1, sort_keys=True) + "\n")
    return 0


def folded_again(folder: Path) -> dict[str, Any]:
    """The digests of all cuts and of the state after them, as they come out here."""
    config = Config.model_validate_json((folder / "config.json").read_bytes())
    lines = gzip.decompress((folder / "events.jsonl.gz").read_bytes()).splitlines()
    fold = build(config, LINEAGE)
    cuts = [fold.step(cut).digest for cut in cuts_of_records(as_records(lines), config)]
    return {"cuts": cuts, "state": fold.state_digest()}


def write(folder: Path) -> None:
    """All files but the digests."""
    folder.mkdir()
    lines = [as_line(one) for one in simulate("steady", EVENTS, SEED)]
    with gzip.GzipFile(folder / "events.jsonl.gz", "wb", mtime=0) as file:
        file.write(b"".join(line.rstrip(b"\n") + b"\n" for line in lines))
    (folder / "config.json").write_text(json.dumps(SETTINGS, indent=1) + "\n")
    (folder / "defaults.json").write_text(json.dumps(defaults(), indent=1, sort_keys=True) + "\n")
    config = Config.model_validate(SETTINGS)
    cuts = list(cuts_of_records(as_records(lines), config))
    fold = build(config, LINEAGE)
    context = Context(
        app=config.app,
        lineage=fold.lineage,
        instance="0123456789abcdef",
        topic_ids={},
        config_hash=fold_hash(config),
        code="golden",
        environment=environment("cpu", config.threads, 1),
    )
    ledger: list[Entry] = []
    for cut in cuts:
        result = fold.step(cut)
        previous = ledger[-1].hash if ledger else ""
        ledger.append(decode(encode_cut(context, previous, cut, result), len(ledger)))
        if cut.number == len(cuts) // 2:
            save(fold, context, ledger[-1], folder)
    (folder / "ledger.jsonl").write_bytes(b"".join(entry.raw + b"\n" for entry in ledger))
    expected = {"totals": dict(fold.totals)}
    (folder / "expected.json").write_text(json.dumps(expected, indent=1, sort_keys=True) + "\n")


def defaults() -> dict[str, Any]:
    """Every key that a fold reads, as it is where nothing is said."""
    whole = Config().model_dump(mode="json")
    return {name: value for name, value in whole.items() if SECTION_CLASS[name] != "runtime"}


def save(fold: Pipeline, context: Context, last: Entry, folder: Path) -> None:
    identity = Identity.after(last, context, "golden")
    store = CheckpointStore(folder / "checkpoints")
    store.save(snapshot(fold.state()), identity, "00000000", 1_704_067_200_000)


if __name__ == "__main__":
    sys.exit(main())
