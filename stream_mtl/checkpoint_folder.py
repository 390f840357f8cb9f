"""Checkpoints as folders of a local file system. A write is numbered, and so are its lines below:

1. into a temporary folder on the same file system; each file is fsynced
2. the folder is fsynced
3. rename, which is the commit point; a checkpoint is never overwritten
4. the parent is fsynced

An error of fsync is final for that file: the kernel may have dropped what it could not write, so a
second fsync of the same descriptor would lie. The caller tries again with a new folder.
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Mapping
from pathlib import Path

from stream_mtl.checkpoint_bytes import Content
from stream_mtl.checkpoint_storage import SaveFailed
from stream_mtl.errors import CheckpointCorrupt, StorageError
from stream_mtl.failpoints import Failpoint, unarmed

_TEMPORARY, _TRASH = "tmp-", "trash-"


class FolderStorage:
    """One folder; a checkpoint is a folder in it. Raises StorageError when it cannot be made."""

    beside = True

    def __init__(self, folder: Path, failpoint: Failpoint = unarmed) -> None:
        self.folder, self.where = folder, str(folder)
        self._failpoint = failpoint
        self._fsync_seconds = 0.0
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise StorageError(
                f"cannot create the checkpoint folder {folder}: {error.strerror}"
            ) from error

    def names(self) -> list[str]:
        return [path.name for path in self.folder.iterdir()]

    def put(self, name: str, files: Mapping[str, Content]) -> float:
        self._fsync_seconds = 0.0
        temporary = self.folder / f"{_TEMPORARY}{name}"
        try:
            shutil.rmtree(temporary, ignore_errors=True)
            temporary.mkdir()
            for file, content in files.items():
                self._write(temporary / file, content)  # 1
            self._publish(temporary, self.folder / name)
        except SaveFailed:
            shutil.rmtree(temporary, ignore_errors=True)
            raise
        except OSError as error:
            shutil.rmtree(temporary, ignore_errors=True)
            raise SaveFailed("write", f"checkpoint in {self.where}: {error.strerror}") from error
        return self._fsync_seconds

    def files(self, name: str) -> set[str]:
        folder = self.folder / name
        if not folder.is_dir() or folder.is_symlink():
            raise CheckpointCorrupt(f"{name} is not a checkpoint folder in {self.where}")
        return {path.name for path in folder.iterdir()}

    def read(self, name: str, file: str, limit: int) -> bytes:
        """A link could point anywhere and is refused."""
        path = self.folder / name / file
        try:
            if path.is_symlink() or not path.is_file():
                raise CheckpointCorrupt(f"{name}: {file} is not a regular file")
            most = min(limit, os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
            if path.stat().st_size > most:  # a file with holes claims any size and takes no space
                raise CheckpointCorrupt(f"{name}: {file} is over its limit of {most} bytes")
            return path.read_bytes()
        except OSError as error:
            raise CheckpointCorrupt(f"{name}: {file} cannot be read: {error.strerror}") from error

    def written_ms(self, name: str) -> int:
        return int((self.folder / name).stat().st_mtime * 1000)

    def size(self, name: str) -> int:
        return sum(f.stat().st_size for f in (self.folder / name).iterdir() if f.is_file())

    def delete(self, name: str) -> None:
        self._failpoint("checkpoint.deleting")
        trash = self.folder / (_TRASH + name)
        try:
            (self.folder / name).rename(trash)
        except OSError as error:
            raise StorageError(f"cannot delete {self.folder / name}: {error.strerror}") from error
        shutil.rmtree(trash, ignore_errors=True)
        self._failpoint("checkpoint.deleted")

    def sweep(self) -> None:
        for path in self.folder.iterdir():
            if path.name.startswith((_TEMPORARY, _TRASH)):
                shutil.rmtree(path, ignore_errors=True)

    def tell_failpoints_to(self, failpoint: Failpoint) -> None:
        self._failpoint = failpoint

    def free_bytes(self) -> int | None:
        return shutil.disk_usage(self.folder).free

    def _write(self, path: Path, content: Content) -> None:
        self._failpoint("checkpoint.writing")
        with path.open("xb", buffering=0) as file:
            for piece in content.pieces():
                _write_all(file.fileno(), piece)
            self._failpoint("checkpoint.written")
            self._fsync(file.fileno(), path.name)
            self._failpoint("checkpoint.fsynced")

    def _publish(self, temporary: Path, target: Path) -> None:
        self._fsync_folder(temporary)  # 2
        if target.exists():
            raise SaveFailed("rename", f"{target} exists; a checkpoint is never overwritten")
        self._failpoint("checkpoint.renaming")
        try:
            temporary.rename(target)  # 3
        except OSError as error:
            raise SaveFailed("rename", f"cannot rename to {target}: {error.strerror}") from error
        self._failpoint("checkpoint.renamed")
        try:
            self._fsync_folder(self.folder)  # 4
        except (SaveFailed, OSError):
            # whether the name outlives a power cut is unknown, so it is not counted as saved
            shutil.rmtree(target, ignore_errors=True)
            raise
        self._failpoint("checkpoint.durable")

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
        except OSError as error:
            raise SaveFailed("fsync", f"fsync of {name}: {error.strerror}") from error
        self._fsync_seconds += time.perf_counter() - started


def _write_all(descriptor: int, piece: memoryview) -> None:
    """`os.write` may take less than it was given."""
    while piece:
        piece = piece[os.write(descriptor, piece) :]
