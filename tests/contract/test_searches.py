"""Every search keeps what `searches/base.py` promises; brute force in float64 says what there was to find."""

from __future__ import annotations

import pkgutil
import sys
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
import torch

from stream_mtl import Config, searches
from stream_mtl.errors import ConfigError
from stream_mtl.searches import SEARCHES, Search, Searches, Setup, Sought
from stream_mtl.shop.columns import Array, Ints

ITEMS, DIM, TOPICS = 3_000, 16, 40
SETUP = Setup(index_from=200, probes=12, seed=5, threads=1)
ALL_LISTS = replace(SETUP, probes=ITEMS)
Pairs = set[tuple[int, int]]


def unit(vector_ND: Array) -> Array:
    length_N1 = np.linalg.norm(vector_ND, axis=1, keepdims=True)
    return np.asarray(vector_ND / np.maximum(length_N1, 1e-9), np.float32)


def catalogue(seed: int = 0, items: int = ITEMS) -> Array:
    """Items about topics; one in fifty has no vector."""
    random = np.random.default_rng(seed)
    topic_TD = np.random.default_rng(7).normal(size=(TOPICS, DIM))
    own_ND = 0.4 * random.normal(size=(items, DIM))
    vector_ND = unit(topic_TD[random.integers(TOPICS, size=items)] + own_ND)
    vector_ND[random.uniform(size=items) < 0.02] = 0
    return vector_ND


def sought(vector_ND: Array, seed: int = 1, rows: int = 30, n: int = 20) -> Sought:
    """Who seeks seeks near to some items; the first row seeks nothing."""
    random = np.random.default_rng(seed)
    near_UD = vector_ND[random.integers(len(vector_ND), size=(rows, 3))].mean(1)
    query_UD = unit(near_UD + 0.05 * random.normal(size=near_UD.shape))
    query_UD[0] = 0
    return Sought(query_UD, vector_ND, random.uniform(size=len(vector_ND)) < 0.9, n, 0.2)


def in_domains(wanted: Sought, domains: int = 3) -> Sought:
    random = np.random.default_rng(2)
    return replace(
        wanted,
        domain_U=random.integers(domains, size=len(wanted.query_UD)).astype(np.int32),
        domain_N=random.integers(domains, size=len(wanted.vector_ND)).astype(np.int32),
    )


def pairs(search: Search, wanted: Sought) -> Pairs:
    found = search.find(wanted)
    assert np.array_equal(np.lexsort((found.item_K, found.row_K)), np.arange(len(found.row_K)))
    return set(zip(found.row_K.tolist(), found.item_K.tolist(), strict=True))


def brute(wanted: Sought) -> Pairs:
    all_: Pairs = set()
    for row, query_D in enumerate(wanted.query_UD.astype(np.float64)):
        cosine_N = wanted.vector_ND.astype(np.float64) @ query_D
        may_N = wanted.offered_N & (cosine_N > wanted.least)
        if wanted.domain_U is not None and wanted.domain_N is not None:
            may_N &= wanted.domain_N == wanted.domain_U[row]
        best = np.argsort(-np.where(may_N, cosine_N, -np.inf), kind="stable")[: wanted.n]
        all_ |= {(row, int(item)) for item in best if may_N[item]}
    return all_


def again(search: Search, name: str, setup: Setup = SETUP) -> Search:
    """What a restart makes of the state."""
    kept: dict[str, Any] = {
        key: value.clone() if isinstance(value, torch.Tensor) else value
        for key, value in search.state().items()
    }
    other = SEARCHES[name](setup)
    other.restore(kept)
    return other


each = pytest.mark.parametrize("name", SEARCHES)


def test_every_search_has_a_file_and_an_entry() -> None:
    files = {module.name for module in pkgutil.iter_modules(searches.__path__)} - {"base"}
    assert files == set(SEARCHES)


@each
@pytest.mark.parametrize("divided", [False, True])
def test_finds_the_nearest_and_nothing_else(name: str, divided: bool) -> None:
    """Where every list is looked through nothing is missed; where some are, little."""
    wanted = sought(catalogue())
    wanted = in_domains(wanted) if divided else wanted
    there = brute(wanted)
    assert pairs(SEARCHES[name](ALL_LISTS), wanted) == there
    some = pairs(SEARCHES[name](SETUP), wanted)
    assert len(some & there) > 0.9 * len(there)
    count_U = np.bincount([row for row, _ in some], minlength=len(wanted.query_UD))
    assert count_U[0] == 0
    assert count_U.max() <= wanted.n


@each
def test_what_is_found_may_be_found(name: str) -> None:
    """Offered, in the row's own domain, nearer than the least; also where the nearest lists hold others."""
    wanted = in_domains(sought(catalogue()))
    assert wanted.domain_U is not None
    assert wanted.domain_N is not None
    for row, item in pairs(SEARCHES[name](replace(SETUP, probes=2)), wanted):
        assert wanted.offered_N[item]
        assert wanted.domain_N[item] == wanted.domain_U[row]
        assert wanted.vector_ND[item] @ wanted.query_UD[row] > wanted.least - 1e-6


@each
def test_tells_the_cosine_of_any_pair(name: str) -> None:
    wanted = sought(catalogue())
    row_N, item_N = np.repeat(np.arange(30), 50), np.tile(np.flatnonzero(wanted.offered_N)[:50], 30)
    said_N = SEARCHES[name](SETUP).find(wanted).cosine(row_N, item_N)
    right_N = (wanted.query_UD[row_N] * wanted.vector_ND[item_N]).sum(1)
    assert np.allclose(said_N, right_N, atol=1e-6)


