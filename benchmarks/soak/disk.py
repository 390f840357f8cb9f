"""R5: a disk that damages, refuses, fills up and forgets: is every case seen, and nothing bad ever loaded?

The worker's own loop (`workers.trainer.run_trainer`) with a small model of the simulated shop, on a log in
memory and a real folder. Its newest checkpoint is damaged in one way at a time, every file in every way; the
next start must refuse it, take the older one, fold further and end with the digest of an undamaged run.
Then the disk fails while checkpoints are written: the worker must go on committing and write the next one.

Beside it stands the naive store (the newest folder wins, no hash is compared): it must load bad state.

    python -m benchmarks.soak.disk [--dose small|full] [--json]
"""

from __future__ import annotations

import copy
import errno
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest import mock

from benchmarks.report import Figure, note, parser, tell
from benchmarks.soak.damage import Disk, damages, unreadable
from schemas.scores import TopicIdentity
from stream_mtl import Config, build, checkpoint_folder
from stream_mtl.checkpoint import CheckpointStore
from stream_mtl.checkpoint_bytes import decode
from stream_mtl.cut import Record
from stream_mtl.errors import StorageError
from stream_mtl.files import TOPIC
from stream_mtl.manifest import MANIFEST, TENSORS, VALUES, Manifest
from stream_mtl.recovery import Fold, Start, restore
from stream_mtl.simulator import as_line, simulate
from stream_mtl.state import State
from stream_mtl.testing import AtOnce, MemoryLog, MemorySource, MemoryTransactions
from workers import startup, trainer
from workers.observer import CheckpointFacts, Silent
from workers.ports import Ports
from workers.startup import TrainerOptions

FILES = (TENSORS, VALUES, MANIFEST)
FOOLING = ("one bit", "of another", "zeros")  # what a small dose shows the naive store
EVENTS = 400
SMALL: dict[str, Any] = {
    "model": {"experts": 2, "hidden": 16},
    "features": {"table_rows": 1024},
    "memory": {"rows": 200},
    "learner": {"batch_rows": 64},
    "scoring": {"candidates": 20, "published": 5},
    "evaluation": {"probe_every": 100_000},
}


class NaiveStore(CheckpointStore):
    """Trusts the disk: the newest folder wins, and what can be parsed is loaded."""

    def manifest(self, name: str) -> Manifest:
        return Manifest.model_validate_json(self.storage.read(name, MANIFEST, 1 << 40))

    def load(self, name: str) -> tuple[State, Manifest]:
        files = (self.storage.read(name, file, 1 << 40) for file in (TENSORS, VALUES))
        return decode(name, *files)[0], self.manifest(name)


def naive_restore(fold: Fold, found: Start) -> None:
    """Without a look at what came of it."""
    if found.state is not None:
        fold.restore(found.state)


class Notes(Silent):
    def __init__(self) -> None:
        self.refused = 0
        self.checkpoints: list[CheckpointFacts] = []

    def trouble(self, kind: str, **facts: object) -> None:
        self.refused += kind == "checkpoint_refused"

    def checkpoint(self, facts: CheckpointFacts) -> None:
        self.checkpoints.append(facts)


