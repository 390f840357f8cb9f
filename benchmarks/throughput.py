"""How fast is the whole of it, and how soon is an event in a list that a subscriber can read?

A real Apache Kafka on this machine, the `steady` shop, the default settings (MMoE, one rehearsed row a
fresh row, one thread), with full steps from the start, as after the first quarter million rows. Text vectors are MiniLM's, worked out beforehand and looked up by the trainer, so
encoding is not in these figures.

Throughput: the topics hold a backlog; the trainer, a process of its own, reads it to its end. Timed are the events
after `--warm`, when the memories are full. The bare loop (`benchmarks.bare_loop`) does the same steps,
rehearsal and scoring on ready batches, right after the trainer; predictions
for rows at the moment of showing are the trainer's alone. The ratio is its seconds over the trainer's, by the clock on the wall and by CPU time (of all threads of each process). The broker shares the
cores with the trainer and not with the bare loop. Torch has one thread in both; the trainer has the Kafka client's
threads beside it, and one that prepares lists during the steps, so its CPU time can be more than its seconds.

Latency: a producer writes at half of the measured rate into live topics; from the call that produces an
event to the return of the poll in which a read_committed subscriber finds the first list of that user made by
a cut that holds the event. Events that concern no list (catalogue) do not count.

Trainer and bare loop take turns, `--rounds` times, each time with topics and state of its own. The figures are those
of the round whose ratio is the median: on a shared machine what either needs differs by a third from minute to minute.

    python -m benchmarks.throughput [--events 60000] [--warm 20000] [--rounds 5] [--seconds 45] [--seed 3] [--json]
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.bare_loop import BareLoop, Cost, Work
from benchmarks.latency import Latency, live
from benchmarks.report import Figure, note, parser, tell
from benchmarks.shop_stream import MINILM_DIM, Vectors, minilm, texts_of
from benchmarks.trainer_process import read_diary, save_vectors
from stream_mtl.batch import Spec
from stream_mtl.config import Config
from stream_mtl.cut import Record
from stream_mtl.description import DENSE, SPARSE
from stream_mtl.files import TOPIC
from stream_mtl.kafka.produce import EventWriter
from stream_mtl.kafka.server import KafkaServer, fetch_jars, require_java
from stream_mtl.kafka.topics import ensure_topics
from stream_mtl.simulator import Simulated, as_line, simulate
from workers.broker import jars_folder
from workers.simulate import to_topics

DEADLINE_S = 1_800.0


@dataclass(frozen=True)
class Throughput:
    """The timed part of the trainer's run, and what the bare loop needed for it."""

    events: int
    example_rows: int
    work: Work
    ours: Cost
    bare: Cost

    @property
    def ratio(self) -> float:
        """By the clock on the wall."""
        return self.bare.wall_s / self.ours.wall_s


def settings(app: str, bootstrap: str, folder: Path) -> Config:
    topics = {
        name: f"{app}.{name}" for name in ("items", "control", "acks", "scores", "dlq", "ledger")
    }
    return minilm(
        app=app,
        state=str(folder / app),
        kafka={"bootstrap": bootstrap},
        topics={"events": [f"{app}.events"], **topics},
        metrics={"address": "off"},
        learner={"first_rows": 512},  # the small steps of a young model are soon over
    )


def start(config: Config, folder: Path, *options: str) -> tuple[subprocess.Popen[bytes], Path]:
    """The trainer's process and the path of its diary."""
    config_file, diary = folder / f"{config.app}.json", folder / f"{config.app}.jsonl"
    config_file.write_text(config.model_dump_json())
    module = [sys.executable, "-m", "benchmarks.trainer_process"]
    return subprocess.Popen([*module, config_file, folder, diary, *options]), diary


def fill(config: Config, shop: Sequence[Simulated]) -> None:
    ensure_topics(config, retention_ms=-1)
    writer = EventWriter(config)
    to_topics(shop, config, writer)
    writer.flush()


def timed(diary: Sequence[dict[str, Any]], warm: int) -> tuple[list[dict[str, Any]], Cost]:
    """The cuts after the first `warm` events, and what they cost."""
    done = 0
    for place, cut in enumerate(diary):  # noqa: B007
        done += cut["events"]
        if done >= warm:
            break
    rest = list(diary[place + 1 :])
    assert rest, "nothing is left to time: give more --events"
    last = diary[place]
    return rest, Cost(rest[-1]["at"] - last["at"], rest[-1]["cpu"] - last["cpu"])


