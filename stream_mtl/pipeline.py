"""The whole fold on one page: state[k+1] = step(state[k], cut[k]).

    record -> event -> example -> batch -> joint update -> scores
      serde     join      features    learner       scoring
      \\-> reject (dead letter)        evaluation reads the predictions made at serving

No user may move much of what all share: `throttle` stands before the join, `row_limit` behind the features, and the
shop's counts and the memories hold at most a share of one user.

Nothing but the cut enters a step: no clock, no poll timing, no unsaved randomness. So the same cuts give
the same state and the same outputs, and a crash is repaired by folding them again.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

from torch import Tensor

from stream_mtl import state as states
from stream_mtl.batch import Batch, concat
from stream_mtl.commands import Decision, obey
from stream_mtl.config import Config
from stream_mtl.cut import Cut, CutResult, DriftAlarm, Output, Reject, digest_outputs
from stream_mtl.erasure import forget_rows
from stream_mtl.events import AnyEvent, Command, Outcome
from stream_mtl.label_join import COUNTED_AS
from stream_mtl.ledger import FOLD_VERSION
from stream_mtl.orders import Orders
from stream_mtl.parts import Parts
from stream_mtl.reencoding import ENCODER
from stream_mtl.refused_rows import Refused, examples
from stream_mtl.rollback import rolled_back, tasks_afresh
from stream_mtl.scoring import Moment, Prepared, Scored
from stream_mtl.serde import FILE_TOPIC, Decoded, decode_all
from stream_mtl.state import State
from stream_mtl.step_report import StepReport
from stream_mtl.summary import counted, decision_name, experts, exposures, quality, sharing
from stream_mtl.task_set import TaskSet, grown
from stream_mtl.tasks.base import TaskKind


class Pipeline:
    """A model of a shop as a fold over cuts. `step` is all there is to do; the rest looks at it."""

    def __init__(self, config: Config, compose: Callable[[Config], Parts], lineage: str) -> None:
        """`compose` makes the empty parts: now, and when a command adds a task."""
        self.given, self._compose = config, compose  # as configured; `config` has all tasks
        self.config, self.parts, self.lineage = config, compose(config), lineage
        self.tasks, self.orders = TaskSet(), Orders()
        self.cuts = 0  # cuts folded = number of the next cut
        self.totals: Counter[str] = Counter()
        # since this object was made, for the summary: the ledger has all of them
        self._decisions: Counter[str] = Counter()
        self._alarms: Counter[str] = Counter()
        self.reports: list[StepReport] = []  # of the newest cut, for metrics
        self.judged: tuple[Tensor, Batch] | None = (
            None  # of it: what was said of rows, and their labels
        )
        self._chain = ""
        self._event_time = 0

    def step(self, cut: Cut) -> CutResult:
        """Fold one cut in; pure in (state, cut). Raises NumericError when learning has broken down."""
        decoded = decode_all(cut.records, self.config.source, self.config.topics, cut.quarantined)
        event_time = max((e.time_ms for e in decoded.events), default=0)
        self._event_time = max(self._event_time, event_time)
        counts: Counter[str] = Counter(events=len(cut.records), rejected=len(decoded.rejects))

        events, throttled = self.parts.throttle.admit(decoded.events)
        counts.update(throttled)
        before = dict(self.parts.join.counts)
        outcomes = self._join_and_look(events, counts)
        outcomes += self._advance(cut, decoded)
        joined = self.parts.join.counts
        counts.update({COUNTED_AS[name]: joined[name] - before[name] for name in COUNTED_AS})
        self._judge(outcomes, counts)
        moment = self._moment(cut)
        refused, prepared = self._train(decoded.commands, moment, counts)
        decided, drifts = self._decided(), self.parts.reactions.drifts
        obeyed, said = obey(self, decoded.commands, moment, cut.targets, cut.number)
        scored = self._publish(prepared, moment, counts)
        outputs = (*said, *scored.outputs)
        decisions = (*decided, *obeyed, *too_large(scored.left_out))
        rejects = (*decoded.rejects, *examples(refused, cut, self.config))
        return self._close(cut, rejects, outputs, decisions, drifts, counts, event_time)

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
            parts.recall.observe(joined.events)
            parts.shop.apply(joined.events)
            outcomes += joined.outcomes
            counts["duplicates"] += joined.duplicates
        counts["uncounted_events"] += parts.shop.take_uncounted()
        self._predict(opened)
        self._encode_texts()
        counts.update(parts.recall.take())
        if parts.towers is not None:
            parts.towers.learn()
        return outcomes

    def _predict(self, opened: Sequence[Batch]) -> None:
        """What the model says of what was shown, remembered until the labels come."""
        if opened:
            parts, batch = self.parts, concat(opened)
            prediction = parts.learner.predict(batch)
            parts.features.served(prediction.output_BC, parts.publish_gate.also(batch))

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
        if all(r.start == r.stop for r in cut.ranges if r.topic != self.config.topics.control):
            owned = []  # commands alone: no partition was idle, none was read
        watermark = self.parts.watermark.observe(decoded.partition_times, owned)
        joined = self.parts.join.advance(watermark)
        # a click that nothing had shown waits out the disorder before it opens one
        if joined.exposures:
            self._predict([self.parts.features.open(joined.exposures)])
        return list(joined.outcomes)

    def _judge(self, outcomes: Sequence[Outcome], counts: Counter[str]) -> None:
        """Judge what was served before it is learned; late labels mend the memories first."""
        parts = self.parts
        self.reports, self.judged = [], None
        parts.reactions.begin()
        if outcomes:
            rows = parts.row_limit.limited(parts.features.rows(outcomes))
            self.judged = rows.served_BC, rows.batch
            parts.evaluation.observe(rows.served_BC, rows.batch)
            parts.publish_gate.observe(rows.champion_BC, rows.served_BC, rows.batch)
            held_out_B = parts.evaluation.is_probe(rows.batch.list_key_B)
            parts.evaluation.add_probes(rows.batch.select(held_out_B), rows.served_BC[held_out_B])
            lesson = rows.batch
            if rows.told_BT is not lesson.label_BT:
                lesson = replace(lesson, label_BT=rows.told_BT)
                probe_B = parts.evaluation.is_probe(rows.early.list_key_B)
                parts.pending.add(rows.early.select(~probe_B))
            parts.pending.add(lesson.select(~held_out_B))
            parts.learner.correct(rows.corrections)
            corrections = parts.row_limit.within(rows.corrections)
            parts.pending.add(corrections)
            counts["example_rows"] += len(rows.batch) + len(corrections)
            counts["left_out_rows"] += parts.row_limit.take()
            parts.reactions.observed(self._event_time)

    def _train(
        self, commands: Sequence[Command], moment: Moment, counts: Counter[str]
    ) -> tuple[list[Refused], Prepared | None]:
        """All steps that there are rows for; gives the rows of those that were refused.

        Beside them, on a second thread, what the cut's lists need of the shop: no step changes it, so that nothing depends
        on who is first. Not where a command has still to say who gets a list.
        """
        if commands or not self.parts.pending.suffices:
            return self._steps(counts), None
        with ThreadPoolExecutor(1, "lists") as aside:
            prepared = aside.submit(self.parts.scoring.prepare, moment)
            refused = self._steps(counts)
        return refused, prepared.result()

    def _steps(self, counts: Counter[str]) -> list[Refused]:
        parts = self.parts
        refused = []
        for batch in parts.pending.full():
            self.reports.append(parts.learner.step(batch))
            counts["steps"] += 1
            parts.reactions.stepped(batch)
            if self.reports[-1].nonfinite:
                refused.append(Refused(self.reports[-1].step, batch))
                counts["nonfinite_rows"] += len(batch)
        return refused

    def _decided(self) -> list[Decision]:
        """What the fold itself has decided in this cut."""
        refused: list[Decision] = [
            {"kind": "nonfinite_step", "step": r.step, "rows": r.rows}
            for r in self.reports
            if r.nonfinite
        ]
        parts = self.parts
        verdicts = parts.publish_gate.decide(parts.evaluation.forgetting)
        return [*refused, *parts.reactions.take(), *verdicts]

    def _publish(self, prepared: Prepared | None, moment: Moment, counts: Counter[str]) -> Scored:
        scoring = self.parts.scoring
        if self.parts.publish_gate.held:
            counts["held_back"] += 1
        scored = scoring.publish(prepared or scoring.prepare(moment), moment)
        counts["scored_rows"] += scored.rows
        counts["scores"] += sum(output.value is not None for output in scored.outputs)
        return scored

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
        decisions: tuple[Decision, ...],
        drifts: tuple[DriftAlarm, ...],
        counts: Counter[str],
        event_time: int,
    ) -> CutResult:
        outputs_digest = digest_outputs(outputs)
        self._decisions.update(map(decision_name, decisions))
        self._alarms.update(alarm.task for alarm in drifts)
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
            decisions=decisions,
            drifts=drifts,
        )

    @property
    def watermark_ms(self) -> int:
        """The watermark: windows that end before it have closed. Epoch ms; 0 before anything is certain."""
        return self.parts.watermark.value

    @property
    def task_kinds(self) -> dict[str, TaskKind]:
        return dict(zip(self.config.tasks, self.parts.learner.kinds, strict=True))

    # ---- the state, whole

    def retask(self, tasks: TaskSet) -> None:
        """Go on with other tasks, everything else as it is. Raises ConfigError, and then nothing has changed."""
        if not tasks.same_model(self.tasks):
            config = tasks.over(self.given)
            parts = self._compose(config)
            parts.encoder = self.parts.encoder
            parts.restore(grown(self.parts.state(), parts.state()))
            self.config, self.parts = config, parts
        self.tasks = tasks
        self._retire()

    def _retire(self) -> None:
        self.parts.scoring.retire(self.tasks.retired)
        self.parts.features.retire(self.tasks.retired)

    def fits(self, saved: Mapping[str, Any]) -> list[str]:
        """Tasks whose own parts would begin anew with `roll_back`. Raises the StateError that it would."""
        rolled_back(self.parts.state(), saved, self._compose(self.config).state())
        return tasks_afresh(self.parts.state(), saved)

    def roll_back(self, saved: Mapping[str, Any], cut: int) -> None:
        """Have learned what `saved`, the state after `cut`, had; everything else as it is (`rollback`).

        Raises StateError where it does not fit, and then nothing has changed. Who was erased after `cut` is erased
        again.
        """
        parts = self._compose(self.config)
        parts.encoder = self.parts.encoder
        parts.restore(rolled_back(self.parts.state(), saved, parts.state()))
        self.parts = parts
        self._retire()
        forget_rows(parts, self.orders.erasures.since(cut))
        self.orders.discarded.append([cut, self.cuts - 1])

    def state(self) -> State:
        """Everything by name; tensors alias live memory, so clone before the next step."""
        whole: State = {
            "pipeline/cuts": self.cuts,
            "pipeline/chain": self._chain,
            "pipeline/event_time": self._event_time,
            ENCODER: self.config.text.model,
            "pipeline/totals": dict(self.totals),
            **states.nest("pipeline/tasks", self.tasks.state()),
            **states.nest("pipeline/orders", self.orders.state()),
        }
        return whole | self.parts.state()

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from `state()`; raises StateError where it does not fit this config."""
        self.retask(TaskSet.restored(states.unnest("pipeline/tasks", state)))
        self.orders.restore(states.unnest("pipeline/orders", state))
        self.cuts = state["pipeline/cuts"]
        self.totals = Counter(state["pipeline/totals"])
        self._chain = state["pipeline/chain"]
        self._event_time = state["pipeline/event_time"]
        self.parts.restore(state)

    def encode(self, texts: Sequence[str]) -> Tensor:
        """Vectors of texts [n, E] by the present encoder."""
        return self.parts.encoder.encode(texts)

    def at_capacity(self, saved: State) -> State:
        """A saved state with its memories at the sizes that are configured now (`Learner.at_capacity`)."""
        learner = self.parts.learner.at_capacity(states.unnest("learner", saved))
        return dict(saved) | states.nest("learner", learner)

    def state_digest(self) -> str:
        """SHA-256 of the whole state; equal for equal folds in equal environments."""
        return states.digest(self.state())

    def quality(self) -> dict[str, dict[str, Any]]:
        """Per task what the summary says of it; cheap enough to be asked every second or two."""
        return quality(self.parts, self.config)

    def summary(self) -> dict[str, Any]:
        """Counts of the whole lineage and per-task quality, as `contract` promises them."""
        return {
            **counted(self.totals),
            "state_digest": self.state_digest(),
            "lineage": self.lineage,
            "last_cut": self.cuts - 1,
            "exposures": exposures(self.totals),
            "drift_alarms": dict(self._alarms),
            "decisions": dict(self._decisions),
            "recall": self.parts.recall.summary(),
            "sharing": sharing(self.parts),
            "experts": experts(self.parts),
            "tasks": self.quality(),
        }


def too_large(left_out: int) -> list[Decision]:
    """What the ledger says of scores that were left out."""
    return [{"kind": "score_too_large", "records": left_out}] if left_out else []


def _chunks(events: Sequence[AnyEvent], size: int) -> Iterator[Sequence[AnyEvent]]:
    for start in range(0, len(events), size):
        yield events[start : start + size]
