"""Two sides of the session layer, joined by hand under virtual time. No socket, no thread, no clock.

The connecting side ``c`` has one link over all its connections; the binding side ``b`` has a link a connection. What
is on the way lies in ``up`` and ``down``, by connection, where a test may lose, hold, double or turn round anything.
"""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, Literal

import msgpack

from zmqkit.events import Event
from zmqkit.options import Heartbeat
from zmqkit.protocol import wire
from zmqkit.protocol.core import Frames, Outputs
from zmqkit.protocol.local import Changed, Heard, Local, Lost, Opened, Received
from zmqkit.protocol.session import Session
from zmqkit.protocol.sessions import Sessions

Direction = Literal["up", "down"]

LINK = ("c", "x")
GROUP = ("b", "x")

INTERVAL = 1.0
BOUND = 3.0


def local(name: str, **more: Any) -> Local:
    """What a side says of itself unless a test wants otherwise."""
    said: dict[str, Any] = {
        "role": "echo",
        "accepts": frozenset({"echo"}),
        "instance": name.encode().ljust(16, b"-")[:16],
        "heartbeat": Heartbeat(INTERVAL, 3),
        "credit_messages": 1000,
        "credit_bytes": 1 << 20,
        "name": name,
    }
    return Local(**{**said, **more})


class Side:
    """One peer object's sessions, and all that they told.

    Attributes:
        opened, lost: sessions, in order; for lost ones with the reason.
        changed: (has a connection, is busy) at each change, as it was when the change was taken.
        got: first frames of the messages received, in order, over all sessions.
        events: all of them, in order.
        paused: it stands still: nothing is received, no timer runs.
    """

    def __init__(self, name: str, **more: Any) -> None:
        self.name = name
        self.out = Outputs()
        self.counters: dict[str, int | float] = {}
        self.sessions = Sessions(local(name, **more), self.out, self.counters, random.Random(name))
        self.opened: list[Session] = []
        self.lost: list[tuple[Session, str]] = []
        self.heard: list[Session] = []
        self.changed: list[tuple[bool, bool]] = []
        self.got: list[bytes] = []
        self.events: list[Event] = []
        self.paused = False

    @property
    def session(self) -> Session:
        """The one session that there is."""
        (session,) = self.sessions
        return session

    @property
    def reasons(self) -> list[str]:
        return [reason for _, reason in self.lost]

    def kinds(self) -> list[str]:
        """The names of the events."""
        return [type(event).__name__ for event in self.events]

    def take_ups(self) -> None:
        ups, self.sessions.ups = self.sessions.ups, []
        for up in ups:
            if isinstance(up, Received):
                self.got.append(bytes(up.frames[0]) if up.frames else b"")
            elif isinstance(up, Opened):
                self.opened.append(up.session)
            elif isinstance(up, Lost):
                self.lost.append((up.session, up.reason))
            elif isinstance(up, Changed):
                self.changed.append((up.session.link is not None, up.session.busy))
            else:
                assert isinstance(up, Heard)
                self.heard.append(up.session)

    def take_events(self) -> None:
        events, self.out.events = self.out.events, []
        self.events += events


