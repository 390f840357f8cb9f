"""One pass of our learner over MovieLens-100K: every row is predicted before it is learned, by the model before its micro-batch.

Two kinds of rows. A rating row asks for `rating` and `like`. A profile row stands behind every `PROFILE_EVERY`-th rating of a
user and asks who the user is, from behaviour alone: what the user watches and likes by genre and decade, and whom the films watched resemble.
It has no ids, or else the model would learn by heart who the users with known profiles are. A profile is never an input, and never trained on
for the users who are judged by it: a fifth of all, by a hash of user and seed.
Legend: N ratings, B rows of the stream, F sparse fields, D dense features, T tasks, C classes, U users.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from benchmarks.movielens_data import Floats, Ints, Ratings
from benchmarks.movielens_features import Features
from stream_mtl.batch import Batch, Spec, empty
from stream_mtl.config import Config
from stream_mtl.hashing import mix64
from stream_mtl.learner import Learner

Bools = npt.NDArray[np.bool_]

PROFILE_EVERY = 8
TASKS: dict[str, dict[str, Any]] = {
    "rating": {"kind": "regression", "center": 3.5, "scale": 1.0},
    "like": {"kind": "binary"},
    "gender": {"kind": "binary"},
    "age_band": {"kind": "multiclass", "classes": 7},
    "occupation": {"kind": "multiclass", "classes": 21},
}
PROFILE = ("gender", "age_band", "occupation")
FIELDS = ("user", "film", "genres", "year", "hour")


@dataclass(frozen=True, slots=True)
class Stream:
    """All rows in order; the labels are those of all `TASKS`, in their order, and known."""

    batch: Batch
    rating_B: Ints  # number of the rating that a row belongs to
    profile_B: Bools
    user_B: Ints
    table_rows: int

    @property
    def users(self) -> int:
        return int(self.user_B.max()) + 1


def stream(ratings: Ratings, features: Features) -> Stream:
    asked_N = features.count_N % PROFILE_EVERY == PROFILE_EVERY - 1
    rating_B = np.repeat(np.arange(len(ratings)), 1 + asked_N)
    profile_B = np.r_[False, rating_B[1:] == rating_B[:-1]]
    liked_N = ratings.rating_N >= 4
    columns = [
        ratings.user_N[rating_B],
        ratings.item_N[rating_B],
        np.unique(ratings.genre_IG, axis=0, return_inverse=True)[1][ratings.item_N][rating_B] + 1,
        np.unique(ratings.year_I, return_inverse=True)[1][ratings.item_N][rating_B] + 1,
        (ratings.time_N // 3600 % 24)[rating_B] + 1,
    ]
    columns = [np.where(profile_B, 0, column) for column in columns]
    offset = 0
    for place, column in enumerate(columns):  # distinct rows of the table, none shared by two ids
        columns[place] = np.where(column > 0, column + offset, 0)
        offset += int(column.max())
    user_N = ratings.user_N
    known = (ratings.gender_U, ratings.age_band_U, ratings.occupation_U)
    labels = [ratings.rating_N, liked_N, *(profile_U[user_N] for profile_U in known)]
    parts = (features.rating_ND, features.behaviour_NP, features.watched_NW)
    dense_BD = np.concatenate(parts, 1)[rating_B]
    dense_BD[profile_B, : parts[0].shape[1]] = 0  # what a film is to a user
    # Says who somebody is; beside ids it only blurs what a film is to them.
    dense_BD[~profile_B, -parts[2].shape[1] :] = 0
    spec = _spec(tuple(TASKS), dense_BD.shape[1], offset + 1)
    number_B = np.arange(len(rating_B))
    batch = replace(
        empty(spec, len(rating_B)),
        sparse_BF=torch.from_numpy(np.stack(columns, 1)),
        dense_BD=torch.from_numpy(dense_BD),
        label_BT=torch.from_numpy(np.stack(labels, 1)[rating_B].astype(np.float32)),
        mask_BT=torch.from_numpy(_asked(profile_B)),
        row_key_B=torch.from_numpy(mix64(number_B, 1)),
        list_key_B=torch.from_numpy(mix64(number_B, 2)),
        user_key_B=torch.from_numpy(mix64(user_N[rating_B], 3)),
        time_B=torch.from_numpy(ratings.time_N[rating_B] * 1000),
    )
    return Stream(batch, rating_B, profile_B, user_N[rating_B], offset + 1)


def _asked(profile_B: Bools) -> Bools:
    return np.stack([profile_B == (task in PROFILE) for task in TASKS], 1)


def _spec(tasks: Sequence[str], dense: int, table_rows: int) -> Spec:
    return Spec(FIELDS, tuple(f"d{i}" for i in range(dense)), tuple(tasks), table_rows, 0)


def judged_users(seed: int, users: int) -> Bools:
    """U: whether a user's profile is kept from training, for judging."""
    chosen_U: Bools = mix64(np.arange(users), 1_000 + seed) % 5 == 0
    return chosen_U


