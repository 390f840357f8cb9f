"""States made durable outside Kafka: safetensors, JSON values, and a manifest with hashes.

A save is numbered, and so are its lines below:

1. the name `ck1-<cut>-<incarnation>-<hash>` is unique to this process and content, never overwritten
2. free space of twice the size, else no checkpoint
3. tensors and JSON values into a temporary folder on the same file system, each file fsynced
4. the manifest last, with size and hash of each file
5. fsync manifest and folder, rename, fsync the parent
6. an error of fsync is final for that file: the caller tries again with a new folder

Promised: what `load` returns is byte for byte what was saved. Not promised: that a save survives a disk
that lies about fsync; then `load` refuses and an older checkpoint with a longer roll-forward serves.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import safetensors.torch

from stream_mtl.errors import CheckpointCorrupt, StorageError
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

_NAME = re.compile(r"ck1-(\d{12,19})-([a-z0-9]{1,32})-([0-9a-f]{16})")
_TEMPORARY, _TRASH = "tmp-", "trash-"
_HOUR_MS = 3_600_000


class SaveFailed(StorageError):
    """A checkpoint was not written; `reason` is one of disk_low, write, fsync, rename, bug."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


@dataclass(frozen=True, slots=True, order=True)
class CheckpointInfo:
    """A folder by its name alone; whether it is whole is known only after `verify` or `load`."""

    cut: int
    name: str
    incarnation: str
    path: Path


@dataclass(frozen=True, slots=True)
class Saved:
    """A checkpoint that has become durable, and what it took."""

    info: CheckpointInfo
    manifest: Manifest
    write_seconds: float
    fsync_seconds: float


