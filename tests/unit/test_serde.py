"""Bytes become canonical events, or a reject with the right reason; nothing else comes out."""

from __future__ import annotations

import json
import unicodedata
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

import schemas
from schemas import control, events
from schemas.scores import SCORES, Reason, Tombstone
from stream_mtl import events as canonical
from stream_mtl.config import DAY, HOUR, Source, Topics
from stream_mtl.cut import Output, Record, Reject
from stream_mtl.serde import decode, decode_all, encode_scores, normalise_query, score_line

EXAMPLES = Path(schemas.__file__).parent / "examples"
INVALID = sorted((EXAMPLES / "invalid").glob("*.json"))
SOURCE, TOPICS = Source(), Topics()
T = 1_704_103_200_000  # of the golden examples
CLICK = {"type": "click", "event_time": T, "user_id": "u", "item_id": "i"}


def record(value: Any, topic: str = "file", offset: int = 0, **more: Any) -> Record:
    """A dict becomes JSON; bytes and None stay."""
    raw = value if value is None or isinstance(value, bytes) else json.dumps(value).encode()
    return Record(
        topic=topic, partition=0, offset=offset, key=more.pop("key", None), value=raw, **more
    )


def event(value: Any, **more: Any) -> Any:
    out = decode(record(value, **more), SOURCE, TOPICS)
    assert not isinstance(out, Reject), out
    return out


def refusal(value: Any, **more: Any) -> Reject:
    out = decode(record(value, **more), SOURCE, TOPICS)
    assert isinstance(out, Reject), out
    return out


@pytest.mark.parametrize("name", sorted(events.EVENTS))
def test_every_golden_event_becomes_its_canonical_event(name: str) -> None:
    """The class has the name of the wire model and every value that both have is the same."""
    wire = events.ADAPTER.validate_json((EXAMPLES / f"{name}.v1.json").read_bytes())
    out = event((EXAMPLES / f"{name}.v1.json").read_bytes())
    assert type(out) is getattr(canonical, type(wire).__name__)
    assert out.time_ms == wire.event_time
    assert out.event_id == wire.event_id
    treated = {"time_ms", "device", "query", "items", "attributes", "withdrawn"}
    for field in {f.name for f in fields(out)} - treated:
        assert getattr(out, field) == getattr(wire, field), field
    assert getattr(out, "device", "mobile") == "mobile"
    hash(out)


@pytest.mark.parametrize("name", sorted(control.COMMANDS))
def test_every_golden_command_becomes_a_command(name: str) -> None:
    """Kind, id, time and the arguments in the order of their names; absent ones are left out."""
    raw = json.loads((EXAMPLES / f"{name}.v1.json").read_bytes())
    out = event(raw, topic="shop.control")
    assert (out.kind, out.command_id, out.issued_at) == (name, "c-1", T)
    rest = raw.keys() - {"type", "command_id", "issued_at", "schema_version"}
    plain = {n: tuple(v) if isinstance(v, list) else v for n, v in raw.items()}
    assert out.arguments == tuple((n, plain[n]) for n in sorted(rest))


def test_an_impression_keeps_places_and_propensities() -> None:
    """What was shown where is the exposure."""
    out = event((EXAMPLES / "impression.v1.json").read_bytes())
    assert out.items == (
        canonical.Shown(item_id="i-1", position=1, propensity=0.4),
        canonical.Shown(item_id="i-2", position=2, propensity=0.2),
    )
    assert hash(out.items[0]) == hash(canonical.Shown(item_id="i-1", position=1, propensity=0.4))


def test_queries_have_one_spelling() -> None:
    """The query of a search, and of the context of a click, is NFKC, lower case, single spaces."""
    search = {**CLICK, "type": "search", "query": "  Ｒｅｄ \t SHOES\u3000"}
    assert event(search).query == "red shoes"
    assert event({**CLICK, "context": {"query": "Red  shoes"}}).query == "red shoes"


@given(st.text())
@example("Ϊ\u0301")  # lower case composes once more: NFKC before it is not enough
def test_normalising_a_query_twice_changes_nothing_more(text: str) -> None:
    """A normalised query is a key: it must name itself."""
    once = normalise_query(text)
    assert normalise_query(once) == once
    assert unicodedata.is_normalized("NFKC", once)


def test_an_attribute_is_text_in_the_order_of_names() -> None:
    """Numbers become text, 3 and 3.0 the same one."""
    out = event({**CLICK, "type": "profile", "attributes": {"region": "de", "age": 3, "kids": 3.0}})
    assert out.attributes == (("age", "3"), ("kids", "3"), ("region", "de"))