class Pair:
    """A connecting side ``c`` and a binding side ``b``.

    Attributes:
        lose: asked for each message on its way: (direction, kind, frames) -> it is lost.
        seen: (direction, kind) of every message that was sent.
    """

    def __init__(self, c: Side | None = None, b: Side | None = None, *, connect: bool = True) -> None:
        self.c = c or Side("c")
        self.b = b or Side("b")
        self.now = 100.0
        self.connection: int | None = None
        self.alive: set[int] = set()
        """Connections that the binding side can still send to."""
        self.up: dict[int, deque[Frames]] = {}
        self.down: dict[int, deque[Frames]] = {}
        self.lose: Callable[[Direction, int, Frames], bool] = lambda direction, kind, frames: False
        self.seen: list[tuple[Direction, str]] = []
        self._numbers = 0
        if connect:
            self.connect()
            self.flow()

    # ---- connections ----------------------------------------------------------------

    def connect(self) -> int:
        """A new connection; the connecting side learns of it."""
        self._numbers += 1
        self.connection = self._numbers
        self.alive.add(self._numbers)
        self.up[self._numbers], self.down[self._numbers] = deque(), deque()
        self.c.sessions.link_up(LINK, self.now)
        self.drain()
        return self._numbers

    def disconnect(self, *, tell: Literal["both", "c", "nobody"] = "both", lose: bool = True) -> None:
        """The connection breaks. The binding side learns of it by being disturbed, and by a send that fails."""
        number = self.connection
        assert number is not None
        if tell != "nobody":
            self.connection = None
        self.alive.discard(number)
        if lose:
            self.up[number].clear()
        self.down[number].clear()
        if tell != "nobody":
            self.c.sessions.link_down(LINK, self.now)
        if tell == "both" and not self.b.paused:
            self.b.sessions.links_disturbed(GROUP, self.now)
        self.drain()

    def binder_link(self, number: int | None = None) -> tuple[str, str, int]:
        return ("b", "x", number or self._numbers)

    # ---- what is on the way -----------------------------------------------------------

    def drain(self) -> None:
        """Take what both sides put out onto the way."""
        while self._drain_side(self.c, "up") or self._drain_side(self.b, "down"):
            pass  # a send that found nobody is an input again

    def _drain_side(self, side: Side, direction: Direction) -> bool:
        side.sessions.end_turn(self.now)
        side.take_ups()
        side.take_events()
        sends, side.out.sends = side.out.sends, []
        gone = set()
        for link, frames in sends:
            assert frames
            assert all(type(frame) is bytes for frame in frames)
            kind = wire.unpack(frames[0])[0]
            number = self.connection if direction == "up" else link[2]  # type: ignore[index]
            if number not in self.alive:
                gone.add(link)
                continue
            self.seen.append((direction, wire.NAMES[kind]))
            if not self.lose(direction, kind, frames):
                (self.up if direction == "up" else self.down)[number].append(frames)
        if direction == "down":
            for link in gone:
                side.sessions.link_down(link, self.now)
        return bool(gone) and direction == "down"

    def flow(self) -> None:
        """Hand on all that is on the way, in order, until nothing moves."""
        self.drain()
        moved = True
        while moved:
            moved = False
            for direction, ways, side in (("up", self.up, self.b), ("down", self.down, self.c)):
                for number, way in ways.items():
                    if direction == "down" and number != self.connection:
                        way.clear()  # a new connection is a new socket: the old one's messages are gone with it
                    while way and not side.paused:
                        moved = True
                        self.hand(side, number, way.popleft())

    def hand(self, side: Side, number: int, frames: Frames) -> None:
        """One message arrives."""
        link = LINK if side is self.c else self.binder_link(number)
        side.sessions.receive_message(link, frames, self.now)
        self.drain()

    # ---- time -------------------------------------------------------------------------

    def advance(self, seconds: float, *, flow: bool = True) -> None:
        """Let time pass, with timers and messages as they come."""
        end = self.now + seconds
        while True:
            if flow:
                self.flow()
            running = [side for side in (self.c, self.b) if not side.paused]
            dues = [due for side in running if (due := side.sessions.next_deadline()) is not None]
            if not dues or min(dues) > end:
                self.now = end
                return
            self.now = max(self.now, min(dues))
            for side in running:
                due = side.sessions.next_deadline()
                if due is not None and due <= self.now:
                    side.sessions.handle_timer(self.now)
            self.drain()
            for side in running:
                due = side.sessions.next_deadline()
                assert due is None or due > self.now, f"{side.name} would spin"

    # ---- the users ----------------------------------------------------------------------

    def say(self, side: Side, *bodies: bytes, messages: int = 1) -> None:
        """A side's user sends."""
        for body in bodies:
            side.sessions.send(side.session, [body], messages, self.now)
        self.drain()

    def count(self, direction: Direction, kind: str) -> int:
        return self.seen.count((direction, kind))


def bodies(first: int, last: int) -> list[bytes]:
    return [b"%d" % number for number in range(first, last + 1)]


def only(*kinds: int, direction: Direction | None = None) -> Callable[[Direction, int, Frames], bool]:
    """Lose these kinds only, in this direction only."""
    return lambda way, kind, frames: kind in kinds and direction in (None, way)


def header(frames: Frames) -> list[Any]:
    """A frame's header, decoded without zmqkit's help."""
    decoded: list[Any] = msgpack.unpackb(frames[0], strict_map_key=False)
    return decoded


def frame(*fields: object, more: Sequence[bytes] = ()) -> list[bytes]:
    """A message with any header."""
    return [msgpack.packb(list(fields)), *more]
