"""Which exposure a touch belongs to, and the labels that follow from it: the rules of the join.

Every function here works on one user's `UserJoin`, changes it in place, and appends to `Emitting`
what became known. Times are event times; nothing depends on the order of arrival.
"""

from __future__ import annotations

from bisect import bisect
from collections.abc import Collection
from dataclasses import dataclass, field
from heapq import heappop, heappush

from stream_mtl.config import Join
from stream_mtl.events import Exposure, Outcome, Shown
from stream_mtl.join_state import (
    CART,
    CLICK_OPEN,
    EARLY_OPEN,
    LATE_OPEN,
    NEVER,
    PURCHASE,
    PURCHASE_OPEN,
    REFUND,
    Open,
    Touch,
    UserJoin,
    within,
)

PURCHASE_LABEL = "purchase"
AT_PURCHASE = ("cart",)  # other sources whose labels are known when the purchase window closes
MAX_OPEN = 500  # exposures of one user; a crawler must not fill the memory. The oldest closes early


@dataclass(slots=True)
class Emitting:
    """What one call has made known so far."""

    user_id: str
    exposures: list[Exposure] = field(default_factory=list)
    outcomes: list[Outcome] = field(default_factory=list)
    bare: int = 0  # purchases of what their user was never shown and never clicked


def click_span(config: Join) -> int:
    """How long after an exposure a click counts: its window; with window 0 while it is open."""
    return config.click_window_ms or config.purchase_window_ms


def insert(state: UserJoin, exposure: Open) -> None:
    """Keep `open` sorted; nearly always an append."""
    opened = state.open
    if not opened or opened[-1].time_ms < exposure.time_ms:
        opened.append(exposure)
    else:
        key = (exposure.time_ms, exposure.exposure_id)
        opened.insert(bisect(opened, key, key=lambda o: (o.time_ms, o.exposure_id)), exposure)
    state.by_id[exposure.exposure_id] = exposure
    if exposure.due != NEVER:
        heappush(state.dues, (exposure.due, exposure.time_ms, exposure.exposure_id))


def _schedule(state: UserJoin, exposure: Open, config: Join) -> None:
    """Wait for the next window to close: that of the phase, or one of the shorter ones."""
    exposure.due = min([_phase_due(exposure, config), *_untold(exposure, config)])
    heappush(state.dues, (exposure.due, exposure.time_ms, exposure.exposure_id))


def _untold(exposure: Open, config: Join) -> list[int]:
    """When the shorter windows close that were not told of: not before the clicks are known."""
    if exposure.phase == CLICK_OPEN:
        return []
    return [
        exposure.time_ms + max(ms, config.click_window_ms)
        for ms in config.windows
        if ms > exposure.told_ms
    ]


def _phase_due(exposure: Open, config: Join) -> int:
    """When the window closes that the exposure's phase is named for."""
    if exposure.phase == CLICK_OPEN:
        return exposure.time_ms + config.click_window_ms
    if exposure.phase == EARLY_OPEN:
        return exposure.time_ms + (config.early_wait or 0)
    late = config.late_ms if exposure.phase == LATE_OPEN else 0
    return _purchase_due(exposure, config) + late


def _remove(state: UserJoin, exposure: Open) -> None:
    state.open.remove(exposure)
    del state.by_id[exposure.exposure_id]


def find(state: UserJoin, touch: Touch, config: Join, *, settled: bool) -> Open | None:
    """The exposure of this touch: by request id, else last touch within the task's window.

    A cart or purchase goes to the exposure that was touched last, else to the newest that listed the item.
    `settled` passes over provisional exposures.
    """
    time_ms, item = touch.time_ms, touch.item_id
    if touch.request_id:
        oldest = time_ms - config.purchase_window_ms
        for exposure in reversed(state.open):
            if (
                exposure.request_id == touch.request_id
                and oldest <= exposure.time_ms <= time_ms
                and item in exposure.items
                and not (settled and exposure.provisional)
            ):
                return exposure
    buying = touch.kind in (CART, PURCHASE)
    oldest = time_ms - (config.purchase_window_ms if buying else click_span(config))
    shown: Open | None = None
    touched: tuple[int, Open] | None = None
    for exposure in reversed(state.open):
        if exposure.time_ms > time_ms or (settled and exposure.provisional):
            continue
        if exposure.time_ms < oldest:
            break
        if item not in exposure.items:
            continue
        if not buying:
            return exposure
        shown = shown or exposure
        at = exposure.touched.get(exposure.items.index(item))
        if at is not None and (touched is None or at > touched[0]):
            touched = (at, exposure)
    return touched[1] if touched else shown


