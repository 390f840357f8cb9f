"""What the worker writes, version 1: score records, dead letters, acknowledgements, ledger records.

Readers use `read_committed` and keep, of one key, the record with the highest `model.cut`. Times are
integer epoch milliseconds. New optional fields may appear: readers ignore what they do not know.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter

from schemas.wire import Id, JsonObject

Milliseconds = Annotated[int, Field(ge=0)]
Offset = Annotated[int, Field(ge=0)]
Sequence = Annotated[int, Field(ge=0, description="cut number")]
Digits = Annotated[str, Field(pattern=r"^-?[0-9]+$", description="an integer as text")]
Hex = Annotated[str, Field(pattern=r"^[0-9a-f]*$")]


class Reason(StrEnum):
    """Why a record was refused: the same word in the dead letter's header and as a metric label."""

    MAGIC_BYTE = "magic_byte"  # Confluent wire format where plain JSON is read
    SCHEMA_UNKNOWN = "schema_unknown"  # a schema id or schema_version that we do not know
    SCHEMA_INVALID = "schema_invalid"  # not what its schema says (registry formats)
    NOT_JSON = "not_json"
    NOT_UTF8 = "not_utf8"
    TOO_LARGE = "too_large"
    NULL_VALUE = "null_value"
    TYPE_UNKNOWN = "type_unknown"
    WRONG_TOPIC = "wrong_topic"  # a good record on a topic of another kind
    FIELD_MISSING = "field_missing"
    FIELD_INVALID = "field_invalid"
    TIME_OUT_OF_RANGE = "time_out_of_range"
    NONFINITE = "nonfinite"
    CRASH = "crash"  # the worker died of it several times


class Written(BaseModel):
    """Base of the records that we write; reading ignores fields of a newer version."""

    model_config = ConfigDict(frozen=True, extra="ignore", allow_inf_nan=False)


class ModelInfo(Written):
    """Which state of the model a record comes from."""

    app: str
    lineage: str
    cut: Sequence
    fold_version: int


class Scored(Written):
    """One place of a ranked list. `scores`: by task, in the task's own unit (a probability for click)."""

    item_id: Id
    value: float
    scores: dict[str, float] = {}


class HomeLists(Written):
    """Ranked lists by surface; `home` is always there."""

    model_config = ConfigDict(extra="allow")
    __pydantic_extra__: dict[str, list[Scored]]

    home: list[Scored]


class SearchLists(Written):
    search: list[Scored]


class Score(Written):
    """Fields of every record of the score topic."""

    schema_version: Literal[1] = 1
    event_time: Milliseconds
    published_at: Milliseconds
    model: ModelInfo
    variant: str | None = None
    user_scores: dict[str, float | dict[str, float]] = Field(
        default={},
        description="of tasks that speak of the user alone: a number, or the probability of each value",
    )


class UserScore(Score):
    """Key `user:<user_id>`."""

    kind: Literal["user"]
    user_id: Id
    lists: HomeLists


class QueryScore(Score):
    """Key `query:<normalised query>`."""

    kind: Literal["query"]
    query: str
    lists: SearchLists


class PopularScore(Score):
    """Key `popular:<domain>`: what to show to someone unknown; the empty domain stands for all."""

    kind: Literal["popular"]
    domain: str
    lists: HomeLists


ScoreRecord = Annotated[UserScore | QueryScore | PopularScore, Field(discriminator="kind")]
SCORES: TypeAdapter[UserScore | QueryScore | PopularScore] = TypeAdapter(ScoreRecord)


class Tombstone(Written):
    """How a file of scores writes a null value: an erased or expired user, an evicted query."""

    key: str
    kind: Literal["tombstone"]
    event_time: Milliseconds


class TextScore(Written):
    """Topic of text scores: one record a review or service message, keyed by user id."""

    schema_version: Literal[1] = 1
    event_id: Id
    user_id: Id
    event_time: Milliseconds
    published_at: Milliseconds
    model: ModelInfo
    scores: dict[str, dict[str, Annotated[float, Field(ge=0, le=1)]]]
    items: list[Scored] = []


class ConnectHeader(StrEnum):
    """Headers of a dead letter, style `connect`. `exception.class.name` holds the `Reason`."""

    TOPIC = "__connect.errors.topic"
    PARTITION = "__connect.errors.partition"
    OFFSET = "__connect.errors.offset"
    CONNECTOR = "__connect.errors.connector.name"
    TASK = "__connect.errors.task.id"
    STAGE = "__connect.errors.stage"
    CLASS = "__connect.errors.class.name"
    EXCEPTION = "__connect.errors.exception.class.name"
    MESSAGE = "__connect.errors.exception.message"
    STACKTRACE = "__connect.errors.exception.stacktrace"


class StreamsHeader(StrEnum):
    """Headers of a dead letter, style `streams`. `exception` holds the `Reason`."""

    EXCEPTION = "__streams.errors.exception"
    STACKTRACE = "__streams.errors.stacktrace"
    MESSAGE = "__streams.errors.message"
    TOPIC = "__streams.errors.topic"
    PARTITION = "__streams.errors.partition"
    OFFSET = "__streams.errors.offset"


