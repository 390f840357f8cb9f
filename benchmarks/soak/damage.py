"""Everything that may befall a file of a checkpoint, each as a function of its path."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

Damage = Callable[[Path, Path], None]  # of a file; the same file of another checkpoint


def damages(places: int) -> dict[str, Damage]:
    """By name; `places` spots are tried where a damage can sit in several."""
    found: dict[str, Damage] = {
        "missing": lambda path, other: path.unlink(),
        "empty": lambda path, other: os.truncate(path, 0),
        "one byte short": lambda path, other: os.truncate(path, path.stat().st_size - 1),
        "one byte more": lambda path, other: path.write_bytes(path.read_bytes() + b"\0"),
        "never synced (zeros)": lambda path, other: _zeros_from(path, 0),
        "of another checkpoint": lambda path, other: _copy(other, path),
        "a link to itself elsewhere": _link,
        "a link to another checkpoint": _link_to,
        "a folder": _folder,
        "a further file": lambda path, other: _copy(path, path.parent / "more"),
    }
    for place in range(places):
        share = (place + 0.5) / places
        found[f"torn at {share:.0%}"] = _torn(share)
        found[f"zeros from {share:.0%}"] = _zeros(share)
        found[f"one bit at {share:.1%}"] = _bit(share, place % 8)
    found["first bit"] = _bit(0.0, 0)
    found["last bit"] = _bit(1.0, 7)
    return found


@contextmanager
def unreadable(path: Path) -> Iterator[None]:
    """A disk that answers EIO for this file."""
    read = Path.read_bytes

    def fail(self: Path) -> bytes:
        if self.parts[-2:] == path.parts[-2:]:
            raise OSError(5, "Input/output error")
        return read(self)

    with mock.patch.object(Path, "read_bytes", fail):
        yield


class Disk:
    """Stands in for `os` where checkpoints are written; the `at`-th call of `call` fails, once."""

    def __init__(self, call: str, at: int, error: int) -> None:
        self._call, self._at, self._error = call, at, error
        self.failed_on: list[tuple[int, str]] = []  # descriptor and what it is open on
        self.tried_again: list[str] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(os, name)

    def write(self, descriptor: int, raw: Any) -> int:
        self._pass("write", descriptor)
        return os.write(descriptor, raw)

    def fsync(self, descriptor: int) -> None:
        self._pass("fsync", descriptor)
        os.fsync(descriptor)

    def _pass(self, call: str, descriptor: int) -> None:
        name = os.readlink(f"/proc/self/fd/{descriptor}")
        if self.failed_on and name == self.failed_on[0][1] and Path(name).is_file():
            self.tried_again.append(name)
        if call != self._call:
            return
        self._at -= 1
        if self._at == 0:
            self.failed_on.append((descriptor, name))
            raise OSError(self._error, os.strerror(self._error))


def _bit(share: float, bit: int) -> Damage:
    def damage(path: Path, other: Path) -> None:
        raw = bytearray(path.read_bytes())
        raw[min(int(len(raw) * share), len(raw) - 1)] ^= 1 << bit
        path.write_bytes(raw)

    return damage


def _torn(share: float) -> Damage:
    return lambda path, other: os.truncate(path, int(path.stat().st_size * share))


def _zeros(share: float) -> Damage:
    return lambda path, other: _zeros_from(path, int(path.stat().st_size * share))


def _zeros_from(path: Path, at: int) -> None:
    """What a power cut leaves of pages that never reached the disk: the size is right."""
    raw = path.read_bytes()
    path.write_bytes(raw[:at] + bytes(len(raw) - at))


def _copy(source: Path, target: Path) -> None:
    target.write_bytes(source.read_bytes())


def _link(path: Path, other: Path) -> None:
    elsewhere = path.parent.parent / f"elsewhere-{path.name}"
    path.rename(elsewhere)
    path.symlink_to(elsewhere)


def _link_to(path: Path, other: Path) -> None:
    path.unlink()
    path.symlink_to(other)


def _folder(path: Path, other: Path) -> None:
    path.unlink()
    path.mkdir()
    shutil.copy(other, path / "within")
