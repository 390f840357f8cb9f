"""Commands: they apply after the events of their cut, in offset order, and each leaves a decision in the ledger."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from stream_mtl.config import Config
from stream_mtl.cut import Output, RollbackTarget
from stream_mtl.erasure import erase
from stream_mtl.errors import ConfigError
from stream_mtl.events import Command
from stream_mtl.orders import Orders
from stream_mtl.parts import Parts
from stream_mtl.rollback import PROMOTE, ROLLBACK, begun
from stream_mtl.scoring import Moment
from stream_mtl.task_set import TaskSet, guest_weight, with_task, with_weight, without_task

Decision = dict[str, object]
Arguments = Mapping[str, Any]


class Fold(Protocol):
    """What a command may look at and change."""

    parts: Parts
    config: Config  # with all tasks that there are now
    given: Config  # as configured
    tasks: TaskSet
    orders: Orders

    def retask(self, tasks: TaskSet) -> None:
        """Go on with other tasks. Raises ConfigError, and then nothing has changed."""
        ...


@dataclass(frozen=True, slots=True)
class Done:
    """What a command led to: what is to be published at once, and facts for its decision."""

    outputs: Sequence[Output] = ()
    facts: Mapping[str, object] = field(default_factory=dict)


class Obey(Protocol):
    def __call__(self, fold: Fold, given: Arguments, moment: Moment) -> Done:
        """Carry a command out. Raises ConfigError saying why it cannot be done."""
        ...


def add_task(fold: Fold, given: Arguments, moment: Moment) -> Done:
    settings = {key: value for key, value in given.items() if key != "task"}
    settings.setdefault("weight", guest_weight(fold.tasks, fold.given))
    fold.retask(with_task(fold.tasks, fold.given, str(given["task"]), settings))
    return Done()


def retire_task(fold: Fold, given: Arguments, moment: Moment) -> Done:
    name = str(given["task"])
    fold.retask(without_task(fold.tasks, fold.given, name))
    fold.parts.learner.forget(name)
    fold.parts.pending.forget_labels(list(fold.config.tasks).index(name))
    return Done()


def set_task_weight(fold: Fold, given: Arguments, moment: Moment) -> Done:
    fold.retask(with_weight(fold.tasks, fold.given, str(given["task"]), float(given["weight"])))
    return Done()


def erase_user(fold: Fold, given: Arguments, moment: Moment) -> Done:
    """The person is named in the command alone: the decision, and so the ledger, has only counts."""
    done = erase(fold, str(given["user_id"]), moment)
    fold.orders.erasures.note(int(moment.model["cut"]), moment.published_at, done.rows)
    return Done(done.outputs, {"counts": done.counts})


def promote(fold: Fold, given: Arguments, moment: Moment) -> Done:
    """The model that is held back serves; or, of another lineage, what its checkpoint has learned comes in."""
    if given.get("lineage"):
        return rollback(fold, given, moment)
    if not fold.parts.publish_gate.held:
        raise ConfigError("there is nothing to promote: the newest model is the one that serves")
    fold.parts.publish_gate.promote()
    return Done()


def pause(fold: Fold, given: Arguments, moment: Moment) -> Done:
    """From the next cut on only commands are read: the worker looks at `orders.paused`."""
    fold.orders.paused = True
    return Done()


def resume(fold: Fold, given: Arguments, moment: Moment) -> Done:
    """Read on. Not refused where nothing is paused: the dead letters' breaker, which it closes, is the worker's."""
    fold.orders.paused = False
    return Done()


def rollback(fold: Fold, given: Arguments, moment: Moment) -> Done:
    """Says where to go back to; the worker does it when the cut is committed, as the beginning of a lineage."""
    target: RollbackTarget | None = given.get("target")
    if target is None:
        raise ConfigError("a rollback needs checkpoints: only a running trainer has them")
    if target.refusal:
        raise ConfigError(target.refusal)
    facts: dict[str, object] = {
        "checkpoint": target.name,
        "checkpoint_cut": target.cut,
        "state_digest": target.state_digest,
    }
    return Done(facts=facts | ({"afresh": list(target.afresh)} if target.afresh else {}))


COMMANDS: dict[str, Obey] = {
    "add_task": add_task,
    "erase_user": erase_user,
    "pause": pause,
    PROMOTE: promote,
    "resume": resume,
    "retire_task": retire_task,
    ROLLBACK: rollback,
    "set_task_weight": set_task_weight,
}


def obey(
    fold: Fold,
    commands: Sequence[Command],
    moment: Moment,
    targets: Mapping[str, RollbackTarget],
    cut: int,
) -> tuple[list[Decision], list[Output]]:
    """Decisions, one a command: `done`, or not and the reason. And what they publish.

    A command whose id was carried out before changes nothing: `repeated` names that cut. One that was refused may
    come again under its id.
    """
    decisions: list[Decision] = []
    outputs: list[Output] = []
    for command in commands:
        decision: Decision = {"kind": command.kind, "command_id": command.command_id}
        before = fold.orders.repeated(command.command_id)
        if before is not None:
            decisions.append({**decision, "done": True, "repeated": before})
            continue
        try:
            done = _carry_out(fold, command, moment, targets, decisions)
        except ConfigError as error:
            decisions.append({**decision, "done": False, "reason": str(error)})
            continue
        outputs += done.outputs
        decisions.append({**decision, "done": True, **done.facts})
        fold.orders.carried_out(command.command_id, cut)
    return decisions, outputs


def _carry_out(
    fold: Fold,
    command: Command,
    moment: Moment,
    targets: Mapping[str, RollbackTarget],
    so_far: Sequence[Decision],
) -> Done:
    if command.kind not in COMMANDS:
        raise ConfigError(f"{command.kind} is not carried out by this version")
    given: dict[str, Any] = dict(command.arguments)
    if command.kind in (ROLLBACK, PROMOTE):
        if begun(so_far):
            raise ConfigError(
                "another model is put in place in the same cut already; send this command again"
            )
        given["target"] = targets.get(command.command_id)
    return COMMANDS[command.kind](fold, given, moment)
