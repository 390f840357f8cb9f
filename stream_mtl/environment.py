"""What a digest depends on besides the log, the config and the fold version.

Floating-point sums come out bit for bit the same only on the same torch, kind of device, instruction
set, threads and ranks; digests are compared only between equal environments.
"""

from __future__ import annotations

import hashlib
import platform
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import numpy as np
import torch


def environment(device: str, threads: int, ranks: int = 1) -> dict[str, str]:
    """The fingerprint of where a fold runs; `device` is a kind ("cpu", "cuda"), not an index."""
    kind = torch.device(device).type
    major, minor = platform.python_version_tuple()[:2]
    return {
        "torch": torch.__version__,
        "numpy": np.__version__,
        "faiss": _installed("faiss-cpu"),
        "python": f"{major}.{minor}",
        "device": kind,
        "device_name": torch.cuda.get_device_name() if kind == "cuda" else "",
        "cpu_capability": str(torch.backends.cpu.get_cpu_capability()),
        "threads": str(threads),
        "ranks": str(ranks),
    }


@cache
def _installed(package: str) -> str:
    """Its version, or nothing."""
    try:
        return version(package)
    except PackageNotFoundError:
        return ""


@cache
def code_fingerprint() -> str:
    """Hash over names and bytes of the library's own sources (16 hex); informs, never refuses."""
    root = Path(__file__).parent
    h = hashlib.sha256()
    for path in sorted(root.rglob("*.py")):
        h.update(path.relative_to(root).as_posix().encode() + b"\0" + path.read_bytes() + b"\0")
    return h.hexdigest()[:16]
