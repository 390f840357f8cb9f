"""States made durable outside Kafka: safetensors, JSON values, and a manifest with hashes.

A save is numbered, and so are its lines below:

1. size and hash of each file, from memory
2. the manifest names them; its own hash is in the name `ck1-<cut>-<incarnation>-<hash>`, which so is
   unique to this process and content, and never overwritten
3. free space of twice the size, else no checkpoint
4. the storage makes the files durable under that name, the manifest last (`checkpoint_folder`,
   `checkpoint_objects`)

Promised: what `load` returns is byte for byte what was saved. Not promised: that a save survives a disk
that lies about fsync; then `load` refuses and an older checkpoint with a longer roll-forward serves.
"""

from __future__ import annotations

import hashlib
import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from stream_mtl.checkpoint_bytes import Content, decode, encode
from stream_mtl.checkpoint_storage import SaveFailed, Storage, open_storage
from stream_mtl.errors import CheckpointCorrupt
from stream_mtl.failpoints import Failpoint, unarmed
from stream_mtl.manifest import (
    MANIFEST,
    MANIFEST_BYTES,
    TENSORS,
    VALUES,
    FileEntry,
    Identity,
    Manifest,
    folder_name,
    parse,
)
from stream_mtl.snapshot import Snapshot
from stream_mtl.state import State, digest

__all__ = ["CheckpointInfo", "CheckpointStore", "SaveFailed", "Saved"]

_NAME = re.compile(r"ck1-(\d{12,19})-([a-z0-9]{1,32})-([0-9a-f]{16})")
_HOUR_MS = 3_600_000


@dataclass(frozen=True, slots=True, order=True)
class CheckpointInfo:
    """A checkpoint by its name alone; whether it is whole is known only after `verify` or `load`."""

    cut: int
    name: str
    incarnation: str
    path: Path  # in an object store what follows its bucket


@dataclass(frozen=True, slots=True)
class Saved:
    """A checkpoint that has become durable, and what it took."""

    info: CheckpointInfo
    manifest: Manifest
    write_seconds: float
    fsync_seconds: float


