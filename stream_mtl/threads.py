"""How many threads work out one sum, in torch and in numpy alike.

numpy's products come from a library with threads of its own, as many as there are cores, and with more than one it cuts long
sums up otherwise: without a limit the bits of a fold would hang on the machine's cores.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from threadpoolctl import threadpool_limits


def limit(threads: int) -> None:
    """From now on, in this process."""
    torch.set_num_threads(threads)
    threadpool_limits(threads, user_api="blas")


@contextmanager
def limited(threads: int) -> Iterator[None]:
    """For a while; then as it was."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        with threadpool_limits(threads, user_api="blas"):
            yield
    finally:
        torch.set_num_threads(before)
