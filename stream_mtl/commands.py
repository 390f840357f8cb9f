"""Commands: they apply after the events of their cut, in offset order, and each leaves a decision in the ledger."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from stream_mtl.config import Config
from stream_mtl.cut import Output
from stream_mtl.errors import ConfigError
from stream_mtl.events import Command
from stream_mtl.hashing import hash64
from stream_mtl.parts import Parts
from stream_mtl.scoring import Moment
from stream_mtl.task_set import TaskSet, with_task, with_weight, without_task

Decision = dict[str, object]
Arguments = Mapping[str, Any]


class Fold(Protocol):
    """What a command may look at and change."""

    parts: Parts
    config: Config  # with all tasks that there are now
    given: Config  # as configured
    tasks: TaskSet

    def retask(self, tasks: TaskSet) -> None:
        """Go on with other tasks. Raises ConfigError, and then nothing has changed."""
        ...


class Obey(Protocol):
    def __call__(self, fold: Fold, given: Arguments, moment: Moment) -> Sequence[Output]:
        """Carry a command out; what is to be published at once. Raises ConfigError saying why it cannot be done."""
        ...


def add_task(fold: Fold, given: Arguments, moment: Moment) -> Sequence[Output]:
    settings = {key: value for key, value in given.items() if key != "task"}
    fold.retask(with_task(fold.tasks, fold.given, str(given["task"]), settings))
    return ()


def retire_task(fold: Fold, given: Arguments, moment: Moment) -> Sequence[Output]:
    name = str(given["task"])
    fold.retask(without_task(fold.tasks, fold.given, name))
    fold.parts.learner.forget(name)
    fold.parts.pending.forget_labels(list(fold.config.tasks).index(name))
    return ()


def set_task_weight(fold: Fold, given: Arguments, moment: Moment) -> Sequence[Output]:
    fold.retask(with_weight(fold.tasks, fold.given, str(given["task"]), float(given["weight"])))
    return ()


def erase_user(fold: Fold, given: Arguments, moment: Moment) -> Sequence[Output]:
    user_id, parts = str(given["user_id"]), fold.parts
    key = hash64(user_id, "user")
    parts.throttle.erase(user_id)
    parts.row_limit.erase(key)
    parts.join.erase(user_id)
    parts.recall.erase(hash64(user_id))
    if parts.towers is not None:
        parts.towers.erase(hash64(user_id))
    parts.features.erase_user(user_id)
    parts.shop.erase_user(user_id)
    parts.learner.erase(key)
    parts.evaluation.erase(key)
    parts.publish_gate.erase(key)
    parts.pending.erase(key)
    return (parts.scoring.erase_user(user_id, moment),)


def promote(fold: Fold, given: Arguments, moment: Moment) -> Sequence[Output]:
    if given.get("lineage"):
        raise ConfigError(
            "promote of another lineage is not carried out by this version; leave `lineage` out"
        )
    if not fold.parts.publish_gate.held:
        raise ConfigError("there is nothing to promote: the newest model is the one that serves")
    fold.parts.publish_gate.promote()
    return ()


COMMANDS: dict[str, Obey] = {
    "add_task": add_task,
    "erase_user": erase_user,
    "promote": promote,
    "retire_task": retire_task,
    "set_task_weight": set_task_weight,
}


def obey(
    fold: Fold, commands: Sequence[Command], moment: Moment
) -> tuple[list[Decision], list[Output]]:
    """Decisions, one a command: `done`, or not and the reason. And what they publish."""
    decisions: list[Decision] = []
    outputs: list[Output] = []
    for command in commands:
        decision: Decision = {"kind": command.kind, "command_id": command.command_id}
        try:
            if command.kind not in COMMANDS:
                raise ConfigError(f"{command.kind} is not carried out by this version")
            outputs += COMMANDS[command.kind](fold, dict(command.arguments), moment)
            decisions.append({**decision, "done": True})
        except ConfigError as error:
            decisions.append({**decision, "done": False, "reason": str(error)})
    return decisions, outputs
