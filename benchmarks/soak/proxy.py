"""A TCP proxy between a worker and its broker that reads the headers of Kafka's requests and can misbehave.

A request is `length, api_key, api_version, correlation id, ...`; its answer `length, correlation id, ...`. The
proxy passes whole frames on, so it can hold back single requests, drop single answers, freeze some
connections or all, and cut them. The broker's side of a connection outlives the client's when a request of it is
held: as in a network that delivers late, the request still comes when it is let go.
"""

from __future__ import annotations

import asyncio
import contextlib
import struct
import threading
import time
from collections import deque
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from typing import Any, Literal

PRODUCE = 0
END_TXN = 26
INIT_PRODUCER_ID = 22
# Requests that go to the coordinator of the transaction, or to that of the group within it.
COORDINATOR = frozenset({INIT_PRODUCER_ID, 24, 25, END_TXN, 28})
_COMPACT = range(9, 13)  # versions of a produce request that name topics, in compact fields
_NOWHERE = 99_999  # number of a partition that no topic has
_FOLLOWS_S = 15.0

Fate = Literal[
    "wait", "cut"
]  # of the client whose request is held: it waits, or loses its connection


@dataclass
class _Held:
    """A request that the broker has not seen yet."""

    upstream: asyncio.StreamWriter
    frame: bytes


@dataclass
class _Holding:
    """The next `left` requests of a kind are held."""

    api_key: int
    left: int
    fate: Fate


@dataclass(eq=False)
class _Line:
    """One connection of a client, with ours to the broker."""

    client: asyncio.StreamWriter
    broker: asyncio.StreamWriter
    keys: set[int] = field(default_factory=set)  # of the requests seen
    asked: dict[int, int] = field(default_factory=dict)  # correlation id -> api key
    dead: bool = False  # half-open: open for both, but nothing passes any more
    answers: int = 0  # of held requests, which nobody waits for
    # requests that were read and not yet looked at
    ahead: deque[bytes] = field(default_factory=deque)
    reading: asyncio.Task[bytes | None] | None = None


