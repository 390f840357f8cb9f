"""Losses that compare the rows of one list (`tasks.X.ranking`)."""

from __future__ import annotations

from stream_mtl.rankings.base import Ranking
from stream_mtl.rankings.jrc import Jrc
from stream_mtl.rankings.lambdarank import LambdaRank
from stream_mtl.rankings.softmax import Softmax

RANKINGS: dict[str, Ranking] = {
    "jrc": Jrc(),
    "lambdarank": LambdaRank(),
    "softmax": Softmax(),
}
