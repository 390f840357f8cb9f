"""Settings against poisoning: how much of what everybody shares one user may move."""

from __future__ import annotations

from pydantic import Field

from stream_mtl.settings_base import NonNegative, Positive, Section


class Defence(Section):
    """What one user may do to what is learned and counted; see `throttle`, `user_share`, `row_limit`.

    The shares are off by default: of a shop with few users they take what its busiest ones teach.
    """

    events_per_minute: NonNegative = Field(
        60,
        description="a user's events beyond it (event time) change nothing and are counted; 0 = no limit",
    )
    burst: Positive = Field(
        300, description="events that a user who was quiet may send at once; an order is one a line"
    )
    user_share: float = Field(
        1.0,
        gt=0,
        le=1,
        description="of the rows learned lately, and of the events counted lately, one user's at most; 1 = no limit,"
        " 0.01 = safe",
    )
    least_rows: Positive = Field(
        200, description="rows of one user that are learned from, whatever the share"
    )
    least_events: Positive = Field(
        60, description="events of one user that count, whatever the share"
    )
    item_burst: NonNegative = Field(
        0,
        description="acts of one user on one item that count within item_period_ms; 0 = all of them, 4 = safe",
    )
    item_period_ms: Positive = Field(86_400_000, description="event time")
