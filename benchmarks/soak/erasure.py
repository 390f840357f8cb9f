"""E: an erased person is in no byte of what remains: state, checkpoints, ledger, answers; and lists get a tombstone.

A worker on a real Kafka learns from a shop, is told to erase its busiest user, and is killed before a checkpoint
holds that: the roll-forward over the erased range must give the same. `checkpoint.erased_hours = 0` makes older
checkpoints go at once. Searched are the id, its hashes as eight bytes, and as decimal numbers.
"""

from __future__ import annotations

import json
import os
import struct
import time
from collections.abc import Iterator
from pathlib import Path

from benchmarks.soak.row import Ground, Row
from benchmarks.soak.shop import fill
from benchmarks.soak.stage import Stage, await_it
from schemas.scores import Ack
from stream_mtl import build
from stream_mtl.checkpoint import CheckpointStore
from stream_mtl.config import Config
from stream_mtl.hashing import hash64
from stream_mtl.kafka.produce import EventWriter
from stream_mtl.kafka.reading import read_topic
from workers.control import command, send
from workers.erasure_dry_run import would_erase
from workers.ports import wall_ms

AT_ONCE = ("checkpoint.erased_hours=0",)
_EVENTS = 1_500


def needles(user_id: str) -> list[bytes]:
    """All that would name the person."""
    hashes = [hash64(user_id), hash64(user_id, "user")]
    numbers = [str(one).encode() for one in hashes]
    return [user_id.encode(), *numbers, *(struct.pack("<q", one) for one in hashes)]


def files_with(folder: Path, user_id: str) -> list[str]:
    """Files below a folder that hold any of them."""
    wanted, found = needles(user_id), []
    for here, _, names in os.walk(folder):
        for name in names:
            path = Path(here, name)
            try:
                content = path.read_bytes()
            except FileNotFoundError:  # a worker writes and deletes meanwhile
                continue
            if any(needle in content for needle in wanted):
                found.append(str(path.relative_to(folder)))
    return sorted(found)


def records_with(config: Config, topic: str, user_id: str) -> int:
    """Records of a topic that hold any of them."""
    wanted = needles(user_id)
    return sum(
        any(needle in (part or b"") for needle in wanted for part in (record.key, record.value))
        for record in read_topic(config, topic)
    )


def run(ground: Ground) -> Iterator[Row]:
    with ground.broker("erasure") as server:
        stage = Stage(ground.nursery, server.bootstrap, ground.folder / "erasure")
        config = stage.config()
        fill(config, _EVENTS, ground.seed)
        stage.finish()
        user = busiest(config)
        before = would_erase(config, user).counts
        yield Row("E", "a dry run finds the person", json.dumps(before), before["histories"] == 1)
        held = files_with(stage.folder / "state", user)
        yield Row("E", "bytes to be found before", f"in {len(held)} files", bool(held))

        worker = stage.start(settings=AT_ONCE, failpoint="checkpoint.cloned")
        answer = send(config, command("erase_user", {"user_id": user}, "erase-1"), 300.0)
        counts = (answer.counts or {}) if isinstance(answer, Ack) and answer.done else {}
        yield Row("E", "the answer counts what was found", json.dumps(counts), counts == before)
        worker.wait(300.0)  # killed where a checkpoint of the erased state began
        worker = stage.start(settings=AT_ONCE)
        state = stage.folder / "state"
        await_it(lambda: not files_with(state, user) or None, 300.0, lambda: visit(config))
        worker.send_signal(15)
        worker.wait(300.0)
        left = files_with(stage.folder / "state", user)
        yield Row(
            "E", "files of the state folder that hold the person: 0", str(len(left)), not left
        )
        told = {
            t: records_with(config, t, user) for t in (config.topics.ledger, config.topics.acks)
        }
        yield Row(
            "E", "records of ledger and answers: 0", str(sum(told.values())), not any(told.values())
        )
        newest = {r.key: r.value for r in read_topic(config, config.topics.scores)}
        gone = newest.get(f"user:{user}".encode(), b"") is None
        yield Row("E", "the person's lists end with a tombstone", str(gone), gone)
        stage.finish()
        violations = stage.look()
        yield Row(
            "E", "property P over the erased range", f"{len(violations)} violations", not violations
        )


def visit(config: Config) -> None:
    """Somebody else looks at something: only a worker's own later commit lets old checkpoints go."""
    event = {"type": "view", "event_time": wall_ms(), "user_id": "somebody else", "item_id": "i1"}
    writer = EventWriter(config)
    writer.write(config.topics.events[0], "somebody else", json.dumps(event).encode())
    writer.flush()
    time.sleep(0.5)


def busiest(config: Config) -> str:
    """The user of whom the newest checkpoint remembers most rows."""
    store = CheckpointStore(Path(config.state) / "checkpoints")
    fold = build(config, "erasure")
    fold.restore(store.load(store.list()[0].name)[0])
    held = fold.state()["learner/memory/click/user_key_B"].tolist()
    users = fold.parts.shop.users.slots.index
    return max(users, key=lambda name: held.count(hash64(name, "user")))
