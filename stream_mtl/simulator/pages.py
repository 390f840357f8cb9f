"""What the shop puts on a page: part popular, part affine, part new, the rest drawn uniformly."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from stream_mtl.simulator.catalogue import NOUNS, WORDS, Catalogue
from stream_mtl.simulator.people import PER_DOMAIN, K, Person
from stream_mtl.simulator.scenario import Scenario
from stream_mtl.simulator.truth import PLACES

Ints = npt.NDArray[np.int64]

_SPARE = 4  # drawn in excess of a page, for doubles and for what was bought already
_FOUND = 24  # items of a category that a search looks at
_HEAD_QUERIES = 0.3  # share of queries that name only a category


def _page_of(items: Catalogue, slots: list[int], person: Person) -> list[int]:
    bought, ids = person.bought, items.ids
    return [s for s in dict.fromkeys(slots) if ids[s] not in bought][:PLACES]


def _drawn(pool: Ints, count: int, rng: np.random.Generator) -> Ints:
    """Uniformly, with replacement; half the cost of `Generator.integers`."""
    drawn: Ints = pool[(rng.random(count) * len(pool)).astype(np.int64)]
    return drawn


def home_page(
    items: Catalogue, person: Person, domain: int, shop: Scenario, rng: np.random.Generator
) -> Ints:
    """Slots in the order of their places; popular ones stand a little higher."""
    everything = items.of_domain(domain)
    slots: list[int] = items.popular(domain, shop.shown_popular).tolist()
    category = person.recent.get(domain)
    if category is not None:
        pool = items.of_category(category)
        if len(pool):
            slots += _drawn(pool, shop.shown_affine, rng).tolist()
    newest = items.newest[domain]
    for _ in range(shop.shown_new if newest else 0):
        slot = newest[int(rng.integers(len(newest)))]
        if items.available[slot]:
            slots.append(slot)
    fill = PLACES + _SPARE - len(slots)
    slots += _drawn(everything, fill, rng).tolist()
    page = np.array(_page_of(items, slots, person), dtype=np.int64)
    return page[np.argsort(0.03 * np.arange(len(page)) + rng.random(len(page)), kind="stable")]


def search_wish(person: Person, domain: int, rng: np.random.Generator) -> tuple[str, int, int]:
    """(query, its topic or -1, its category): what this user wants, in her words."""
    weight = np.exp(1.2 * person.taste_DK[domain])
    topic = int(np.searchsorted(np.cumsum(weight), rng.random() * weight.sum(), side="right"))
    topic = min(topic, K - 1)
    first = domain * PER_DOMAIN
    liking = np.exp(0.6 * person.category_C[first : first + PER_DOMAIN])
    at = int(np.searchsorted(np.cumsum(liking), rng.random() * liking.sum(), side="right"))
    category = first + min(at, PER_DOMAIN - 1)
    language = int(person.chinese)
    noun = NOUNS[category][language]
    if rng.random() < _HEAD_QUERIES:
        return noun, -1, category
    words = WORDS[topic][language]
    word = words[int(len(words) * rng.random() ** 2)]  # the first words are the usual ones
    return (f"{word}{noun}" if language else f"{word} {noun}"), topic, category


def search_page(
    items: Catalogue, person: Person, topic: int, category: int, rng: np.random.Generator
) -> Ints:
    """A mediocre engine: the right category, and what is about the topic rather further up."""
    pool = items.of_category(category)
    if not len(pool):
        pool = items.of_domain(category // PER_DOMAIN)
    found = _drawn(pool, _FOUND, rng)
    relevance = rng.gumbel(size=_FOUND)
    if topic >= 0:
        relevance += 0.8 * items.mix_MK[found, topic]
    ordered = found[np.argsort(-relevance, kind="stable")]
    return np.array(_page_of(items, ordered.tolist(), person), dtype=np.int64)
