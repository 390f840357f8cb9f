"""Who this worker is: an id in its state folder, guarded by a lock that dies with the process.

A restart from the same folder has the same id, so it is never refused; another folder has another id,
so two supervised copies notice each other before they fence each other for ever.
"""

from __future__ import annotations

import fcntl
import os
import re
import secrets
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

from stream_mtl.errors import Fenced, StorageError
from stream_mtl.kafka.publication import Claim
from stream_mtl.ledger import Entry
from workers.durable_file import replace_text

SILENCE_MS = 30_000  # another instance that has not committed for so long is taken for dead
_ID = re.compile(r"[a-z0-9]{16}")


@dataclass(frozen=True, slots=True)
class Instance:
    """`id` lives as long as the folder, `incarnation` as long as the process."""

    id: str
    incarnation: str


class InstanceLock:
    """Context manager: the state folder is ours while it is open.

    Raises Fenced when another process holds it, StorageError when the folder cannot be used. The kernel
    lets go of the lock when the process ends, however it ends; a left-over file means nothing.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._descriptor = -1

    def __enter__(self) -> Instance:
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            self._descriptor = os.open(self._folder / "lock", os.O_RDWR | os.O_CREAT, 0o600)
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return Instance(_instance_id(self._folder / "instance"), secrets.token_hex(4))
        except BlockingIOError as error:
            self._close()
            raise Fenced(
                f"another process works in the state folder {self._folder}; stop it, or give this one "
                "a folder of its own (--state)"
            ) from error
        except OSError as error:
            self._close()
            raise StorageError(f"state folder {self._folder}: {error.strerror}") from error

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._close()

    def _close(self) -> None:
        if self._descriptor >= 0:
            os.close(self._descriptor)  # the file stays: removing it would let two hold "the" lock
            self._descriptor = -1


def _instance_id(path: Path) -> str:
    """The id in the file, made on first use; written whole or not at all."""
    if path.exists() and _ID.fullmatch(known := path.read_text(errors="replace").strip()):
        return known
    fresh = secrets.token_hex(8)
    replace_text(path, fresh + "\n")
    return fresh


def refuse_second(
    last: Entry | None,
    instance: str,
    now_ms: int,
    take_over: bool,
    claims: Callable[[], Iterable[Claim]] = tuple,
) -> None:
    """Fenced when another instance has committed within the last 30 s, or has claimed the job (it does so while
    it restores and commits nothing), unless told to take over.

    Called before a producer exists: creating one would fence the other, which a supervisor restarts, and
    so on for ever.
    """
    if last is None or take_over:
        return
    for claim in claims():
        if claim.instance != instance and now_ms - claim.at_ms < SILENCE_MS:
            raise Fenced(
                f"instance {claim.instance} took the job {max(now_ms - claim.at_ms, 0) / 1000:.0f} s ago and is"
                f" restoring its state, this is instance {instance}; stop the other, wait"
                f" {SILENCE_MS // 1000} s, or use --take-over"
            )
    if last.record.instance == instance:
        return
    silent_ms = now_ms - last.record.published_at
    if silent_ms < SILENCE_MS:
        raise Fenced(
            f"instance {last.record.instance} committed cut {last.cut} {max(silent_ms, 0) / 1000:.0f} s ago, "
            f"this is instance {instance}; stop the other, wait {SILENCE_MS // 1000} s, or use --take-over"
        )
