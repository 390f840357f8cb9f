"""What users said of themselves, for the attributes that a task learns; by user slot.

The values of an attribute are numbered in the order of the configuration, or, when it names none, in the order in which
they first come. One that comes when all numbers are given out counts as not known.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from stream_mtl.shop.columns import Column, Columns, Ints
from stream_mtl.shop.slots import Vocabulary
from stream_mtl.state import State


class ProfileColumns(Columns):
    code: Ints  # int16 [users, attributes], 0 = not known

    def __init__(self, attributes: int) -> None:
        super().__init__({"code": Column("int16", (attributes,))})


class Profiles:
    """Class numbers by user slot and attribute."""

    def __init__(self, attributes: Mapping[str, Sequence[str] | int]) -> None:
        """`attributes`: the values of each, or how many there may be."""
        self.names = tuple(attributes)
        self.columns = ProfileColumns(len(self.names))
        self.values: list[Vocabulary] = []
        for given in attributes.values():
            fixed = [] if isinstance(given, int) else list(given)
            vocabulary = Vocabulary(1 + (given if isinstance(given, int) else len(fixed)))
            for value in fixed:
                vocabulary.code(value)
            self.values.append(vocabulary)

    def learn(self, slot: int, attributes: Sequence[tuple[str, str]]) -> None:
        """Later words replace earlier ones; an attribute that is not mentioned stays."""
        self.columns.reserve(slot + 1)
        for name, value in attributes:
            if name in self.names:
                place = self.names.index(name)
                self.columns.code[slot, place] = self.values[place].code(value)

    def classes(self, slot_N: Ints, attribute: str) -> Ints:
        """Class numbers from 0; -1 where a user is unknown or never said."""
        code_N = np.full(len(slot_N), 0, np.int64)
        known_N = (slot_N >= 0) & (slot_N < self.columns.capacity)
        code_N[known_N] = self.columns.code[slot_N[known_N], self.names.index(attribute)]
        return code_N - 1

    def vocabulary(self, attribute: str) -> Vocabulary:
        """The values of an attribute; class n has code n + 1."""
        return self.values[self.names.index(attribute)]

    def release(self, slot_R: Ints) -> None:
        self.columns.reset(slot_R[slot_R < self.columns.capacity])

    def state(self, users: int) -> State:
        self.columns.reserve(users)
        return {
            "values": [vocabulary.names[1:] for vocabulary in self.values],
            **self.columns.state(users),
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        self.columns.restore(state)
        # a state from before a task was added has the first attributes alone
        for vocabulary, names in zip(self.values, state["values"], strict=False):
            vocabulary.restore(["", *names])
