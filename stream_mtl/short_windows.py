"""Windows of purchases and carts that are shorter than the join's (`Join.windows`): what is told of each when it closes.

Whether something came within one is judged by event time, so what is heard of too late, or taken back, corrects it.
"""

from __future__ import annotations

from stream_mtl.config import Join
from stream_mtl.emitting import Emitting, correct, emit
from stream_mtl.join_state import CLICK_OPEN, NEVER, Open, within

PURCHASE_LABEL, CART_LABEL = "purchase", "cart"


def untold(exposure: Open, config: Join) -> list[int]:
    """When the shorter windows close that were not told of: not before the clicks are known."""
    if exposure.phase == CLICK_OPEN:
        return []
    return [
        exposure.time_ms + max(ms, config.click_window_ms)
        for ms in config.windows
        if ms > exposure.told_ms
    ]


def tell_windows(exposure: Open, at: int, config: Join, out: Emitting) -> None:
    """Labels of the shorter windows that have closed by now."""
    if exposure.phase == CLICK_OPEN:
        return
    items = range(len(exposure.items))
    for ms in config.windows:
        if exposure.told_ms < ms <= at - exposure.time_ms:
            labels: dict[str, tuple[float | None, ...]] = {
                within(source, ms): tuple([_came(exposure, source, i, ms) for i in items])
                for source in (PURCHASE_LABEL, CART_LABEL)
            }
            emit(exposure, labels, at, out)
            exposure.told_ms = ms


def _came(exposure: Open, source: str, index: int, window_ms: int) -> float:
    """Whether it did, by event time: 1 or 0."""
    if source == PURCHASE_LABEL:
        at = min(exposure.orders.get(index, {}).values(), default=NEVER)
    else:
        at = exposure.carted.get(index, NEVER)
    return float(at <= exposure.time_ms + window_ms)


def told(exposure: Open, source: str, index: int, config: Join) -> dict[int, float]:
    """Label of every shorter window that was told of."""
    windows = [ms for ms in config.windows if ms <= exposure.told_ms]
    return {ms: _came(exposure, source, index, ms) for ms in windows}


def retell(
    exposure: Open,
    source: str,
    index: int,
    before: dict[int, float],
    at: int,
    config: Join,
    out: Emitting,
) -> None:
    """Correct the labels of shorter windows that are not as they were told."""
    for ms, label in told(exposure, source, index, config).items():
        if label != before[ms]:
            known = max(at, exposure.time_ms + ms)
            correct(exposure, (within(source, ms),), index, label, known, out)
