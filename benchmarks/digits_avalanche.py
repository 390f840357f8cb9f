"""Avalanche 0.6's own replay, MIR, regularisers and baselines on the same digits, net and protocol, in both of its uses.

Native: an experience a task, its data loader makes the batches. Streaming: an experience a micro-batch, as rows come
from a stream; there its loaders, buffers and callbacks are made anew for every ten rows, and grow with the stream.
Avalanche is imported here alone, and only when an arm runs.
"""

from __future__ import annotations

import io
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from typing import Any

import torch
from torch import nn

from benchmarks.digits import (
    CLASSES,
    PROTOCOL,
    RATE,
    Dose,
    Net,
    Rows,
    Run,
    Stream,
    outcome,
)

CANDIDATES = 50


def protocol_net(net: Net) -> nn.Module:
    return nn.Sequential(
        nn.Linear(net.pixels, net.hidden), nn.ReLU(), nn.Linear(net.hidden, CLASSES)
    )


def our_net(net: Net) -> nn.Module:
    """What `benchmarks.digits.learner` trains: the arithmetic is the same, so what differs is the rest of an update."""
    shared = nn.Sequential(nn.Linear(net.pixels, net.hidden), nn.LayerNorm(net.hidden), nn.SiLU())
    tower = nn.Sequential(nn.Linear(net.hidden, net.tower), nn.SiLU())
    return nn.Sequential(shared, tower, nn.Linear(net.tower, CLASSES))


NETS = {"protocol": protocol_net, "ours": our_net}


def replay(kind: str, dose: Dose) -> Any:
    from avalanche.training.plugins import MIRPlugin, ReplayPlugin
    from avalanche.training.storage_policy import ClassBalancedBuffer, ReservoirSamplingBuffer

    if kind == "MIR":
        return MIRPlugin(
            dose.batch, mem_size=dose.memory, subsample=max(CANDIDATES, 2 * dose.batch)
        )
    policy = None  # an equal share of the memory for every experience
    if kind.startswith("replay, reservoir"):
        policy = ReservoirSamplingBuffer(max_size=dose.memory)
    elif kind.startswith("replay, class-balanced"):
        policy = ClassBalancedBuffer(max_size=dose.memory, adaptive_size=True)
    return ReplayPlugin(
        dose.memory, batch_size=dose.batch, batch_size_mem=dose.batch, storage_policy=policy
    )


# Replay takes one mean over fresh and remembered rows: at twice the rate, each is worth what the protocol's sum of two
# means makes of it. MIR's plugin adds two means itself.
KINDS = {
    "replay, reservoir": RATE,
    "replay, class-balanced": RATE,
    "replay, reservoir, rate .1": 2 * RATE,
    "replay, class-balanced, rate .1": 2 * RATE,
    "MIR": RATE,
}
STREAMED = ("replay, reservoir, rate .1", "replay, class-balanced, rate .1", "MIR")


# Without rehearsal: the floor, the ceiling (every task is trained on together with all before it), and regularisers.
BASELINES = ("Naive", "Cumulative", "EWC online", "MAS", "RWalk", "SI")
STRENGTH = {"EWC online": 100.0, "MAS": 1.0, "RWalk": 1.0, "SI": 10.0}


def plugins(kind: str, dose: Dose) -> list[Any]:
    from avalanche.training import plugins as theirs

    strength = STRENGTH.get(kind, 0.0)
    if kind in ("Naive", "Cumulative"):
        return []
    if kind == "EWC online":
        return [theirs.EWCPlugin(strength, mode="online", decay_factor=0.9)]
    if kind == "MAS":
        return [theirs.MASPlugin(strength, alpha=0.9)]
    if kind == "RWalk":
        return [theirs.RWalkPlugin(strength)]
    if kind == "SI":
        return [theirs.SynapticIntelligencePlugin(strength)]
    return [replay(kind, dose)]