@dataclass(frozen=True, slots=True)
class Arm:
    """What is learned, and how: sections of the configuration, and the rows of a micro-batch (ratings)."""

    settings: Mapping[str, Mapping[str, Any]]
    tasks: tuple[str, ...] = tuple(TASKS)
    ratings: int = 32
    like_share: float = 1.0  # of the ratings of which `like` is known, by hash


@dataclass(frozen=True, slots=True)
class Said:
    """What was said of the rows that ask for a task, in order: of a row all that the head says (classes, or one number)."""

    rating_R: Ints
    user_R: Ints
    output_RC: Floats
    label_R: Floats


@dataclass(frozen=True, slots=True)
class Run:
    """By task: what was said in passing, and what the model of the end says of all profile rows of judged users."""

    in_passing: Mapping[str, Said]
    at_end: Mapping[str, Said]


def learner(arm: Arm, rows: Stream, seed: int) -> Learner:
    spec = _spec(arm.tasks, rows.batch.dense_BD.shape[1], rows.table_rows)
    tasks = {
        task: {**TASKS[task], **arm.settings.get("tasks", {}).get(task, {})} for task in arm.tasks
    }
    value = {"value": {arm.tasks[0]: 1.0}, "search_value": {}}
    sections = {name: s for name, s in arm.settings.items() if name != "tasks"}
    config = Config.model_validate({**sections, "seed": seed, "tasks": tasks, "scoring": value})
    return Learner(spec, config, torch.device("cpu"))


def run(arm: Arm, rows: Stream, seed: int, ratings: int | None = None) -> Run:
    """One pass over the first `ratings` (all)."""
    model = learner(arm, rows, seed)
    batch, chosen_B = _of(arm, rows, seed)
    rating_R = rows.rating_B[chosen_B]
    last = int(rating_R[-1]) + 1 if ratings is None else ratings
    edges = np.searchsorted(rating_R, [*range(0, last, arm.ratings), last]).tolist()
    outputs: list[Tensor] = []
    for start, stop in pairwise(edges):
        if start == stop:
            continue
        micro = batch.rows(start, stop)
        outputs.append(model.predict(micro).output_BC)
        known = micro.mask_BT.any(1)
        model.step(micro if bool(known.all()) else micro.select(known))
    done = edges[-1]
    in_passing = _said(arm, rows, chosen_B[:done], torch.cat(outputs), model.columns)
    ask_R = np.flatnonzero(
        (rows.profile_B & judged_users(seed, rows.users)[rows.user_B])[chosen_B[:done]]
    )
    at_end = model.predict(batch.select(torch.from_numpy(ask_R))).output_BC
    return Run(in_passing, _said(arm, rows, chosen_B[ask_R], at_end, model.columns))


def _of(arm: Arm, rows: Stream, seed: int) -> tuple[Batch, Ints]:
    """The rows that ask for one of the arm's tasks, with its labels as far as they may be known; and which they are."""
    place = [list(TASKS).index(task) for task in arm.tasks]
    chosen_B = np.flatnonzero(rows.batch.mask_BT[:, place].any(1).numpy())
    batch = rows.batch.select(torch.from_numpy(chosen_B))
    label_BT, mask_BT = batch.label_BT[:, place], batch.mask_BT[:, place].clone()
    judged_U = judged_users(seed, rows.users)
    hidden_R = torch.from_numpy(judged_U[rows.user_B[chosen_B]])
    poor_R = torch.from_numpy(mix64(rows.rating_B[chosen_B], 7) % 10_000 >= 10_000 * arm.like_share)
    for column, task in enumerate(arm.tasks):
        if task in PROFILE:
            mask_BT[:, column] &= ~hidden_R
        if task == "like":
            mask_BT[:, column] &= ~poor_R
    label_BT = label_BT.masked_fill(~mask_BT, 0.0)
    return replace(batch, label_BT=label_BT, mask_BT=mask_BT), chosen_B


def _said(
    arm: Arm, rows: Stream, done_B: Ints, said_RC: Tensor, columns: Sequence[slice]
) -> dict[str, Said]:
    said, output_RC = {}, said_RC.numpy().astype(float)
    for task, column in zip(arm.tasks, columns, strict=True):
        of_task_R = rows.batch.mask_BT[done_B, list(TASKS).index(task)].numpy()
        row_R = done_B[of_task_R]
        label_R = rows.batch.label_BT[row_R, list(TASKS).index(task)].numpy().astype(float)
        output = output_RC[of_task_R][:, column]
        said[task] = Said(rows.rating_B[row_R], rows.user_B[row_R], output, label_R)
    return said
