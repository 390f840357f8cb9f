"""Files of events as cuts."""

from __future__ import annotations

import gzip
import json
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stream_mtl.config import Config
from stream_mtl.cut import Cut
from stream_mtl.errors import ConfigError, StorageError
from stream_mtl.files import cuts_of_files, event_time

CONFIG = Config.model_validate({"cut": {"file_span_ms": 100, "max_records": 4}})


def _line(time_ms: object) -> bytes:
    return json.dumps({"type": "click", "event_time": time_ms}).encode()


def _write(path: Path, lines: list[bytes]) -> Path:
    data = b"".join(line + b"\n" for line in lines)
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)
    return path


def _offsets(cuts: list[Cut]) -> list[list[int]]:
    return [[record.offset for record in cut.records] for cut in cuts]


def test_a_cut_closes_before_a_record_beyond_its_span_or_when_it_is_full(tmp_path: Path) -> None:
    """100 ms after the first is still inside; the fifth record of one moment is one too many."""
    file = _write(tmp_path / "a.jsonl", [_line(t) for t in (0, 100, 101, 150, 202, 9, 9, 9, 9)])
    assert _offsets(list(cuts_of_files([file], CONFIG))) == [[0, 1], [2, 3], [4, 5, 6, 7], [8]]


def test_a_record_without_a_time_just_joins(tmp_path: Path) -> None:
    """Broken lines neither open nor close a span, and an empty line is a record too."""
    file = _write(tmp_path / "a.jsonl", [b"{", b"", _line(0), b"null", _line(500)])
    assert _offsets(list(cuts_of_files([file], CONFIG))) == [[0, 1, 2, 3], [4]]


def test_ranges_join_up_and_say_what_was_read(tmp_path: Path) -> None:
    file = _write(tmp_path / "a.jsonl", [_line(t) for t in (0, 500, 501)])
    cuts = list(cuts_of_files([file], CONFIG))
    assert [(c.ranges[0].start, c.ranges[0].stop, c.ranges[0].records) for c in cuts] == [
        (0, 1, 1),
        (1, 3, 2),
    ]
    assert [cut.number for cut in cuts] == [0, 1]
    assert all(cut.published_at is None for cut in cuts)
    assert {(r.topic, r.partition) for cut in cuts for r in cut.records} == {("file", 0)}


@given(
    times=st.lists(st.integers(0, 600) | st.none(), min_size=1, max_size=30),
    edges=st.lists(st.integers(0, 30), max_size=4),
)
def test_the_cuts_do_not_depend_on_the_pieces(
    tmp_path_factory: pytest.TempPathFactory, times: list[int | None], edges: list[int]
) -> None:
    """Whole or in pieces, plain or compressed: the very same cuts."""
    folder = tmp_path_factory.mktemp("pieces")
    lines = [b"?" if t is None else _line(t) for t in times]
    whole = _write(folder / "whole.jsonl", lines)
    cut_at = [0, *sorted(min(edge, len(lines)) for edge in edges), len(lines)]
    pieces = [
        _write(folder / f"{i}.jsonl{'.gz' if i % 2 else ''}", lines[a:b])
        for i, (a, b) in enumerate(pairwise(cut_at))
    ]
    assert list(cuts_of_files([whole], CONFIG)) == list(cuts_of_files(pieces, CONFIG))


def test_a_last_line_without_a_newline_does_not_run_into_the_next_file(tmp_path: Path) -> None:
    a, b = tmp_path / "a.jsonl", tmp_path / "b.jsonl"
    a.write_bytes(_line(1))
    b.write_bytes(_line(2) + b"\r\n")
    (cut,) = cuts_of_files([a, b], CONFIG)
    assert [record.value for record in cut.records] == [_line(1), _line(2)]


def test_an_endless_line_is_cut_short_and_the_next_one_read(tmp_path: Path) -> None:
    """Memory is bounded by the limit, and the record stays too large to be taken for a good one."""
    config = Config.model_validate({"source": {"max_record_bytes": 50}})
    file = _write(tmp_path / "a.jsonl", [b"x" * 3_000_000, b"y" * 50, _line(1)])
    (cut,) = cuts_of_files([file], config)
    assert [len(record.value or b"") for record in cut.records] == [51, 50, len(_line(1))]


@pytest.mark.parametrize(
    "value,expected",
    [
        (b'{"event_time":1704067200000,"type":"click"}', 1704067200000),
        (b'{"event_time": "2024-01-01T00:00:00Z"}', 1704067200000),
        (b'{"event_time": "2024-01-01T01:00:00+01:00"}', 1704067200000),
        (b'{"event_time": "2024-01-01T00:00:00"}', None),
        (b'{"context":{"event_time":5},"event_time":7}', 7),
        (b'{"query":"\\"event_time\\":5,","event_time":7}', 7),
        (b'{"event_time": 5.5}', None),
        (b'{"event_time": true}', None),
        (b'["event_time"]', None),
        (b"\xff", None),
        (None, None),
    ],
)
def test_the_event_time_is_that_of_the_record_itself(
    value: bytes | None, expected: int | None
) -> None:
    """Not one that stands in a nested object or inside a string."""
    assert event_time(value) == expected


def test_a_missing_file_is_said_before_anything_is_read(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no such file"):
        cuts_of_files([_write(tmp_path / "a.jsonl", []), tmp_path / "b.jsonl"], CONFIG)


def test_a_damaged_archive_is_a_storage_error(tmp_path: Path) -> None:
    file = _write(tmp_path / "a.jsonl.gz", [_line(t) for t in range(500)])
    file.write_bytes(file.read_bytes()[:-20])
    with pytest.raises(StorageError, match="is the file whole"):
        list(cuts_of_files([file], CONFIG))