class CheckpointStore:
    """The checkpoints of one rank of one job in one folder. One thread at a time saves."""

    def __init__(
        self, folder: Path, keep: int = 3, keep_hours: int = 24, failpoint: Failpoint = unarmed
    ) -> None:
        self._folder = folder
        self._keep = keep
        self._keep_ms = keep_hours * _HOUR_MS
        self._failpoint = failpoint
        self._fsync_seconds = 0.0
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise StorageError(
                f"cannot create the checkpoint folder {folder}: {error.strerror}"
            ) from error

    def list(self) -> list[CheckpointInfo]:
        """Newest first; of one cut the folders of several incarnations in the order of names."""
        found = []
        for path in self._folder.iterdir():
            match = _NAME.fullmatch(path.name)
            if match:
                found.append(CheckpointInfo(int(match[1]), path.name, match[2], path))
        return sorted(found, key=lambda info: (-info.cut, info.name))

    def save(self, copied: Snapshot, identity: Identity, incarnation: str, now_ms: int) -> Saved:
        """Write one checkpoint; SaveFailed leaves nothing behind that `list` would show."""
        started, self._fsync_seconds = time.perf_counter(), 0.0
        values = _encode_values(copied.values)
        self._need_space(sum(t.nbytes for t in copied.tensors.values()) + len(values))  # 2
        temporary = self._folder / f"{_TEMPORARY}{identity.cut:012d}-{incarnation}"
        try:
            shutil.rmtree(temporary, ignore_errors=True)
            temporary.mkdir()
            files = {
                TENSORS: self._write(
                    temporary / TENSORS, safetensors.torch.save(dict(copied.tensors))
                ),
                VALUES: self._write(temporary / VALUES, values),  # 3
            }
            manifest = Manifest(
                incarnation=incarnation,
                saved_at=now_ms,
                state_digest=digest({**copied.tensors, **copied.values}),
                identity=identity,
                files=files,  # type: ignore[arg-type]  # str keys that are these literals
            )
            raw = manifest.encode()
            self._write(temporary / MANIFEST, raw)  # 4
            info = self._publish(temporary, folder_name(manifest, raw), identity.cut, incarnation)
        except SaveFailed:
            shutil.rmtree(temporary, ignore_errors=True)
            raise
        except OSError as error:
            shutil.rmtree(temporary, ignore_errors=True)
            raise SaveFailed("write", f"checkpoint in {self._folder}: {error.strerror}") from error
        seconds = time.perf_counter() - started
        return Saved(info, manifest, seconds - self._fsync_seconds, self._fsync_seconds)

    def verify(self, name: str) -> Manifest:
        """Everything that `load` checks of the files; CheckpointCorrupt names the first fault."""
        return self._read(name)[0]

    def manifest(self, name: str) -> Manifest:
        """The manifest alone, checked against the name; the other files stay unread."""
        return parse(name, _read_file(self._folder / name, MANIFEST, MANIFEST_BYTES))

    def load(self, name: str) -> tuple[State, Manifest]:
        """The state as it was saved; CheckpointCorrupt unless every file is whole and of this name.

        Key sets, shapes and finiteness are for the components that restore it.
        """
        manifest, tensors, values = self._read(name)
        try:
            state: State = dict(safetensors.torch.load(tensors))
            decoded = json.loads(values)
        except (safetensors.SafetensorError, ValueError, RecursionError, KeyError) as error:
            raise CheckpointCorrupt(
                f"{name}: files have their hashes but cannot be read"
            ) from error
        if not isinstance(decoded, dict) or not state.keys().isdisjoint(decoded):
            raise CheckpointCorrupt(f"{name}: {VALUES} does not fit {TENSORS}")
        state.update(decoded)
        if digest(state) != manifest.state_digest:
            raise CheckpointCorrupt(f"{name}: the state's digest is not the manifest's")
        return state, manifest

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
            self._delete(info)
        return tuple(info.name for info in gone)

    def _delete(self, info: CheckpointInfo) -> None:
        """At no time is there half a checkpoint under a good name."""
        self._failpoint("checkpoint.deleting")
        trash = self._folder / (_TRASH + info.name)
        try:
            info.path.rename(trash)
        except OSError as error:
            raise StorageError(f"cannot delete {info.path}: {error.strerror}") from error
        shutil.rmtree(trash, ignore_errors=True)
        self._failpoint("checkpoint.deleted")

    def sweep(self) -> None:
        """Remove what a crash left half written or half deleted; only under the folder's lock."""
        for path in self._folder.iterdir():
            if path.name.startswith((_TEMPORARY, _TRASH)):
                shutil.rmtree(path, ignore_errors=True)

    def free_bytes(self) -> int:
        return shutil.disk_usage(self._folder).free

    def _need_space(self, size: int) -> None:
        free = self.free_bytes()
        if free < 2 * size:
            raise SaveFailed(
                "disk_low",
                f"{self._folder} has {free} bytes free, a checkpoint of {size} needs twice its size; "
                "free some space or lower checkpoint.keep",
            )

    def _publish(self, temporary: Path, name: str, cut: int, incarnation: str) -> CheckpointInfo:
        target = self._folder / name
        self._fsync_folder(temporary)  # 5
        if target.exists():
            raise SaveFailed("rename", f"{target} exists; a checkpoint is never overwritten")
        self._failpoint("checkpoint.renaming")
        try:
            temporary.rename(target)
        except OSError as error:
            raise SaveFailed("rename", f"cannot rename to {target}: {error.strerror}") from error
        self._failpoint("checkpoint.renamed")
        self._fsync_folder(self._folder)
        self._failpoint("checkpoint.durable")
        return CheckpointInfo(cut, name, incarnation, target)

    def _write(self, path: Path, raw: bytes) -> FileEntry:
        """Write and fsync a new file; the hash is of the bytes in memory, not of what the disk returns."""
        self._failpoint("checkpoint.writing")
        with path.open("xb") as file:
            file.write(raw)
            file.flush()
            self._failpoint("checkpoint.written")
            self._fsync(file.fileno(), path.name)
            self._failpoint("checkpoint.fsynced")
        return FileEntry(size=len(raw), sha256=hashlib.sha256(raw).hexdigest())

    def _fsync_folder(self, folder: Path) -> None:
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            self._fsync(descriptor, folder.name)
        finally:
            os.close(descriptor)

    def _fsync(self, descriptor: int, name: str) -> None:
        started = time.perf_counter()
        try:
            os.fsync(descriptor)
        except OSError as error:  # 6
            raise SaveFailed("fsync", f"fsync of {name}: {error.strerror}") from error
        self._fsync_seconds += time.perf_counter() - started

    def _read(self, name: str) -> tuple[Manifest, bytes, bytes]:
        folder = self._folder / name
        if not _NAME.fullmatch(name) or not folder.is_dir() or folder.is_symlink():
            raise CheckpointCorrupt(f"{name} is not a checkpoint folder in {self._folder}")
        present = {path.name for path in folder.iterdir()}
        expected = {MANIFEST, TENSORS, VALUES}
        if present != expected:
            raise CheckpointCorrupt(
                f"{name}: expected {sorted(expected)}, found "
                f"{len(present - expected)} further and {sorted(expected - present)} missing"
            )
        manifest = self.manifest(name)
        tensors, values = (
            _read_checked(folder, file, entry)
            for file, entry in (
                (TENSORS, manifest.files["tensors.safetensors"]),
                (VALUES, manifest.files["state.json"]),
            )
        )
        return manifest, tensors, values

    def _saved_at(self, info: CheckpointInfo) -> int:
        try:
            return self.manifest(info.name).saved_at
        except CheckpointCorrupt:
            return int(info.path.stat().st_mtime * 1000)


def _encode_values(values: Mapping[str, bytes]) -> bytes:
    """One JSON object of values that are JSON already."""
    members = (json.dumps(name).encode() + b":" + raw for name, raw in sorted(values.items()))
    return b"{" + b",\n".join(members) + b"}\n"


def _read_file(folder: Path, file: str, limit: int) -> bytes:
    """A regular file of at most `limit` bytes; a link could point anywhere and is refused."""
    path = folder / file
    try:
        if path.is_symlink() or not path.is_file():
            raise CheckpointCorrupt(f"{folder.name}: {file} is not a regular file")
        if path.stat().st_size > limit:
            raise CheckpointCorrupt(f"{folder.name}: {file} is over its limit of {limit} bytes")
        return path.read_bytes()
    except OSError as error:
        raise CheckpointCorrupt(
            f"{folder.name}: {file} cannot be read: {error.strerror}"
        ) from error


def _read_checked(folder: Path, file: str, entry: FileEntry) -> bytes:
    raw = _read_file(folder, file, entry.size)
    if len(raw) != entry.size:
        raise CheckpointCorrupt(f"{folder.name}: {file} has {len(raw)} bytes, not {entry.size}")
    if hashlib.sha256(raw).hexdigest() != entry.sha256:
        raise CheckpointCorrupt(f"{folder.name}: {file} has another SHA-256 than the manifest says")
    return raw
