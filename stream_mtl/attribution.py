"""Which exposure a touch belongs to, and the labels that follow from it: the rules of the join.

Every function here works on one user's `UserJoin`, changes it in place, and appends to `Emitting`
what became known. Times are event times; nothing depends on the order of arrival.
"""

from __future__ import annotations

from bisect import bisect
from heapq import heappop, heappush

from stream_mtl.config import Join
from stream_mtl.emitting import Emitting, correct, emit, row
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
)
from stream_mtl.short_windows import CART_LABEL, PURCHASE_LABEL, retell, tell_windows, told, untold

AT_PURCHASE = (CART_LABEL,)  # known when the purchase window closes, beside purchases
MAX_OPEN = 500  # exposures of one user; a crawler must not fill the memory. The oldest closes early


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
    exposure.due = min([_phase_due(exposure, config), *untold(exposure, config)])
    heappush(state.dues, (exposure.due, exposure.time_ms, exposure.exposure_id))


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
            correct(exposure, click_tasks(exposure), index, 1.0, known, out)
    if touch.kind == PURCHASE:
        orders = exposure.orders.setdefault(index, {})
        before = told(exposure, PURCHASE_LABEL, index, config)
        if not orders and exposure.phase == LATE_OPEN:
            known = max(touch.time_ms, _purchase_due(exposure, config))
            correct(exposure, ("purchase",), index, 1.0, known, out)
        elif not orders:
            _foretell(exposure, "purchase", index, touch, config, out)
        orders[touch.order_id] = min(touch.time_ms, orders.get(touch.order_id, NEVER))
        retell(exposure, PURCHASE_LABEL, index, before, touch.time_ms, config, out)
    for source, value in touch.said:
        _say(exposure, source, index, value, touch, config, out)


def _say(
    exposure: Open, source: str, index: int, value: float, touch: Touch, config: Join, out: Emitting
) -> None:
    """Note a label beside click and purchase: the largest of a source counts. One that comes late corrects."""
    said = exposure.said.setdefault(source, {})
    if source == "cart" and touch.time_ms < exposure.carted.get(index, NEVER):
        before = told(exposure, source, index, config)
        exposure.carted[index] = touch.time_ms
        retell(exposure, source, index, before, touch.time_ms, config, out)
    if value <= said.get(index, -1.0):
        return
    said[index] = value
    due = exposure.time_ms + config.click_window_ms
    late = exposure.phase != CLICK_OPEN
    if source in AT_PURCHASE:
        due, late = _purchase_due(exposure, config), exposure.phase == LATE_OPEN
    if late:
        correct(exposure, (source,), index, value, max(touch.time_ms, due), out)
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
    emit(exposure, labels | _values(exposure), touch.time_ms, out)
    if wait == 0:
        emit(exposure, _bought(exposure), touch.time_ms, out, provisional=True)


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
            before = told(exposure, PURCHASE_LABEL, index, config)
            del orders[touch.order_id]
            retell(exposure, PURCHASE_LABEL, index, before, touch.time_ms, config, out)
            if not orders:
                del exposure.orders[index]
                if exposure.phase == LATE_OPEN:
                    known = max(touch.time_ms, _purchase_due(exposure, config))
                    correct(exposure, ("purchase",), index, 0.0, known, out)
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
    tell_windows(exposure, at, config, out)
    if at < _phase_due(exposure, config):
        _schedule(state, exposure, config)
        return
    if exposure.phase == CLICK_OPEN:
        clicks: tuple[float | None, ...] = row(exposure, exposure.clicked)
        clicked = dict.fromkeys(click_tasks(exposure), clicks)
        emit(exposure, clicked | _values(exposure), at, out)
        wait = config.early_wait
        if wait is not None and exposure.time_ms + wait > at:
            exposure.phase = EARLY_OPEN
            _schedule(state, exposure, config)
            return
    if exposure.phase in (CLICK_OPEN, EARLY_OPEN):
        if config.early_wait is not None:
            emit(exposure, _bought(exposure), at, out, provisional=True)
        exposure.phase = PURCHASE_OPEN
        _schedule(state, exposure, config)
        return
    last = exposure.phase == LATE_OPEN or not config.late_ms
    labels: dict[str, tuple[float | None, ...]] = {}
    if exposure.phase == PURCHASE_OPEN:
        labels = _bought(exposure)
    exposure.phase = LATE_OPEN
    emit(exposure, labels, at, out, closed=last)
    if last:
        _remove(state, exposure)
    else:
        _schedule(state, exposure, config)


def _bought(exposure: Open) -> dict[str, tuple[float | None, ...]]:
    """Purchases and carts as they stand."""
    return {
        "purchase": row(exposure, exposure.orders),
        "cart": row(exposure, exposure.said.get("cart", ())),
    }


def _foretell(
    exposure: Open, source: str, index: int, touch: Touch, config: Join, out: Emitting
) -> None:
    """A label that was provisionally 0 turns 1 inside its window."""
    if exposure.phase == PURCHASE_OPEN and config.early_wait is not None:
        news = tuple(1.0 if i == index else None for i in range(len(exposure.items)))
        emit(exposure, {source: news}, touch.time_ms, out, provisional=True)


def _values(exposure: Open) -> dict[str, tuple[float | None, ...]]:
    """What was measured so far, of the items that it was measured of."""
    return {
        source: tuple([said.get(i) for i in range(len(exposure.items))])
        for source, said in exposure.said.items()
        if source not in AT_PURCHASE
    }


def cap(state: UserJoin, out: Emitting) -> None:
    """Close the oldest exposure early, without the labels that are still unknown, when too many are open."""
    if len(state.open) <= MAX_OPEN:
        return
    oldest = next((e for e in state.open if not e.provisional), None)
    if oldest is not None:
        _remove(state, oldest)
        emit(oldest, {}, state.newest, out, closed=True)
