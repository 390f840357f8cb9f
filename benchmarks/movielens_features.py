"""What is known of a rating before it is given: running means and counts, tastes by genre and decade, neighbours; and of a user.

Every number of row n comes from the rows before n alone (`Running.row` before `Running.learn`). A residual is a rating less
global mean, film's bias and user's bias as they were when it came. Profiles are never looked at.
Legend: N ratings, U users, I films, G genres, K decades, D dense features, P dense features of a user's behaviour, W numbers of
a user's taste.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from benchmarks.movielens_data import Floats, Ratings

Floats32 = npt.NDArray[np.float32]

DECADES = (1950, 1970, 1980, 1990, 1994, 1996, 1997)  # edges: half of the films are of the nineties
RATING = (
    "bias film", "count film", "lately film", "bias user", "count user", "lately user", "slowly user",
    "last user", "spread user", "mean all", "genre user", "genre all", "decade user", "known user",
    "pause user", "films alike", "films alike weight", "users alike", "users alike weight", "sum of biases",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Features:
    """Of every rating, as known before it."""

    rating_ND: Floats32
    behaviour_NP: Floats32
    watched_NW: Floats32
    count_N: npt.NDArray[np.int64]  # ratings of the user before this one


def features(ratings: Ratings) -> Features:
    running, count = Running(ratings), len(ratings)
    rating_ND = np.zeros((count, len(RATING)), np.float32)
    behaviour_NP = np.zeros((count, running.behaviour_width), np.float32)
    watched = Watched(ratings.users, ratings.films)
    watched_NW = np.zeros((count, Watched.WIDTH), np.float32)
    count_N = np.zeros(count, np.int64)
    columns = (ratings.user_N, ratings.item_N, ratings.rating_N, ratings.time_N)
    for n, (user, film, rating, time) in enumerate(
        zip(*(c.tolist() for c in columns), strict=True)
    ):
        rating_ND[n] = running.row(user, film, time)
        behaviour_NP[n] = running.behaviour(user)
        watched_NW[n] = watched.taste(user)
        count_N[n] = running.count_U[user]
        running.learn(user, film, rating, time)
        watched.learn(user, film)
    return Features(rating_ND, behaviour_NP, watched_NW, count_N)


class Running:
    """Sums over the ratings so far."""

    def __init__(self, ratings: Ratings) -> None:
        users, films, genres = ratings.users, ratings.films, ratings.genre_IG.shape[1]
        self._genre_IG = ratings.genre_IG
        self._share_IG = ratings.genre_IG / ratings.genre_IG.sum(1, keepdims=True).clip(min=1)
        self._decade_I = np.searchsorted(DECADES, ratings.year_I, "right")
        self._age_I = np.where(ratings.year_I > 0, (1998 - ratings.year_I) / 20, 0.0)
        self._sum, self._count = 0.0, 0
        self.count_U, self._count_I = np.zeros(users, np.int64), np.zeros(films, np.int64)
        self._off_U, self._off_I = np.zeros(users), np.zeros(films)  # sums of what was missed
        self._square_U = np.zeros(users)
        self._lately_U, self._slowly_U, self._last_U = (np.zeros(users) for _ in range(3))
        self._lately_I = np.zeros(films)
        self._first_U, self._before_U = np.zeros(users), np.zeros(users)
        self._genre_UG, self._genre_count_UG = (np.zeros((users, genres)) for _ in range(2))
        self._genre_G, self._genre_count_G = np.zeros(genres), np.zeros(genres)
        decades = len(DECADES) + 1
        self._decade_UK, self._decade_count_UK = (np.zeros((users, decades)) for _ in range(2))
        self._taste_U2 = np.zeros(
            (users, 3)
        )  # sums of age and popularity of the films, and ratings
        self._films = _Alike(users, films)
        self._people = _Alike(films, users)

    @property
    def behaviour_width(self) -> int:
        return 2 * len(self._genre_G) + len(DECADES) + 1 + 6

    def _mean(self) -> float:
        return (self._sum + 3.5 * 20) / (self._count + 20)

    def _biases(self, user: int, film: int) -> tuple[float, float]:
        """Shrunk towards 0."""
        of_film = self._off_I[film] / (self._count_I[film] + 5)
        of_user = self._off_U[user] / (self.count_U[user] + 5)
        return of_film, of_user

    def row(self, user: int, film: int, time: int) -> list[float]:
        of_film, of_user = self._biases(user, film)
        known, genres = self.count_U[user], np.flatnonzero(self._genre_IG[film])
        decade = self._decade_I[film]
        by_genre = self._genre_UG[user, genres] / (self._genre_count_UG[user, genres] + 5)
        all_genre = self._genre_G[genres] / (self._genre_count_G[genres] + 20)
        by_decade = self._decade_UK[user, decade] / (self._decade_count_UK[user, decade] + 5)
        spread = np.sqrt((self._square_U[user] + 5) / (known + 5))
        since, pause = (
            (time - self._first_U[user], time - self._before_U[user]) if known else (0, 0)
        )
        films, films_weight = self._films.guess(user, film)
        people, people_weight = self._people.guess(film, user)
        return [
            2 * of_film, np.log1p(self._count_I[film]) / 3, 2 * self._lately_I[film],
            2 * of_user, np.log1p(known) / 3, 2 * self._lately_U[user], 2 * self._slowly_U[user],
            self._last_U[user] / 2, 2 * (spread - 1), 4 * (self._mean() - 3.5),
            4 * _average(by_genre), 4 * _average(all_genre), 4 * by_decade, np.log1p(since) / 10,
            np.log1p(pause) / 10, 4 * films, films_weight, 4 * people, people_weight,
            2 * (of_film + of_user),
        ]  # fmt: skip

    def behaviour(self, user: int) -> Floats:
        """What the user watches and likes: shares and mean residuals by genre, shares by decade, and how they rate."""
        known = self.count_U[user]
        part = self._genre_count_UG[user] / (known + 3)
        usual = self._genre_count_G / max(self._count, 1)
        liked = self._genre_UG[user] / (self._genre_count_UG[user] + 5)
        decades = self._decade_count_UK[user] / (known + 3)
        age, popularity, rating = self._taste_U2[user] / (known + 3)
        spread = np.sqrt((self._square_U[user] + 5) / (known + 5))
        bias = self._off_U[user] / (known + 5)
        rest = [age * 2, popularity / 2, rating - 2, spread, 2 * bias, np.log1p(known) / 3]
        return np.concatenate(
            (5 * (part - usual * known / (known + 3)), 3 * liked, 2 * decades, rest)
        )

    def learn(self, user: int, film: int, rating: float, time: int) -> None:
        of_film, of_user = self._biases(user, film)
        off = rating - self._mean()
        left = off - of_film - of_user
        share_G, decade = self._share_IG[film], self._decade_I[film]
        self._films.learn(user, film, left)
        self._people.learn(film, user, left)
        if not self.count_U[user]:
            self._first_U[user] = time
        self._before_U[user] = time
        self._sum, self._count = self._sum + rating, self._count + 1
        self._taste_U2[user] += (self._age_I[film], np.log1p(self._count_I[film]), rating)
        self._off_I[film] += off - of_user
        self._off_U[user] += off - of_film
        self._square_U[user] += left * left
        self.count_U[user] += 1
        self._count_I[film] += 1
        self._lately_U[user] += 0.3 * (off - of_film - self._lately_U[user])
        self._slowly_U[user] += 0.1 * (off - of_film - self._slowly_U[user])
        self._last_U[user] = off - of_film
        self._lately_I[film] += 0.05 * (off - of_user - self._lately_I[film])
        self._genre_UG[user] += share_G * left
        self._genre_count_UG[user] += self._genre_IG[film]
        self._genre_G += share_G * left
        self._genre_count_G += self._genre_IG[film]
        self._decade_UK[user, decade] += left
        self._decade_count_UK[user, decade] += 1


def _average(value_G: Floats) -> float:
    return float(value_G.sum() / max(len(value_G), 1))


class Watched:
    """Whom a user resembles by the films watched, whatever was thought of them: reflective random indexing, once around.

    (Cohen, Schvaneveldt and Widdows, J. Biomedical Informatics 2010.) Every user has a random vector. A film's is the sum of
    those who watched it, less what its popularity leads to expect, over the root of their number; a user's taste is the sum of the films watched,
    the user's own part of them left out, over the root of their number.
    """

    WIDTH = 64
    SCALE = 4.0  # to about 1

    def __init__(self, users: int, films: int) -> None:
        generator = np.random.default_rng(0)
        self._own_UW = generator.standard_normal((users, self.WIDTH)) / np.sqrt(self.WIDTH)
        self._film_IW, self._count_I = np.zeros((films, self.WIDTH)), np.zeros(films)
        self._sum_W, self._count = np.zeros(self.WIDTH), 0  # of all ratings so far
        self._watched: list[list[int]] = [[] for _ in range(users)]

    def taste(self, user: int) -> Floats:
        """W numbers; zeros of somebody new."""
        films = np.array(self._watched[user], np.int64)
        if not len(films):
            return np.zeros(self.WIDTH)
        count_H = self._count_I[films]
        weight_H = 1 / np.sqrt(count_H + 1)
        expected_W = (weight_H @ count_H) / self._count * self._sum_W
        sum_W = weight_H @ self._film_IW[films] - weight_H.sum() * self._own_UW[user] - expected_W
        taste_W: Floats = self.SCALE * sum_W / np.sqrt(len(films) + 3)
        return taste_W

    def learn(self, user: int, film: int) -> None:
        own_W = self._own_UW[user]
        self._film_IW[film] += own_W
        self._count_I[film] += 1
        self._sum_W += own_W
        self._count += 1
        self._watched[user].append(film)


class _Alike:
    """Neighbours: things are alike whose residuals, given by the same giver, go together.

    similarity(i, j) = sum e_i e_j / (sqrt(sum e_i^2 sum e_j^2) + SHRINK), all sums over givers of both.
    """

    SHRINK = 10.0

    def __init__(self, givers: int, things: int) -> None:
        self._given: list[list[int]] = [[] for _ in range(givers)]
        self._left: list[list[float]] = [[] for _ in range(givers)]
        self._product, self._square = (np.zeros((things, things), np.float32) for _ in range(2))

    def guess(self, giver: int, thing: int) -> tuple[float, float]:
        """The residual to expect, and the weight of what says so (about 0 to 2)."""
        given = self._given[giver]
        if not given:
            return 0.0, 0.0
        product, own, other = self._sums(thing, np.array(given))
        alike = product / (np.sqrt(own * other) + self.SHRINK)
        left = np.array(self._left[giver])
        weight = float(np.abs(alike).sum())
        return float(alike @ left) / (weight + 0.5), float(np.log1p(weight))

    def _sums(
        self, thing: int, given: npt.NDArray[np.int64]
    ) -> tuple[Floats32, Floats32, Floats32]:
        """Of products, and of the squares of `thing` and of the others, over givers of both."""
        return self._product[thing, given], self._square[thing, given], self._square[given, thing]

    def learn(self, giver: int, thing: int, left: float) -> None:
        given = np.array(self._given[giver], np.int64)
        others = np.array(self._left[giver], np.float32)
        product = others * np.float32(left)
        self._product[thing, given] += product
        self._product[given, thing] += product
        self._square[thing, given] += np.float32(left * left)
        self._square[given, thing] += others * others
        self._given[giver].append(thing)
        self._left[giver].append(left)
