"""What the client reports of the records that it was given, looked at when all reports are in.

"Delivered" is not always true. A broker before Kafka 4.5 takes any first sequence number from a producer of which it
knows nothing in a partition (KAFKA-15591). Of two batches under way to a partition that only just comes up, the first
is refused and the second taken; after that the first never can be, and librdkafka, told that the second was taken,
reports both as delivered. The records of the first one have no offset, and nothing else tells. Neither has a record
that was sent again because its first answer was lost; nobody knows of that one, so it is treated alike.
"""

from __future__ import annotations

from typing import Any


class Receipts:
    """Reports of one transaction, or of one flush. `keep` is the client's `on_delivery`."""

    def __init__(self) -> None:
        self._kept: list[tuple[Any, Any]] = []

    def keep(self, error: Any, message: Any) -> None:
        """Nothing is looked at here: while a producer is being fenced, looking at its error raises SystemError."""
        self._kept.append((error, message))

    def errors(self) -> list[Any]:
        """Of the records that were not delivered."""
        return [error for error, _ in self._kept if error is not None]

    def unplaced(self) -> int:
        """Records that are reported as delivered, and of which no broker has said where they are."""
        return sum(error is None and message.offset() is None for error, message in self._kept)

    def offset(self, topic: str) -> int:
        """Where the first record of a topic is; ValueError when it was not delivered."""
        for error, message in self._kept:
            if error is None and message.topic() == topic and message.offset() is not None:
                return int(message.offset())
        raise ValueError(f"no record of {topic} was delivered")
