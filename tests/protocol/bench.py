"""Sides that dialled a device which a test plays by hand, under virtual time. No socket, no thread, no clock.

A `Plug` is one connection, seen from the device: a test reads what came over it, says something, or joins it to another
one, as a switch does. What a side says where nothing is joined waits in ``said``.
"""

from __future__ import annotations

from collections import deque
from typing import Any

import msgpack

from tests.protocol.pair import Side
from zmqkit.address import nth
from zmqkit.protocol import wire
from zmqkit.protocol.core import Frames, Link


class Plug:
    """One connection between a side and the device.

    Attributes:
        said: what the side said that the test has not taken.
        to: where it is forwarded to.
    """

    def __init__(self, side: Side, link: Link) -> None:
        self.side = side
        self.link = link
        self.alive = True
        self.said: deque[Frames] = deque()
        self.to: Plug | None = None

    def take(self) -> list[Any]:
        """The headers of all that the side said since the last time."""
        said, self.said = self.said, deque()
        return [msgpack.unpackb(frames[0], strict_map_key=False) for frames in said]

    def hello(self) -> dict[str, Any]:
        """The last HELLO that the side said, the rest forgotten."""
        said: list[dict[str, Any]] = [header[1] for header in self.take() if header[0] == wire.HELLO]
        return said[-1]


class Bench:
    """The device's table: all plugs, and the time.

    Attributes:
        dials: all that sides asked for by `Outputs.dials`, as (side, address, wanted).
        dropped: the links of all that they asked for by `Outputs.disconnects`.
    """

    def __init__(self, *sides: Side) -> None:
        self.sides = sides
        self.now = 100.0
        self.plugs: list[Plug] = []
        self.dials: list[tuple[str, str, bool]] = []
        self.dropped: list[Link] = []

    # ---- connections ----------------------------------------------------------------

    def dial(self, side: Side, number: int = 1) -> Plug:
        """A side's connection to the device stands."""
        plug = Plug(side, ("c", nth("x", number)))
        self.plugs.append(plug)
        side.sessions.link_up(plug.link, self.now)
        self.drain()
        return plug

    def reach(self, side: Side, number: int) -> Plug:
        """The device dials a side that binds; the side learns of that by the first message."""
        plug = Plug(side, ("b", "y", number))
        self.plugs.append(plug)
        return plug

    def cut(self, plug: Plug) -> None:
        """It breaks. What was on its way is lost."""
        plug.alive = False
        plug.said.clear()
        self.part(plug)
        plug.side.sessions.link_down(plug.link, self.now)
        self.drain()

    def again(self, plug: Plug) -> Plug:
        """It breaks, and the side makes another in its place."""
        self.cut(plug)
        assert isinstance(plug.link, tuple)
        fresh = Plug(plug.side, plug.link)
        self.plugs.append(fresh)
        plug.side.sessions.link_up(plug.link, self.now)
        self.drain()
        return fresh

    def join(self, one: Plug, other: Plug) -> None:
        """Forward all between the two, also what was said already."""
        one.to, other.to = other, one
        self.flow()

    def part(self, plug: Plug) -> None:
        """Forward no more."""
        if plug.to is not None:
            plug.to.to = None
        plug.to = None

    # ---- messages -------------------------------------------------------------------

    def say(self, plug: Plug, *headers: bytes) -> None:
        """The device says something by itself."""
        for header in headers:
            plug.side.sessions.receive_message(plug.link, [header], self.now)
        self.drain()

    def drain(self) -> None:
        """Take what the sides put out."""
        for side in self.sides:
            side.sessions.end_turn(self.now)
            side.take_ups()
            side.take_events()
            out = side.out
            sends, out.sends = out.sends, []
            standing = {plug.link: plug for plug in self.plugs if plug.side is side and plug.alive}
            for link, frames in sends:
                if link in standing:
                    standing[link].said.append(frames)
            self.dials += [(side.name, address, wanted) for address, wanted in out.dials]
            self.dropped += out.disconnects
            out.dials, out.disconnects, out.probes = [], [], []

    def flow(self) -> None:
        """Forward until nothing moves."""
        self.drain()
        moved = True
        while moved:
            moved = False
            for plug in self.plugs:
                while plug.to is not None and plug.said:
                    moved = True
                    frames = plug.said.popleft()
                    plug.to.side.sessions.receive_message(plug.to.link, frames, self.now)
                    self.drain()

    def tell(self, side: Side, *bodies: bytes) -> None:
        """A side's user sends in its one session."""
        for body in bodies:
            side.sessions.send(side.session, [body], 1, self.now)
        self.flow()

    # ---- time -----------------------------------------------------------------------

    def advance(self, seconds: float) -> None:
        """Let time pass, with timers and messages as they come."""
        end = self.now + seconds
        while True:
            self.flow()
            dues = [due for side in self.sides if (due := side.sessions.next_deadline()) is not None]
            if not dues or min(dues) > end:
                self.now = end
                return
            self.now = max(self.now, min(dues))
            for side in self.sides:
                due = side.sessions.next_deadline()
                if due is not None and due <= self.now:
                    side.sessions.handle_timer(self.now)
            self.drain()
            for side in self.sides:
                due = side.sessions.next_deadline()
                assert due is None or due > self.now, f"{side.name} would spin"


def switched() -> tuple[Bench, Plug, Plug]:
    """A side ``c`` in session with a side ``b`` that binds, through a device that dialled ``b``."""
    bench = Bench(Side("c"), Side("b"))
    front = bench.dial(bench.sides[0])
    back = bench.reach(bench.sides[1], 1)
    bench.join(front, back)
    assert bench.sides[0].session.link == front.link
    return bench, front, back


def listening(*numbers: int) -> tuple[Bench, list[Plug]]:
    """Sides ``c`` and ``a``, which both dialled; ``a`` was told LISTEN on each of its connections."""
    bench = Bench(Side("c"), Side("a"))
    plugs = [bench.dial(bench.sides[1])]
    if len(numbers) > 1:
        bench.say(plugs[0], wire.more(len(numbers)))
        plugs += [bench.dial(bench.sides[1], number) for number in numbers[1:]]
    for plug in plugs:
        bench.say(plug, wire.listen())
        plug.take()
    return bench, plugs