def test_absent_and_null_are_the_same() -> None:
    """An optional field that is null is a field that the producer did not fill."""
    bare = event(CLICK)
    nulls = dict.fromkeys(("event_id", "session_id", "domain", "context", "position", "surface"))
    assert event({**CLICK, **nulls}) == bare
    assert (bare.session_id, bare.domain, bare.position) == ("", "", None)


def test_equal_content_has_an_equal_id_however_it_was_written() -> None:
    """Order of fields, spaces, the way of the time and unknown fields do not matter."""
    other = b'{ "item_id":"i", "user_id":"u", "event_time":"2024-01-01T10:00:00Z", "type":"click", "x":1}'
    assert event(CLICK).event_id == event(other).event_id == event(CLICK, offset=9).event_id


@pytest.mark.parametrize(
    "change",
    [
        {"event_time": T + 1},
        {"user_id": "v"},
        {"item_id": "j"},
        {"session_id": "s"},
        {"domain": "d"},
        {"position": 1},
        {"surface": "ad"},
        {"request_id": "r"},
        {"context": {"query": "q"}},
        {"type": "view"},
    ],
    ids=lambda c: next(iter(c)),
)
def test_other_content_has_another_id(change: dict[str, Any]) -> None:
    """Two different events are never taken for a duplicate."""
    assert event({**CLICK, **change}).event_id != event(CLICK).event_id


@pytest.mark.parametrize("name", sorted(events.EVENTS))
def test_an_empty_label_and_an_absent_one_are_equal_content(name: str) -> None:
    """The id is of what we make of the record, so equal canonical events never differ in id."""
    raw = json.loads((EXAMPLES / f"{name}.v1.json").read_bytes())
    optional = ("event_id", "domain", "variant", "surface", "currency", "intent", "brand", "title")
    bare = {k: v for k, v in raw.items() if k not in optional}
    empty = {k: "" for k in raw.keys() & set(optional) - {"event_id"}}
    assert event({**bare, **empty}) == event(bare)


def test_an_event_id_of_the_producer_is_kept() -> None:
    assert event({**CLICK, "event_id": "mine"}).event_id == "mine"


@pytest.mark.parametrize("path", INVALID, ids=lambda p: p.stem)
def test_every_invalid_example_has_its_reason(path: Path) -> None:
    """The examples are the promise of what is refused, and as what."""
    case = json.loads(path.read_text())
    raw = case["record"].encode() if isinstance(case["record"], str) else case["record"]
    out = refusal(raw)
    assert (out.reason, out.stage) == (case["reason"], "serde"), out.message
    assert out.message


@pytest.mark.parametrize("raw", [b'{"type":"click\xff"}', b"\xff\xfe", b'{"x":"\xc3\x28"}'])
def test_bytes_that_are_not_utf8(raw: bytes) -> None:
    assert refusal(raw).reason == Reason.NOT_UTF8


def test_an_oversized_record_is_refused_before_it_is_parsed() -> None:
    """At the limit it is read, one byte above it is not, whatever is in it."""
    small = replace_bytes(200)
    raw = json.dumps(CLICK).encode()
    fits, above = raw.ljust(200), raw.ljust(201)
    assert not isinstance(decode(record(fits), small, TOPICS), Reject)
    for value in (above, b"\xff" * 201):
        out = decode(record(value), small, TOPICS)
        assert isinstance(out, Reject)
        assert out.reason == Reason.TOO_LARGE


def replace_bytes(limit: int) -> Source:
    return SOURCE.model_copy(update={"max_record_bytes": limit})


@pytest.mark.parametrize("topic", ["shop.events", "shop.control", "file"])
def test_a_null_value_is_refused_where_it_means_nothing(topic: str) -> None:
    assert refusal(None, topic=topic, key=b"u").reason == Reason.NULL_VALUE


def test_a_null_on_the_items_topic_withdraws_the_item() -> None:
    """Its key names the item, its Kafka timestamp is its time."""
    out = event(None, topic="shop.items", key="i-é".encode(), timestamp_ms=T)
    assert isinstance(out, canonical.Item)
    assert (out.item_id, out.withdrawn, out.available, out.time_ms) == ("i-é", True, False, T)


