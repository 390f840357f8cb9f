"""Does memory stay flat? The fold over more than a million events, with users and items coming and going.

A backtest of `steady` in this process, fed through a pipe by a second process, so that the simulator's own
memory is not counted. Times to live are shortened so that the populations are steady well within the
first 100,000 events (some 18 days of event time): a user unseen for 5 days expires, an item after 10, a
query after 2. One cut holds an hour of event time. Titles and queries get vectors of MiniLM's width from a stand-in
encoder, because encoding would take a third of the time and keeps nothing.

Measured: the resident set of this process (psutil) after the first 100,000 events and every 100,000 after
them, following a garbage collection; the figure is the largest later one over the first.

    python -m benchmarks.memory [--events 1100000] [--warm 100000] [--seed 0] [--json]
"""

from __future__ import annotations

import gc
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import psutil

from benchmarks.report import Figure, note, parser, tell
from benchmarks.shop_stream import Vectors, with_encoder
from stream_mtl.config import DAY, HOUR, Config
from stream_mtl.cut import Record
from stream_mtl.files import TOPIC, cuts_of_records
from stream_mtl.pipeline import Pipeline

MB = 1_000_000
LIMIT = 0.02


@dataclass(frozen=True)
class Sample:
    """The process after so many events."""

    events: int
    rss: int  # bytes
    users: int
    items: int
    queries: int


def settings() -> Config:
    return Config.model_validate(
        {
            "features": {"user_ttl_ms": 5 * DAY, "item_ttl_ms": 10 * DAY, "query_ttl_ms": 2 * DAY},
            "cut": {"file_span_ms": HOUR},
        }
    )


def records(events: int, seed: int) -> Iterator[Record]:
    """What the simulator writes in a process of its own."""
    command = [sys.executable, "-m", "workers.cli", "simulate", "--scenario", "steady"]
    command += ["--events", str(events), "--seed", str(seed)]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as simulator:
        assert simulator.stdout is not None
        for offset, line in enumerate(simulator.stdout):
            yield Record(TOPIC, 0, offset, None, line.rstrip(b"\n"))


def sample(model: Pipeline, events: int) -> Sample:
    gc.collect()
    shop = model.parts.shop
    slots = (shop.users.slots, shop.items.slots, shop.queries.slots)
    return Sample(events, psutil.Process().memory_info().rss, *(len(one) for one in slots))


def measure(events: int, warm: int, seed: int) -> list[Sample]:
    """Samples every `warm` events; the first is the one that the others are compared with."""
    config = settings()
    model = with_encoder(config, Vectors.stand_in())
    taken: list[Sample] = []
    began, next_at, done = time.monotonic(), warm, 0
    for cut in cuts_of_records(records(events, seed), config):
        model.step(cut)
        done += len(cut.records)
        if done >= next_at or done == events:
            taken.append(sample(model, done))
            next_at += warm
            one, seconds = taken[-1], time.monotonic() - began
            note(
                f"  {done:>9} events, {seconds:5.0f} s, {one.rss / MB:7.1f} MB, {one.users} users,"
                f" {one.items} items, {one.queries} queries"
            )
    return taken


def figures(taken: Sequence[Sample]) -> list[Figure]:
    first, later = taken[0], taken[1:]
    peak = max(one.rss for one in later)
    growth = peak / first.rss - 1
    asked = f"< {LIMIT:.0%}"
    return [
        Figure("events", later[-1].events, "1100000", None),
        Figure(f"RSS after {first.events} events, MB", first.rss / MB, "reported", None),
        Figure("largest RSS later, MB", peak / MB, "reported", None),
        Figure("RSS at the end, MB", later[-1].rss / MB, "reported", None),
        Figure("growth of RSS", growth, asked, growth < LIMIT),
        Figure("users, items, queries at the end", f"{later[-1].users}, {later[-1].items}, {later[-1].queries}",
               f"{first.users}, {first.items}, {first.queries} at first", None),
    ]  # fmt: skip


def main() -> int:
    arguments = parser(__doc__)
    arguments.add_argument("--events", type=int, default=1_100_000)
    arguments.add_argument("--warm", type=int, default=100_000)
    arguments.add_argument("--seed", type=int, default=0)
    given = arguments.parse_args()
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    return tell(figures(measure(given.events, given.warm, given.seed)), given.json)


if __name__ == "__main__":
    sys.exit(main())
