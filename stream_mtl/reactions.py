"""What the fold does about what it sees of itself: answers to drift and forgetting, and looks at the model's health.

All of it follows from the state, and what changes the model's shape is a decision in the ledger.
"""

from __future__ import annotations

from collections.abc import Sequence

from stream_mtl.adaptation import adaptation, pulls_away
from stream_mtl.batch import Batch
from stream_mtl.config import Config
from stream_mtl.cut import DriftAlarm
from stream_mtl.evaluation import Evaluation
from stream_mtl.gate import limits
from stream_mtl.learner import Learner
from stream_mtl.spans import Spans

Decision = dict[str, object]


class Reactions:
    """Holds nothing that the next step depends on."""

    def __init__(
        self, config: Config, evaluation: Evaluation, learner: Learner, spans: Spans
    ) -> None:
        self._config, self._evaluation, self._learner = config, evaluation, learner
        self._spans = spans
        self._decisions: list[Decision] = []
        self.drifts: tuple[DriftAlarm, ...] = ()  # of the newest cut
        # of experts and gates, and of the memories, as of the newest look at the probes
        self.health: dict[str, float] = {}
        self.overfitting: dict[str, float] = {}

    def begin(self) -> None:
        """A new cut."""
        self.drifts, self._decisions = (), []

    def take(self) -> list[Decision]:
        """Decisions of this cut."""
        return self._decisions

    def observed(self, event_time: int) -> None:
        """Rows were judged: the coming steps answer drift and forgetting, tasks that drift apart get experts.

        A span of the stream may end here, before what came after it is learned. `event_time`: the newest so far.
        """
        settings, evaluation, learner = self._config.adapt, self._evaluation, self._learner
        self.drifts = evaluation.take_drifts()
        alarmed = dict.fromkeys(alarm.task for alarm in self.drifts)
        if self._config.fine_tune.on_drift:
            self._fine_tune([name for name in self._config.fine_tune.tasks if name in alarmed])
        learner.adapt(adaptation(settings, evaluation.drifted(), evaluation.forgetting()))
        ended = self._spans.ended(event_time, self.drifts, learner.version)
        if ended is not None:
            learner.consolidate()
            self._decisions.append({"kind": "consolidate", **ended})
        if settings.grow:
            for task in alarmed:
                place = list(self._config.tasks).index(task)
                if pulls_away(place, learner.affinity()) and learner.grow(task):
                    self._decisions.append({"kind": "grow_expert", "task": task})

    def stepped(self, batch: Batch) -> None:
        """After a step, every so many: what is still known of the probes, and how the parts of the model are."""
        learner, evaluation = self._learner, self._evaluation
        tuned = self._config.fine_tune
        if tuned.every and learner.version % tuned.every == 0:
            self._fine_tune(tuned.tasks)
        if learner.version % self._config.evaluation.probe_every:
            return
        evaluation.evaluate_probes(lambda probes: learner.predict(probes).output_BC)
        self.health = learner.health(batch)
        self.overfitting = learner.overfitting(evaluation.held_out())
        if self._config.adapt.grow:
            given_up = learner.merge_idle(batch, self._config.adapt.idle)
            self._decisions += [{"kind": "merge_expert", "expert": name} for name in given_up]

    def _fine_tune(self, tasks: Sequence[str]) -> None:
        for task in tasks:
            done = self._learner.fine_tune(task, limits(self._config.gate))
            self._decisions.append(done.decision())
