"""What a fault's program gives: rows of the table, and how large a dose was asked for."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from benchmarks.soak.checker import Violation, summary
from benchmarks.soak.nursery import Nursery
from stream_mtl.kafka.server import KafkaServer

Size = Literal["small", "full"]


@dataclass(frozen=True)
class Row:
    """One line of the table. `holds` None: reported, nothing was asked of it."""

    id: str
    must_hold: str
    measured: str
    holds: bool | None
    seconds: float = 0.0


@dataclass(frozen=True)
class Ground:
    """What every fault's program is given: where to work, who starts workers, how much to do."""

    folder: Path
    jars: Path
    nursery: Nursery
    size: Size
    seed: int = 0

    def dose(self, small: int, full: int) -> int:
        return full if self.size == "full" else small

    def prompt(self, seconds: float, asked: float) -> bool:
        """Was it within what is asked? Judged in the full dose alone: a small one runs on crowded machines."""
        return self.size != "full" or seconds <= asked

    def broker(self, name: str, **options: int) -> KafkaServer:
        """A broker of this fault alone."""
        return KafkaServer(self.folder / f"kafka-{name}", jars=self.jars, **options)


Program = Callable[[Ground], Iterable[Row]]


def holds_p(id: str, doing: str, violations: tuple[Violation, ...]) -> Row:
    """The row of property P after `doing` something."""
    measured = summary(violations)
    if violations:
        measured += f": {violations[0].kind}, {violations[0].where}"
    return Row(id, f"{doing}: property P", measured, not violations)


def fails_p(id: str, naive: str, violations: tuple[Violation, ...], kinds: Iterable[str]) -> Row:
    """The row of a naive variant: it must break property P in one of these ways."""
    broken = {violation.kind for violation in violations} & set(kinds)
    return Row(id, f"naive ({naive}) fails", summary(violations), bool(broken))


@dataclass
class Times:
    """Durations of one kind, for a row."""

    taken: list[float] = field(default_factory=list)

    def add(self, seconds: float) -> None:
        self.taken.append(seconds)

    @property
    def worst(self) -> float:
        return max(self.taken, default=0.0)
