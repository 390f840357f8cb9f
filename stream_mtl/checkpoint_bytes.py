"""A state as the bytes of a checkpoint's two files, without a copy of its tensors.

`safetensors.torch.save` gives the same bytes, but copies every tensor twice on the way and holds the
interpreter meanwhile; of a large state that is felt in the fold. So the header is written here, the
tensors go from memory to hash and disk piece by piece, and the library reads what comes of it.
"""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import safetensors.torch
import torch
from torch import Tensor

from stream_mtl.errors import CheckpointCorrupt
from stream_mtl.manifest import TENSORS, VALUES, FileEntry
from stream_mtl.snapshot import Snapshot
from stream_mtl.state import State, canonical_json

PIECE = (
    8 << 20
)  # bytes at a time: between two pieces other threads run, and a stuck disk is noticed

# What the readers of tensors and JSON raise for bytes that are not theirs.
_UNREADABLE = (
    safetensors.SafetensorError,
    ValueError,
    RecursionError,
    KeyError,
    TypeError,
    OverflowError,
    RuntimeError,
    MemoryError,
)
_DTYPES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.int16: "I16",
    torch.int8: "I8",
    torch.uint8: "U8",
    torch.bool: "BOOL",
    torch.uint16: "U16",
    torch.uint32: "U32",
    torch.uint64: "U64",
}
assert sys.byteorder == "little", "safetensors is little endian, and so is memory here"


@dataclass(frozen=True, slots=True)
class Content:
    """One file before it is written: its bytes are views of the snapshot's memory."""

    parts: tuple[memoryview, ...]

    @property
    def size(self) -> int:
        return sum(len(part) for part in self.parts)

    def pieces(self) -> Iterator[memoryview]:
        for part in self.parts:
            for start in range(0, len(part), PIECE):
                yield part[start : start + PIECE]

    def entry(self) -> FileEntry:
        """Size and hash of the bytes in memory, not of what a disk returns."""
        sha256 = hashlib.sha256()
        for piece in self.pieces():
            sha256.update(piece)
        return FileEntry(size=self.size, sha256=sha256.hexdigest())


def encode(copied: Snapshot) -> dict[str, Content]:
    """The files of a checkpoint, by name."""
    return {TENSORS: _tensors(copied.tensors), VALUES: _values(copied.values)}


def decode(name: str, tensors: bytes, values: bytes) -> tuple[State, dict[str, bytes]]:
    """The state in files whose hashes have been checked, and its JSON values as they are digested.

    CheckpointCorrupt where they are no state, or not in the form in which we write one.
    """
    try:
        state: State = dict(safetensors.torch.load(tensors))
        decoded: Any = json.loads(values)
        if not isinstance(decoded, dict) or not state.keys().isdisjoint(decoded):
            raise CheckpointCorrupt(f"{name}: {VALUES} does not fit {TENSORS}")
        encoded = {key: canonical_json(value) for key, value in decoded.items()}
        if _joined(encoded) != values:  # a key twice, a number beyond floats: not by us
            raise CheckpointCorrupt(f"{name}: {VALUES} is not in the form in which it is written")
    except _UNREADABLE as error:
        raise CheckpointCorrupt(f"{name}: files have their hashes but cannot be read") from error
    return state | decoded, encoded


def as_bytes(tensor: Tensor) -> memoryview:
    """The memory of a dense CPU tensor, seen as bytes."""
    if not tensor.numel():
        return memoryview(b"")
    return tensor.reshape(-1).view(torch.uint8).numpy().data


def _tensors(tensors: Mapping[str, Tensor]) -> Content:
    """In the library's order: wide types first, so that each tensor is aligned."""
    order = sorted(tensors, key=lambda name: (-tensors[name].element_size(), name))
    header: dict[str, object] = {}
    parts, at = [], 0
    for name in order:
        tensor = tensors[name].contiguous()
        header[name] = {
            "dtype": _DTYPES[tensor.dtype],
            "shape": list(tensor.shape),
            "data_offsets": [at, at + tensor.nbytes],
        }
        parts.append(as_bytes(tensor))
        at += tensor.nbytes
    raw = json.dumps(header, separators=(",", ":")).encode()
    raw += b" " * (-len(raw) % 8)
    return Content((memoryview(len(raw).to_bytes(8, "little") + raw), *parts))


def _values(values: Mapping[str, bytes]) -> Content:
    return Content((memoryview(_joined(values)),))


def _joined(values: Mapping[str, bytes]) -> bytes:
    """One JSON object of values that are JSON already."""
    members = (json.dumps(name).encode() + b":" + raw for name, raw in sorted(values.items()))
    return b"{" + b",\n".join(members) + b"}\n"
