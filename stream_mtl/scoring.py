"""Lists for everyone whom a cut concerns: candidates, one forward of all tasks, ranked by value.

Published are the users and queries that the cut touched, the users scored longest ago, and for
strangers one popular list a domain. A key is published at most once per `min_interval_ms` of event
time; what came too early waits, in order, and goes out with the first cut that may carry it.

Half of the work asks no model: who is due, candidates, their features. `prepare` does that half, and may run beside the
optimiser's steps.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from stream_mtl.config import Config
from stream_mtl.cut import Output
from stream_mtl.errors import ConfigError
from stream_mtl.features import Features
from stream_mtl.labels import PROFILE
from stream_mtl.learner import Learner
from stream_mtl.lists import Lists
from stream_mtl.publish_gate import PublishGate
from stream_mtl.recall import Recall
from stream_mtl.retrieval import Candidates, Retrieval
from stream_mtl.serde import encode_scores
from stream_mtl.shop import Shop
from stream_mtl.state import State

Floats = npt.NDArray[np.float64]
UserScores = dict[str, float | Mapping[str, float]]


@dataclass(frozen=True, slots=True)
class Moment:
    """When and by what a list was made: what every record of a cut repeats."""

    event_time: int
    published_at: int
    model: dict[str, Any]  # app, lineage, cut, fold_version


@dataclass(frozen=True, slots=True)
class Unranked:
    """Lists that are to be ranked, all of users or all of queries."""

    kind: str
    names: Sequence[str]
    slots: npt.NDArray[np.int64]
    candidates: Candidates
    rows: Lists


@dataclass(frozen=True, slots=True)
class Prepared:
    """All that a cut publishes, as far as it can be made without a model."""

    tombstones: Sequence[Output]
    unranked: Sequence[Unranked]
    popular: Sequence[Output]


@dataclass(frozen=True, slots=True)
class Scored:
    outputs: tuple[Output, ...]
    rows: int  # (user or query, candidate) pairs that went through the model
    left_out: int = 0  # records above `scoring.max_record_bytes`: no topic takes them, and the cut would wait for ever


def list_value(config: Config, key: str, retired: Collection[str] = ()) -> dict[str, float]:
    """Weights of the scores that lists are ranked by; the defaults count as far as there are such tasks.

    Raises ConfigError where a weight was given to something that is not scored.
    """
    live = {n: t for n, t in config.tasks.items() if n not in retired}
    of_items = [n for n, t in live.items() if not (t.label or n).startswith(PROFILE)]
    if not of_items:
        raise ConfigError(
            "tasks: every one speaks of the user alone, so that lists have nothing to be ranked by; add one"
            " of items, for example [tasks.click] kind = 'binary'"
        )
    scored = [*of_items, *(f"{n}_given_{t.after}" for n, t in live.items() if t.after)]
    weights: dict[str, float] = getattr(config.scoring, key)
    gone = [*retired, *(f"{n}_given_{t.after}" for n, t in config.tasks.items() if n in retired)]
    unknown = [name for name in weights if name not in scored and name not in gone]
    if unknown and weights != getattr(type(config.scoring)(), key):
        raise ConfigError(
            f"scoring.{key}.{unknown[0]}: there is no such score; use one of: {', '.join(scored)}"
        )
    known = {name: weight for name, weight in weights.items() if name in scored}
    return known or {of_items[0]: 1.0}


class Scoring:
    """Decides who is due, ranks their candidates, and encodes the records."""

    def __init__(
        self,
        config: Config,
        shop: Shop,
        retrieval: Retrieval,
        features: Features,
        learner: Learner,
        gate: PublishGate,
        recall: Recall | None = None,
    ) -> None:
        """`gate` has the model that is published; `recall` is told what users were given, to judge it by what they do next."""
        self._config, self._settings = config, config.scoring
        self._shop, self._retrieval, self._features, self._learner = (
            shop,
            retrieval,
            features,
            learner,
        )
        self._gate, self._recall = gate, recall
        self.retire(())
        self._waiting: dict[str, None] = {}  # "user:…", "query:…", "popular:…" in order of arrival
        self._published: dict[str, int] = {}  # key -> event time of its newest list

    def retire(self, tasks: Collection[str]) -> None:
        """Scores of these tasks are published no more, and rank nothing. Raises ConfigError if none is left."""
        self._weights = {
            "user": list_value(self._config, "value", tasks),
            "query": list_value(self._config, "search_value", tasks),
        }
        features, learner = self._features, self._learner
        live = [
            one
            for one in zip(features.spec.tasks, features.readings, learner.columns, strict=True)
            if one[0] not in tasks
        ]
        self._of_items = [name for name, reading, _ in live if not reading.attribute]
        self._of_users = {
            name: (columns, self._shop.profiles.vocabulary(reading.attribute))
            for name, reading, columns in live
            if reading.attribute
        }
        self._given = [n for n in learner.conditional if n.partition("_given_")[0] not in tasks]

    def prepare(self, moment: Moment) -> Prepared:
        """Who is due at `moment.event_time`, with candidates and their features; tombstones for what expired.

        Reads and changes the shop, never a model.
        """
        for key in self._shop.take_touched():
            self._waiting.setdefault(key)
        tombstones = self._expire(moment)
        due = self._take_due(moment.event_time)
        users = [key[5:] for key in due if key.startswith("user:")]
        if users:
            quiet = self._shop.quiet_users(min(self._settings.quiet_users, len(users)), set(users))
            users += [name for name in quiet if self._rested(f"user:{name}", moment.event_time)]
        queries = [key[6:] for key in due if key.startswith("query:")]
        domains = [key[8:] for key in due if key.startswith("popular:")]
        unranked = []
        if users:
            slots = self._shop.user_slots(users)
            candidates = self._retrieval.for_users(slots)
            self._shop.mark_scored(slots, moment.event_time)
            unranked.append(self._unranked("user", users, slots, candidates))
        if queries:
            slots = self._shop.query_slots(queries)
            unranked.append(
                self._unranked("query", queries, slots, self._retrieval.for_queries(slots))
            )
        return Prepared(tombstones, unranked, [self._popular(domain, moment) for domain in domains])

    def publish(self, prepared: Prepared, moment: Moment) -> Scored:
        """Score and rank what was prepared, by the model as it is now."""
        lists = [output for one in prepared.unranked for output in self._lists(one, moment)]
        made = (*prepared.tombstones, *lists, *prepared.popular)
        limit = self._settings.max_record_bytes
        outputs = tuple(one for one in made if len(one.value or b"") <= limit)
        for output in outputs:
            if output.value is not None:
                self._published[output.key] = moment.event_time
        rows = sum(len(one.rows) for one in prepared.unranked)
        return Scored(outputs, rows, len(made) - len(outputs))

    def erase_user(self, user_id: str, moment: Moment) -> Output:
        """The tombstone of an erased user, who is also taken off the waiting list."""
        return self._forget(f"user:{user_id}", moment)

    def state(self) -> State:
        return {
            "waiting": list(self._waiting),
            "published": [[k, t] for k, t in self._published.items()],
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        self._waiting = dict.fromkeys(state["waiting"])
        self._published = {key: time for key, time in state["published"]}

    # ---- one step each

    def _expire(self, moment: Moment) -> list[Output]:
        """Tombstones of what the shop let go; only keys that have a list need one."""
        gone = self._shop.expire(moment.event_time)
        known = [key for key in gone if key in self._published]
        for key in gone:
            self._waiting.pop(key, None)
        return [self._forget(key, moment) for key in known]

    def _take_due(self, now: int) -> list[str]:
        due = [key for key in self._waiting if self._rested(key, now)]
        for key in due:
            del self._waiting[key]
        return due

    def _rested(self, key: str, now: int) -> bool:
        """Whether its newest list is old enough for another."""
        interval = self._settings.min_interval_ms
        return now - self._published.get(key, now - interval) >= interval

    def _forget(self, key: str, moment: Moment) -> Output:
        self._waiting.pop(key, None)
        self._published.pop(key, None)
        return Output(key, None, moment.event_time)

    def _unranked(
        self, kind: str, names: Sequence[str], slots: npt.NDArray[np.int64], candidates: Candidates
    ) -> Unranked:
        return Unranked(kind, names, slots, candidates, self._features.lists(kind, candidates))

    def _lists(self, lists: Unranked, moment: Moment) -> list[Output]:
        kind, candidates = lists.kind, lists.candidates
        scores, of_users = self._score(lists)
        value_UC = self._value(kind, scores)
        value_UC[candidates.item_UC < 0] = -np.inf
        best_UP = np.argsort(-value_UC, axis=1, kind="stable")[:, : self._settings.published]
        if kind == "user" and self._recall is not None:
            self._recall.remember(lists.slots, candidates.item_UC, candidates.named_UC, best_UP)
        item_UP, value_UP, *score_NUP = (
            np.take_along_axis(of_UC, best_UP, 1)
            for of_UC in (candidates.item_UC, value_UC, *scores.values())
        )
        score_UPN = np.stack(score_NUP, 2)
        listed_U = np.count_nonzero(item_UP >= 0, axis=1).tolist()  # padding comes last
        surface = "home" if kind == "user" else "search"
        outputs = []
        for row, (name, n) in enumerate(zip(lists.names, listed_U, strict=True)):
            listed = self._entries(
                item_UP[row, :n], value_UP[row, :n], list(scores), score_UPN[row, :n]
            )
            of_user = of_users[row] if of_users else None
            outputs.append(self._output(kind, name, {surface: listed}, moment, of_user))
        return outputs

    def _score(self, lists: Unranked) -> tuple[dict[str, Floats], list[UserScores]]:
        """Task scores of every candidate, [U, C] each; padding scores 0. And what is said of the users."""
        valid_UC = lists.candidates.item_UC >= 0
        prediction = self._gate.predict(lists.rows, ranking=True)
        names = [*self._of_items, *self._given]
        prob_BT, tasks = prediction.prob_BT, self._features.spec.tasks
        if len(self._of_items) < len(tasks):
            prob_BT = prob_BT[:, [tasks.index(name) for name in self._of_items]]
        column_BN = torch.cat(
            [prob_BT, *(prediction.extra[name].unsqueeze(1) for name in self._given)], 1
        )
        flat_BN = np.round(column_BN.cpu().numpy().astype(np.float64), 6)
        scores: dict[str, Floats] = {}
        for n, name in enumerate(names):
            scores[name] = np.zeros(valid_UC.shape)
            scores[name][valid_UC] = flat_BN[:, n]
        of_users: list[UserScores] = []
        if self._of_users and lists.kind == "user":
            of_users = self._describe(prediction.output_BC, valid_UC)
        return scores, of_users

    def _describe(
        self, output_BC: torch.Tensor, valid_UC: npt.NDArray[np.bool_]
    ) -> list[UserScores]:
        """What tasks that speak of the user alone say, as a mean over the user's candidates."""
        row_B = np.nonzero(valid_UC)[0]
        count_U = np.maximum(valid_UC.sum(1), 1)
        told: list[UserScores] = [{} for _ in valid_UC]
        for name, (columns, values) in self._of_users.items():
            output_BW = output_BC[:, columns].cpu().numpy().astype(np.float64)
            sum_UW = np.zeros((len(valid_UC), output_BW.shape[1]))
            np.add.at(sum_UW, row_B, output_BW)
            for scores, mean_W in zip(told, np.round(sum_UW / count_U[:, None], 6), strict=True):
                known = values.names[1:]  # of a growing set: those that have come
                scores[name] = dict(zip(known, mean_W.tolist(), strict=False))
        return told

    def _value(self, kind: str, scores: Mapping[str, Floats]) -> Floats:
        total = np.zeros(next(iter(scores.values())).shape)
        for task, weight in sorted(self._weights[kind].items()):
            total += weight * scores[task]
        return np.round(total, 6)

    def _popular(self, domain: str, moment: Moment) -> Output:
        """Items by decayed demand; `value` is each one's share of the list's demand."""
        slots, demand = self._retrieval.popular(domain, self._settings.published)
        share = np.round(demand / max(float(demand.sum()), 1e-9), 6)
        listed = self._entries(slots, share, (), np.zeros((len(slots), 0)))
        return self._output("popular", domain, {"home": listed}, moment)

    def _entries(
        self, slot_P: npt.NDArray[Any], value_P: Floats, names: Sequence[str], score_PN: Floats
    ) -> list[dict[str, Any]]:
        return [
            {"item_id": item, "value": value, "scores": dict(zip(names, score_N, strict=True))}
            for item, value, score_N in zip(
                self._shop.item_ids(slot_P), value_P.tolist(), score_PN.tolist(), strict=True
            )
        ]

    def _output(
        self,
        kind: str,
        name: str,
        lists: dict[str, list[dict[str, Any]]],
        moment: Moment,
        of_user: UserScores | None = None,
    ) -> Output:
        key, value = encode_scores(
            kind, name, moment.event_time, moment.published_at, moment.model, lists, of_user
        )
        return Output(key, value, moment.event_time)
