"""Commands of the control topic, version 1. They apply after the events of their cut, in offset order."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, TypeAdapter

from schemas.wire import Id, Label, Message, Time

TaskName = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]{0,63}$")]
Weight = Annotated[float, Field(gt=0, le=1e6)]
CutNumber = Annotated[int, Field(ge=0, le=2**53)]


class ControlCommand(Message):
    """`command_id` is chosen by the sender: a command that arrives twice is applied once."""

    command_id: Id
    issued_at: Time


class EraseUser(ControlCommand):
    """Forget this user: memories, windows, histories; the user's lists get tombstones."""

    type: Literal["erase_user"]
    user_id: Id


class Pause(ControlCommand):
    """Stop reading events; the control topic is still read."""

    type: Literal["pause"]
    note: Label | None = None


class Resume(ControlCommand):
    """Go on after `pause`, or after the dead-letter breaker opened."""

    type: Literal["resume"]
    note: Label | None = None


class Rollback(ControlCommand):
    """Begin a new lineage with what an earlier checkpoint had learned.

    Which one: `checkpoint` by its name, or the newest at or before `cut`; with neither the one before the last.
    """

    type: Literal["rollback"]
    cut: CutNumber | None = None
    checkpoint: Id | None = None


class SetTaskWeight(ControlCommand):
    type: Literal["set_task_weight"]
    task: TaskName
    weight: Weight


class AddTask(ControlCommand):
    """Start a task; the others keep their state. The fields are those of `[tasks.NAME]` in the configuration."""

    type: Literal["add_task"]
    task: TaskName
    kind: Label
    weight: Weight | None = Field(None, description="absent: a tenth of the heaviest task's")
    after: TaskName | None = Field(None, description="funnel: the task that comes first")
    label: Label | None = Field(None, description="where labels come from; absent: the task's name")
    window_ms: Annotated[int, Field(gt=0, le=2**53)] | None = Field(
        None, description="cart, purchase: how long after an exposure it counts; absent: the join's"
    )
    fields: list[Label] | None = Field(None, description="what it may use; a leading ! forbids")
    above: float | None = Field(None, description="learn whether the label is at least this")
    classes: Annotated[int, Field(ge=2, le=10_000)] | None = None
    values: list[Label] | None = Field(None, description="multiclass: names of the classes")
    listwise: Annotated[float, Field(ge=0)] | None = None
    center: float | None = None
    scale: Annotated[float, Field(gt=0)] | None = None
    log: bool | None = None
    smoothing: Annotated[float, Field(ge=0, lt=1)] | None = None
    ranking: Label | None = None
    imbalance: Label | None = None
    class_weights: list[Annotated[float, Field(gt=0)]] | None = None
    focal_gamma: Annotated[float, Field(gt=0)] | None = None
    keep_negatives: Annotated[float, Field(gt=0, le=1)] | None = None
    position: Label | None = None
    propensities: list[Annotated[float, Field(gt=0, le=1)]] | None = None
    correction: Label | None = None
    correction_weight: Annotated[float, Field(gt=0)] | None = None
    propensity_floor: Annotated[float, Field(gt=0, lt=1)] | None = None
    delay: Label | None = None
    early_ms: Annotated[int, Field(ge=0, le=2**53)] | None = None


class RetireTask(ControlCommand):
    type: Literal["retire_task"]
    task: TaskName


class Promote(ControlCommand):
    """Publish from the live state although the gate holds it back, or from the named lineage."""

    type: Literal["promote"]
    lineage: Id | None = None


AnyCommand = EraseUser | Pause | Resume | Rollback | SetTaskWeight | AddTask | RetireTask | Promote

COMMANDS: dict[str, type[AnyCommand]] = {
    "add_task": AddTask,
    "erase_user": EraseUser,
    "pause": Pause,
    "promote": Promote,
    "resume": Resume,
    "retire_task": RetireTask,
    "rollback": Rollback,
    "set_task_weight": SetTaskWeight,
}
ADAPTER: TypeAdapter[AnyCommand] = TypeAdapter(Annotated[AnyCommand, Field(discriminator="type")])