def open_touched(state: UserJoin, touch: Touch, out: Emitting) -> Open:
    """Open an exposure from a touch that nothing explains: one item, negatives still to be drawn."""
    surface = touch.surface or ("search" if touch.query else "home")
    exposure = Open(
        touch.event_id,
        touch.time_ms,
        touch.request_id,
        (touch.item_id,),
        search=surface == "search",
        due=NEVER,
        provisional=True,
    )
    insert(state, exposure)
    out.exposures.append(
        Exposure(
            exposure_id=touch.event_id,
            user_id=out.user_id,
            time_ms=touch.time_ms,
            items=(Shown(item_id=touch.item_id, position=touch.position),),
            domain=touch.domain,
            surface=surface,
            query=touch.query,
            device=touch.device,
            request_id=touch.request_id,
            needs_negatives=True,
        )
    )
    return exposure


def apply(state: UserJoin, touch: Touch, config: Join, out: Emitting) -> None:
    """Let one touch take effect, all earlier ones having taken theirs."""
    if touch.kind == REFUND:
        _refund(state, touch, config, out)
        return
    exposure = find(state, touch, config, settled=True)
    if exposure is None:
        _confirm(state, touch, config, out)
        return
    if touch.held:
        _withdraw(state, touch, out)
    index = exposure.items.index(touch.item_id)
    exposure.touched[index] = max(touch.time_ms, exposure.touched.get(index, 0))
    if index not in exposure.clicked and touch.time_ms <= exposure.time_ms + click_span(config):
        exposure.clicked.append(index)
        if exposure.phase != CLICK_OPEN:
            known = max(touch.time_ms, exposure.time_ms + config.click_window_ms)
            _correct(exposure, click_tasks(exposure), index, 1.0, known, out)
    if touch.kind == PURCHASE:
        orders = exposure.orders.setdefault(index, {})
        before = _told(exposure, PURCHASE_LABEL, index, config)
        if not orders and exposure.phase == LATE_OPEN:
            known = max(touch.time_ms, _purchase_due(exposure, config))
            _correct(exposure, ("purchase",), index, 1.0, known, out)
        elif not orders:
            _foretell(exposure, "purchase", index, touch, config, out)
        orders[touch.order_id] = min(touch.time_ms, orders.get(touch.order_id, NEVER))
        _retell(exposure, PURCHASE_LABEL, index, before, touch.time_ms, config, out)
    for source, value in touch.said:
        _say(exposure, source, index, value, touch, config, out)


def _say(
    exposure: Open, source: str, index: int, value: float, touch: Touch, config: Join, out: Emitting
) -> None:
    """Note a label beside click and purchase: the largest of a source counts. One that comes late corrects."""
    said = exposure.said.setdefault(source, {})
    if source == "cart" and touch.time_ms < exposure.carted.get(index, NEVER):
        before = _told(exposure, source, index, config)
        exposure.carted[index] = touch.time_ms
        _retell(exposure, source, index, before, touch.time_ms, config, out)
    if value <= said.get(index, -1.0):
        return
    said[index] = value
    due = exposure.time_ms + config.click_window_ms
    late = exposure.phase != CLICK_OPEN
    if source in AT_PURCHASE:
        due, late = _purchase_due(exposure, config), exposure.phase == LATE_OPEN
    if late:
        _correct(exposure, (source,), index, value, max(touch.time_ms, due), out)
    elif source in AT_PURCHASE:
        _foretell(exposure, source, index, touch, config, out)


