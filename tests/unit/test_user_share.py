"""Of what was admitted lately at most a share is one user's, and small shops are left alone."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stream_mtl.user_share import FAIR, UserShare

ATTACKER = 7


def mixed(users: int, units: int, attack: float, seed: int = 0) -> list[int]:
    """Who sends each unit: the attacker this part of all, the others alike."""
    random = np.random.default_rng(seed)
    honest = random.integers(1_000, 1_000 + users, units)
    return np.where(random.random(units) < attack, ATTACKER, honest).tolist()


def admitted(share: UserShare, offered: list[int]) -> Counter[int]:
    return Counter(user for user in offered if share.admit(user))


@pytest.mark.parametrize("half_life", [5_000, 50_000])
def test_half_the_traffic_is_a_hundredth_of_what_counts(half_life: int) -> None:
    offered = mixed(users=2_000, units=40_000, attack=0.5)
    counted = admitted(UserShare(0.01, 20, half_life), offered)
    assert counted[ATTACKER] <= 0.011 * counted.total()
    assert counted.total() - counted[ATTACKER] == 40_000 - offered.count(ATTACKER)
    naive = Counter(offered)
    assert naive[ATTACKER] > 0.49 * naive.total()


def test_in_a_shop_of_few_users_nobody_is_held_back() -> None:
    """Everybody is more than a hundredth of it: a bare share of 1 % would drop nine units of ten."""
    offered = mixed(users=10, units=20_000, attack=0.0)
    assert admitted(UserShare(0.01, 20, 5_000), offered).total() == len(offered)
    bare = 0.01 * len(offered) * 10  # what ten users may have without the fair term
    assert bare < len(offered) / 9


def test_a_quiet_user_has_the_least_at_once_and_not_more() -> None:
    share = UserShare(0.01, 50, 5_000)
    admitted(share, mixed(users=500, units=3_000, attack=0.0))
    assert sum(share.admit(ATTACKER) for _ in range(200)) == 50


def test_what_is_long_ago_no_longer_counts() -> None:
    share = UserShare(0.01, 50, 1_000)
    others = mixed(users=500, units=20_000, attack=0.0)
    for _ in range(60):
        share.admit(ATTACKER)
    admitted(share, others)
    assert sum(share.admit(ATTACKER) for _ in range(60)) >= 40


def test_many_ids_do_not_raise_anybodys_limit() -> None:
    share = UserShare(0.01, 1, 5_000)
    admitted(share, mixed(users=50, units=5_000, attack=0.0))
    before = share.limit()
    admitted(share, list(range(10_000, 15_000)))
    assert share.limit() < before


def test_nobody_is_never_held_back() -> None:
    share = UserShare(0.01, 1, 100)
    assert all(share.admit(0) for _ in range(1_000))


@settings(max_examples=50, deadline=None)
@given(st.lists(st.integers(1, 6), max_size=200), st.integers(0, 200))
def test_a_restored_share_goes_on_alike(offered: list[int], at: int) -> None:
    whole, first, second = (UserShare(0.2, 3, 20) for _ in range(3))
    told = [whole.admit(user) for user in offered]
    before = [first.admit(user) for user in offered[:at]]
    second.restore(first.state())
    assert before + [second.admit(user) for user in offered[at:]] == told


def test_an_erased_user_is_in_no_state() -> None:
    share = UserShare(0.01, 5, 100)
    share.admit(ATTACKER)
    share.admit(8)
    share.erase(ATTACKER)
    assert share.state()["user"].tolist() == [8]


def test_the_fair_term_is_twice_the_mean() -> None:
    share = UserShare(0.01, 1, 10**9)
    for user in range(1, 11):
        for _ in range(10):
            share.admit(user)
    assert share.limit() == pytest.approx(FAIR * 10, rel=1e-3)