@pytest.mark.parametrize(
    "key, reason",
    [
        (None, "null_value"),
        (b"", "null_value"),
        (b"\xff", "not_utf8"),
        (b"x" * 513, "field_invalid"),
    ],
)
def test_a_withdrawal_needs_a_key_that_can_be_an_item_id(key: bytes | None, reason: str) -> None:
    assert refusal(None, topic="shop.items", key=key).reason == reason


@pytest.mark.parametrize(
    "distance, taken",
    [(0, True), (-7 * DAY, True), (-7 * DAY - 1, False), (HOUR, True), (HOUR + 1, False)],
)
def test_event_time_is_bounded_by_the_kafka_timestamp(distance: int, taken: bool) -> None:
    """The bounds themselves are inside."""
    value = {**CLICK, "event_time": T + distance}
    out = decode(record(value, topic="shop.events", timestamp_ms=T), SOURCE, TOPICS)
    assert isinstance(out, canonical.Click) == taken
    if isinstance(out, Reject):
        assert out.reason == Reason.TIME_OUT_OF_RANGE
    assert event(value).time_ms == T + distance  # a file has no timestamp to compare with


def test_seconds_in_place_of_milliseconds_are_out_of_range() -> None:
    """The classic mistake of a producer lands in 1970."""
    value = {**CLICK, "event_time": T // 1_000}
    assert refusal(value, topic="shop.events", timestamp_ms=T).reason == Reason.TIME_OUT_OF_RANGE


@pytest.mark.parametrize(
    "name, home",
    [("click", "shop.events"), ("item", "shop.items"), ("pause", "shop.control")],
)
def test_a_record_belongs_on_its_topic(name: str, home: str) -> None:
    """Elsewhere it is refused, since other ranks would not see it; a file may mix all."""
    raw = (EXAMPLES / f"{name}.v1.json").read_bytes()
    for topic in ("shop.events", "shop.items", "shop.control"):
        out = decode(record(raw, topic=topic), SOURCE, TOPICS)
        if topic == home:
            assert not isinstance(out, Reject)
        else:
            assert isinstance(out, Reject)
            assert out.reason == Reason.WRONG_TOPIC
            assert home in out.message
    event(raw)


SECRET = "s3cret-Zx"


@pytest.mark.parametrize(
    "value",
    [
        {**CLICK, "type": SECRET},
        {**CLICK, "user_id": [SECRET]},
        {**CLICK, "user_id": SECRET * 100},
        {**CLICK, "context": {SECRET: [SECRET]}},
        {**CLICK, "context": {"query": {SECRET: 1}}},
        {**CLICK, "context": SECRET},
        {**CLICK, "event_time": SECRET},
        {**CLICK, "schema_version": SECRET},
        {**CLICK, "type": "service_message", "text": "x", "sentiment": SECRET},
        {**CLICK, "type": "profile", "attributes": {SECRET: None}},
        {**CLICK, "type": "impression", "items": [{"item_id": {SECRET: 1}}]},
        {"type": "item", "event_time": T, "item_id": "i", "vectors": {SECRET: [SECRET]}},
        f'{{"{SECRET}": {SECRET}}}'.encode(),
        f'{{"{SECRET}": 1}}'.encode(),
    ],
)
def test_a_message_holds_nothing_of_the_record(value: Any) -> None:
    """Not even a key of a map: it may be personal data, and messages reach logs."""
    assert SECRET.lower() not in refusal(value).message.lower()


def test_a_message_names_the_field_and_the_rule() -> None:
    """The producer sees what to repair."""
    out = refusal({**CLICK, "type": "impression", "items": [{"item_id": "a"}, {"item_id": ""}]})
    assert out.message == "items.1.item_id: expected a string of 1 to 512 characters"


@given(st.binary(max_size=300))
def test_no_bytes_raise(raw: bytes) -> None:
    """Noise is refused as a value with a reason of the closed list."""
    assert refusal(raw).reason in set(Reason)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3)
    ),
    max_leaves=8,
)
NAMES = sorted({n for m in events.EVENTS.values() for n in m.model_fields} - {"type"})


@given(
    kind=st.sampled_from(sorted({**events.EVENTS, **control.COMMANDS})),
    changes=st.dictionaries(st.sampled_from(NAMES), JSON, max_size=4),
    stamp=st.none() | st.integers(0, 2**62),
)
def test_no_json_raises(kind: str, changes: dict[str, Any], stamp: int | None) -> None:
    """Any value in any field of any record is an event, a command or a reject, and always the same."""
    raw = {**json.loads((EXAMPLES / f"{kind}.v1.json").read_bytes()), **changes}
    out = decode(record(raw, timestamp_ms=stamp), SOURCE, TOPICS)
    assert out == decode(record(raw, timestamp_ms=stamp), SOURCE, TOPICS)
    if isinstance(out, Reject):
        assert out.reason in set(Reason)


