"""Checkpoints as objects in a store that fsspec speaks to: s3:// (with s3fs), gs://, abfs://, memory://.

Objects cannot be renamed, so the manifest is the commit point: it is put last, and only where there is
none of its name; without it the other objects are no checkpoint. Deleting goes the other way round.
Hashes are checked when it is read, as in a folder. Retries are the library's, credentials come from its
own environment and files; nothing of them is shown.

Not given: fencing. A worker that the broker has cut off can still put objects here; they have names of
their own, and it deletes nothing, since it makes no later commit.
"""

from __future__ import annotations

import importlib
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from stream_mtl.checkpoint_bytes import Content
from stream_mtl.checkpoint_storage import SaveFailed
from stream_mtl.errors import CheckpointCorrupt, ConfigError, StorageError, StreamMtlError
from stream_mtl.failpoints import Failpoint, unarmed
from stream_mtl.manifest import MANIFEST

_EXTRAS = {"s3": "stream-mtl[s3]", "s3a": "stream-mtl[s3]"}


class ObjectStorage:
    """Objects below one URL. ConfigError for a URL that nothing installed can speak to."""

    def __init__(self, url: str, failpoint: Failpoint = unarmed) -> None:
        self.where = _without_password(url.rstrip("/"))
        self._url, self._scheme = url.rstrip("/"), url.partition("://")[0]
        self.beside = self._scheme != "memory"
        self._failpoint = failpoint
        self._opened: tuple[int, Any, str] | None = None
        _ = self._connection()

    def names(self) -> list[str]:
        """Those that have a manifest."""
        end = f"/{MANIFEST}"
        return [p[: -len(end)].rpartition("/")[2] for p in self._all() if p.endswith(end)]

    def put(self, name: str, files: Mapping[str, Content]) -> float:
        fs, root = self._connection()
        *others, last = files
        try:
            if fs.exists(f"{root}/{name}/{last}"):
                raise SaveFailed("rename", f"{name} exists; a checkpoint is never overwritten")
            for file in others:
                self._write(f"{root}/{name}/{file}", files[file], "wb")
            self._failpoint("checkpoint.renaming")
            self._write(f"{root}/{name}/{last}", files[last], "xb")
        except SaveFailed:
            raise
        except (
            Exception
        ) as error:  # whatever a library raises: it is counted, and tried again later
            self._forget(name)
            raise SaveFailed("write", f"checkpoint in {self.where}: {_said(error)}") from error
        self._failpoint("checkpoint.renamed")
        self._failpoint("checkpoint.durable")
        return 0.0

    def files(self, name: str) -> set[str]:
        fs, root = self._connection()
        with self._reading(name, "its list of files"):
            return {path.rpartition("/")[2] for path in fs.find(f"{root}/{name}")}
        raise AssertionError("unreachable")

    def read(self, name: str, file: str, limit: int) -> bytes:
        fs, root = self._connection()
        path = f"{root}/{name}/{file}"
        with self._reading(name, file):
            if fs.size(path) > limit:
                raise CheckpointCorrupt(f"{name}: {file} is over its limit of {limit} bytes")
            return bytes(fs.cat_file(path))
        raise AssertionError("unreachable")

    def written_ms(self, name: str) -> int:
        fs, root = self._connection()
        with self._reading(name, MANIFEST):
            return int(fs.modified(f"{root}/{name}/{MANIFEST}").timestamp() * 1000)
        raise AssertionError("unreachable")

    def size(self, name: str) -> int:
        fs, root = self._connection()
        with self._reading(name, "its size"):
            return int(fs.du(f"{root}/{name}"))
        raise AssertionError("unreachable")

    def delete(self, name: str) -> None:
        self._failpoint("checkpoint.deleting")
        fs, root = self._connection()
        try:
            fs.rm_file(f"{root}/{name}/{MANIFEST}")
            for path in fs.find(f"{root}/{name}"):
                fs.rm_file(path)
        except Exception as error:
            raise StorageError(f"cannot delete {self.where}/{name}: {_said(error)}") from error
        self._failpoint("checkpoint.deleted")

    def sweep(self) -> None:
        whole = set(self.names())
        fs, _ = self._connection()
        for path in self._all():
            folder = path.rpartition("/")[0].rpartition("/")[2]
            if folder.startswith("ck1-") and folder not in whole:
                with self._reading(folder, path):
                    fs.rm_file(path)

    def tell_failpoints_to(self, failpoint: Failpoint) -> None:
        self._failpoint = failpoint

    def free_bytes(self) -> int | None:
        return None

    def probe(self, token: str) -> None:
        """Put, read, list and delete one small object; StorageError says which of them failed."""
        fs, root = self._connection()
        path, raw, step = f"{root}/probe-{token}", token.encode(), "write"
        try:
            fs.pipe_file(path, raw)
            step = "read"
            found = fs.cat_file(path)
            step = "list"
            listed = path.rpartition("/")[2] in {p.rpartition("/")[2] for p in fs.find(root)}
            step = "delete"
            fs.rm_file(path)
        except Exception as error:
            raise StorageError(f"{self.where}: cannot {step} there: {_said(error)}") from error
        if found != raw or not listed:
            raise StorageError(f"{self.where}: what was written there is not what is found there")

    def _write(self, path: str, content: Content, mode: str) -> None:
        fs, _ = self._connection()
        self._failpoint("checkpoint.writing")
        with fs.open(path, mode) as file:
            for piece in content.pieces():
                file.write(piece)
        self._failpoint("checkpoint.written")

    def _forget(self, name: str) -> None:
        """What a failed write left is no checkpoint; that it goes away is for `sweep` at the latest."""
        try:
            fs, root = self._connection()
            for path in fs.find(f"{root}/{name}"):
                fs.rm_file(path)
        except Exception:
            return

    def _all(self) -> list[str]:
        fs, root = self._connection()
        try:
            fs.invalidate_cache()
            return [str(path) for path in fs.find(root)]
        except Exception as error:
            raise StorageError(f"cannot list {self.where}: {_said(error)}") from error

    @contextmanager
    def _reading(self, name: str, file: str) -> Iterator[None]:
        """What is not there is a damaged checkpoint; a store that does not answer says nothing of it."""
        try:
            yield
        except StreamMtlError:
            raise
        except FileNotFoundError as error:
            raise CheckpointCorrupt(f"{name}: {file} is missing in {self.where}") from error
        except Exception as error:
            raise StorageError(f"{self.where}/{name}: {file}: {_said(error)}") from error

    def _connection(self) -> tuple[Any, str]:
        """A forked process needs connections of its own."""
        if self._opened is None or self._opened[0] != os.getpid():
            self._opened = (os.getpid(), *_connect(self._url, self._scheme))
        return self._opened[1], self._opened[2]


def _connect(url: str, scheme: str) -> tuple[Any, str]:
    try:
        fsspec = importlib.import_module("fsspec")
        fs, root = fsspec.core.url_to_fs(url, skip_instance_cache=scheme != "memory")
    except (ImportError, ValueError) as error:
        extra = _EXTRAS.get(scheme, f"the fsspec package for {scheme}://")
        raise ConfigError(
            f"checkpoint.store: {scheme}:// cannot be used: {_said(error)}; pip install {extra}, or leave "
            "checkpoint.store empty to keep checkpoints in the state folder"
        ) from error
    return fs, str(root)


def _without_password(url: str) -> str:
    scheme, _, rest = url.partition("://")
    host, slash, path = rest.partition("/")
    return f"{scheme}://{host.rpartition('@')[2]}{slash}{path}"


def _said(error: Exception) -> str:
    return f"{type(error).__name__}: {str(error)[:200]}"