@dataclass
class World:
    """A log in memory and a state folder. Time moves a second a look, so a checkpoint is due now and then."""

    folder: Path
    log: MemoryLog = field(default_factory=MemoryLog)
    now_s: int = 1_000_000
    notes: Notes = field(default_factory=Notes)

    @classmethod
    def filled(cls, folder: Path) -> World:
        world = cls(folder)
        lines = [as_line(one) for one in simulate("steady", EVENTS, 3)]
        world.log.records[TOPIC, 0] = [
            Record(TOPIC, 0, at, None, line) for at, line in enumerate(lines)
        ]
        return world

    def copied(self, folder: Path) -> World:
        shutil.copytree(self.folder, folder, symlinks=True)
        return World(folder, copy.deepcopy(self.log), self.now_s)

    @property
    def store(self) -> CheckpointStore:
        return CheckpointStore(self.folder / "checkpoints")

    def run(self, store: type[CheckpointStore] = CheckpointStore, checkpoint_s: int = 60) -> str:
        """Run to the end of the log; the digest of the final state."""
        self.notes = Notes()
        settings = {"interval_s": checkpoint_s, "keep": 3, "copying": "clone"}
        config = Config.model_validate({**SMALL, "state": str(self.folder), "checkpoint": settings})
        naive = store is NaiveStore
        with (
            mock.patch.object(trainer, "CheckpointStore", store),
            mock.patch.object(startup, "restore", naive_restore if naive else restore),
        ):
            told = trainer.run_trainer(
                config,
                TrainerOptions(until_idle=True),
                threading.Event(),
                self.notes,
                lambda *_: self._ports(config),
            )
        return str(told["state_digest"])

    def _ports(self, config: Config) -> Ports:
        return Ports(
            source=MemorySource(self.log, 7, 40, clock=lambda: self.now_s * 1_000),
            sink=MemoryTransactions(self.log),
            prepare=lambda: {TOPIC: TopicIdentity(id="t1", partitions=1)},
            cluster=lambda: "c1",
            last_record=self.log.last_record,
            read_ledger=self.log.read_ledger,
            committed_offsets=lambda: self.log.offsets,
            build=lambda lineage: build(config, lineage),
            environment={"torch": "1"},
            failpoint=lambda name: None,
            clock=lambda: int(self._seconds() * 1_000),
            elapsed=self._seconds,
            claims=list,
            spawn=AtOnce,
        )

    def _seconds(self) -> float:
        self.now_s += 1
        return float(self.now_s)


@dataclass
class Tally:
    cases: int = 0
    seen: int = 0
    recovered: int = 0
    naive_loaded: int = 0
    naive_names: list[str] = field(default_factory=list)
    missed: list[str] = field(default_factory=list)


def damaged_files(folder: Path, places: int) -> Tally:
    """Every file, every damage, the worker's own start after each."""
    whole = World.filled(folder / "whole")
    right = whole.run()
    newest, older, *_ = whole.store.list()
    tally = Tally()
    cases = [(file, name) for file in FILES for name in (*damages(places), "unreadable")]
    for number, (file, name) in enumerate(cases):
        fooled = places > 1 or name.startswith(FOOLING)
        for store in (CheckpointStore, NaiveStore) if fooled else (CheckpointStore,):
            world = whole.copied(folder / f"{number}")
            path = world.folder / "checkpoints" / newest.name / file
            if name != "unreadable":
                damages(places)[name](path, world.folder / "checkpoints" / older.name / file)
            with unreadable(path) if name == "unreadable" else nullcontext():
                try:
                    found = world.run(store)
                except Exception as error:  # a naive start may fall over in any way
                    found = f"{type(error).__name__}"
            _count(tally, store is NaiveStore, f"{file}: {name}", world.notes.refused, found, right)
            shutil.rmtree(world.folder)
        if number % 10 == 9:
            note(f"  {number + 1} of {len(cases)} damages")
    return tally


def _count(tally: Tally, naive: bool, case: str, refused: int, found: str, right: str) -> None:
    if naive:
        if not refused and found != right and len(found) == len(right):
            tally.naive_loaded += 1
            tally.naive_names.append(case)
        return
    tally.cases += 1
    tally.seen += refused >= 1
    tally.recovered += found == right
    if not refused or found != right:
        tally.missed.append(f"{case}: refused {refused}, {found[:16]}")


# A save makes three files, each written and fsynced, then fsyncs its folder, renames, fsyncs the parent.
REFUSALS = [("write", n, errno.EIO) for n in (1, 2, 4)] + [("write", 2, errno.ENOSPC)]
REFUSALS += [("fsync", n, errno.EIO) for n in (1, 2, 3, 4, 5)]


