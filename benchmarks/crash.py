"""Kill the worker, kill the broker: is every score there exactly once, and the state that of a quiet fold?

A real Apache Kafka, simulated events in its topics, the worker as a process of its own. It is killed
(SIGKILL) at random moments of its life, roll-forward included, and started again; in the second round
the broker is killed and restarted under a running worker. Afterwards three independent looks: a
read_committed reader compares what it finds of each cut with the ledger's count; `ledger verify`
folds the ledger again; and a fold of the same ledger in this process is compared with the final digest.

    python -m benchmarks.crash [--events 100000] [--kills 10] [--broker-kills 2] [--seed 0] [--json]
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.report import Figure, note, parser, tell
from schemas.scores import CUT_HEADER, LedgerRecord
from stream_mtl import Config, build
from stream_mtl.kafka.ledger_log import read_ledger
from stream_mtl.kafka.produce import ScoreReader
from stream_mtl.kafka.server import KafkaServer, fetch_jars, require_java
from stream_mtl.kafka.source import Source
from stream_mtl.ledger import cut_of, ranges_of
from workers.broker import jars_folder

DEADLINE_S = 1_800.0
RUNNING = "trainer: running"  # in the worker's log: it reads live


@dataclass(frozen=True)
class Outcome:
    """What the three looks found."""

    events: int
    cuts: int
    scores: int
    missing: int  # scores that the ledger counts and no reader finds
    doubled: int  # (key, cut) that a reader finds more than once
    verify: dict[str, Any]
    digest: str
    refolded: str
    kills: int


class Round:
    """One shop on one broker, one worker that may be killed."""

    def __init__(self, server: KafkaServer, folder: Path, settings: Sequence[str] = ()) -> None:
        self.server, self.folder = server, folder
        folder.mkdir(parents=True, exist_ok=True)
        # small cuts and frequent checkpoints: more seams for a kill to find
        self.settings = [
            "cut.max_records=500",
            "checkpoint.interval_s=5",
            "metrics.address=off",
            *settings,
        ]
        self.arguments = ["--bootstrap", server.bootstrap, "--state", str(folder / "state")]
        for setting in self.settings:
            self.arguments += ["--set", setting]
        self.log = folder / "worker.log"

    def command(self, *verb: str) -> list[str]:
        return [sys.executable, "-m", "workers.cli", *verb]

    def simulate(self, events: int, seed: int) -> None:
        """Fill the topics."""
        subprocess.run(
            [*self.command("simulate"), "--events", str(events), "--seed", str(seed), "--bootstrap",
             self.server.bootstrap, "--json"],
            check=True, stdout=subprocess.DEVNULL,
        )  # fmt: skip

    def start(self) -> subprocess.Popen[bytes]:
        with self.log.open("ab") as log:
            return subprocess.Popen(
                [*self.command("run", "trainer"), "--until-idle", "--json", *self.arguments],
                stdout=subprocess.PIPE,
                stderr=log,
            )

    def kill_at_random(self, kills: int, rng: np.random.Generator, longest_s: float = 14.0) -> int:
        """Kill -9 up to `kills` times, anywhere from the first import to deep in the stream."""
        done = 0
        while done < kills:
            worker = self.start()
            delay = float(rng.uniform(1.0, longest_s))
            try:
                worker.communicate(timeout=delay)
            except subprocess.TimeoutExpired:
                worker.kill()
                worker.communicate()
                done += 1
                note(f"  kill {done} of {kills} after {delay:.1f} s")
                continue
            assert worker.returncode == 0, f"the worker failed: {tail(self.log)}"
            return done  # nothing is left to read: the events were too few for so many kills
        return done

    def finish(
        self, broker_kills: int = 0, rng: np.random.Generator | None = None
    ) -> dict[str, Any]:
        """Run to the end of the input; on the way the broker may die and come back."""
        before = self.log.read_text().count(RUNNING) if self.log.exists() else 0
        worker = self.start()
        while (
            broker_kills and worker.poll() is None and self.log.read_text().count(RUNNING) == before
        ):
            time.sleep(0.1)
        for _ in range(broker_kills):
            assert rng is not None
            time.sleep(float(rng.uniform(1.0, 8.0)))
            if worker.poll() is not None:
                break
            self.server.kill()
            note("  broker killed")
            time.sleep(float(rng.uniform(1.0, 4.0)))
            self.server.start()
            note("  broker back")
        out, _ = worker.communicate(timeout=DEADLINE_S)
        assert worker.returncode == 0, f"exit {worker.returncode}: {tail(self.log)}"
        return dict(json.loads(out))

    def config(self) -> Config:
        """The settings that the worker runs with, for the independent looks."""
        from workers.settings import assignment, load

        given = [
            f"kafka.bootstrap={self.server.bootstrap}",
            f"state={self.folder / 'state'}",
            *self.settings,
        ]
        return load(None, {}, [assignment(setting) for setting in given]).config

    def verify(self) -> dict[str, Any]:
        done = subprocess.run(
            [*self.command("ledger", "verify"), "--json", *self.arguments],
            stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, check=False,
        )  # fmt: skip
        return dict(json.loads(done.stdout))


def tail(log: Path) -> str:
    return "\n".join(log.read_text(encoding="utf-8", errors="replace").splitlines()[-15:])


def look(round_: Round, summary: dict[str, Any], kills: int) -> Outcome:
    """Three looks from the outside, after the run."""
    config = round_.config()
    records = [LedgerRecord.model_validate_json(raw) for _, raw in read_ledger(config)]
    found: Counter[tuple[str, int]] = Counter()
    reader = ScoreReader(config)
    for published in reader.read_to_end(60.0):
        headers = dict(published.headers)
        found[published.key or "", int(headers[CUT_HEADER] or b"-1")] += 1
    reader.close()
    by_cut = Counter(cut for _, cut in found)
    counted = {r.cut: r.counts.get("outputs", r.counts.get("scores", 0)) for r in records}
    return Outcome(
        events=int(summary["events_consumed"]),
        cuts=len(records),
        scores=sum(found.values()),
        missing=sum(max(0, n - by_cut[cut]) for cut, n in counted.items()),
        doubled=sum(n - 1 for n in found.values()),
        verify=round_.verify(),
        digest=str(summary["state_digest"]),
        refolded=refold(config, records),
        kills=kills,
    )


def refold(config: Config, records: Sequence[LedgerRecord]) -> str:
    """The final state digest of an undisturbed fold of the ledger."""
    fold = build(config, records[0].lineage)
    source = Source(config, lambda: 0)
    first = records[0]
    source.open({(r.topic, r.partition): r.start for r in first.ranges})
    for record in records:
        fold.step(cut_of(record, source.read(ranges_of(record))))
    source.close()
    return fold.state_digest()


def figures(outcome: Outcome, name: str, events: int, kills: int) -> list[Figure]:
    v = outcome.verify
    clean = not (v["gaps"] or v["overlaps"] or v["scores_missing"] or v["scores_doubled"])
    return [
        Figure(f"{name}: events consumed", outcome.events, f"{events}", outcome.events == events),
        Figure(f"{name}: kills", outcome.kills, f"{kills}", outcome.kills == kills),
        Figure(f"{name}: scores found", outcome.scores, "", None),
        Figure(f"{name}: scores missing", outcome.missing, "0", outcome.missing == 0),
        Figure(f"{name}: scores doubled", outcome.doubled, "0", outcome.doubled == 0),
        Figure(f"{name}: ledger verify", json.dumps(v), "clean", clean and v["digest_equal"] is True),
        Figure(
            f"{name}: final digest", outcome.digest[:16], outcome.refolded[:16],
            outcome.digest == outcome.refolded,
        ),
    ]  # fmt: skip


def run(
    server: KafkaServer, folder: Path, events: int, kills: int, broker_kills: int, seed: int
) -> Outcome:
    """One round: fill, kill, finish, look."""
    rng = np.random.default_rng(seed)
    round_ = Round(server, folder)
    round_.simulate(events, seed)
    done = round_.kill_at_random(kills, rng)
    summary = round_.finish(broker_kills, rng)
    return look(round_, summary, done + broker_kills)


def main() -> int:
    arguments = parser(__doc__)
    arguments.add_argument("--events", type=int, default=100_000)
    arguments.add_argument("--kills", type=int, default=10)
    arguments.add_argument("--broker-kills", type=int, default=2)
    arguments.add_argument("--seed", type=int, default=0)
    given = arguments.parse_args()
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    require_java()
    jars = fetch_jars(jars_folder())
    told: list[Figure] = []
    rounds = (("worker", given.kills, 0), ("broker", 0, given.broker_kills))
    for name, kills, broker_kills in rounds:
        if not kills + broker_kills:
            continue
        with tempfile.TemporaryDirectory() as scratch:
            folder = Path(scratch)
            with KafkaServer(folder / "kafka", jars=jars) as server:
                note(f"{name}: {given.events} events, {kills} kills, {broker_kills} broker kills")
                outcome = run(server, folder / name, given.events, kills, broker_kills, given.seed)
        told += figures(outcome, f"kill -9 of the {name}", given.events, kills + broker_kills)
    return tell(told, given.json)


if __name__ == "__main__":
    sys.exit(main())
