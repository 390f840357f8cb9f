"""What every place of checkpoints promises: a folder, an object store in memory, and a real S3 server."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from stream_mtl.checkpoint import CheckpointStore, SaveFailed
from stream_mtl.checkpoint_bytes import Content
from stream_mtl.checkpoint_objects import ObjectStorage
from stream_mtl.checkpoint_storage import Storage, open_storage
from stream_mtl.checkpoint_writer import BackgroundWriter
from stream_mtl.errors import CheckpointCorrupt, ConfigError, StorageError
from stream_mtl.manifest import MANIFEST, TENSORS, VALUES
from stream_mtl.snapshot import snapshot
from stream_mtl.state import digest
from tests.checkpoints import a_state, identity, save

HOUR = 3_600_000
SECRET = "planted-secret-key"


class Died(BaseException):
    """Stands for SIGKILL."""


@pytest.fixture(scope="session")
def s3() -> Iterator[str]:
    """A real S3 server of this session; its bucket's URL."""
    pytest.importorskip("s3fs", reason="NO s3fs, nothing about S3 was tested")
    server = pytest.importorskip("moto.server", reason="NO moto, nothing about S3 was tested")
    running = server.ThreadedMotoServer(port=0, verbose=False)
    running.start()
    _, port = running.get_host_and_port()
    given = {
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}",
        "AWS_ACCESS_KEY_ID": "someone",
        "AWS_SECRET_ACCESS_KEY": SECRET,
        "AWS_DEFAULT_REGION": "us-east-1",
    }
    before = {name: os.environ.get(name) for name in given}
    os.environ.update(given)
    import s3fs

    s3fs.S3FileSystem(skip_instance_cache=True).mkdir("bucket")
    yield "s3://bucket"
    running.stop()
    for name, value in before.items():
        os.environ.pop(name) if value is None else os.environ.update({name: value})


