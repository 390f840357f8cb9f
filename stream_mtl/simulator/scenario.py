"""Scenarios: every constant of the simulated shop, with its reason.

Frozen before any model was tuned on them: a shop that is changed until a model looks good proves
nothing. A new need is a new scenario. Logits are natural-log odds; times are epoch milliseconds.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from stream_mtl.config import DAY, HOUR, MINUTE
from stream_mtl.simulator.words import DOMAINS

START_MS = 1_704_067_200_000  # 2024-01-01T00:00:00Z

CLICK_WINDOW_MS = (
    10 * MINUTE
)  # the join's default attribution windows: the truth is stated for them
PURCHASE_WINDOW_MS = DAY


@dataclass(frozen=True, kw_only=True)
class Scenario:
    """Constants of one shop."""

    # -- how much happens ------------------------------------------------------------------------
    sessions_per_hour: float = 20.0  # about 230 records an hour: 20,000 span over three days
    pages_more: float = 0.75  # chance of one more page: four exposures a session, room for context
    search_share: float = 0.25  # of pages that are search results: home pages dominate most shops
    users: int = 1_600  # alive at once; a user who leaves is replaced by a new one
    user_life_ms: int = 40 * DAY  # mean; some fifteen sessions, many more for the busy ones
    user_activity_sigma: float = 1.4  # of log activity: few users make most of the traffic
    items_at_start: int = 400  # enough for full pages, few enough that a short run has traffic
    items: int = 2_000  # alive at once, after the catalogue has grown
    items_per_hour: int = 25  # announced an hour until `items` are alive
    item_life_ms: int = 60 * DAY  # mean
    price_changes_per_hour: float = 3.0
    outages_per_hour: float = 1.0  # an item is out of stock for about twelve hours
    withdrawn_as_null: float = 1 / 3  # share of leaving items whose record becomes a tombstone
    chinese_share: float = 0.12  # of titles and of users' queries

    # -- what a page shows, of ten items; the rest is uniform, so that ids alone tell little -----------
    shown_popular: int = 3
    shown_affine: int = 2  # of a category that the user clicked lately
    shown_new: int = 1

    # -- P(click | exposure) -------------------------------------------------------------------------
    click_base: float = -2.95  # with the rest gives a click rate of 5 to 12 %
    # Logit -drop * ln(position): 2.8 times the odds on place 1 as on place 10.
    position_drop: float = 0.45
    taste: float = 1.15  # user taste x item topic: the strongest term, what a recommender is for
    category_taste: float = 0.25
    session: float = 1.6  # topic of what was clicked in this session: recent items matter
    session_category: float = 0.45
    # Each item's own, known to nobody: what only an item-rate table can learn.
    quality: float = 0.35
    # Appeal of whole categories and brands, the same for everybody.
    category_appeal: float = 0.45
    brand_appeal: float = 0.35
    popularity: float = 0.20  # drifts
    trend: float = 0.30  # topics go in and out of fashion over days
    query_match: float = 1.6  # the item is about the topic that was searched
    price: float = -0.40  # mean slope on standardised log price; users differ by `price_sigma`
    price_sigma: float = 0.15
    user_sigma: float = 0.30  # some people click more
    device_topic: float = 0.15  # phones are for some topics, desktops for others
    evening: float = 0.15  # people linger between 18 and 23 h

    # -- P(purchase | click) -------------------------------------------------------------------------
    buy_base: float = -3.0  # with the rest gives 8 to 15 %
    buy_taste: float = 0.45
    buy_session: float = 0.4
    buy_quality: float = 0.45
    buy_price: float = -0.55
    buy_user_sigma: float = 0.4
    buy_search: float = 0.35  # who searches knows what she wants
    buy_desktop: float = 0.25
    buy_delay_median_ms: int = 2 * HOUR  # beyond `CLICK_WINDOW_MS`, lognormal
    buy_delay_sigma: float = 1.2  # 2 % of purchases come after the window

    # -- domains -------------------------------------------------------------------------------------
    domains: tuple[int, ...] = (0, 1, 2, 3)
    phase_ms: int = 0  # > 0: one domain at a time, in turn
    conflict: float = 0.0  # > 0: domains pull shared features different ways, this strong (logit)

    poison_share: float = 0.0
    attackers: int = 0  # ids among whom an attack is shared that sends as much as everybody else
    honest: str = ""  # scenario whose events, byte for byte, the attack is added to


_STEADY = Scenario()

SCENARIOS: dict[str, Scenario] = {
    "steady": _STEADY,
    # Three domains in turn, the same users; a phase of 36 h is about 8,000 records.
    "season": replace(
        _STEADY,
        domains=(0, 1, 2),
        phase_ms=36 * HOUR,
        conflict=0.6,
        users=800,  # the same people must be met in each phase
        user_life_ms=120 * DAY,
        items_at_start=450,
        items=750,
        items_per_hour=10,
    ),
    # Half of the catalogue is younger than five days, three places of ten go to new items.
    "launch": replace(
        _STEADY, items_per_hour=12, item_life_ms=7 * DAY, shown_new=3, shown_popular=2
    ),
    # Median 12 h: a quarter of the purchases come after their window.
    "delayed": replace(
        _STEADY, buy_delay_median_ms=12 * HOUR, buy_delay_sigma=1.0, buy_base=_STEADY.buy_base + 0.4
    ),
    "dirty": replace(_STEADY, poison_share=0.10),
    "attack": replace(_STEADY, attackers=1, honest="steady"),
    "attack_many": replace(_STEADY, attackers=10_000, honest="steady"),
}


def season_phases(count: int, scenario: str = "season") -> tuple[tuple[int, int, str], ...]:
    """The first `count` phases as (from, to, domain), `to` excluded; domains return in turn."""
    shop = SCENARIOS[scenario]
    return tuple(
        (
            START_MS + k * shop.phase_ms,
            START_MS + (k + 1) * shop.phase_ms,
            DOMAINS[shop.domains[k % len(shop.domains)]],
        )
        for k in range(count)
    )


def phase_at(time_ms: int, scenario: str = "season") -> tuple[int, str]:
    """(number of the phase from 0, its domain) at an event time of a scenario with phases."""
    shop = SCENARIOS[scenario]
    phase = max(time_ms - START_MS, 0) // shop.phase_ms
    return phase, DOMAINS[shop.domains[phase % len(shop.domains)]]
