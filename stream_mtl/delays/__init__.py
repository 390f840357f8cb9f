"""Ways to learn from labels that come late, beside waiting for them (`tasks.X.delay = "window"`, the default)."""

from __future__ import annotations

from stream_mtl.delays.base import Delay
from stream_mtl.delays.defuse import Defuse
from stream_mtl.delays.es_dfm import EsDfm
from stream_mtl.delays.fnc import Fnc
from stream_mtl.delays.fnw import Fnw
from stream_mtl.delays.vanilla import Vanilla

DELAYS: dict[str, Delay] = {
    "defuse": Defuse(),
    "es_dfm": EsDfm(),
    "fnc": Fnc(),
    "fnw": Fnw(),
    "vanilla": Vanilla(),
}