def _confirm(state: UserJoin, touch: Touch, config: Join, out: Emitting) -> None:
    """No exposure came for the touch: its own becomes real, clicked at once; of a bare purchase where that is learned from."""
    if touch.kind == PURCHASE:
        out.bare += 1
        if config.bare_purchases == "ignore":
            return
    exposure = _held(state, touch) or open_touched(state, touch, out)
    exposure.provisional = False
    exposure.clicked, exposure.touched = [0], {0: touch.time_ms}
    if touch.kind == PURCHASE:
        exposure.orders[0] = {touch.order_id: touch.time_ms}
    elif touch.kind == CART:
        exposure.carted[0] = touch.time_ms
    wait = config.early_wait
    exposure.phase = EARLY_OPEN if wait else PURCHASE_OPEN
    _schedule(state, exposure, config)
    exposure.said = {source: {0: value} for source, value in touch.said}
    labels: dict[str, tuple[float | None, ...]] = {task: (1.0,) for task in click_tasks(exposure)}
    _emit(exposure, labels | _values(exposure), touch.time_ms, out)
    if wait == 0:
        _emit(exposure, _bought(exposure), touch.time_ms, out, provisional=True)


def _held(state: UserJoin, touch: Touch) -> Open | None:
    return state.by_id.get(touch.event_id) if touch.held else None


def _withdraw(state: UserJoin, touch: Touch, out: Emitting) -> None:
    """The real exposure arrived after its touch: close the stand-in, which never had a label."""
    stand_in = _held(state, touch)
    if stand_in is not None:
        _remove(state, stand_in)
        out.outcomes.append(
            Outcome(
                exposure_id=stand_in.exposure_id,
                user_id=out.user_id,
                revision=0,
                time_ms=touch.time_ms,
                labels={},
                closed=True,
            )
        )


def _refund(state: UserJoin, touch: Touch, config: Join, out: Emitting) -> None:
    """Take an order back; a refund of an order that no open exposure knows changes nothing."""
    for exposure in reversed(state.open):
        if touch.item_id not in exposure.items:
            continue
        index = exposure.items.index(touch.item_id)
        orders = exposure.orders.get(index, {})
        if touch.order_id in orders:
            before = _told(exposure, PURCHASE_LABEL, index, config)
            del orders[touch.order_id]
            _retell(exposure, PURCHASE_LABEL, index, before, touch.time_ms, config, out)
            if not orders:
                del exposure.orders[index]
                if exposure.phase == LATE_OPEN:
                    known = max(touch.time_ms, _purchase_due(exposure, config))
                    _correct(exposure, ("purchase",), index, 0.0, known, out)
            return


def click_tasks(exposure: Open) -> tuple[str, ...]:
    return ("click", "search") if exposure.search else ("click",)


def _purchase_due(exposure: Open, config: Join) -> int:
    return exposure.time_ms + max(config.purchase_window_ms, config.click_window_ms)


def close_due(state: UserJoin, config: Join, until: int, out: Emitting) -> None:
    """Close every window that ends by `until`, in the order of (end, exposure)."""
    dues = state.dues
    while dues and dues[0][0] <= until:
        due, _, exposure_id = heappop(dues)
        exposure = state.by_id.get(exposure_id)
        if exposure is not None and exposure.due == due:
            _close_window(state, exposure, config, out)


def _close_window(state: UserJoin, exposure: Open, config: Join, out: Emitting) -> None:
    at = exposure.due
    _tell_windows(exposure, at, config, out)
    if at < _phase_due(exposure, config):
        _schedule(state, exposure, config)
        return
    if exposure.phase == CLICK_OPEN:
        clicks = _row(exposure, exposure.clicked)
        told: dict[str, tuple[float | None, ...]] = dict.fromkeys(click_tasks(exposure), clicks)
        _emit(exposure, told | _values(exposure), at, out)
        wait = config.early_wait
        if wait is not None and exposure.time_ms + wait > at:
            exposure.phase = EARLY_OPEN
            _schedule(state, exposure, config)
            return
    if exposure.phase in (CLICK_OPEN, EARLY_OPEN):
        if config.early_wait is not None:
            _emit(exposure, _bought(exposure), at, out, provisional=True)
        exposure.phase = PURCHASE_OPEN
        _schedule(state, exposure, config)
        return
    last = exposure.phase == LATE_OPEN or not config.late_ms
    labels: dict[str, tuple[float | None, ...]] = {}
    if exposure.phase == PURCHASE_OPEN:
        labels = _bought(exposure)
    exposure.phase = LATE_OPEN
    _emit(exposure, labels, at, out, closed=last)
    if last:
        _remove(state, exposure)
    else:
        _schedule(state, exposure, config)


