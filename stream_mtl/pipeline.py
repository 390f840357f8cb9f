"""The whole fold on one page: state[k+1] = step(state[k], cut[k]).

    record -> event -> example -> batch -> joint update -> scores
      serde     join      features    learner       scoring
      \\-> reject (dead letter)        evaluation reads the predictions made at serving

Nothing but the cut enters a step: no clock, no poll timing, no unsaved randomness. So the same cuts give
the same state and the same outputs, and a crash is repaired by folding them again.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from stream_mtl import state as states
from stream_mtl.adaptation import adaptation, pulls_away
from stream_mtl.batch import Batch, concat
from stream_mtl.config import Config
from stream_mtl.cut import Cut, CutResult, DriftAlarm, Output, Reject
from stream_mtl.errors import ConfigError
from stream_mtl.evaluation import Evaluation
from stream_mtl.events import AnyEvent, Command, Outcome
from stream_mtl.features import Features
from stream_mtl.hashing import hash64
from stream_mtl.label_join import LabelJoin
from stream_mtl.learner import Learner
from stream_mtl.ledger import FOLD_VERSION
from stream_mtl.pending import Pending
from stream_mtl.scoring import Moment, Scoring
from stream_mtl.serde import FILE_TOPIC, Decoded, decode_all
from stream_mtl.shop import Shop
from stream_mtl.spans import Spans
from stream_mtl.state import State
from stream_mtl.step_report import StepReport
from stream_mtl.task_set import TaskSet, grown, with_task, without_task
from stream_mtl.text import Encoder
from stream_mtl.watermark import Watermark


@dataclass(slots=True)
class Parts:
    """The stages, built by `composition`; in the order of the flow."""

    watermark: Watermark
    join: LabelJoin
    shop: Shop
    features: Features
    evaluation: Evaluation
    pending: Pending
    learner: Learner
    scoring: Scoring
    spans: Spans
    encoder: Encoder  # frozen: no state


class Pipeline:
    """A model of a shop as a fold over cuts. `step` is all there is to do; the rest looks at it."""

    def __init__(self, config: Config, compose: Callable[[Config], Parts], lineage: str) -> None:
        """`compose` makes the empty parts: now, and when a command adds a task."""
        self._given, self._compose = config, compose  # as configured; `config` has all tasks
        self.config, self.parts, self.lineage = config, compose(config), lineage
        self.tasks = TaskSet()
        self.cuts = 0  # cuts folded = number of the next cut
        self.totals: Counter[str] = Counter()
        self.reports: list[StepReport] = []  # of the newest cut, for metrics
        self.health: dict[
            str, float
        ] = {}  # of experts and gates, as of the newest probe evaluation
        self.overfitting: dict[str, float] = {}  # of the memories, as of then
        self._drifts: tuple[DriftAlarm, ...] = ()
        self._grown: list[dict[str, object]] = []
        self._chain = ""
        self._event_time = 0

    def step(self, cut: Cut) -> CutResult:
        """Fold one cut in; pure in (state, cut). Raises NumericError when learning has broken down."""
        decoded = decode_all(cut.records, self.config.source, self.config.topics)
        event_time = max((e.time_ms for e in decoded.events), default=0)
        self._event_time = max(self._event_time, event_time)
        counts: Counter[str] = Counter(events=len(cut.records), rejected=len(decoded.rejects))

        outcomes = self._join_and_look(decoded.events, counts)
        outcomes += self._advance(cut, decoded)
        self._learn(outcomes, counts)
        decisions, erased = self._obey(decoded.commands, cut)
        outputs = (*erased, *self._publish(cut, counts))
        return self._close(cut, decoded.rejects, outputs, decisions, counts, event_time)

    # ---- the stages, in order

    def _join_and_look(self, events: Sequence[AnyEvent], counts: Counter[str]) -> list[Outcome]:
        """Exposures get their features as of before the chunk; then its events count."""
        parts = self.parts
        outcomes: list[Outcome] = []
        opened: list[Batch] = []
        for chunk in _chunks(events, self.config.features.chunk):
            joined = parts.join.feed(chunk)
            if joined.exposures:
                opened.append(parts.features.open(joined.exposures))
            parts.shop.apply(joined.events)
            outcomes += joined.outcomes
            counts["duplicates"] += joined.duplicates
        self._predict(opened)
        self._encode_texts()
        return outcomes

    def _predict(self, opened: Sequence[Batch]) -> None:
        """What the model says of what was shown, remembered until the labels come."""
        if opened:
            prediction = self.parts.learner.predict(concat(opened))
            self.parts.features.served(prediction.output_BC)

    def _encode_texts(self) -> None:
        waiting = self.parts.shop.pending_texts(self.config.text.max_per_cut)
        if waiting:
            vectors_NE = self.parts.encoder.encode([entry.text for entry in waiting])
            self.parts.shop.set_vectors(waiting, vectors_NE.numpy())

    def _advance(self, cut: Cut, decoded: Decoded) -> list[Outcome]:
        """Event time moves on: windows close."""
        held_by = (
            *self.config.topics.events,
            FILE_TOPIC,
        )  # catalogue and commands hold no watermark
        owned = [(r.topic, r.partition) for r in cut.ranges if r.topic in held_by]
        watermark = self.parts.watermark.observe(decoded.partition_times, owned)
        joined = self.parts.join.advance(watermark)
        # a click that nothing had shown waits out the disorder before it opens one
        if joined.exposures:
            self._predict([self.parts.features.open(joined.exposures)])
        return list(joined.outcomes)

    def _learn(self, outcomes: Sequence[Outcome], counts: Counter[str]) -> None:
        """Judge what was served, then train on it; late labels mend the memories first."""
        parts = self.parts
        self.reports, self._drifts, self._grown = [], (), []
        if outcomes:
            rows = parts.features.rows(outcomes)
            parts.evaluation.observe(rows.served_BC, rows.batch)
            held_out_B = parts.evaluation.is_probe(rows.batch.list_key_B)
            parts.evaluation.add_probes(rows.batch.select(held_out_B))
            lesson = rows.batch
            if rows.told_BT is not lesson.label_BT:
                lesson = replace(lesson, label_BT=rows.told_BT)
                probe_B = parts.evaluation.is_probe(rows.early.list_key_B)
                parts.pending.add(rows.early.select(~probe_B))
            parts.pending.add(lesson.select(~held_out_B))
            parts.learner.correct(rows.corrections)
            parts.pending.add(rows.corrections)
            counts["example_rows"] += len(rows.batch) + len(rows.corrections)
            self._drifts = parts.evaluation.take_drifts()
            self._adapt()
            self._consolidate()
        for batch in parts.pending.full():
            self.reports.append(parts.learner.step(batch))
            counts["steps"] += 1
            if parts.learner.version % self.config.evaluation.probe_every == 0:
                self._look_back(batch)

    def _adapt(self) -> None:
        """Answer what the evaluation has seen: the steps to come, and experts for tasks that drift apart."""
        parts, settings = self.parts, self.config.adapt
        lost = parts.evaluation.forgetting()
        parts.learner.adapt(adaptation(settings, parts.evaluation.drifted(), lost))
        if settings.grow:
            for task in dict.fromkeys(alarm.task for alarm in self._drifts):
                place = list(self.config.tasks).index(task)
                if pulls_away(place, parts.learner.affinity()) and parts.learner.grow(task):
                    self._grown.append({"kind": "grow_expert", "task": task})

    def _consolidate(self) -> None:
        """A span of the stream may end here, before what came after it is learned."""
        learner = self.parts.learner
        ended = self.parts.spans.ended(self._event_time, self._drifts, learner.version)
        if ended is not None:
            learner.consolidate()
            self._grown.append({"kind": "consolidate", **ended})

    def _look_back(self, batch: Batch) -> None:
        """Every so many steps: what is still known of the probes, and how the parts of the model are."""
        parts = self.parts
        parts.evaluation.evaluate_probes(lambda probes: parts.learner.predict(probes).output_BC)
        self.health = parts.learner.health(batch)
        self.overfitting = parts.learner.overfitting(parts.evaluation.held_out())
        if self.config.adapt.grow:
            given_up = parts.learner.merge_idle(batch, self.config.adapt.idle)
            self._grown += [{"kind": "merge_expert", "expert": name} for name in given_up]

    def _obey(
        self, commands: Sequence[Command], cut: Cut
    ) -> tuple[list[dict[str, object]], list[Output]]:
        """Commands apply after the events of their cut, in offset order; each leaves a decision."""
        decisions: list[dict[str, object]] = [
            {"kind": "nonfinite_step", "step": r.step} for r in self.reports if r.nonfinite
        ]
        decisions += self._grown
        outputs: list[Output] = []
        for command in commands:
            decision: dict[str, object] = {"kind": command.kind, "command_id": command.command_id}
            given = dict(command.arguments)
            try:
                if command.kind == "erase_user":
                    outputs.append(self._erase(str(given["user_id"]), cut))
                elif command.kind == "add_task":
                    name = str(given.pop("task"))
                    self._retask(with_task(self.tasks, self._given, name, given))
                elif command.kind == "retire_task":
                    name = str(given["task"])
                    self._retask(without_task(self.tasks, self._given, name))
                    self.parts.learner.forget(name)
                    self.parts.pending.forget_labels(list(self.config.tasks).index(name))
                else:
                    raise ConfigError(f"{command.kind} is not carried out by this version")
                decisions.append({**decision, "done": True})
            except ConfigError as error:
                decisions.append({**decision, "done": False, "reason": str(error)})
        return decisions, outputs

    def _retask(self, tasks: TaskSet) -> None:
        """Go on with other tasks, everything else as it is. Raises ConfigError, and then nothing has changed."""
        if tasks.added != self.tasks.added:
            config = tasks.over(self._given)
            parts = self._compose(config)
            parts.encoder = self.parts.encoder
            state = grown(_state_of(self.parts), _state_of(parts))
            for name, part in _stateful(parts).items():
                part.restore(states.unnest(name, state))
            self.config, self.parts = config, parts
        self.parts.scoring.retire(tasks.retired)
        self.parts.features.retire(tasks.retired)
        self.tasks = tasks

    def _erase(self, user_id: str, cut: Cut) -> Output:
        parts, key = self.parts, hash64(user_id, "user")
        parts.join.erase(user_id)
        parts.features.erase_user(user_id)
        parts.shop.erase_user(user_id)
        parts.learner.erase(key)
        parts.evaluation.erase(key)
        parts.pending.erase(key)
        return parts.scoring.erase_user(user_id, self._moment(cut))

    def _publish(self, cut: Cut, counts: Counter[str]) -> tuple[Output, ...]:
        scored = self.parts.scoring.publish(self._moment(cut))
        counts["scored_rows"] += scored.rows
        counts["scores"] += sum(output.value is not None for output in scored.outputs)
        return scored.outputs

    def _moment(self, cut: Cut) -> Moment:
        return Moment(
            event_time=self._event_time,
            published_at=self._event_time if cut.published_at is None else cut.published_at,
            model={
                "app": self.config.app,
                "lineage": self.lineage,
                "cut": cut.number,
                "fold_version": FOLD_VERSION,
            },
        )

    def _close(
        self,
        cut: Cut,
        rejects: Sequence[Reject],
        outputs: tuple[Output, ...],
        decisions: list[dict[str, object]],
        counts: Counter[str],
        event_time: int,
    ) -> CutResult:
        outputs_digest = digest_outputs(outputs)
        self.totals.update(counts)
        self.totals["cuts"] += 1
        self.cuts = cut.number + 1
        link = json.dumps(
            [
                self._chain,
                cut.number,
                outputs_digest,
                [r.digest for r in self.reports],
                self.parts.learner.dense_digest() if self.reports else "",
                sorted(self.totals.items()),
            ]
        )
        self._chain = hashlib.blake2b(link.encode(), digest_size=16).hexdigest()
        return CutResult(
            number=cut.number,
            outputs=outputs,
            rejects=tuple(rejects),
            counts=dict(counts),
            outputs_digest=outputs_digest,
            digest=self._chain,
            event_time=event_time,
            decisions=tuple(decisions),
            drifts=self._drifts,
        )

    # ---- the state, whole

    def state(self) -> State:
        """Everything by name; tensors alias live memory, so clone before the next step."""
        whole: State = {
            "pipeline/cuts": self.cuts,
            "pipeline/chain": self._chain,
            "pipeline/event_time": self._event_time,
            "pipeline/totals": dict(self.totals),
            **states.nest("pipeline/tasks", self.tasks.state()),
        }
        return whole | _state_of(self.parts)

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from `state()`; raises StateError where it does not fit this config."""
        self._retask(TaskSet.restored(states.unnest("pipeline/tasks", state)))
        self.cuts = state["pipeline/cuts"]
        self.totals = Counter(state["pipeline/totals"])
        self._chain = state["pipeline/chain"]
        self._event_time = state["pipeline/event_time"]
        for name, part in _stateful(self.parts).items():
            part.restore(states.unnest(name, state))

    def state_digest(self) -> str:
        """SHA-256 of the whole state; equal for equal folds in equal environments."""
        return states.digest(self.state())

    def quality(self) -> dict[str, dict[str, Any]]:
        """Per task what the summary says of it; cheap enough to be asked every second or two."""
        memory_rows = self.parts.learner.memory_rows()
        recent = self.parts.evaluation.faded()
        return {
            name: {
                "kind": self.config.tasks[name].kind,
                **quality,
                "auc_recent": recent[name]["auc"],
                "normalized_entropy_recent": recent[name]["normalized_entropy"],
                "memory_rows": memory_rows[name],
                "memory_overfit": self.overfitting.get(name),
                "gate_entropy": self.health.get(f"gate_entropy/{name}"),
            }
            for name, quality in self.parts.evaluation.summary().items()
        }

    def summary(self) -> dict[str, Any]:
        """Counts of the whole lineage and per-task quality, as `contract` promises them."""
        return {
            "events_consumed": self.totals["events"],
            "events_rejected": self.totals["rejected"],
            "cuts": self.totals["cuts"],
            "steps": self.totals["steps"],
            "example_rows": self.totals["example_rows"],
            "scored_rows": self.totals["scored_rows"],
            "scores_published": self.totals["scores"],
            "state_digest": self.state_digest(),
            "lineage": self.lineage,
            "last_cut": self.cuts - 1,
            "tasks": self.quality(),
        }


def _stateful(p: Parts) -> dict[str, states.Stateful]:
    return {
        "watermark": p.watermark,
        "join": p.join,
        "shop": p.shop,
        "features": p.features,
        "evaluation": p.evaluation,
        "pending": p.pending,
        "learner": p.learner,
        "scoring": p.scoring,
        "spans": p.spans,
    }


def _state_of(parts: Parts) -> State:
    whole: State = {}
    for name, part in _stateful(parts).items():
        whole |= states.nest(name, part.state())
    return whole


def digest_outputs(outputs: Sequence[Output]) -> str:
    """Hash of keys and values in order of production (hex): what a reader must find for this cut."""
    h = hashlib.blake2b(digest_size=16)
    for output in outputs:
        value = output.value
        h.update(f"{output.key}\0{-1 if value is None else len(value)}\0".encode())
        h.update(value or b"")
    return h.hexdigest()


def _chunks(events: Sequence[AnyEvent], size: int) -> Iterator[Sequence[AnyEvent]]:
    for start in range(0, len(events), size):
        yield events[start : start + size]
