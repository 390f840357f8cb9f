"""What comes from outside, broken in every way that hypothesis thinks of; and what may come of it.

Each target is a strategy and a check that lets through the promised outcomes and raises for any other.
"""

from __future__ import annotations

import hashlib
import json
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from hypothesis import strategies as st

import schemas
from schemas.scores import Reason, TopicIdentity
from stream_mtl.checkpoint import CheckpointStore
from stream_mtl.config import Config, Source, Topics
from stream_mtl.cut import Cut, CutResult, Range, Record
from stream_mtl.errors import CheckpointCorrupt, ConfigError, ForeignState
from stream_mtl.kafka.publication import noted_cut
from stream_mtl.ledger import Context, decode, encode_cut, links
from stream_mtl.manifest import MANIFEST, TENSORS, VALUES, Identity, folder_name, parse
from stream_mtl.serde import decode_all
from stream_mtl.snapshot import snapshot
from workers import known_config, settings, starter
from workers.http_access import Passwords, access

EXAMPLES = Path(schemas.__file__).parent / "examples"
_SOURCE, _TOPICS = Source(), Topics()
_STONES = [
    b'"', b"{", b"}", b"[", b"]", b",", b":", b"null", b"-1", b"1e999", b"NaN", b"-Infinity", b"9" * 30, b"0.1",
    b"\\u0000", b"\\ud800", b"\xff", b"\x00", b"true", b"../", b"\n", b"=", b"[[", b"&a", b"*a", b"!!python/name:os.system",
    b"<<: ", b"? ", b"'''", b"\xef\xbb\xbf", b"{" * 200,
]  # fmt: skip


@dataclass(frozen=True)
class Target:
    """`check` raises when an input has an outcome that was not promised."""

    strategy: st.SearchStrategy[Any]
    check: Callable[[Any], None]


@st.composite
def mutated(draw: st.DrawFn, seeds: list[bytes]) -> bytes:
    """A good input with a few bytes changed, put in, taken out or doubled."""
    raw = bytearray(draw(st.sampled_from(seeds)))
    for _ in range(draw(st.integers(1, 6))):
        at, length = draw(st.integers(0, len(raw))), draw(st.integers(0, 40))
        match draw(st.integers(0, 4)):
            case 0:
                raw[at:at] = draw(st.sampled_from(_STONES))
            case 1:
                raw[at : at + 1] = draw(st.binary(max_size=4))
            case 2:
                del raw[at : at + length]
            case 3:
                raw[at:at] = raw[at : at + length]
            case _:
                del raw[at:]
    return bytes(raw)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda one: st.lists(one, max_size=3) | st.dictionaries(st.text(max_size=8), one, max_size=3),
    max_leaves=6,
)


@st.composite
def remade(draw: st.DrawFn, seeds: list[bytes]) -> bytes:
    """A good JSON object in which one value, at some depth, is another."""
    whole = json.loads(draw(st.sampled_from(seeds)))
    at = whole
    while True:
        keys = list(at) if isinstance(at, dict) else list(range(len(at)))
        key = draw(st.sampled_from(keys))
        if not isinstance(at[key], (dict, list)) or not at[key] or draw(st.booleans()):
            at[key] = draw(JSON)
            return json.dumps(whole).encode()
        at = at[key]


# ---- records


def _records(seeds: list[bytes]) -> st.SearchStrategy[Record]:
    confluent = st.builds(
        lambda head, tail: b"\0" + head + tail, st.binary(min_size=4, max_size=4), mutated(seeds)
    )
    values = st.none() | st.binary(max_size=200) | mutated(seeds) | remade(seeds) | confluent
    topics = st.sampled_from(["file", "shop.events", "shop.items", "shop.control", "elsewhere"])
    stamps = st.none() | st.integers(-(2**63), 2**63 - 1)
    return st.builds(
        Record, topics, st.just(0), st.just(0), st.none() | st.binary(max_size=20), values, stamps
    )


def _decoded(record: Record) -> None:
    """One outcome a record, and a reason of the closed list."""
    out = decode_all([record], _SOURCE, _TOPICS)
    assert len(out.events) + len(out.commands) + len(out.rejects) == 1
    assert all(reject.reason in set(Reason) for reject in out.rejects)


_EVENTS = [path.read_bytes() for path in sorted(EXAMPLES.glob("*.json"))]

# ---- checkpoints and the ledger


def _identity() -> Identity:
    return Identity(
        cluster="c", app="shop", job="trainer", lineage="l", cut=5, ledger_hash="ab" * 32, ledger_offset=5,
        positions={"shop.events": {"0": 7}}, topic_ids={}, fold_version=1, config_hash="cd" * 8, code="ef" * 8,
        environment={"torch": "2"},
    )  # fmt: skip


def _good_files() -> dict[str, bytes]:
    state = {
        "a/t": torch.arange(6.0).reshape(2, 3),
        "a/n": torch.tensor([1]),
        "b/v": [1, {"x": None}],
        "c": float("nan"),
    }
    with tempfile.TemporaryDirectory() as folder:
        info = CheckpointStore(Path(folder)).save(snapshot(state), _identity(), "a1", 1).info
        return {file: (info.path / file).read_bytes() for file in (MANIFEST, TENSORS, VALUES)}


_FILES = _good_files()


def _manifest_read(raw: bytes) -> None:
    """Under the name that these bytes ask for, as an attacker would give it."""
    try:
        parse(f"ck1-000000000005-a1-{hashlib.sha256(raw).hexdigest()[:16]}", raw)
    except CheckpointCorrupt:
        return