class Proxy:
    """`with Proxy(target=port) as proxy:`; clients connect to `proxy.port`. Every method may be called from any
    thread and returns when it has taken effect.
    """

    def __init__(self, target: int, port: int = 0) -> None:
        self.target, self.port = target, port
        self._loop = asyncio.new_event_loop()
        self._lines: set[_Line] = set()
        self._holding: list[_Holding] = []
        self._held: list[_Held] = []
        self._orphans: list[
            asyncio.StreamWriter
        ] = []  # whose client is gone, and whose request is not
        self._dropping: dict[int, int] = {}
        self._astray: tuple[str, int] | None = None
        self._halved = False  # the first batch that is led astray is here, the second is not
        self._frozen: Callable[[_Line], bool] = lambda line: False
        self._thawed: asyncio.Event
        self._refusing = False
        self._delay_s: Callable[[], float] = lambda: 0.0
        self._tasks: set[asyncio.Task[None]] = set()
        self.on_held: Callable[[], None] = lambda: None
        self.held = self.released = self.dropped = 0

    def __enter__(self) -> Proxy:
        self._thread = threading.Thread(target=self._loop.run_forever, name="proxy", daemon=True)
        self._thread.start()
        self._do(self._listen())
        return self

    def __exit__(self, *error: object) -> None:
        self._do(self._close())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    @property
    def bootstrap(self) -> str:
        return f"127.0.0.1:{self.port}"

    # ---- what it can be told to do

    def hold(self, api_key: int, count: int = 1, fate: Fate = "wait") -> None:
        """Keep the next `count` requests of this kind from the broker until `release`."""
        self._call(lambda: self._holding.append(_Holding(api_key, count, fate)))

    def release(self) -> int:
        """Let all held requests go on to the broker, in order; how many there were."""
        return self._do(self._release())

    def pass_on(self) -> None:
        """Hold no further request; what is held stays so."""
        self._call(self._holding.clear)

    def waiting(self) -> int:
        """How many requests are held now."""
        return len(self._held)

    def drop_answers(self, api_key: int, count: int = 1) -> None:
        """The next `count` answers to this kind of request never come, and their connection is cut."""
        self._call(lambda: self._dropping.update({api_key: count}))

    def lead_astray(self, topic: str, partition: int) -> None:
        """Of the next two batches that are under way to a partition, the first is refused and the second taken, as by
        a broker on which the partition comes up between them. (The first goes to a partition that is not there.)
        """
        self._call(lambda: setattr(self, "_astray", (topic, partition)))

    @property
    def led_astray(self) -> bool:
        """Whether that has happened."""
        return self._astray is None

    def await_first(self) -> None:
        """Until the first of the two is under way: the client may send it well after it was given its records.
        The second has a few seconds then.
        """
        if not until(lambda: self._halved, 30.0):
            raise TimeoutError(f"no batch for {self._astray} came")

    def freeze(
        self, of: Callable[[set[int]], bool] = lambda keys: True, refuse: bool = False
    ) -> None:
        """A partition: nothing passes on connections for which `of` says yes, by the kinds of requests seen on
        them. New connections get no answer, or with `refuse` are closed at once.
        """

        def set_() -> None:
            self._thawed = asyncio.Event()
            self._frozen = lambda line: of(line.keys)
            self._refusing = refuse

        self._call(set_)

    def thaw(self, how: Literal["go on", "reset", "half-open"] = "go on") -> None:
        """The partition heals. What was frozen goes on where it stopped; or is reset; or stays dead, though both
        sides believe it open, as behind a router that forgot it.
        """

        def set_() -> None:
            frozen = [line for line in self._lines if self._frozen(line)]
            for line in frozen:
                line.dead = how == "half-open"
                if how == "reset":
                    _abort(line)
            self._frozen, self._refusing = (lambda line: False), False
            self._thawed.set()

        self._call(set_)

    def cut(self) -> None:
        """Reset every connection."""
        self._call(lambda: [_abort(line) for line in list(self._lines)])

    def delay(self, seconds: Callable[[], float]) -> None:
        """Before each frame wait so long: a network that loses packets sends them again later."""
        self._call(lambda: setattr(self, "_delay_s", seconds))

    # ---- the loop's own side

    def _call(self, what: Callable[[], object]) -> None:
        async def do() -> None:
            what()

        self._do(do())

    def _do(self, what: Coroutine[Any, Any, Any]) -> Any:
        return asyncio.run_coroutine_threadsafe(what, self._loop).result(30.0)

    async def _listen(self) -> None:
        self._thawed = asyncio.Event()
        self._thawed.set()
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", self.port)
        self.port = int(self._server.sockets[0].getsockname()[1])

    async def _close(self) -> None:
        self._server.close()
        for line in list(self._lines):
            _abort(line)
        for orphan in self._orphans:
            orphan.transport.abort()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await asyncio.sleep(0.01)  # transports end in the loop's next round

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        try:
            if self._refusing:
                writer.transport.abort()
                return
            try:
                back, forth = await asyncio.open_connection("127.0.0.1", self.target)
            except OSError:  # the broker is down
                writer.transport.abort()
                return
            line = _Line(writer, forth)
            self._lines.add(line)
            try:
                await self._pump(line, reader, back)
            finally:
                self._lines.discard(line)
        except asyncio.CancelledError:
            pass
        finally:
            self._tasks.discard(task)

    async def _pump(
        self, line: _Line, reader: asyncio.StreamReader, back: asyncio.StreamReader
    ) -> None:
        """Both directions until one ends. The broker's side stays open while a request of it is held."""
        ways = {
            asyncio.create_task(self._requests(line, reader)),
            asyncio.create_task(self._answers(line, back)),
        }
        try:
            await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
        finally:
            if line.reading is not None:
                ways.add(line.reading)
            for way in ways:
                way.cancel()
            await asyncio.gather(*ways, return_exceptions=True)
            line.client.transport.abort()
            if any(held.upstream is line.broker for held in self._held):
                self._orphans.append(line.broker)
            else:
                line.broker.transport.abort()

    async def _requests(self, line: _Line, reader: asyncio.StreamReader) -> None:
        while (frame := await _next(line, reader)) is not None:
            api_key, _, correlation = struct.unpack_from(">hhi", frame, 4)
            line.keys.add(api_key)
            line.asked[correlation] = api_key
            await self._wait(line)
            holding = next((one for one in self._holding if one.api_key == api_key), None)
            if holding is None:
                line.broker.write(await self._perhaps_astray(line, reader, frame))
                continue
            holding.left -= 1
            if holding.left == 0:
                self._holding.remove(holding)
            self._held.append(_Held(line.broker, frame))
            self.held += 1
            self.on_held()
            if holding.fate == "cut":
                return

    async def _answers(self, line: _Line, back: asyncio.StreamReader) -> None:
        while (frame := await _frame(back)) is not None:
            (correlation,) = struct.unpack_from(">i", frame, 4)
            api_key = line.asked.pop(correlation, -1)
            await self._wait(line)
            if self._dropping.get(api_key, 0) > 0:
                self._dropping[api_key] -= 1
                self.dropped += 1
                return
            line.client.write(frame)

    async def _perhaps_astray(
        self, line: _Line, reader: asyncio.StreamReader, frame: bytes
    ) -> bytes:
        """The request, or where it is the first of two to the partition that is waited for, one that will be refused."""
        produced = _produced(frame) if self._astray is not None else None
        if produced is None or produced.place != self._astray:
            return frame
        self._halved = True
        followed = await _follows(line, reader, produced.place)
        self._halved = False
        if not followed:
            return frame
        self._astray = None
        at = produced.at
        return frame[:at] + struct.pack(">i", _NOWHERE) + frame[at + 4 :]

    async def _wait(self, line: _Line) -> None:
        """Where a frame stands while the network is slow, parted or dead."""
        delay = self._delay_s()
        if delay > 0:
            await asyncio.sleep(delay)
        while self._frozen(line):
            await self._thawed.wait()
        if line.dead:
            await asyncio.Event().wait()

    async def _release(self) -> int:
        held, self._held = self._held, []
        for one in held:
            with contextlib.suppress(OSError, RuntimeError):
                one.upstream.write(one.frame)
                await one.upstream.drain()
        self.released += len(held)
        return len(held)


