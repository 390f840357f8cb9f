"""Users: latent taste, habits, and the little that the shop remembers of them."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from stream_mtl.simulator.scenario import Scenario
from stream_mtl.simulator.words import CATEGORIES, DEVICES, DOMAINS, TOPICS

Floats = npt.NDArray[np.float64]

K, D = len(TOPICS), len(DOMAINS)
C = sum(len(nouns) for nouns in CATEGORIES.values())  # categories over all domains
PER_DOMAIN = C // D

_GENDERS, _AGES = ("female", "male", "other"), ("18-24", "25-34", "35-49", "50+")
_REGIONS = ("north", "south", "east", "west")
_REMEMBERED = 200  # purchases of a user whose items are not shown again: bounds memory


@dataclass(slots=True)
class Person:
    """K topics, D domains, C categories."""

    user_id: str
    taste_DK: Floats  # per domain: in `season` the same person wants different things in each
    category_C: Floats
    domain_share: Floats  # cumulative, over the scenario's domains
    price_slope: float
    bias: float
    buy_bias: float
    device: int
    chinese: bool
    attributes: tuple[str, str, str]
    seen: bool = False
    busy: bool = False
    recent: dict[int, int] = field(default_factory=dict)  # domain -> category clicked last
    bought: dict[str, None] = field(default_factory=dict)

    def remember_purchase(self, item_id: str) -> None:
        self.bought[item_id] = None
        if len(self.bought) > _REMEMBERED:
            del self.bought[next(iter(self.bought))]


def _taste_map(domain: int, conflict: bool) -> tuple[int, float]:
    """(rotation of topics, sign): what a taste means in a domain."""
    if not conflict:
        return 0, 1.0
    # Beauty inverts fashion's tastes, electronics rotates them: neither can be learned from the other.
    return ((0, 1.0), (0, -1.0), (3, 1.0), (5, -1.0))[domain]


def new_person(number: int, shop: Scenario, rng: np.random.Generator) -> Person:
    """A newcomer; `number` counts all who ever came."""
    # Two topics loved, one liked, the rest met coolly: few clicks tell the taste.
    taste_K = rng.normal(-0.6, 0.2, K)
    loved = rng.permutation(K)[:3]
    taste_K[loved[:2]] = rng.uniform(1.3, 1.9, 2)
    taste_K[loved[2]] = 0.6
    maps = [_taste_map(d, shop.conflict > 0) for d in range(D)]
    share = rng.dirichlet(np.full(len(shop.domains), 0.7))
    return Person(
        user_id=f"u{number:06d}",
        taste_DK=np.stack([sign * np.roll(taste_K, shift) for shift, sign in maps]),
        category_C=rng.standard_normal(C),
        domain_share=np.cumsum(share),
        price_slope=shop.price + shop.price_sigma * float(rng.standard_normal()),
        bias=shop.user_sigma * float(rng.standard_normal()),
        buy_bias=shop.buy_user_sigma * float(rng.standard_normal()),
        device=int(np.searchsorted((0.6, 0.92), rng.random())),  # phones, desktops, few tablets
        chinese=bool(rng.random() < shop.chinese_share),
        attributes=(
            _GENDERS[int(np.searchsorted((0.52, 0.97), rng.random()))],
            _AGES[int(rng.integers(len(_AGES)))],
            _REGIONS[int(rng.integers(len(_REGIONS)))],
        ),
    )


class Population:
    """A constant number of users; one who leaves makes room for a new one."""

    def __init__(self, shop: Scenario, rng: np.random.Generator) -> None:
        self._shop, self._rng = shop, rng
        self._came = 0
        self._activity = np.zeros(shop.users)
        self.people = [self._arrive(slot) for slot in range(shop.users)]
        self._cumulative = np.cumsum(self._activity)

    def _arrive(self, slot: int) -> Person:
        person = new_person(self._came, self._shop, self._rng)
        self._came += 1
        sigma = self._shop.user_activity_sigma
        self._activity[slot] = np.exp(sigma * self._rng.standard_normal())
        return person

    def replace_one(self) -> None:
        """Somebody leaves, whoever it is: lifetimes are exponential."""
        slot = int(self._rng.integers(self._shop.users))
        self.people[slot] = self._arrive(slot)
        self._cumulative = np.cumsum(self._activity)

    def visitor(self) -> Person:
        """Who opens a session, in proportion to activity."""
        at = self._rng.random() * self._cumulative[-1]
        return self.people[int(np.searchsorted(self._cumulative, at, side="right"))]


def session_device(person: Person, rng: np.random.Generator) -> int:
    """Mostly the user's own, now and then another."""
    return person.device if rng.random() < 0.85 else int(rng.integers(len(DEVICES)))
