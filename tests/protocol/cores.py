"""Two whole cores, joined by hand under virtual time, each with a journal that is a dict. No socket, no thread."""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

from tests.protocol.pair import LINK, local
from zmqkit.events import Event
from zmqkit.protocol.core import Frames, Read, Row
from zmqkit.protocol.local import Local
from zmqkit.protocol.pattern import PatternCore
from zmqkit.testing.contract import check_deadline, check_rest, check_send


class Host:
    """One core and its surroundings.

    Attributes:
        replies: what tickets got, in order.
        items: what the user may take.
        rows: the journal: log -> key -> (weight, value).
        storing: False holds commits back.
    """

    def __init__(self, name: str, make: Callable[[Local, random.Random], PatternCore], **more: Any) -> None:
        self.name = name
        self.core: Any = make(local(name, **more), random.Random(name))
        self.replies: dict[Any, Any] = {}
        self.items: list[Any] = []
        self.events: list[Event] = []
        self.rows: dict[str, dict[int, tuple[int, bytes]]] = {}
        self.storing = True
        self.paused = False

    def read(self, read: Read) -> Sequence[Row]:
        found, size = [], 0
        for key in sorted(self.rows.get(read.log, {})):
            if read.first <= key <= read.last and size < read.size_bytes:
                weight, value = self.rows[read.log][key]
                found.append(Row(key, weight, value))
                size += len(value)
        return found


class CorePair:
    """A connecting host ``c`` and binding one ``b``; see `tests.protocol.pair.Pair`."""

    def __init__(self, c: Host, b: Host) -> None:
        self.c, self.b = c, b
        self.now = 100.0
        self.connection = 0
        self.connected = False
        self.ways: dict[str, deque[Frames]] = {"up": deque(), "down": deque()}
        self.connect()
        self.flow()

    def connect(self) -> None:
        self.connection += 1
        self.connected = True
        self.c.core.link_up(LINK, self.now)
        self.turn()

    def disconnect(self) -> None:
        self.connected = False
        for way in self.ways.values():
            way.clear()
        self.c.core.link_down(LINK, self.now)
        self.b.core.link_down(("b", "x", self.connection), self.now)
        self.turn()

    def call(self, host: Host, verb: str, *args: Any) -> None:
        """A verb of the user, then the turn's end."""
        getattr(host.core, verb)(*args, self.now)
        self.turn()

    def turn(self) -> None:
        """End the turn of both, and drain until nothing comes out."""
        moved = True
        while moved:
            moved = False
            for host in (self.c, self.b):
                host.core.end_turn(self.now)
                moved |= self._drain(host)

    def _drain(self, host: Host) -> bool:
        out = host.core.out
        check_rest(host.core)
        moved = False
        if out.writes and host.storing:
            writes, out.writes = out.writes, []
            for write in writes:
                log = host.rows.setdefault(write.log, {})
                if write.value is None:
                    log.pop(write.key, None)
                else:
                    log[write.key] = (write.weight, write.value)
            host.core.stored(out.written, self.now)
            moved = True
        sends, out.sends = out.sends, []
        for link, frames in sends:
            check_send(link, frames)
            if not self.connected:
                continue
            if host is self.c:
                self.ways["up"].append(frames)
            elif link == ("b", "x", self.connection):
                self.ways["down"].append(frames)
        for ticket, result in out.replies:
            assert ticket is None or ticket not in host.replies, "a ticket was told twice"
            host.replies[ticket] = result
        host.items += out.items
        host.events += out.events
        out.replies, out.items, out.events, out.probes = [], [], [], []
        reads, out.reads = out.reads, []
        for read in reads:
            host.core.loaded(read, host.read(read), self.now)
            moved = True
        return moved

    def flow(self) -> None:
        """Hand on all that is on its way, until nothing moves."""
        self.turn()
        moved = True
        while moved:
            moved = False
            for name, host, link in (("up", self.b, ("b", "x", self.connection)), ("down", self.c, LINK)):
                way = self.ways[name]
                while way and not host.paused:
                    moved = True
                    host.core.receive_message(link, way.popleft(), self.now)
                    self.turn()

    def advance(self, seconds: float) -> None:
        """Let time pass, with timers and messages as they come."""
        end = self.now + seconds
        while True:
            self.flow()
            running = [host for host in (self.c, self.b) if not host.paused]
            dues = [due for host in running if (due := host.core.next_deadline()) is not None]
            if not dues or min(dues) > end:
                self.now = end
                return
            self.now = max(self.now, min(dues))
            for host in running:
                due = host.core.next_deadline()
                if due is not None and due <= self.now:
                    host.core.handle_timer(self.now)
            self.turn()
            for host in running:
                if host.storing:
                    check_deadline(host.core, self.now)