def _abort(line: _Line) -> None:
    line.client.transport.abort()
    line.broker.transport.abort()


async def _next(line: _Line, reader: asyncio.StreamReader) -> bytes | None:
    """The next request of a connection; None at its end."""
    if line.ahead:
        return line.ahead.popleft()
    reading, line.reading = line.reading, None
    return await (reading or _frame(reader))


async def _follows(line: _Line, reader: asyncio.StreamReader, place: tuple[str, int]) -> bool:
    """Does another batch for this partition come at once?"""
    ends = time.monotonic() + _FOLLOWS_S
    while (left_s := ends - time.monotonic()) > 0:
        line.reading = line.reading or asyncio.create_task(_frame(reader))
        if not (await asyncio.wait({line.reading}, timeout=left_s))[0]:
            return False
        frame = line.reading.result()
        if frame is None:
            return False
        line.reading = None
        line.ahead.append(frame)
        produced = _produced(frame)
        if produced is not None and produced.place == place:
            return True
    return False


@dataclass(frozen=True, slots=True)
class _Produced:
    """Where a produce request goes; `at` is the place of the partition's number in the frame."""

    place: tuple[str, int]
    at: int


def _produced(frame: bytes) -> _Produced | None:
    """Of a produce request with one batch, as librdkafka sends them; None of any other request."""
    api_key, version, _, client = struct.unpack_from(">hhih", frame, 4)
    if api_key != PRODUCE or version not in _COMPACT:
        return None
    at = 14 + max(0, client) + 1  # no tagged fields
    _, at = _compact(frame, at)  # the transactional id
    at += 2 + 4  # acks, time-out
    _, at = _varint(frame, at)  # how many topics
    name, at = _compact(frame, at)
    _, at = _varint(frame, at)  # how many partitions
    return _Produced((name, int(struct.unpack_from(">i", frame, at)[0])), at)


def _compact(frame: bytes, at: int) -> tuple[str, int]:
    size, at = _varint(frame, at)
    end = at + max(0, size - 1)
    return frame[at:end].decode(), end


def _varint(frame: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = frame[at]
        value |= (byte & 0x7F) << shift
        at, shift = at + 1, shift + 7
        if byte < 0x80:
            return value, at


async def _frame(reader: asyncio.StreamReader) -> bytes | None:
    """One request or answer with its length; None at the end of the connection."""
    try:
        size = await reader.readexactly(4)
        return size + await reader.readexactly(struct.unpack(">i", size)[0])
    except (asyncio.IncompleteReadError, OSError):
        return None


def until(what: Callable[[], bool], within_s: float) -> bool:
    """Waits for something that another thread brings about; False when it did not come."""
    deadline = time.monotonic() + within_s
    while time.monotonic() < deadline:
        if what():
            return True
        time.sleep(0.01)
    return what()
