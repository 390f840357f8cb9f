"""Checkpoints that want to be loaded and must not be: pickles, lying headers, paths, sizes, other people's states.

Each case is a function that turns the folder of a good checkpoint into a bad one and returns the name under which it
lies then. Where the attack is not the hash itself, all hashes are made to fit again: the attacker can compute them.
A pickle among them would create the file CANARY beside the checkpoints.
"""

from __future__ import annotations

import hashlib
import json
import os
import pickle
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import safetensors.torch
import torch

from stream_mtl.checkpoint import CheckpointStore
from stream_mtl.errors import StateError
from stream_mtl.manifest import MANIFEST, TENSORS, VALUES, Identity
from stream_mtl.pipeline import Pipeline
from stream_mtl.recovery import Fold, Start, restore
from stream_mtl.snapshot import snapshot
from stream_mtl.state import State, digest

CANARY = "canary"
Case = Callable[[Path], str]
CASES: dict[str, Case] = {}


def case(function: Case) -> Case:
    CASES[function.__name__] = function
    return function


class _Bomb:
    """Unpickling it creates a file."""

    def __init__(self, folder: Path) -> None:
        self._canary = str(folder.parent / CANARY)

    def __reduce__(self) -> tuple[Any, ...]:
        return open, (self._canary, "w")


# ---- how a case is made


def sealed(folder: Path, *, keep_digest: bool = False, **changes: Any) -> str:
    """Sizes, hashes and the folder's name made to fit what is in the files now; `changes` to the manifest."""
    content = json.loads((folder / MANIFEST).read_bytes())
    for file in (TENSORS, VALUES):
        raw = (folder / file).read_bytes()
        content["files"][file] = {"size": len(raw), "sha256": hashlib.sha256(raw).hexdigest()}
    if not keep_digest:
        content["state_digest"] = _digest_of(folder) or content["state_digest"]
    return renamed(folder, json.dumps({**content, **changes}, sort_keys=True, indent=1).encode())


def renamed(folder: Path, manifest: bytes) -> str:
    """Write these bytes as the manifest and give the folder the name that they ask for."""
    (folder / MANIFEST).write_bytes(manifest)
    head = folder.name.rpartition("-")[0]
    name = f"{head}-{hashlib.sha256(manifest).hexdigest()[:16]}"
    folder.rename(folder.parent / name)
    return name


def _digest_of(folder: Path) -> str:
    try:
        state = dict(safetensors.torch.load((folder / TENSORS).read_bytes()))
        return digest({**state, **json.loads((folder / VALUES).read_bytes())})
    except Exception:
        return ""  # no state at all: which digest stands there does not matter


def header(folder: Path, change: Callable[[dict[str, Any]], Any]) -> str:
    """The header of the tensors, changed."""
    raw = (folder / TENSORS).read_bytes()
    (size,) = struct.unpack("<Q", raw[:8])
    known = json.loads(raw[8 : 8 + size])
    return with_header(folder, json.dumps(change(known) or known).encode(), raw[8 + size :])


def with_header(folder: Path, head: bytes, data: bytes, said: int | None = None) -> str:
    size = len(head) if said is None else said
    (folder / TENSORS).write_bytes(struct.pack("<Q", size) + head + data)
    return sealed(folder)


def first(known: dict[str, Any], dtype: str = "F32") -> dict[str, Any]:
    """The entry of some tensor that is not empty."""
    entries: list[dict[str, Any]] = [one for name, one in known.items() if name != "__metadata__"]
    return next(
        e for e in entries if e["dtype"] == dtype and e["data_offsets"][1] > e["data_offsets"][0]
    )


def state_with(folder: Path, change: Callable[[State], Any]) -> str:
    """Another state, saved as we would save it: everything fits but the meaning."""
    state: State = dict(safetensors.torch.load((folder / TENSORS).read_bytes()))
    state.update(json.loads((folder / VALUES).read_bytes()))
    change(state)
    copied = snapshot(state)
    (folder / TENSORS).write_bytes(safetensors.torch.save(dict(copied.tensors)))
    (folder / VALUES).write_bytes(
        b"{" + b",\n".join(json.dumps(n).encode() + b":" + raw for n, raw in sorted(copied.values.items())) + b"}\n"
    )  # fmt: skip
    return sealed(folder)


def a_tensor(state: State, part: str = "learner/") -> str:
    return next(
        name
        for name, value in sorted(state.items())
        if name.startswith(part) and isinstance(value, torch.Tensor) and value.dtype == torch.float32 and value.dim() > 1
    )  # fmt: skip


# ---- code in the place of data


@case
def pickle_as_tensors(folder: Path) -> str:
    (folder / TENSORS).write_bytes(pickle.dumps(_Bomb(folder)))
    return sealed(folder)


