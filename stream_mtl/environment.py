"""What a digest depends on besides the log, the config and the fold version.

Floating-point sums come out bit for bit the same only on the same torch, kind of device, processor,
threads and ranks; digests are compared only between equal environments.

The name of an instruction set is not enough: with AVX-512 on both, torch's products differ between an AMD and an Intel
processor (the library beneath chooses its kernels by vendor), and with variables like `MKL_CBWR` on one and the same. Nor
is the name of the processor the right question, since several models of a vendor give equal bits, and a cloud deals them
out under one name. So some forty results of what the fold does all day are worked out, and their bits are the answer.
"""

from __future__ import annotations

import hashlib
import math
import platform
from collections.abc import Iterator, Mapping
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import numpy as np
import torch
from torch.nn import functional as F

from stream_mtl.threads import limited

_TOLD = frozenset({"processor"})  # for whoever reads it; equal bits are what counts
_CPU_FACTS = ("vendor_id", "cpu family", "model")
# Rows, inputs and outputs of a layer: odd ones, small ones, and long sums, which kernels cut up differently.
_LAYERS = ((3, 17, 8), (64, 96, 33), (257, 200, 64), (2_000, 60, 32))


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
        "arithmetic": arithmetic(threads),
        "processor": _processor(),
        "threads": str(threads),
        "ranks": str(ranks),
    }


def unlike(here: Mapping[str, str], there: Mapping[str, str]) -> list[str]:
    """In words, what keeps bits from being the same; a key that an older release did not write says nothing."""
    found = [
        f"environment {key} is {here[key]!r} here, {there[key]!r} there"
        for key in sorted(here.keys() & there.keys() - _TOLD)
        if here[key] != there[key]
    ]
    if found and here.get("processor") != there.get("processor"):
        found.append(
            f"the processor is {here.get('processor', 'unknown')} here, {there.get('processor', 'unknown')} there"
        )
    return found


@cache
def arithmetic(threads: int) -> str:
    """The bits of layers forward and backward, of the usual functions and of the generator, on the CPU (16 hex; 20 ms)."""
    h = hashlib.sha256()
    with limited(threads), torch.enable_grad():
        for result in _results(torch.Generator().manual_seed(0)):
            h.update(np.ascontiguousarray(result).tobytes())
    return h.hexdigest()[:16]


def _results(generator: torch.Generator) -> Iterator[np.ndarray]:
    for rows, width, out in _LAYERS:
        row_RD = (torch.rand(rows, width, generator=generator) - 0.5).requires_grad_()
        weight_OD = torch.randn(out, width, generator=generator).requires_grad_()
        found_RO = F.linear(row_RD, weight_OD)
        loss = (
            F.softplus(found_RO).mean()
            - F.log_softmax(found_RO, 1).mean()
            + F.gelu(found_RO).tanh().square().sum().sqrt()
            + F.layer_norm(found_RO, (out,)).sigmoid().sum()
        )
        gradients = torch.autograd.grad(loss, [row_RD, weight_OD])
        yield from (one.numpy() for one in gradients)
        yield from (found_RO.detach().numpy(), loss.detach().numpy())
        plain_RD = row_RD.detach().numpy()
        yield plain_RD @ weight_OD.detach().numpy().T
        yield plain_RD.T @ found_RO.detach().numpy()
        yield np.einsum("rd,rd->r", plain_RD, plain_RD)
        yield np.log1p(np.exp(plain_RD))
        yield np.log1p(np.exp(plain_RD.astype(np.float64)))
    experts = [torch.rand(4, *shape, generator=generator) for shape in ((70, 40), (40, 24))]
    yield torch.bmm(*experts).numpy()
    functions = (math.exp, math.log, math.log1p, math.tanh)
    yield np.array([function(n / 7) for n in range(1, 200) for function in functions])


@cache
def _processor() -> str:
    """Vendor, family and model, as Linux tells them."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    facts: dict[str, str] = {}
    for line in lines:
        name, _, value = line.partition(":")
        facts.setdefault(name.strip(), value.strip())
    return " ".join(facts[name] for name in _CPU_FACTS if name in facts) or platform.machine()


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
