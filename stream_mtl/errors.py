"""Everything that can go wrong, in kinds that never mix.

::

    StreamMtlError                 (what is wrong with one record is none: it becomes a `Reject`)
        ConfigError                what the user wrote; the message says the fix          exit 78
            RecordMissing          no record at the place that was named
            TopicMissing           a topic is not there; right after a broker's return that may pass
        WorldError                 outside; may pass
            BrokerUnavailable                                                             exit 69
            CommitIndefinite       outcome unknown: new producer, then read the ledger    exit 75
            Fenced                 another worker owns this job now                       exit 76
            StorageError           disk full, failed fsync, unreadable file               exit 74
        StateError                 what would be loaded is not safe to load; refuse       exit 65
            CheckpointCorrupt      a file does not match its manifest
            CheckpointMissing      the ledger names cuts that no checkpoint reaches
            RollForwardMismatch    a replayed cut gave another digest than the ledger's
            ForeignState           a folder or ledger of another app, job or environment
        PositionLost               a needed offset range is gone or was moved by hand     exit 78
        TopicChanged               a topic was recreated or its partitions changed        exit 78
        NumericError               loss or gradient not finite, several times in a row    exit 70

A message says what was expected, what was found, where, and what to do. It never holds the content of
a record: that may be personal data.
"""

from __future__ import annotations


class StreamMtlError(Exception):
    """Root of the tree; `exit_code` is what a process that dies of it returns (sysexits.h)."""

    exit_code = 70


class ConfigError(StreamMtlError):
    exit_code = 78


class RecordMissing(ConfigError):
    pass


class TopicMissing(ConfigError):
    pass


class WorldError(StreamMtlError):
    exit_code = 75


class BrokerUnavailable(WorldError):
    exit_code = 69


class CommitIndefinite(WorldError):
    exit_code = 75


class Fenced(WorldError):
    exit_code = 76


class StorageError(WorldError):
    exit_code = 74


class StateError(StreamMtlError):
    exit_code = 65


class CheckpointCorrupt(StateError):
    pass


class CheckpointMissing(StateError):
    pass


class RollForwardMismatch(StateError):
    pass


class ForeignState(StateError):
    pass


class PositionLost(StreamMtlError):
    exit_code = 78


class TopicChanged(StreamMtlError):
    exit_code = 78


class NumericError(StreamMtlError):
    exit_code = 70
