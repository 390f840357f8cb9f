"""What people like, told by tokens: words of titles, category and brand, hashed into few buckets.

For every user and for the crowd, faded sums say how often a token was shown and how often acted upon. Both
sides count each token of an item, so their quotient is a rate, and

    affinity(token) = log((acted + m * base) / (shown + m) / base)

is how much more than usual (`base`, the rate over all tokens) someone goes for it; m shrinks towards
"as usual" while little is known. Where a shop logs no impressions the same reads as a share of actions.
Legend: N tokens in all, K tokens of an item, W buckets of a user, B rows.
"""

from __future__ import annotations

import re

import numpy as np

from stream_mtl.hashing import hash64
from stream_mtl.shop.columns import Array, Ints, add_at

WORDS = 8  # of a title or query; the first ones say most
TOKENS = WORDS + 2  # words, category, brand
CATEGORY, BRAND = WORDS, WORDS + 1
BUCKETS = 4_096  # of the crowd; token 0 = none
OWN_BUCKETS = 256  # of a user: a person meets few of a shop's words
SHOWN, ACTED = 0, 1
SHRINK = 4.0  # m: token showings after which a user's own rate counts half
CROWD_SHRINK = 50.0
BELIEF = 50.0  # token showings before a base rate is one's own
YOUNG_RATE = 0.08  # actions a showing, in a shop that nothing is known of
_WORD = re.compile(r"[一-鿿]+|[^\W\d_一-鿿]{2,}")


def words_of(text: str) -> list[int]:
    """Tokens of the first distinct words; Chinese, which has no spaces, by pairs of characters."""
    found: dict[str, None] = {}
    for word in _WORD.findall(text.lower()):
        if "一" <= word[0] <= "鿿" and len(word) > 2:
            found.update(dict.fromkeys(word[i : i + 2] for i in range(len(word) - 1)))
        else:
            found[word] = None
    return [_token(word) for word in list(found)[:WORDS]]


def tokens_of(title: str, category: str, brand: str) -> list[int]:
    """TOKENS numbers of an item, 0 where it has none."""
    words = words_of(title)
    ends = [
        _token(f"{kind}\0{name}") if name else 0 for kind, name in (("c", category), ("b", brand))
    ]
    return [*words, *[0] * (WORDS - len(words)), *ends]


def _token(text: str) -> int:
    return hash64(text, "token") % (BUCKETS - 1) + 1


def own(token_N: Array) -> Ints:
    """Tokens to buckets of a user."""
    return np.where(token_N > 0, (token_N.astype(np.int64) - 1) % (OWN_BUCKETS - 1) + 1, 0)


def count(
    taste_U2W: Array,
    crowd_2N: Array,
    user_E: Ints,
    token_EK: Array,
    acted_E: Array,
    weight_E: Array,
) -> None:
    """Add E events in place: each token of the item once, bucket 0 takes what is none."""
    side_E1 = acted_E.astype(np.int64)[:, None]
    weight_EK = np.broadcast_to(weight_E[:, None], token_EK.shape)
    add_at(taste_U2W, (user_E[:, None], side_E1, own(token_EK)), weight_EK)
    add_at(crowd_2N, (side_E1, token_EK.astype(np.int64)), weight_EK)


def of_crowd(crowd_2N: Array, fade: float, token_KB: Array) -> Array:
    """[K, B] affinities of everybody; 0 for no token."""
    sums_2N = np.maximum(crowd_2N, 0.0) * fade
    affinity_N = _affinity(sums_2N, usual_rate(crowd_2N, fade), CROWD_SHRINK)
    return np.asarray(affinity_N.take(token_KB) * (token_KB > 0))


def of_users(taste_U2W: Array, fade: float, row_B: Ints, token_KB: Array, usual: float) -> Array:
    """[K, B] affinities of each row's user; `usual` is the crowd's base rate.

    Worked out once a user and bucket and then looked up: in lists most rows share their user.
    """
    sums_2UW = np.maximum(taste_U2W, 0.0).swapaxes(0, 1)
    total_2U = sums_2UW[:, :, 1:].sum(2) * fade
    base_U = (total_2U[ACTED] + BELIEF * usual) / (total_2U[SHOWN] + BELIEF)
    affinity_UW = _affinity(sums_2UW * fade, base_U[:, None], SHRINK)
    return affinity_UW.take(row_B * OWN_BUCKETS + own(token_KB)) * (token_KB > 0)


def usual_rate(crowd_2N: Array, fade: float) -> float:
    """The crowd's rate over all tokens."""
    total_2 = np.maximum(crowd_2N[:, 1:].sum(1), 0.0) * fade
    return float((total_2[ACTED] + BELIEF * YOUNG_RATE) / (total_2[SHOWN] + BELIEF))


def shared(token_KB: Array, other_NB: Array, weight_N: Array) -> Array:
    """[B] weights of the other tokens that stand among a row's own; both 0 padded.

    Rows lie along the last axis, so that each comparison is one long run through memory.
    """
    hit_NB = np.zeros(other_NB.shape, bool)
    for token_B in token_KB:
        hit_NB |= other_NB == token_B
    hit_NB &= other_NB > 0  # padding meets nothing
    return row_sums(hit_NB * weight_N[:, None])


def row_sums(column_NB: Array) -> Array:
    """[B] sums of N columns, to the bit what numpy sums over rows [B, N] of up to 128: in eight lanes.

    Rows of a few numbers are summed slowly; columns are long runs through memory.
    """
    whole = len(column_NB) // 8 * 8
    total_B: Array | float = 0.0  # where numpy starts: a sum of negative zeros is a positive one
    if whole:
        lanes = column_NB[:8]
        for start in range(8, whole, 8):
            lanes = lanes + column_NB[start : start + 8]
        while len(lanes) > 1:
            lanes = lanes[::2] + lanes[1::2]
        total_B = lanes[0] + total_B
    for column_B in column_NB[whole:]:
        total_B = total_B + column_B
    return np.asarray(total_B)


def _affinity(sums_2: Array, base: Array | float, shrink: float) -> Array:
    rate = (sums_2[ACTED] + shrink * base) / (sums_2[SHOWN] + shrink)
    return np.asarray(np.log(rate / base))
