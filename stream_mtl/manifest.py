"""The manifest of a checkpoint: what is in the folder, of which cut, made by whom.

It is written last and hashed into the folder's name, so a folder whose name, manifest and files agree is
whole. Everything in it is checked before it is used: it may come from a damaged disk or a stranger.
"""

from __future__ import annotations

import hashlib
import json
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from stream_mtl.errors import CheckpointCorrupt
from stream_mtl.ledger import Context, Entry

MANIFEST, TENSORS, VALUES = "manifest.json", "tensors.safetensors", "state.json"
MANIFEST_BYTES = 1 << 20  # 1,000 partitions take about 80 kB
FILE_BYTES = 1 << 38

Word = Annotated[str, Field(max_length=200)]
Count = Annotated[int, Field(ge=0, lt=1 << 62)]
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Incarnation = Annotated[str, Field(pattern=r"^[a-z0-9]{1,32}$")]


class Strict(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class FileEntry(Strict):
    size: Annotated[int, Field(ge=0, le=FILE_BYTES)]
    sha256: Sha256


class Topic(Strict):
    """A topic as it was when the state was made; the id changes when a topic is recreated."""

    id: Word
    partitions: Count


class Identity(Strict):
    """Which history of which job a state belongs to, and where in it (all of one committed cut)."""

    cluster: Word
    app: Word
    job: Word
    lineage: Word
    cut: Count
    ledger_hash: Word
    ledger_offset: Annotated[int, Field(ge=-1, lt=1 << 62)]  # -1 where there is no broker
    positions: dict[Word, dict[Word, Count]]  # topic -> partition -> first offset not yet seen
    topic_ids: dict[Word, Topic]
    fold_version: Count
    config_hash: Word
    code: Word
    environment: Annotated[dict[Word, Word], Field(max_length=50)]

    @classmethod
    def after(cls, last: Entry, context: Context, cluster: str) -> Identity:
        """Of the state that a fold has after a ledger record."""
        record = last.record
        return cls(
            cluster=cluster,
            app=context.app,
            job="trainer",
            lineage=context.lineage,
            cut=last.cut,
            ledger_hash=last.hash,
            ledger_offset=last.offset,
            positions={topic: dict(offsets) for topic, offsets in record.positions.items()},
            topic_ids={
                name: Topic(id=one.id, partitions=one.partitions)
                for name, one in context.topic_ids.items()
            },
            fold_version=context.fold_version,
            config_hash=context.config_hash,
            code=context.code,
            environment=dict(context.environment),
        )


class Manifest(Strict):
    """`files` names every file beside the manifest; the names are fixed, so none can hold a path."""

    format: Literal["ck1"] = "ck1"
    incarnation: Incarnation
    saved_at: Count  # wall time in ms, for retention only
    state_digest: Sha256
    identity: Identity
    files: dict[Literal["tensors.safetensors", "state.json"], FileEntry]

    @property
    def size(self) -> int:
        """Bytes of all files of the state."""
        return sum(entry.size for entry in self.files.values())

    def encode(self) -> bytes:
        raw = json.dumps(self.model_dump(mode="json"), sort_keys=True, indent=1).encode()
        if len(raw) > MANIFEST_BYTES:
            raise ValueError(f"manifest of {len(raw)} bytes is over its limit of {MANIFEST_BYTES}")
        return raw


def folder_name(manifest: Manifest, raw: bytes) -> str:
    """`ck1-<cut>-<incarnation>-<hash of the manifest>`; the cut is padded so that names sort by age."""
    digest = hashlib.sha256(raw).hexdigest()[:16]
    return f"ck1-{manifest.identity.cut:012d}-{manifest.incarnation}-{digest}"


def cut_number(name: str) -> int:
    """The cut in a checkpoint's name."""
    return int(name.split("-")[1])


def parse(name: str, raw: bytes) -> Manifest:
    """The manifest of folder `name`; CheckpointCorrupt unless every byte is as it was written."""
    try:
        json.loads(raw, object_pairs_hook=_once)
        manifest = Manifest.model_validate_json(raw)
    except (ValidationError, ValueError, RecursionError) as error:
        raise CheckpointCorrupt(f"{name}: {MANIFEST} is not a valid manifest") from error
    if set(manifest.files) != {TENSORS, VALUES}:
        raise CheckpointCorrupt(f"{name}: {MANIFEST} does not name {TENSORS} and {VALUES}")
    if folder_name(manifest, raw) != name:
        raise CheckpointCorrupt(
            f"{name}: {MANIFEST} has another hash, cut or incarnation than the folder's name says; "
            "the file or the name was changed after it was written"
        )
    return manifest


def _once(pairs: list[tuple[str, object]]) -> dict[str, object]:
    """ValueError for a key that is there twice: readers differ in which one they take."""
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a key is there twice")
    return found
