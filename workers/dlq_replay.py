"""`dlq replay`: which letters are sent again, in which order, and what became of the others."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

from schemas.scores import Reason
from stream_mtl.config import Config
from stream_mtl.cut import Record
from stream_mtl.dlq_replay import (
    Letter,
    Place,
    is_the_whole,
    read_letter,
    receipt_of,
    refusal,
    without_counter,
)
from stream_mtl.errors import RecordMissing, TopicMissing
from stream_mtl.kafka.dlq_replayer import Replayer, Resend, TooLarge
from stream_mtl.kafka.reading import read_one, read_topic
from stream_mtl.kafka.topics import input_topics

_BATCH = 100  # letters a transaction


@dataclass(frozen=True, slots=True)
class Choice:
    """Which letters: all reasons (but `crash`) when none is named."""

    reasons: frozenset[str] = frozenset()
    limit: int | None = None
    place: Place | None = None
    again: bool = False
    dry_run: bool = False


def replay_letters(config: Config, choice: Choice) -> dict[str, Any]:
    """Send them; counts of what was done. Raises what `stream_mtl.errors` says of the broker."""
    if choice.dry_run:
        return _Run(config, choice, None).run()
    replayer = Replayer(config)
    try:
        replayer.open()
        return _Run(config, choice, replayer).run()
    finally:
        replayer.close()


class _Run:
    def __init__(self, config: Config, choice: Choice, replayer: Replayer | None) -> None:
        self._config, self._choice, self._replayer = config, choice, replayer
        self._topics = frozenset(input_topics(config))
        self._refused: Counter[str] = Counter()
        self._before = self._replayed = 0

    def run(self) -> dict[str, Any]:
        batch: list[Resend] = []
        for letter in self._chosen():
            resend = self._whole(letter)
            if resend is None:
                self._refused["gone"] += 1
                continue
            batch.append(resend)
            if len(batch) == _BATCH or self._replayed + len(batch) == self._choice.limit:
                self._send(batch)
                batch = []
            if self._replayed == self._choice.limit:
                break
        self._send(batch)
        return {
            "topic": self._config.topics.dlq,
            "dry_run": self._choice.dry_run,
            "replayed": self._replayed,
            "before": self._before,
            "refused": dict(sorted(self._refused.items())),
        }

    def _chosen(self) -> Iterator[Letter]:
        """Letters that may be sent, in the order of each partition; the others are counted."""
        choice, dlq = self._choice, self._config.topics.dlq
        receipts = {receipt_of(record) for record in read_topic(self._config, dlq)}
        for record in read_topic(self._config, dlq):
            if receipt_of(record) is not None:
                continue
            letter = read_letter(record)
            if choice.place is not None and choice.place != (record.partition, record.offset):
                continue
            if letter is None:
                self._refused["not_a_letter"] += 1
                continue
            if choice.reasons and letter.reason not in choice.reasons:
                continue
            if letter.place in receipts and not choice.again:
                self._before += 1
                continue
            why = refusal(
                letter, self._topics, self._config.dlq.max_replays, Reason.CRASH in choice.reasons
            )
            if why is None:
                yield letter
            else:
                self._refused[why] += 1

    def _whole(self, letter: Letter) -> Resend | None:
        """The record to send; None when it was cut short and the log has lost the rest."""
        original = letter.original
        if letter.whole_bytes is None:
            return Resend(letter, original)
        place = original.topic, original.partition, original.offset
        try:
            found: Record = read_one(self._config, *place)
        except (RecordMissing, TopicMissing):
            return None
        if not is_the_whole(letter, found):
            return None  # the topic was created anew: another record stands there
        return Resend(letter, replace(found, headers=without_counter(found.headers)))

    def _send(self, batch: list[Resend]) -> None:
        if not batch:
            return
        try:
            if self._replayer is not None:
                self._replayer.send(batch)
            self._replayed += len(batch)
        except TooLarge:
            if len(batch) == 1:
                self._refused["too_large"] += 1
                return
            for one in batch:
                self._send([one])