@case
def torch_zip_as_tensors(folder: Path) -> str:
    torch.save(_Bomb(folder), folder / TENSORS)
    return sealed(folder)


@case
def pickle_as_values(folder: Path) -> str:
    (folder / VALUES).write_bytes(pickle.dumps(_Bomb(folder), protocol=0))
    return sealed(folder)


@case
def pickle_as_manifest(folder: Path) -> str:
    return renamed(folder, pickle.dumps(_Bomb(folder)))


@case
def pickle_beside_the_files(folder: Path) -> str:
    (folder / "state.pkl").write_bytes(pickle.dumps(_Bomb(folder)))
    return folder.name


# ---- headers that lie


@case
def overlapping_offsets(folder: Path) -> str:
    def change(known: dict[str, Any]) -> None:
        entries = [one for one in known.values() if "data_offsets" in one]
        one = first(known)
        other = next(e for e in entries if e is not one)
        other.update(one)

    return header(folder, change)


@case
def offsets_beyond_the_file(folder: Path) -> str:
    return header(folder, lambda k: first(k).update(data_offsets=[2**40, 2**40 + 4], shape=[1]))


@case
def offsets_that_run_backwards(folder: Path) -> str:
    return header(folder, lambda k: first(k).update(data_offsets=[8, 0], shape=[2]))


@case
def a_negative_shape(folder: Path) -> str:
    return header(folder, lambda k: first(k).update(shape=[-1, 4]))


@case
def a_shape_that_overflows(folder: Path) -> str:
    return header(folder, lambda k: first(k).update(shape=[2**62, 8]))


@case
def a_huge_empty_shape(folder: Path) -> str:
    return header(folder, lambda k: k.update(x={"dtype": "F32", "shape": [0, 2**63], "data_offsets": [0, 0]}))  # fmt: skip


@case
def another_width_over_the_same_bytes(folder: Path) -> str:
    return header(folder, lambda k: first(k).update(dtype="F64"))


@case
def another_type_of_the_same_width(folder: Path) -> str:
    return header(folder, lambda k: first(k).update(dtype="I32"))


@case
def an_unknown_type(folder: Path) -> str:
    return header(folder, lambda k: first(k).update(dtype="PYOBJECT"))


@case
def a_header_longer_than_the_file(folder: Path) -> str:
    return with_header(folder, b"{}", b"", said=2**62)


@case
def a_header_that_is_no_json(folder: Path) -> str:
    return with_header(folder, b"\xff" * 100, b"")


@case
def a_deep_header(folder: Path) -> str:
    return with_header(folder, b'{"a":' * 50_000, b"")


@case
def a_header_alone(folder: Path) -> str:
    (folder / TENSORS).write_bytes(b"\x01")
    return sealed(folder)


# ---- paths, links, sizes


@case
def a_path_among_the_files(folder: Path) -> str:
    entry = {"size": 1, "sha256": "0" * 64}
    return sealed(folder, files={"../../../../etc/passwd": entry, VALUES: entry})


@case
def a_path_in_the_incarnation(folder: Path) -> str:
    return sealed(folder, incarnation="../../x")


@case
def a_link_to_a_file(folder: Path) -> str:
    elsewhere = folder.parent / "elsewhere"
    (folder / VALUES).rename(elsewhere)
    (folder / VALUES).symlink_to(elsewhere)
    return folder.name


@case
def a_link_to_a_folder(folder: Path) -> str:
    folder.rename(folder.parent / "elsewhere-whole")
    folder.symlink_to(folder.parent / "elsewhere-whole")
    return folder.name


@case
def a_pipe_in_the_place_of_a_file(folder: Path) -> str:
    (folder / VALUES).unlink()
    os.mkfifo(folder / VALUES)
    return folder.name


@case
def a_file_of_holes_larger_than_the_memory(folder: Path) -> str:
    size = 1 << 37
    os.truncate(folder / TENSORS, size)
    content = json.loads((folder / MANIFEST).read_bytes())
    content["files"][TENSORS]["size"] = size
    return renamed(folder, json.dumps(content, sort_keys=True, indent=1).encode())


@case
def a_manifest_without_end(folder: Path) -> str:
    return renamed(folder, b" " * (2 << 20) + (folder / MANIFEST).read_bytes())


# ---- JSON


@case
def a_key_twice_in_the_values(folder: Path) -> str:
    raw = (folder / VALUES).read_bytes()
    (folder / VALUES).write_bytes(b'{"pipeline/cuts":7,' + raw[1:])
    return sealed(folder)


@case
def a_key_twice_in_the_manifest(folder: Path) -> str:
    raw = (folder / MANIFEST).read_bytes()
    return renamed(folder, b'{"format": "ck0",' + raw[1:])


@case
def deep_values(folder: Path) -> str:
    (folder / VALUES).write_bytes(b'{"a":' + b"[" * 100_000 + b"]" * 100_000 + b"}")
    return sealed(folder)