CUT_HEADER = "stream_mtl.cut"  # the one header of our own, in both styles: always the last
WHOLE_BYTES_HEADER = "stream_mtl.whole_bytes"  # of a value cut short: how long it was
REPLAYS_HEADER = (
    "stream_mtl.replays"  # how often `dlq replay` has sent this record; it stays with it
)
# On the dead-letter topic, without key and value: the letter at "<partition>:<offset>" was replayed.
REPLAYED_HEADER = "stream_mtl.replayed"


Topic = Annotated[str, Field(description="where the record was read")]
Text = Annotated[str, Field(description="empty unless `dlq.include_message`")]
NoTrace = Annotated[Literal[""], Field(description="nothing was raised")]
CutNumber = Annotated[Digits, Field(description="of the cut that refused the record")]
WholeBytes = Annotated[
    Digits | None, Field(description="length of a value that was cut short, else absent")
]


class ConnectLetter(Written):
    """Headers of a dead letter as Kafka Connect names them, in this order; all are text in UTF-8.

    Key and value are those of the refused record, and its own headers come first: of one name the last counts.
    """

    topic: Topic = Field(alias=ConnectHeader.TOPIC.value)
    partition: Digits = Field(alias=ConnectHeader.PARTITION.value)
    offset: Digits = Field(alias=ConnectHeader.OFFSET.value)
    connector: str = Field(alias=ConnectHeader.CONNECTOR.value, description="`app`")
    task: Digits = Field(alias=ConnectHeader.TASK.value, description="rank of the worker")
    stage: str = Field(alias=ConnectHeader.STAGE.value)
    refused_by: str = Field(alias=ConnectHeader.CLASS.value)
    reason: Reason = Field(alias=ConnectHeader.EXCEPTION.value)
    message: Text = Field(alias=ConnectHeader.MESSAGE.value)
    stacktrace: NoTrace = Field(alias=ConnectHeader.STACKTRACE.value)
    whole_bytes: WholeBytes = Field(default=None, alias=WHOLE_BYTES_HEADER)
    cut: CutNumber = Field(alias=CUT_HEADER)


class StreamsLetter(Written):
    """Headers of a dead letter as Kafka Streams names them; otherwise as `ConnectLetter`."""

    reason: Reason = Field(alias=StreamsHeader.EXCEPTION.value)
    stacktrace: NoTrace = Field(alias=StreamsHeader.STACKTRACE.value)
    message: Text = Field(alias=StreamsHeader.MESSAGE.value)
    topic: Topic = Field(alias=StreamsHeader.TOPIC.value)
    partition: Digits = Field(alias=StreamsHeader.PARTITION.value)
    offset: Digits = Field(alias=StreamsHeader.OFFSET.value)
    whole_bytes: WholeBytes = Field(default=None, alias=WHOLE_BYTES_HEADER)
    cut: CutNumber = Field(alias=CUT_HEADER)


LETTERS: dict[str, type[ConnectLetter | StreamsLetter]] = {
    "connect": ConnectLetter,
    "streams": StreamsLetter,
}


class LedgerRange(Written):
    """Offsets [start, stop) of one partition; markers leave holes, so `records` may be fewer."""

    topic: str
    partition: Offset
    start: Offset
    stop: Offset
    records: Offset
    digest: Hex


class TopicIdentity(Written):
    id: str
    partitions: Annotated[int, Field(ge=1)]


class CheckpointRef(Written):
    """The newest durable checkpoint when the cut was committed."""

    name: str
    cut: Sequence


class Ack(Written):
    """What became of a command, in the same transaction as the cut that held it; key = `command_id`.

    `repeated`: the cut in which a command of this id was carried out before; this one changed nothing.
    `counts`: of what was removed or changed. `checkpoint`: what a rollback went back to. Never a user id.
    """

    schema_version: Literal[1] = 1
    command_id: Id
    kind: str
    done: bool
    reason: str | None = None
    repeated: Sequence | None = None
    counts: dict[str, int] | None = None
    checkpoint: CheckpointRef | None = None
    cut: Sequence
    lineage: str
    published_at: Milliseconds


class LedgerRecord(Written):
    """One record a cut, in the same transaction as its outputs; never a user id in it.

    `previous`: hash of the bytes of the ledger record before this one, "" for the first, so that gaps
    and repeats show. `kind` "lineage" begins a lineage and reads nothing. `positions`: where every
    partition of the job stands after the cut, idle ones included.
    """

    schema_version: Literal[1] = 1
    app: str
    lineage: str
    cut: Sequence
    previous: Hex
    instance: str
    kind: Literal["cut", "lineage"]
    ranges: list[LedgerRange]
    positions: dict[str, dict[str, Offset]]
    topic_ids: dict[str, TopicIdentity]
    published_at: Milliseconds
    event_time: Milliseconds
    counts: dict[str, int]
    outputs_digest: Hex
    digest: Hex
    state_digest: Hex | None = None
    checkpoint: CheckpointRef | None = None
    fold_version: int
    config_hash: str
    code: str
    environment: JsonObject
    decisions: list[JsonObject]
