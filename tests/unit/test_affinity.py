"""What people like, told by tokens."""

from __future__ import annotations

import math

import numpy as np
import pytest

from stream_mtl.shop import affinity
from stream_mtl.shop.affinity import ACTED, BELIEF, OWN_BUCKETS, SHOWN, TOKENS, WORDS


def test_words_are_lower_case_distinct_and_few() -> None:
    once = affinity.words_of("Red shoe, RED shoe!")
    assert once == affinity.words_of("red shoe")
    assert len(once) == 2
    assert len(affinity.words_of(" ".join(f"word{chr(97 + n)}" for n in range(20)))) == WORDS


def test_chinese_titles_are_read_by_pairs_of_characters() -> None:
    """Two titles that share a two-character word share a token though no space marks it."""
    assert set(affinity.words_of("儿童编织")) & set(affinity.words_of("亲子儿童"))


def test_an_item_has_a_token_for_each_of_title_category_and_brand() -> None:
    tokens = affinity.tokens_of("red shoe", "fashion", "")
    assert len(tokens) == TOKENS
    assert [token > 0 for token in tokens] == [True] * 2 + [False] * (WORDS - 2) + [True, False]
    assert affinity.tokens_of("", "red", "")[affinity.CATEGORY] != affinity.words_of("red")[0]


def _counted(shown: int, acted: int, token: int) -> tuple[np.ndarray, np.ndarray]:
    taste_U2W = np.zeros((2, 2, OWN_BUCKETS), np.float32)
    crowd_2N = np.zeros((2, affinity.BUCKETS))
    token_EK = np.full((shown + acted, 1), token, np.int16)
    user_E = np.zeros(shown + acted, np.int64)
    acted_E = np.arange(shown + acted) >= shown
    affinity.count(taste_U2W, crowd_2N, user_E, token_EK, acted_E, np.ones(shown + acted))
    return taste_U2W, crowd_2N


def test_affinity_is_the_shrunk_log_of_rate_over_usual_rate() -> None:
    """The formula of the module's docstring, worked out by hand."""
    taste_U2W, _ = _counted(shown=10, acted=5, token=7)
    found = affinity.of_users(taste_U2W, 1.0, np.array([0]), np.array([[7]]), usual=0.1)
    base = (5 + BELIEF * 0.1) / (10 + BELIEF)
    expected = math.log((5 + affinity.SHRINK * base) / (10 + affinity.SHRINK) / base)
    assert found[0, 0] == pytest.approx(expected, rel=1e-6)


def test_a_stranger_and_a_missing_token_have_no_affinity() -> None:
    taste_U2W, crowd_2N = _counted(shown=10, acted=5, token=7)
    of = affinity.of_users(taste_U2W, 1.0, np.array([1, 0]), np.array([[7, 0]]), usual=0.1)
    assert of.tolist() == [[0.0, 0.0]]
    assert affinity.of_crowd(crowd_2N, 1.0, np.array([[0]]))[0, 0] == 0.0


def test_what_is_clicked_more_often_when_shown_as_often_is_liked_more() -> None:
    taste_U2W, crowd_2N = _counted(shown=50, acted=20, token=7)
    token_EK = np.full((50, 1), 9, np.int16)
    zeros = np.zeros(50, np.int64)
    affinity.count(taste_U2W, crowd_2N, zeros, token_EK, np.zeros(50, bool), np.ones(50))
    tokens = np.array([[7, 9]])
    liked, ignored = affinity.of_users(taste_U2W, 1.0, np.array([0, 0]), tokens, usual=0.2)[0]
    assert liked > 0 > ignored
    liked, ignored = affinity.of_crowd(crowd_2N, 1.0, tokens)[0]
    assert liked > 0 > ignored


def test_both_sides_fade_together_and_the_rest_is_doubt() -> None:
    """Half of everything leaves the rate, and moves the affinity towards none."""
    taste_U2W, _ = _counted(shown=100, acted=40, token=7)
    now, later = (
        float(affinity.of_users(taste_U2W, fade, np.array([0]), np.array([[7]]), 0.1)[0, 0])
        for fade in (1.0, 1e-3)
    )
    assert abs(later) < abs(now)


def test_shared_words_are_counted_once_with_their_weight() -> None:
    token_KB = np.array([[3, 5, 0]]).T
    other_NB = np.array([[5, 3, 8, 0]]).T
    weights = np.array([1.0, 0.5, 9.0, 9.0])
    assert affinity.shared(token_KB, other_NB, weights).tolist() == [1.5]


def test_the_sides_are_what_was_shown_and_what_was_done() -> None:
    taste_U2W, crowd_2N = _counted(shown=3, acted=2, token=7)
    bucket = int(affinity.own(np.array([7]))[0])
    assert taste_U2W[0, :, bucket].tolist() == [3.0, 2.0]
    assert crowd_2N[[SHOWN, ACTED], 7].tolist() == [3.0, 2.0]


@pytest.mark.parametrize("n", [1, 5, 7, 8, 15, 16, 40])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_sums_over_columns_are_to_the_bit_those_of_numpy_over_rows(n: int, dtype: type) -> None:
    column_NB = np.random.default_rng(n).normal(size=(n, 999)).astype(dtype)
    column_NB[:, 0] = -0.0
    found, expected = affinity.row_sums(column_NB), np.ascontiguousarray(column_NB.T).sum(1)
    assert found.dtype == expected.dtype
    assert (found == expected).all()
    one_by_one = np.zeros(999, dtype)
    for column_B in column_NB:
        one_by_one += column_B
    assert n < 8 or (one_by_one != expected).any()  # the order of the sum matters
