"""Drift detectors: has a stream of numbers changed?"""

from __future__ import annotations

from collections.abc import Callable

from stream_mtl.drift.adwin import Adwin
from stream_mtl.drift.base import Detector
from stream_mtl.drift.ddm import Ddm
from stream_mtl.drift.kswin import Kswin
from stream_mtl.drift.page_hinkley import PageHinkley

DETECTORS: dict[str, Callable[..., Detector]] = {  # tests side by side, then river's own settings
    "adwin": Adwin,
    "ddm": Ddm,
    "kswin": Kswin,
    "page_hinkley": PageHinkley,
}
