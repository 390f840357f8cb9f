"""Commands to a running worker, and its answers: the sender's side of the control topic."""

from __future__ import annotations

import difflib
import secrets
import time
from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError

from schemas.control import ADAPTER, COMMANDS, AnyCommand, ControlCommand
from schemas.scores import Ack
from stream_mtl.config import Config
from stream_mtl.errors import BrokerUnavailable, ConfigError
from stream_mtl.kafka.produce import EventWriter, ScoreReader
from stream_mtl.kafka.topics import identities
from workers.ports import wall_ms


def new_id() -> str:
    return f"cli-{secrets.token_hex(6)}"


def command(kind: str, arguments: Mapping[str, Any], command_id: str) -> AnyCommand:
    """The record to send; ConfigError names the argument that the contract does not allow."""
    given = {name: value for name, value in arguments.items() if value is not None}
    known = sorted(
        COMMANDS[kind].model_fields.keys() - ControlCommand.model_fields.keys() - {"type"}
    )
    for name in given:
        if name not in known:  # a worker would pass over it
            near = difflib.get_close_matches(name, known, n=1)
            hint = f"did you mean {near[0]}?" if near else f"there are: {', '.join(known)}"
            raise ConfigError(f"{kind}: {name} is no field of it; {hint}")
    try:
        return ADAPTER.validate_python(
            {"type": kind, "command_id": command_id, "issued_at": wall_ms(), **given}
        )
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"][1:])
        raise ConfigError(f"{kind}: {place}: {first['msg']}") from None


def send(config: Config, said: AnyCommand, wait_s: float) -> Ack | None:
    """Write a command and wait for its answer; None when none came in time, or with `wait_s` 0.

    Raises ConfigError when a topic is missing, BrokerUnavailable when nobody answers.
    """
    identities(config)
    answers = ScoreReader(config, config.topics.acks, from_end=True) if wait_s > 0 else None
    try:
        writer = EventWriter(config)
        value = said.model_dump_json(exclude_none=True).encode()
        try:
            writer.write(config.topics.control, said.command_id, value)
            writer.flush()
        except BrokerUnavailable as error:
            raise BrokerUnavailable(
                f"{error}. The command may have been taken all the same: give it again with --id {said.command_id}, so"
                " that it is obeyed once"
            ) from error
        return _await(answers, said.command_id, wait_s) if answers else None
    finally:
        if answers:
            answers.close()


def _await(answers: ScoreReader, command_id: str, wait_s: float) -> Ack | None:
    deadline = time.monotonic() + wait_s
    while time.monotonic() < deadline:
        for record in answers.read(0.2):
            if record.key == command_id and record.value is not None:
                return Ack.model_validate_json(record.value)
    return None