@pytest.fixture(params=["folder", "file", "memory", "s3"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> str | Path:
    match request.param:
        case "folder":
            return tmp_path / "checkpoints"
        case "file":
            return f"file://{tmp_path}/checkpoints"
        case "memory":
            pytest.importorskip("fsspec")
            return f"memory://{tmp_path.name}/checkpoints"
        case _:
            return f"{request.getfixturevalue('s3')}/{tmp_path.name}/checkpoints"


def damage(storage: Storage, name: str, file: str, change: Callable[[bytes], bytes | None]) -> None:
    """Behind the storage's back; None removes."""
    if isinstance(storage, ObjectStorage):
        fs, root = storage._connection()
        path = f"{root}/{name}/{file}"
        raw = change(fs.cat_file(path))
        fs.rm_file(path) if raw is None else fs.pipe_file(path, raw)
        return
    path = Path(storage.where) / name / file
    raw = change(path.read_bytes())
    path.unlink() if raw is None else path.write_bytes(raw)


def test_a_state_comes_back_byte_for_byte(place: str | Path) -> None:
    store = CheckpointStore(place)
    info = save(store, 4)
    loaded, manifest = CheckpointStore(place).load(info.name)
    assert digest(loaded) == digest(a_state(4)) == manifest.state_digest
    assert [one.name for one in store.list()] == [info.name]
    assert store.size(info.name) > manifest.size


@pytest.mark.parametrize("file", [MANIFEST, TENSORS, VALUES])
def test_a_damaged_file_is_never_loaded(place: str | Path, file: str) -> None:
    store = CheckpointStore(place)
    changes: list[Callable[[bytes], bytes | None]] = [
        lambda raw: None,
        lambda raw: b"",
        lambda raw: raw[:-1],
        lambda raw: raw + b"\0",
        lambda raw: raw[:7] + bytes([raw[7] ^ 1]) + raw[8:],
        lambda raw: bytes(len(raw)),
    ]
    for cut, change in enumerate(changes):
        info = save(store, cut)
        damage(store.storage, info.name, file, change)
        with pytest.raises(CheckpointCorrupt):
            CheckpointStore(place).load(info.name)


@pytest.mark.parametrize(
    ("failpoint", "hits", "there"),
    [
        ("checkpoint.writing", 1, False),
        ("checkpoint.written", 1, False),
        ("checkpoint.written", 2, False),
        ("checkpoint.renaming", 1, False),
        ("checkpoint.renamed", 1, True),
    ],
)
def test_a_crash_leaves_a_whole_checkpoint_or_none(
    place: str | Path, failpoint: str, hits: int, there: bool
) -> None:
    seen: list[str] = []

    def die(name: str) -> None:
        seen.append(name)
        if name == failpoint and seen.count(name) == hits:
            raise Died

    with pytest.raises(Died):
        save(CheckpointStore(place, failpoint=die), 5)
    again = CheckpointStore(place)
    assert len(again.list()) == int(there)
    again.sweep()
    for info in again.list():
        again.load(info.name)
    save(again, 6)
    assert len(again.list()) == int(there) + 1


def test_a_checkpoint_is_never_overwritten(place: str | Path) -> None:
    store = CheckpointStore(place)
    info = save(store, 5)
    with pytest.raises(SaveFailed):
        save(store, 5)
    store.verify(info.name)


def test_old_ones_go_and_a_half_deleted_one_is_none(place: str | Path) -> None:
    store = CheckpointStore(place, keep=3, keep_hours=0)
    for cut in range(1, 6):
        save(store, cut, now_ms=cut * HOUR)
    store.prune(committed_cut=6, now_ms=1000 * HOUR)
    assert [info.cut for info in store.list()] == [5, 4, 3]
    oldest = store.list()[-1].name
    damage(store.storage, oldest, MANIFEST, lambda raw: None)
    with pytest.raises(CheckpointCorrupt):
        store.load(oldest)
    assert [info.cut for info in store.list()][:2] == [5, 4]


def test_the_fold_may_go_on_while_it_is_written_there(place: str | Path) -> None:
    """In a forked process where the place allows it."""
    store = CheckpointStore(place)
    writer = BackgroundWriter(store, fork=True)
    state = a_state()
    before = digest(state)
    assert writer.start(lambda: state, identity(1), "a1", 0)
    state["learner/table"].add_(1)
    assert writer.wait(60)
    (written,) = writer.take()
    assert written.saved is not None, written.message
    assert digest(CheckpointStore(place).load(written.saved.info.name)[0]) == before


def test_a_file_larger_than_a_part_of_an_upload_comes_back(s3: str, tmp_path: Path) -> None:
    storage = open_storage(f"{s3}/{tmp_path.name}")
    raw = os.urandom(1 << 20) * 60
    parts = tuple(memoryview(raw)[at : at + (20 << 20)] for at in range(0, len(raw), 20 << 20))
    storage.put("n", {"large": Content(parts), MANIFEST: Content((memoryview(b"{}"),))})
    assert storage.read("n", "large", len(raw)) == raw


def test_a_store_that_does_not_answer_is_no_damaged_checkpoint(
    s3: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Taking an older one for it would be wrong, and the message shows no secret."""
    store = CheckpointStore(f"{s3}/{tmp_path.name}")
    info = save(store, 1)
    fs, _ = store.storage._connection()  # type: ignore[attr-defined]

    def fail(*_: object, **__: object) -> None:
        raise ConnectionError("no route")

    monkeypatch.setattr(fs, "cat_file", fail)
    with pytest.raises(StorageError) as failure:
        store.load(info.name)
    assert not isinstance(failure.value, CheckpointCorrupt)
    with pytest.raises(StorageError) as failure:
        ObjectStorage(f"{s3}-that-is-not-there/x").probe("1")
    assert SECRET not in str(failure.value)


def test_the_doctor_tries_the_store(s3: str, tmp_path: Path) -> None:
    from stream_mtl.config import Config
    from workers.doctor import _checkpoint_store

    def found(url: str) -> list[str]:
        config = Config.model_validate({"checkpoint": {"store": url}})
        return [finding.status for finding in _checkpoint_store(config)]

    assert found("") == []
    assert found(f"{s3}/{tmp_path.name}") == ["ok"]
    assert found("s3://nobody-made-this-bucket/x") == ["fail"]


def test_a_url_that_nothing_speaks_is_refused_with_what_to_install() -> None:
    with pytest.raises(ConfigError, match="pip install"):
        open_storage("nosuchthing://bucket/x")


def test_a_password_in_a_url_is_not_shown() -> None:
    pytest.importorskip("fsspec")
    assert "hunter2" not in ObjectStorage("memory://me:hunter2@bucket/x").where


def test_a_state_of_one_place_is_saved_the_same_in_another(place: str | Path) -> None:
    """Name and manifest do not say where they lie: a folder can be copied into a bucket and back."""
    here = CheckpointStore(place).save(snapshot(a_state(1)), identity(1), "a1", 5)
    there = CheckpointStore("memory://elsewhere-" + str(id(here)))
    assert there.save(snapshot(a_state(1)), identity(1), "a1", 5).info.name == here.info.name