@case
def a_deep_manifest(folder: Path) -> str:
    return renamed(folder, b'{"a":' * 50_000)


@case
def a_number_beyond_floats(folder: Path) -> str:
    raw = (folder / VALUES).read_bytes()
    (folder / VALUES).write_bytes(b'{"a":1e999,' + raw[1:])
    return sealed(folder)


@case
def a_number_of_a_million_digits(folder: Path) -> str:
    (folder / VALUES).write_bytes(b'{"pipeline/cuts":' + b"9" * 1_000_000 + b"}")
    return sealed(folder)


@case
def a_nan_in_the_manifest(folder: Path) -> str:
    return sealed(folder, saved_at=float("nan"))


@case
def an_infinity_in_the_manifest(folder: Path) -> str:
    return sealed(folder, saved_at=float("inf"))


@case
def a_list_for_the_values(folder: Path) -> str:
    (folder / VALUES).write_bytes(b"[]")
    return sealed(folder)


@case
def a_tensor_and_a_value_of_one_name(folder: Path) -> str:
    raw, tensors = (folder / VALUES).read_bytes(), (folder / TENSORS).read_bytes()
    name = a_tensor(dict(safetensors.torch.load(tensors)))
    (folder / VALUES).write_bytes(b"{" + json.dumps(name).encode() + b":1,\n" + raw[1:])
    return sealed(folder)


# ---- a manifest of something else


@case
def an_unknown_format(folder: Path) -> str:
    return sealed(folder, format="ck9")


@case
def an_unknown_field(folder: Path) -> str:
    return sealed(folder, on_load="os.system")


@case
def another_state_under_this_digest(folder: Path) -> str:
    raw = bytearray((folder / TENSORS).read_bytes())
    raw[-1] ^= 1
    (folder / TENSORS).write_bytes(raw)
    return sealed(folder, keep_digest=True)


@case
def a_hash_that_does_not_fit(folder: Path) -> str:
    with (folder / TENSORS).open("r+b") as file:
        file.seek(-1, os.SEEK_END)
        file.write(b"\xff")
    return folder.name


@case
def the_name_of_another_cut(folder: Path) -> str:
    name = folder.name.replace("ck1-000000000005", "ck1-000000000006")
    folder.rename(folder.parent / name)
    return name


# ---- a state that is whole and not of this worker


@case
def a_tensor_of_another_shape(folder: Path) -> str:
    return state_with(folder, lambda s: s.update({a_tensor(s): torch.zeros(3, 5)}))


@case
def a_tensor_of_another_type(folder: Path) -> str:
    return state_with(folder, lambda s: s.update({a_tensor(s): s[a_tensor(s)].double()}))


@case
def a_value_where_a_tensor_belongs(folder: Path) -> str:
    return state_with(folder, lambda s: s.update({a_tensor(s): "weights"}))


@case
def a_tensor_left_out(folder: Path) -> str:
    return state_with(folder, lambda s: s.pop(a_tensor(s)))


@case
def a_tensor_too_many(folder: Path) -> str:
    return state_with(folder, lambda s: s.update({"learner/more": torch.zeros(2)}))


@case
def a_list_where_a_table_belongs(folder: Path) -> str:
    return state_with(folder, lambda s: s.update({"pipeline/totals": [1, 2]}))


@case
def a_memory_of_another_size(folder: Path) -> str:
    def change(state: State) -> None:
        name = next(n for n in sorted(state) if "memory" in n and getattr(state[n], "numel", int)())
        state[name] = torch.cat([state[name], state[name]])

    return state_with(folder, change)


@case
def no_state_at_all(folder: Path) -> str:
    return state_with(folder, lambda s: s.clear())


# ---- the verdict


def verdict(folder: Path, name: str, model: Pipeline, fresh: Callable[[], Fold]) -> str:
    """What happens to case `name` in this folder: `refused: why`, `accepted`, `executed`, or the wrong error."""
    store = CheckpointStore(folder)
    info = store.save(snapshot(model.state()), _identity(), "a1", 1).info
    bad = CASES[name](info.path)
    try:
        state, manifest = store.load(bad)
        restore(fresh(), Start(state, manifest, bad, (), None, False, ()))  # type: ignore[arg-type]
        said = "accepted"
    except StateError as error:
        said = f"refused: {error}"
    except Exception as error:
        said = f"crashed: {type(error).__name__}: {error}"
    return "executed" if (folder / CANARY).exists() else said


def _identity() -> Identity:
    return Identity(
        cluster="c", app="shop", job="trainer", lineage="l", cut=5, ledger_hash="ab" * 32, ledger_offset=5,
        positions={"shop.events": {"0": 7}}, topic_ids={}, fold_version=1, config_hash="cd" * 8, code="ef" * 8,
        environment={},
    )  # fmt: skip