@pytest.mark.parametrize("raw", [b"[" * 100_000, b'{"a":' * 100_000, b"9" * 100_000])
def test_deep_or_long_json_is_refused(raw: bytes) -> None:
    """Nesting that would overflow a stack ends as a reject."""
    assert refusal(raw).reason in (Reason.NOT_JSON, Reason.FIELD_INVALID)


def mixed() -> list[Record]:
    """Events at equal and unequal times on two partitions, commands and bad records between them."""
    pause = {"type": "pause", "command_id": "c", "issued_at": T}
    times = [5, 3, 3, 9, 1]
    made = [record({**CLICK, "event_time": t}, "shop.events", i) for i, t in enumerate(times)]
    made += [replace(r, partition=1) for r in made]
    made += [record({**pause, "command_id": f"c{i}"}, "shop.control", i) for i in range(3)]
    made += [record(b"x", "shop.events", 20 + i) for i in range(2)]
    item = {"type": "item", "event_time": 50, "item_id": "i"}
    return [*made, record(item, "shop.items", 0)]


def test_events_come_out_by_time_topic_partition_and_offset() -> None:
    """Commands and rejects keep the order of the log."""
    out = decode_all(mixed(), SOURCE, TOPICS)
    assert [e.time_ms for e in out.events] == [1, 1, 3, 3, 3, 3, 5, 5, 9, 9, 50]
    assert [c.command_id for c in out.commands] == ["c0", "c1", "c2"]
    assert [r.record.offset for r in out.rejects] == [20, 21]


@given(st.permutations(mixed()))
def test_the_order_of_polling_does_not_matter(records: list[Record]) -> None:
    """However partitions were interleaved, the fold sees one order."""
    assert decode_all(records, SOURCE, TOPICS) == decode_all(mixed(), SOURCE, TOPICS)


def test_partition_times_follow_the_users_not_the_catalogue() -> None:
    """An item of a far time must not close anybody's label window."""
    out = decode_all(mixed(), SOURCE, TOPICS)
    assert out.partition_times == {("shop.events", 0): 9, ("shop.events", 1): 9}


def test_the_same_record_twice_is_no_error() -> None:
    """A file given twice repeats coordinates nowhere, but a test source may."""
    twice = [record(CLICK), record(CLICK)]
    assert len(decode_all(twice, SOURCE, TOPICS).events) == 2


MODEL = {"app": "shop", "lineage": "shop-1", "cut": 812, "fold_version": 1}
PLACES = [{"item_id": "i-2", "value": 0.31, "scores": {"click": 0.24, "purchase": 0.07}}]


@pytest.mark.parametrize(
    "kind, name, surface",
    [("user", "u-1001", "home"), ("query", "red shoes", "search"), ("popular", "", "home")],
)
def test_encoded_scores_are_what_the_contract_says(kind: str, name: str, surface: str) -> None:
    """Every kind is read back by the wire model with the values that went in."""
    key, value = encode_scores(kind, name, T, T + 420, MODEL, {surface: PLACES}, variant="b")
    assert key == f"{kind}:{name}"
    read = SCORES.validate_json(value)
    dumped = read.model_dump()
    assert dumped["lists"][surface] == PLACES
    assert (read.event_time, read.published_at, read.variant) == (T, T + 420, "b")
    assert dumped["model"] == MODEL
    assert name in {dumped.get("user_id"), dumped.get("query"), dumped.get("domain")}


def test_encoding_without_a_variant_leaves_the_field_out() -> None:
    _, value = encode_scores("user", "u", T, T, MODEL, {"home": PLACES}, {"churn": 0.5})
    assert "variant" not in json.loads(value)
    assert json.loads(value)["user_scores"] == {"churn": 0.5}


def test_a_line_of_a_score_file_is_the_value_with_its_key() -> None:
    """A tombstone, which has no value, gets a form of its own."""
    key, value = encode_scores("user", 'u"1', T, T, MODEL, {"home": PLACES})
    assert json.loads(score_line(Output(key, value, T))) == {"key": key, **json.loads(value)}
    gone = Tombstone.model_validate_json(score_line(Output(key, None, T)))
    assert (gone.key, gone.kind, gone.event_time) == (key, "tombstone", T)