def strategy(kind: str, seed: int, dose: Dose, net: str) -> Any:
    from avalanche.training.supervised import Cumulative, Naive

    torch.manual_seed(seed)
    model = NETS[net](dose.net)
    made = Cumulative if kind == "Cumulative" else Naive
    return made(
        model=model,
        optimizer=torch.optim.SGD(model.parameters(), lr=KINDS.get(kind, RATE)),
        criterion=nn.CrossEntropyLoss(),
        train_mb_size=dose.batch,
        train_epochs=1,
        eval_mb_size=1000,
        plugins=plugins(kind, dose),
        evaluator=None,
    )


def experiences(stream: Stream) -> Any:
    """One experience a task."""
    from avalanche.benchmarks import benchmark_from_datasets
    from avalanche.benchmarks.utils.classification_dataset import (
        _make_taskaware_tensor_classification_dataset as dataset,
    )

    tasks = [
        dataset(r.pixel_NP, r.digit_N, task_labels=0, targets=r.digit_N.tolist())
        for r in stream.train
    ]
    return benchmark_from_datasets(train=tasks).streams["train"]


class Timer:
    """CPU time of the experiences in which every update learned from remembered rows too.

    The others say nothing of what rehearsal costs: there is nothing to rehearse in the first one, and MIR's plugin
    drops the classes of the last batch, after a batch of all classes its whole memory.
    """

    def __init__(self, trained: Any, dose: Dose) -> None:
        self._trained, self._dose = trained, dose
        self._rows = 0
        self.seconds, self.updates = 0.0, 0
        trained.model.register_forward_hook(self._count)

    def _count(self, model: nn.Module, inputs: tuple[torch.Tensor, ...], output: object) -> None:
        if torch.is_grad_enabled():
            self._rows += len(inputs[0])

    def __deepcopy__(self, memo: dict[int, Any]) -> Timer:
        return self  # MIR's plugin copies the model for every update, and what hangs on it

    def train(self, experience: Any) -> None:
        self._rows, before = 0, self._trained.clock.train_iterations
        start = time.process_time()
        self._trained.train(experience, num_workers=0)
        seconds = time.process_time() - start
        updates = self._trained.clock.train_iterations - before
        # As many remembered rows as fresh ones, but for a last batch that may be short.
        if self._rows >= 1.9 * self._dose.batch * updates:
            self.seconds, self.updates = self.seconds + seconds, self.updates + updates

    @property
    def ms(self) -> float:
        """An update; NaN where none rehearsed."""
        return 1_000 * self.seconds / self.updates if self.updates else float("nan")


def native(
    kind: str, stream: Stream, seed: int, dose: Dose = PROTOCOL, net: str = "protocol"
) -> Run:
    """An experience a task, as Avalanche is used."""
    with quiet():
        trained, table = strategy(kind, seed, dose, net), []
        timer = Timer(trained, dose)
        for task in experiences(stream):
            timer.train(task)
            table.append([_accuracy(trained.model, test) for test in stream.test])
    return outcome(table, timer.ms)


def streaming(
    kind: str, stream: Stream, seed: int, dose: Dose = PROTOCOL, net: str = "protocol"
) -> Run:
    """An experience a micro-batch."""
    from avalanche.benchmarks.scenarios.online import split_online_stream

    with quiet():
        trained = strategy(kind, seed, dose, net)
        timer = Timer(trained, dose)
        for micro in split_online_stream(experiences(stream), dose.batch, shuffle=False):
            timer.train(micro)
        table = [[_accuracy(trained.model, test) for test in stream.test]]
    return outcome(table, timer.ms)


@contextmanager
def quiet() -> Iterator[None]:
    """Without its progress on stdout, and its warning at every experience, which it lets through any filter."""
    with warnings.catch_warnings(), redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
        yield


@torch.inference_mode()
def _accuracy(model: nn.Module, test: Rows) -> float:
    return float((model(test.pixel_NP).argmax(1) == test.digit_N).float().mean())
