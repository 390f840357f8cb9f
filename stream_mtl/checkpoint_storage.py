"""Where checkpoints lie: a folder, or an object store. What both promise is all that the store relies on."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

from stream_mtl.checkpoint_bytes import Content
from stream_mtl.config import Config
from stream_mtl.errors import StorageError
from stream_mtl.failpoints import Failpoint, unarmed


class SaveFailed(StorageError):
    """A checkpoint was not written; `reason` is one of disk_low, write, fsync, rename, bug, stuck."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


class Storage(Protocol):
    """Named sets of files. A set is there as a whole or not at all, and is never changed.

    It fences nobody: a process that the broker has cut off can still write here. What keeps it harmless
    is that names are unique to a process and that only a worker with a later own commit deletes.
    """

    where: str  # for messages
    beside: bool  # whether a forked process sees and makes the same things as its parent

    def names(self) -> list[str]:
        """Of everything that may be a checkpoint, in no order."""

    def put(self, name: str, files: Mapping[str, Content]) -> float:
        """Make it durable, the last file last; seconds spent in fsync. SaveFailed leaves no such name."""

    def files(self, name: str) -> set[str]:
        """CheckpointCorrupt when `name` is not a checkpoint's place."""

    def read(self, name: str, file: str, limit: int) -> bytes:
        """A file of at most `limit` bytes; CheckpointCorrupt when it cannot be had."""

    def written_ms(self, name: str) -> int:
        """Wall time of the writing as the storage knows it; for what has no readable manifest."""

    def size(self, name: str) -> int:
        """Bytes of all files of a checkpoint."""

    def delete(self, name: str) -> None:
        """At no time is there half a checkpoint under its name. StorageError when it cannot."""

    def sweep(self) -> None:
        """Remove what a crash left half written or half deleted; only while nobody else writes."""

    def tell_failpoints_to(self, failpoint: Failpoint) -> None:
        """From now on; a forked writer passes them on to its parent."""

    def free_bytes(self) -> int | None:
        """None where nobody can tell."""


def place_of(config: Config) -> str | Path:
    """Where the checkpoints of this config lie."""
    return config.checkpoint.store or Path(config.state) / "checkpoints"


def open_storage(place: str | Path, failpoint: Failpoint = unarmed) -> Storage:
    """A folder by its path or file://, anything else by its URL (fsspec's files would not be fsynced).

    StorageError or ConfigError when it cannot be used.
    """
    folder = str(place).removeprefix("file://")
    if "://" not in folder:
        from stream_mtl.checkpoint_folder import FolderStorage

        return FolderStorage(Path(folder), failpoint)
    from stream_mtl.checkpoint_objects import ObjectStorage

    return ObjectStorage(folder, failpoint)