def _tell_windows(exposure: Open, at: int, config: Join, out: Emitting) -> None:
    """Labels of the shorter windows that have closed by now."""
    if exposure.phase == CLICK_OPEN:
        return
    items = range(len(exposure.items))
    for ms in config.windows:
        if exposure.told_ms < ms <= at - exposure.time_ms:
            labels: dict[str, tuple[float | None, ...]] = {
                within(source, ms): tuple([_came(exposure, source, i, ms) for i in items])
                for source in (PURCHASE_LABEL, *AT_PURCHASE)
            }
            _emit(exposure, labels, at, out)
            exposure.told_ms = ms


def _came(exposure: Open, source: str, index: int, window_ms: int) -> float:
    """Whether it did, by event time: 1 or 0."""
    if source == PURCHASE_LABEL:
        at = min(exposure.orders.get(index, {}).values(), default=NEVER)
    else:
        at = exposure.carted.get(index, NEVER)
    return float(at <= exposure.time_ms + window_ms)


def _told(exposure: Open, source: str, index: int, config: Join) -> dict[int, float]:
    """Label of every shorter window that was told of."""
    windows = [ms for ms in config.windows if ms <= exposure.told_ms]
    return {ms: _came(exposure, source, index, ms) for ms in windows}


def _retell(
    exposure: Open,
    source: str,
    index: int,
    before: dict[int, float],
    at: int,
    config: Join,
    out: Emitting,
) -> None:
    """Correct the labels of shorter windows that are not as they were told."""
    for ms, label in _told(exposure, source, index, config).items():
        if label != before[ms]:
            known = max(at, exposure.time_ms + ms)
            _correct(exposure, (within(source, ms),), index, label, known, out)


def _bought(exposure: Open) -> dict[str, tuple[float | None, ...]]:
    """Purchases and carts as they stand."""
    return {
        "purchase": _row(exposure, exposure.orders),
        "cart": _row(exposure, exposure.said.get("cart", ())),
    }


def _foretell(
    exposure: Open, source: str, index: int, touch: Touch, config: Join, out: Emitting
) -> None:
    """A label that was provisionally 0 turns 1 inside its window."""
    if exposure.phase == PURCHASE_OPEN and config.early_wait is not None:
        row = tuple(1.0 if i == index else None for i in range(len(exposure.items)))
        _emit(exposure, {source: row}, touch.time_ms, out, provisional=True)


def _values(exposure: Open) -> dict[str, tuple[float | None, ...]]:
    """What was measured so far, of the items that it was measured of."""
    return {
        source: tuple([said.get(i) for i in range(len(exposure.items))])
        for source, said in exposure.said.items()
        if source not in AT_PURCHASE
    }


def _row(exposure: Open, positive: Collection[int]) -> tuple[float, ...]:
    if not positive:  # by far the most
        return (0.0,) * len(exposure.items)
    return tuple([1.0 if i in positive else 0.0 for i in range(len(exposure.items))])


def cap(state: UserJoin, out: Emitting) -> None:
    """Close the oldest exposure early, without the labels that are still unknown, when too many are open."""
    if len(state.open) <= MAX_OPEN:
        return
    oldest = next((e for e in state.open if not e.provisional), None)
    if oldest is not None:
        _remove(state, oldest)
        _emit(oldest, {}, state.newest, out, closed=True)


def _correct(
    exposure: Open, tasks: tuple[str, ...], index: int, label: float, at: int, out: Emitting
) -> None:
    """Repair the label of one item; the others are left as the earlier revision said."""
    row = tuple(label if i == index else None for i in range(len(exposure.items)))
    _emit(exposure, {task: row for task in tasks}, at, out, correction=True)


def _emit(
    exposure: Open,
    labels: dict[str, tuple[float | None, ...]],
    time_ms: int,
    out: Emitting,
    *,
    correction: bool = False,
    closed: bool = False,
    provisional: bool = False,
) -> None:
    exposure.revision += 1
    out.outcomes.append(
        Outcome(
            exposure_id=exposure.exposure_id,
            user_id=out.user_id,
            revision=exposure.revision,
            time_ms=time_ms,
            labels=labels,
            correction=correction,
            closed=closed,
            provisional=provisional,
        )
    )