@each
@pytest.mark.parametrize("items", [0, 1, 5])
def test_a_catalogue_smaller_than_what_is_asked(name: str, items: int) -> None:
    wanted = sought(np.abs(catalogue(items=5)))
    wanted = replace(wanted, vector_ND=wanted.vector_ND[:items], offered_N=np.ones(items, bool))
    for setup in (SETUP, replace(SETUP, index_from=1)):
        assert pairs(SEARCHES[name](setup), wanted) == brute(wanted)


@each
def test_items_that_are_all_alike_are_found_to_the_number_asked(name: str) -> None:
    """Ties about the border, more of them than are asked of an index at once; the same ones after a restart."""
    vector_ND = catalogue()
    vector_ND[100:1_100] = vector_ND[100]
    wanted = replace(sought(vector_ND), query_UD=vector_ND[[100, 101]])
    search = SEARCHES[name](ALL_LISTS)
    found = pairs(search, wanted)
    assert len(found) == 2 * wanted.n
    assert found == pairs(again(search, name, ALL_LISTS), wanted)


@dataclass(frozen=True)
class Day:
    """What moved in a catalogue, what it is then, and what is sought in it."""

    moved: Ints
    vector_ND: Array
    wanted: list[Sought]


def life(days: int, arrive: int) -> list[Day]:
    """Items move, leave and arrive; nobody seeks anything every second day."""
    random, vector_ND, told = np.random.default_rng(3), catalogue(items=1_000), []
    for day in range(days):
        moved = np.unique(random.integers(len(vector_ND), size=60))
        vector_ND = np.concatenate((vector_ND, catalogue(500 + day, arrive)))
        vector_ND[moved] = catalogue(100 + day, len(moved))
        vector_ND[moved[:5]] = 0  # gone
        wanted = [sought(vector_ND, day), in_domains(sought(vector_ND, day + 50))]
        told.append(Day(moved, vector_ND, wanted if day % 2 else []))
    return told


def lived(search: Search, days: list[Day]) -> list[Pairs]:
    found = []
    for day in days:
        search.moved(day.moved)
        found += [pairs(search, wanted) for wanted in day.wanted]
    return found


@each
def test_items_are_found_where_they_are_now(name: str) -> None:
    days = life(20, arrive=90)
    right = [brute(wanted) for day in days for wanted in day.wanted]
    assert lived(SEARCHES[name](ALL_LISTS), days) == right


def test_a_search_that_is_not_told_of_moves_looks_in_the_wrong_place() -> None:
    """The naive way: the test above can fail."""
    days = life(20, arrive=10)
    search = SEARCHES["ivf"](SETUP)
    lived(search, [replace(day, moved=day.moved[:0]) for day in days])
    wanted = days[-1].wanted[0]
    assert len(pairs(search, wanted) & brute(wanted)) < 0.9 * len(brute(wanted))


@each
@pytest.mark.parametrize("stop", [1, 2, 3, 14])
def test_goes_on_after_a_restart_as_if_there_had_been_none(name: str, stop: int) -> None:
    """Before the first index, between moves and what is sought next, before it is made anew; few lists are looked
    through, so that every item must stand in the same one."""
    days = life(30, arrive=60)
    search = SEARCHES[name](replace(SETUP, probes=3))
    undisturbed = lived(SEARCHES[name](replace(SETUP, probes=3)), days)
    before = lived(search, days[:stop])
    assert before + lived(again(search, name, replace(SETUP, probes=3)), days[stop:]) == undisturbed


def test_the_index_is_made_anew_when_the_catalogue_has_doubled_or_moved() -> None:
    """Centres of a first thousand items must not serve a million."""
    search, vector_ND = SEARCHES["ivf"](SETUP), catalogue()
    for items, lists in ((1_000, 31), (1_900, 31), (ITEMS, 54)):
        search.find(sought(vector_ND[:items]))
        assert len(search.state()["centres"]) == lists
    first = search.state()["centres"].clone()
    for more in range(20):
        search.moved(np.arange(ITEMS))
        search.find(sought(catalogue(more)))
        if more == 10:
            assert torch.equal(search.state()["centres"], first)
    assert not torch.equal(search.state()["centres"], first)


def test_few_on_offer_are_searched_exactly() -> None:
    """No index is made for a small catalogue, nor for a small domain of a large one."""
    wanted = sought(catalogue())
    search = SEARCHES["ivf"](replace(SETUP, index_from=ITEMS))
    assert pairs(search, wanted) == brute(wanted)
    assert search.state()["trained"] == 0
    divided = in_domains(wanted)
    assert divided.domain_N is not None
    divided.domain_N[150:] = 0  # the other two have fifty items each
    search = SEARCHES["ivf"](replace(SETUP, probes=1))
    small = {row for row, domain in enumerate(divided.domain_U.tolist()) if domain}  # type: ignore[union-attr]
    assert {p for p in pairs(search, divided) if p[0] in small} == {
        p for p in brute(divided) if p[0] in small
    }
    assert search.state()["trained"] > 0


def test_without_the_library_the_remedy_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "faiss", None)
    Searches(Config())
    with pytest.raises(ConfigError, match=r"pip install 'stream-mtl\[index\]'"):
        Searches(Config.model_validate({"retrieval": {"search": "ivf"}}))


def test_an_unknown_search_is_refused_with_the_known_ones() -> None:
    with pytest.raises(ConfigError, match=r"retrieval.search = 'hnsw'.*exact, ivf"):
        Searches(Config.model_validate({"retrieval": {"search": "hnsw"}}))