def _checkpoint_read(files: tuple[bytes, bytes]) -> None:
    """Files with other content, whose hashes fit."""
    content = json.loads(_FILES[MANIFEST])
    for file, raw in zip((TENSORS, VALUES), files, strict=True):
        content["files"][file] = {"size": len(raw), "sha256": hashlib.sha256(raw).hexdigest()}
    manifest = json.dumps(content, sort_keys=True, indent=1).encode()
    name = f"ck1-000000000005-a1-{hashlib.sha256(manifest).hexdigest()[:16]}"
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder) / name
        place.mkdir()
        for file, raw in {MANIFEST: manifest, TENSORS: files[0], VALUES: files[1]}.items():
            (place / file).write_bytes(raw)
        try:
            _, read = CheckpointStore(Path(folder)).load(name)
        except CheckpointCorrupt:
            return
        assert folder_name(read, manifest) == name


def _ledger_record() -> bytes:
    topics = {"t": TopicIdentity(id="x", partitions=1)}
    context = Context("shop", "aa" * 4, "bb" * 8, topics, "cc" * 8, "dd" * 8, {"torch": "2"})
    cut = Cut(0, (), (Range("t", 0, 0, 1, 1, "ab" * 8),), 1)
    return encode_cut(context, "", cut, CutResult(0, (), (), {"events": 1}, "cd" * 8, "ef" * 8, 1))


def _ledger_read(raw: bytes) -> None:
    try:
        links([decode(raw, 0)])
    except ForeignState:
        return


# ---- settings


def _file_read(suffix: str) -> Callable[[bytes], None]:
    def check(raw: bytes) -> None:
        with tempfile.NamedTemporaryFile(suffix=suffix) as file:
            file.write(raw)
            file.flush()
            try:
                settings.effective(settings.load(file.name))
            except ConfigError:
                return

    return check


def _layers_read(said: tuple[dict[str, str], list[str]]) -> None:
    environment, flags = said
    try:
        settings.effective(
            settings.load(None, environment, [settings.assignment(one) for one in flags])
        )
    except ConfigError:
        return


_TOML = starter.text().replace("# ", "").encode()
_LIVE = b'app = "x"\n[kafka]\nbootstrap = "h:1"\n[kafka.client]\n"sasl.password" = "s"\n[tasks.click]\nkind = "binary"\n'
_YAML = b"app: x\nkafka: {bootstrap: 'h:1', client: {sasl.password: s}}\ntopics:\n  events: [a, b]\ntasks:\n  click: {kind: binary}\n"
_KEYS = sorted({".".join(leaf.keys) for leaf in settings.config_file.leaves()})
_WORDS = st.sampled_from(
    ["1", "-1", "nan", "x", "", "a,b", "[1]", '["a"]', "{", '{"a": 1}', "true", "1e999", "9" * 30]
) | st.text(max_size=10)
_NAMES = st.sampled_from(_KEYS) | st.text(max_size=20)
_LAYERS = st.tuples(
    st.dictionaries(_NAMES.map(lambda key: "SMTL_" + key.replace(".", "__").upper()), _WORDS, max_size=3),
    st.lists(st.builds("{}={}".format, _NAMES, _WORDS) | st.text(max_size=10), max_size=3),
)  # fmt: skip


def _known_config_read(raw: bytes) -> None:
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "config.json").write_bytes(raw)
        known_config.changed_keys(Path(folder), Config())


# ---- the endpoint


def _passwords_read(raw: bytes) -> None:
    with tempfile.NamedTemporaryFile() as file:
        file.write(raw)
        file.flush()
        try:
            access(Config().metrics.model_copy(update={"basic_auth_file": file.name}))
        except ConfigError:
            return


_LINE = b"prometheus:scrypt$2$8$1$c2FsdA==$" + b"A" * 43 + b"=\n"
_NOBODY = Passwords({})


def _header_read(header: str) -> None:
    """Nobody comes in where nobody is known."""
    assert not _NOBODY.let_in(header)


_HEADERS = st.text(max_size=40) | st.text(st.characters(max_codepoint=127), max_size=40).map(
    "Basic {}".format
)

TARGETS: dict[str, Target] = {
    "records": Target(_records(_EVENTS), _decoded),
    "manifests": Target(mutated([_FILES[MANIFEST]]) | remade([_FILES[MANIFEST]]), _manifest_read),
    "checkpoints": Target(
        st.tuples(
            st.just(_FILES[TENSORS]) | mutated([_FILES[TENSORS]]),
            st.just(_FILES[VALUES]) | mutated([_FILES[VALUES]]) | remade([_FILES[VALUES]]),
        ),
        _checkpoint_read,
    ),
    "ledger records": Target(mutated([_ledger_record()]) | remade([_ledger_record()]), _ledger_read),
    "offset notes": Target(st.text(max_size=40) | mutated([b"stream-mtl/1 cut=5 by=a"]).map(lambda b: b.decode("latin-1")), lambda note: void(noted_cut(note))),
    "TOML files": Target(mutated([_TOML, _LIVE]), _file_read(".toml")),
    "YAML files": Target(mutated([_YAML]), _file_read(".yaml")),
    "environment and flags": Target(_LAYERS, _layers_read),
    "remembered configs": Target(st.binary(max_size=50) | JSON.map(lambda one: json.dumps(one).encode()), _known_config_read),
    "password files": Target(mutated([_LINE]), _passwords_read),
    "authorization headers": Target(_HEADERS, _header_read),
}  # fmt: skip


def void(value: object) -> None:
    """Any value will do."""
