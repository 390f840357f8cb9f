"""Malicious checkpoints: how many of the corpus are refused, and that none of them runs code.

python -m benchmarks.soak.malicious
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

from benchmarks.report import Figure, parser, tell
from stream_mtl import build
from tests.folds import shop_cuts, small
from tests.malicious import CASES, verdict


def main() -> int:
    arguments = parser(__doc__).parse_args()
    config = small()
    model = build(config, "l")
    for cut in shop_cuts(config, 300):
        model.step(cut)
    said = {}
    for name in CASES:
        with tempfile.TemporaryDirectory() as folder:
            said[name] = verdict(
                Path(folder) / "checkpoints", name, model, lambda: build(config, "l")
            )
    refused = [name for name, one in said.items() if one.startswith("refused")]
    for name, one in said.items():
        mark = "ok  " if name in refused else "FAIL"
        print(f"{mark} {name:<42} {one.replace(chr(10), ' ')[:110]}", file=sys.stderr)
    measured = f"{len(refused)} of {len(said)} refused"
    holds = len(refused) == len(said)
    figure = Figure("S: malicious checkpoints", measured, "10 of 10 refused, or more", holds)
    return tell([figure], arguments.json)


if __name__ == "__main__":
    sys.exit(main())
