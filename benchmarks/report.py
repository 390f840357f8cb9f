"""How every benchmark tells its figures: a table for people, one JSON object a figure with --json."""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cache


@dataclass(frozen=True)
class Figure:
    """One measured number beside what was asked. `holds` None: reported, nothing was asked of it."""

    figure: str
    measured: float | str
    target: str
    holds: bool | None
    machine: str = ""


@cache
def machine() -> str:
    """The machine in words: CPU, cores, Python, torch."""
    import torch

    model = platform.processor() or platform.machine()
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as info:
            model = next(
                line.split(":")[1].strip() for line in info if line.startswith("model name")
            )
    except (OSError, StopIteration):
        pass
    gpu = torch.cuda.get_device_name(0) if torch.cuda.is_available() else "no GPU"
    return f"{model}, {os.cpu_count()} cores, {gpu}, Python {platform.python_version()}, torch {torch.__version__}"


def parser(doc: str | None) -> argparse.ArgumentParser:
    """An argument parser with the option that every benchmark has."""
    made = argparse.ArgumentParser(
        description=doc, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    made.add_argument("--json", action="store_true", help="one JSON object a figure on stdout")
    return made


def tell(figures: Sequence[Figure], as_json: bool) -> int:
    """Print the figures; the exit code is 1 when one that was asked for does not hold."""
    if not as_json:
        print(f"machine: {machine()}")
    print("\n".join(lines(figures, as_json, max((len(f.figure) for f in figures), default=0))))
    return int(any(f.holds is False for f in figures))


def lines(figures: Sequence[Figure], as_json: bool, width: int) -> list[str]:
    """A line a figure: of a table whose first column is `width` wide, or a JSON object."""
    if as_json:
        return [
            json.dumps(asdict(figure) | {"machine": figure.machine or machine()})
            for figure in figures
        ]
    return [_row(figure, width) for figure in figures]


def _row(figure: Figure, width: int) -> str:
    verdict = {True: "holds", False: "SHORT", None: ""}[figure.holds]
    value = figure.measured
    measured = f"{value:.4g}" if isinstance(value, float) else str(value)
    return f"  {figure.figure:<{width}}  {measured:>14}  {figure.target:<28} {verdict}"


def note(text: str) -> None:
    """Progress, on stderr."""
    print(text, file=sys.stderr, flush=True)