def refused_writes(folder: Path) -> tuple[Counter[str], list[str]]:
    """The disk fails once during the first save of a run. What was counted, and what went wrong."""
    whole = World.filled(folder / "whole")
    right = whole.run(checkpoint_s=20)
    counted: Counter[str] = Counter()
    wrong = []
    for call, at, error in [*REFUSALS, ("rename", 1, errno.EIO)]:
        world = World.filled(folder / f"{call}{at}{error}")
        disk = Disk(call, at, error)
        case = f"{call} {at} {errno.errorcode[error]}"
        with mock.patch.object(checkpoint_folder, "os", disk), _rename_fails(call == "rename"):
            found = world.run(checkpoint_s=20)
        failures = [facts.failure for facts in world.notes.checkpoints if facts.failure]
        names = [facts.name for facts in world.notes.checkpoints if facts.name]
        counted.update(failures)
        if len(failures) != 1 or not names or found != right or disk.tried_again:
            wrong.append(f"{case}: {failures}, {len(names)} saved, again {disk.tried_again}")
        for info in world.store.list():
            world.store.load(info.name)
        shutil.rmtree(world.folder)
    return counted, wrong


@contextmanager
def _rename_fails(wanted: bool) -> Iterator[None]:
    rename, left = Path.rename, [wanted]

    def fail(self: Path, target: Any) -> Path:
        if left[0] and self.name.startswith("tmp-ck1"):
            left[0] = False
            raise OSError(errno.EIO, "Input/output error")
        return rename(self, target)

    with mock.patch.object(Path, "rename", fail):
        yield


def full_disk(folder: Path) -> dict[str, list[str]]:
    """Failures by way: a small tmpfs that is full, one that fills up under the write, a limit on files."""
    found: dict[str, list[str]] = {}
    small = folder / "tmpfs"
    small.mkdir()
    made = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(small)],
        check=False,
        stderr=subprocess.DEVNULL,
    )
    if made.returncode == 0:
        try:
            found["small tmpfs"] = _failures(small / "a")
            shutil.rmtree(small / "a")
            with mock.patch.object(checkpoint_folder.FolderStorage, "free_bytes", _plenty):
                found["small tmpfs, free space misjudged"] = _failures(small / "b")
        finally:
            subprocess.run(["umount", str(small)], check=True)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))
    try:
        found["limit on the size of a file"] = _failures(folder / "limited")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, before)
    return found


def _plenty(storage: Any) -> int:
    return 1 << 40


def _failures(folder: Path) -> list[str]:
    """Reasons of a run whose checkpoints all fail; it must commit to the end all the same."""
    world = World.filled(folder)
    with suppress(StorageError):  # the last checkpoint of a run is demanded: exit 74
        world.run(checkpoint_s=20)
    assert world.log.offsets[TOPIC, 0] == EVENTS, "the worker stopped committing"
    assert not [facts for facts in world.notes.checkpoints if facts.name]
    return sorted({facts.failure for facts in world.notes.checkpoints})


def figures(folder: Path, places: int) -> list[Figure]:
    tally = damaged_files(folder / "damaged", places)
    counted, wrong = refused_writes(folder / "refused")
    full = full_disk(folder)
    for fault in (*tally.missed, *wrong):
        note(f"  {fault}")
    cases, saves = tally.cases, len(REFUSALS) + 1
    said = ", ".join(f"{reason} {count}" for reason, count in sorted(counted.items()))
    told = [
        Figure("R5 damages x files", cases, "", None),
        Figure("R5 seen at the start", tally.seen, f"{cases}", tally.seen == cases),
        Figure("R5 same digest after", tally.recovered, f"{cases}", tally.recovered == cases),
        Figure("R5 naive: bad state loaded", tally.naive_loaded, ">= 1", tally.naive_loaded >= 1),
        Figure("R5 failing saves", saves, "", None),
        Figure("R5 of these: went wrong", len(wrong), "0", not wrong),
        Figure("R5 counted as", said, "one a save", counted.total() == saves),
    ]
    for way, reasons in full.items():
        good = bool(reasons) and set(reasons) <= {"disk_low", "write"}
        told.append(Figure(f"R5 {way}", ", ".join(reasons), "no checkpoint, commits go on", good))
    return told


def main() -> int:
    arguments = parser(__doc__)
    arguments.add_argument("--dose", choices=("small", "full"), default="small")
    given = arguments.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        told = figures(Path(scratch), 8 if given.dose == "full" else 1)
    return tell(told, given.json)


if __name__ == "__main__":
    sys.exit(main())