class CheckpointStore:
    """The checkpoints of one rank of one job in one place. One thread at a time saves."""

    def __init__(
        self,
        place: str | Path | Storage,
        keep: int = 3,
        keep_hours: int = 24,
        failpoint: Failpoint = unarmed,
    ) -> None:
        """`place`: a folder, a URL that fsspec knows, or a storage."""
        self.storage: Storage = (
            open_storage(place, failpoint) if isinstance(place, (str, Path)) else place
        )
        self._keep = keep
        self._keep_ms = keep_hours * _HOUR_MS

    @property
    def where(self) -> str:
        """Folder or URL, for messages."""
        return self.storage.where

    def list(self) -> list[CheckpointInfo]:
        """Newest first; of one cut those of several incarnations in the order of names."""
        found = []
        for name in self.storage.names():
            match = _NAME.fullmatch(name)
            if match:
                found.append(self._info(int(match[1]), name, match[2]))
        return sorted(found, key=lambda info: (-info.cut, info.name))

    def save(self, copied: Snapshot, identity: Identity, incarnation: str, now_ms: int) -> Saved:
        """Write one checkpoint; SaveFailed leaves nothing behind that `list` would show."""
        started = time.perf_counter()
        files = encode(copied)
        manifest = Manifest(
            incarnation=incarnation,
            saved_at=now_ms,
            state_digest=digest({**copied.tensors, **copied.values}),
            identity=identity,
            files={name: content.entry() for name, content in files.items()},  # type: ignore[misc]  # 1
        )
        raw = manifest.encode()
        name = folder_name(manifest, raw)  # 2
        self._need_space(manifest.size)  # 3
        fsync_seconds = self.storage.put(
            name, {**files, MANIFEST: Content((memoryview(raw),))}
        )  # 4
        seconds = time.perf_counter() - started
        info = self._info(identity.cut, name, incarnation)
        return Saved(info, manifest, seconds - fsync_seconds, fsync_seconds)

    def verify(self, name: str) -> Manifest:
        """Everything that `load` checks of the files; CheckpointCorrupt names the first fault."""
        return self._read(name)[0]

    def manifest(self, name: str) -> Manifest:
        """The manifest alone, checked against the name; the other files stay unread."""
        return parse(name, self.storage.read(name, MANIFEST, MANIFEST_BYTES))

    def load(self, name: str) -> tuple[State, Manifest]:
        """The state as it was saved; CheckpointCorrupt unless every file is whole and of this name.

        Key sets, shapes and finiteness are for the components that restore it.
        """
        manifest, tensors, values = self._read(name)
        state, encoded = decode(name, tensors, values)
        if digest({**state, **encoded}) != manifest.state_digest:
            raise CheckpointCorrupt(f"{name}: the state's digest is not the manifest's")
        return state, manifest

    def size(self, name: str) -> int:
        return self.storage.size(name)

    def prune(self, committed_cut: int, now_ms: int) -> tuple[str, ...]:
        """Delete what retention does not ask for: the newest `keep` stay, and one an hour of the last
        `keep_hours` (all of them would fill a disk: one a minute for a day).

        Called only after an own commit of `committed_cut`: a worker that was fenced cannot make one, so
        it cannot delete what its successor needs. Checkpoints at or after that cut stay untouched.
        """
        hours_kept: set[int] = set()
        gone = []
        for place, info in enumerate(info for info in self.list() if info.cut < committed_cut):
            saved_at = self._saved_at(info)
            first_of_its_hour = saved_at // _HOUR_MS not in hours_kept
            hours_kept.add(saved_at // _HOUR_MS)
            young = now_ms - saved_at <= self._keep_ms
            if place >= self._keep and not (young and first_of_its_hour):
                gone.append(info)
        for info in gone:
            self.storage.delete(info.name)
        return tuple(info.name for info in gone)

    def prune_erased(self, before: int, committed_cut: int) -> tuple[str, ...]:
        """Delete every checkpoint of a cut below `before`: it holds somebody who was erased. Called as `prune` is.

        Not while there is no newer one, or nothing could be restored: the next that is written lets them go.
        """
        known = self.list()
        newer = any(info.cut >= before for info in known)
        due = [info for info in known if newer and info.cut < min(before, committed_cut)]
        for info in due:
            self.storage.delete(info.name)
        return tuple(info.name for info in due)

    def sweep(self) -> None:
        """Remove what a crash left half written or half deleted; only under the folder's lock."""
        self.storage.sweep()

    def free_bytes(self) -> int | None:
        """None where nobody can tell: an object store."""
        return self.storage.free_bytes()

    def _info(self, cut: int, name: str, incarnation: str) -> CheckpointInfo:
        return CheckpointInfo(cut, name, incarnation, Path(self.storage.where) / name)

    def _need_space(self, size: int) -> None:
        free = self.free_bytes()
        if free is not None and free < 2 * size:
            raise SaveFailed(
                "disk_low",
                f"{self.where} has {free} bytes free, a checkpoint of {size} needs twice its size; "
                "free some space or lower checkpoint.keep",
            )

    def _read(self, name: str) -> tuple[Manifest, bytes, bytes]:
        if not _NAME.fullmatch(name):
            raise CheckpointCorrupt(f"{name} is not a checkpoint in {self.where}")
        present, expected = self.storage.files(name), {MANIFEST, TENSORS, VALUES}
        if present != expected:
            raise CheckpointCorrupt(
                f"{name}: expected {sorted(expected)}, found "
                f"{len(present - expected)} further and {sorted(expected - present)} missing"
            )
        manifest = self.manifest(name)
        read = self.storage.read
        return (
            manifest,
            _checked(read, name, TENSORS, manifest.files["tensors.safetensors"]),
            _checked(read, name, VALUES, manifest.files["state.json"]),
        )

    def _saved_at(self, info: CheckpointInfo) -> int:
        try:
            return self.manifest(info.name).saved_at
        except CheckpointCorrupt:
            return self.storage.written_ms(info.name)


def _checked(
    read: Callable[[str, str, int], bytes], name: str, file: str, entry: FileEntry
) -> bytes:
    raw = read(name, file, entry.size)
    if len(raw) != entry.size:
        raise CheckpointCorrupt(f"{name}: {file} has {len(raw)} bytes, not {entry.size}")
    if hashlib.sha256(raw).hexdigest() != entry.sha256:
        raise CheckpointCorrupt(f"{name}: {file} has another SHA-256 than the manifest says")
    return raw
