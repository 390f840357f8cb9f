"""The part of R4 with packet loss, as a process of its own: it may live in a network of its own.

python -m benchmarks.soak.loss FOLDER SECONDS SEED
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from dataclasses import asdict
from pathlib import Path

import numpy as np

from benchmarks.soak.nursery import Nursery
from benchmarks.soak.proxy import Proxy
from benchmarks.soak.row import Ground, Row, Size, holds_p
from benchmarks.soak.shop import Feeder
from benchmarks.soak.stage import Stage
from benchmarks.soak.zombies import leave
from stream_mtl.kafka.server import KafkaServer
from workers.broker import jars_folder

SHARE = 0.24
_RETRANSMIT_S = 0.2  # TCP's shortest time before it sends again; it doubles each time


def lose_packets(proxy: Proxy, seed: int) -> str:
    """From now on; says how. By the kernel where it can be told to, else as delays a retransmission long."""
    rules = [
        f"iptables -A INPUT -p tcp --{side} {proxy.port} -m statistic --mode random --probability {SHARE} -j DROP"
        for side in ("dport", "sport")
    ]
    done = subprocess.run(["sh", "-c", " && ".join(rules)], capture_output=True, check=False)
    if done.returncode == 0:
        return "iptables"
    rng = np.random.default_rng(seed)

    def delay_s() -> float:
        again = int(rng.geometric(1 - SHARE)) - 1
        return float(_RETRANSMIT_S * (2**again - 1))

    proxy.delay(delay_s)
    return "delays in the proxy"


def main(folder: Path, seconds: float, seed: int, size: Size) -> int:
    folder.mkdir(parents=True, exist_ok=True)
    with Nursery() as nursery, Proxy(0) as proxy:
        ground = Ground(folder, jars_folder(), nursery, size, seed)
        with KafkaServer(folder / "kafka", jars=ground.jars, advertise=proxy.port) as server:
            proxy.target = server.behind
            stage = Stage(nursery, server.bootstrap, folder / "stage", through=proxy.bootstrap)
            with Feeder(stage.config(), 50.0, seed):
                worker = stage.start()
                stage.await_commit(0.0, worker)
                how = lose_packets(proxy, seed)
                before = stage.cut()
                time.sleep(seconds)
                cuts = stage.cut() - before
                alive = worker.poll() is None
                if how == "iptables":
                    subprocess.run(["iptables", "-F"], check=True)
                proxy.delay(lambda: 0.0)
                healed = time.time()
                recovered = stage.await_commit(healed, worker).at - healed
                leave(worker)
            stage.finish()
            row = holds_p("R4", f"packet loss 24 % for {seconds:.0f} s ({how})", stage.look())
            held = f"{cuts} cuts meanwhile, commit {recovered:.1f} s after, one process: {alive}"
            for one in (
                row,
                Row(
                    "R4",
                    "packet loss: goes on, recovers in 30 s",
                    held,
                    alive and ground.prompt(recovered, 30.0),
                ),
            ):
                print(json.dumps(asdict(one)), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), float(sys.argv[2]), int(sys.argv[3]), sys.argv[4]))  # type: ignore[arg-type]  # one of its words