def measure(
    server: KafkaServer, folder: Path, shop: Sequence[Simulated], warm: int, number: int
) -> Throughput:
    """One round: the trainer over a backlog, then the bare loop with the same work."""
    config = settings(f"backlog{number}", server.bootstrap, folder)
    fill(config, shop)
    note(f"trainer: {len(shop)} events in the topics")
    worker, diary = start(config, folder, "--until-idle")
    assert worker.wait(DEADLINE_S) == 0, "the trainer failed"
    cuts, ours = timed(read_diary(diary), warm)
    total = {
        key: sum(c.get(key, 0) for c in cuts)
        for key in ("events", "steps", "fresh", "rehearsed", "example_rows")
    }
    scored = [c.get("scored_rows", 0) for c in cuts]
    work = Work(total["steps"], total["fresh"], total["rehearsed"], scored)
    note(f"  {total}, scored {sum(scored)}, {ours}")
    return Throughput(total["events"], total["example_rows"], work, ours, bare(config, work))


def bare(config: Config, work: Work) -> Cost:
    spec = Spec(SPARSE, DENSE, tuple(config.tasks), config.features.table_rows, MINILM_DIM)
    cost = BareLoop(spec, config).run(work)
    note(f"  bare loop: {cost}")
    return cost


def middle(rounds: Sequence[Throughput]) -> Throughput:
    """The round of the median ratio, of an even number the lower of the two."""
    return sorted(rounds, key=lambda one: one.ratio)[(len(rounds) - 1) // 2]


def throughput_figures(rounds: Sequence[Throughput]) -> list[Figure]:
    t = middle(rounds)
    wall, cpu = t.ratio, t.bare.cpu_s / t.ours.cpu_s
    all_told = " ".join(f"{one.ratio:.3f}" for one in rounds)
    scored = sum(t.work.scored)
    return [
        Figure("events/s", t.events / t.ours.wall_s, "reported", None),
        Figure("example rows/s", t.example_rows / t.ours.wall_s, "reported", None),
        Figure("scored rows/s", scored / t.ours.wall_s, "reported", None),
        Figure("events per CPU second", t.events / t.ours.cpu_s, "reported", None),
        Figure("end to end over bare loop, wall, of every round", all_told, "reported", None),
        Figure("end to end over bare loop, wall", wall, ">= 0.6", wall >= 0.6),
        Figure("end to end over bare loop, CPU", cpu, ">= 0.6", cpu >= 0.6),
    ]


def latency_figures(found: Latency) -> list[Figure]:
    return [
        Figure("latency: events/s written", found.rate, "half of the above", None),
        Figure("latency: events that count", found.events, "reported", None),
        Figure("latency: without a later list", found.unanswered, "reported", None),
        Figure("latency p50, s", found.p50, "<= 0.5", found.p50 <= 0.5),
        Figure("latency p99, s", found.p99, "<= 2", found.p99 <= 2.0),
    ]


def main() -> int:
    arguments = parser(__doc__)
    arguments.add_argument("--events", type=int, default=60_000)
    arguments.add_argument("--warm", type=int, default=20_000)
    arguments.add_argument("--rounds", type=int, default=5)
    arguments.add_argument(
        "--seconds", type=float, default=45.0, help="of the latency part; 0: none"
    )
    arguments.add_argument("--seed", type=int, default=3)
    given = arguments.parse_args()
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    require_java()
    jars = fetch_jars(jars_folder())
    shop = list(simulate("steady", given.events, given.seed))
    records = [Record(TOPIC, 0, n, None, as_line(one)) for n, one in enumerate(shop)]
    vectors = Vectors.of_minilm(texts_of(records, minilm()))
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        save_vectors(vectors, folder)
        with KafkaServer(folder / "kafka", jars=jars) as server:
            rounds = [
                measure(server, folder, shop, given.warm, number) for number in range(given.rounds)
            ]
            told = throughput_figures(rounds)
            if given.seconds:
                result = middle(rounds)
                rate = 0.5 * result.events / result.ours.wall_s
                config = settings("live", server.bootstrap, folder)
                fill(config, shop[: given.warm])
                worker, diary = start(config, folder)
                try:
                    told += latency_figures(
                        live(config, diary, shop[given.warm :], given.warm, rate, given.seconds)
                    )
                finally:
                    worker.send_signal(signal.SIGTERM)
                    worker.wait(120)
    return tell(told, given.json)


if __name__ == "__main__":
    began = time.monotonic()
    code = main()
    note(f"{time.monotonic() - began:.0f} s in all")
    sys.exit(code)
