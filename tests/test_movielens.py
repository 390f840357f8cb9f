"""The start of MovieLens-100K through our learner: 10,000 ratings. Skipped where the data is not installed."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from benchmarks.movielens import MULTI, peer, peers_say, rmse
from benchmarks.movielens_data import HOW, Ratings, folder, load
from benchmarks.movielens_features import features
from benchmarks.movielens_run import PROFILE, Stream, _of, judged_users, run, stream

COUNT = 10_000
pytestmark = pytest.mark.skipif(
    folder() is None, reason=f"NOTHING ABOUT MOVIELENS WAS TESTED: {HOW}"
)


def first(count: int) -> Ratings:
    whole = load()
    columns = ("user_N", "item_N", "rating_N", "time_N")
    return replace(whole, **{name: getattr(whole, name)[:count] for name in columns})


@pytest.fixture(scope="module")
def ratings() -> Ratings:
    return first(COUNT)


@pytest.fixture(scope="module")
def rows(ratings: Ratings) -> Stream:
    return stream(ratings, features(ratings))


def test_all_tasks_at_once_rate_films_better_than_rivers_running_biases(
    ratings: Ratings, rows: Stream
) -> None:
    said = run(MULTI, rows, seed=11).in_passing["rating"].output_RC[:, 0]
    assert len(said) == COUNT
    assert rmse(said, ratings) < rmse(peers_say(peer("Baseline"), ratings), ratings)


def test_features_of_a_rating_do_not_know_it_or_what_comes_after() -> None:
    short = first(400)
    turned = replace(short, rating_N=np.r_[short.rating_N[:200], 6 - short.rating_N[200:]])
    one, other = features(short), features(turned)
    assert np.array_equal(one.rating_ND[:201], other.rating_ND[:201])
    assert np.array_equal(one.behaviour_NP[:201], other.behaviour_NP[:201])
    assert not np.array_equal(one.rating_ND[201:], other.rating_ND[201:])
    elsewhere = replace(short, item_N=np.r_[short.item_N[:200], short.item_N[200:][::-1]])
    other = features(elsewhere)
    assert np.array_equal(one.watched_NW[:201], other.watched_NW[:201])
    assert not np.array_equal(one.watched_NW[201:], other.watched_NW[201:])


def test_a_judged_users_profile_is_in_no_row_that_is_learned(rows: Stream) -> None:
    batch, chosen_B = _of(MULTI, rows, 11)
    judged_R = judged_users(11, rows.users)[rows.user_B[chosen_B]]
    columns = [MULTI.tasks.index(task) for task in PROFILE]
    mask_RT = batch.mask_BT[:, columns].numpy()
    assert judged_R.any()
    assert not mask_RT[judged_R].any()
    assert not batch.label_BT[:, columns].numpy()[judged_R].any()
    assert mask_RT[~judged_R].any()


def test_a_profile_row_has_no_ids(rows: Stream) -> None:
    sparse_BF = rows.batch.sparse_BF.numpy()
    assert not sparse_BF[rows.profile_B].any()
    assert sparse_BF[~rows.profile_B, 0].all()
