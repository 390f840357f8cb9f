"""The project's own hashes: the same in every process, unlike the built-in `hash`."""

from __future__ import annotations

import hashlib

import numpy as np
import numpy.typing as npt

_MIX_1, _MIX_2 = np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB)
_GOLDEN = np.uint64(0x9E3779B97F4A7C15)


def hash64(text: str, salt: str = "") -> int:
    """A 63-bit non-negative hash of a string (blake2b, keyed by `salt`), fit for an int64 tensor."""
    raw = hashlib.blake2b(text.encode(), digest_size=8, key=salt.encode()[:64]).digest()
    return int.from_bytes(raw, "little") >> 1


def mix64(value: npt.NDArray[np.int64], salt: int = 0) -> npt.NDArray[np.int64]:
    """splitmix64's finaliser over int64 arrays: an independent 63-bit hash for each `salt`."""
    with np.errstate(over="ignore"):
        z = value.astype(np.uint64) + _GOLDEN * np.uint64(salt + 1)
        z = (z ^ (z >> np.uint64(30))) * _MIX_1
        z = (z ^ (z >> np.uint64(27))) * _MIX_2
        z = z ^ (z >> np.uint64(31))
    return (z >> np.uint64(1)).astype(np.int64)
