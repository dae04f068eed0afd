"""A network of hosts in one thread: connections with the exact manners of ROUTER and DEALER, and all that befalls them.

What the driver over libzmq shows to a core, this shows too (zmqkit/transport):

- The connecting side sees one link ``("c", address)`` over all its connections: `link_up`, `link_down`. Several links
  may lead to one address (`zmqkit.address.nth`), each over connections of its own. What is sent while there is no
  connection is dropped. (Or, in some incarnations, it waits in the pipe and goes out *first* when there is one again:
  the contract allows a driver that leaves reconnecting to libzmq.)
- The binding side sees a fresh link ``("b", address, n)`` a connection, known from its first message on. That one
  broke is told only as ``links_disturbed(("b", address))``, at most every 50 ms; a send to it gives `link_down`.
- The two sides learn of a break at different times, or only one of them does until its hop heartbeat runs out.
- Messages that had arrived before the break are still received after it.

Rates of loss, duplication and so on go beyond TCP: they are what devices, tunnels and restarts of both make of it.
The sockets of publish-subscribe, XPUB and XSUB, are in `zmqkit.testing.data`; what befalls connections befalls theirs.
Knows nothing of cores: peers are woken, and given notices.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Hashable
from typing import TYPE_CHECKING, Literal

from zmqkit.address import bare
from zmqkit.protocol.core import Frames, Link

if TYPE_CHECKING:
    from zmqkit.testing.data import DataPlane, Endpoint
    from zmqkit.testing.peers import SimPeer
    from zmqkit.testing.world import World

PartitionMode = Literal["hold", "drop"]
"""``hold``: what is sent waits until the partition ends, as TCP does. ``drop``: it is lost."""

Side = Literal["c", "b"]

DISTURBED_EVERY_S = 0.05
RECONNECT_FIRST_S = 0.1
RECONNECT_MAX_S = 5.0


class Rates:
    """How often a message meets trouble: each the probability for one message."""

    __slots__ = ("duplicate", "loss", "reorder", "spike", "total")

    def __init__(self, loss: float = 0.0, duplicate: float = 0.0, reorder: float = 0.0, spike: float = 0.0) -> None:
        self.loss = loss
        self.duplicate = duplicate
        self.reorder = reorder
        self.spike = spike
        self.total = loss + duplicate + reorder + spike


class Way:
    """One direction of one connection. In order, unless the rates say otherwise."""

    __slots__ = (
        "base", "blocks", "clear", "connection", "data", "dead", "jitter", "last", "link", "mark", "part", "queue",
        "receiver", "sender", "stash",
    )  # fmt: skip

    def __init__(self, connection: Connection, sender: SimPeer, receiver: SimPeer, link: Link) -> None:
        self.connection = connection
        self.sender = sender
        self.receiver = receiver
        self.link = link
        self.mark = b"%d" % connection.number
        self.queue: deque[tuple[float, Frames]] = deque()
        self.last = 0.0
        self.base = 0.0
        self.jitter = 0.0
        self.part: PartitionMode | None = None
        self.blocks = 0
        self.dead = False
        self.clear = True
        self.stash: list[Frames] = []
        self.data: Endpoint | None = None
        """The data socket at its end, where it is of the data plane."""

    def settle(self) -> None:
        """Recompute `clear`: may a message take the fast path?"""
        self.clear = self.part is None and not self.dead and not self.stash


class Connection:
    """One connection between a dial and a listener. Each side has its own opinion on whether it stands."""

    __slots__ = ("b_open", "binder", "c_open", "dial", "down", "number", "up")

    def __init__(self, number: int, dial: Dial, binder: SimPeer) -> None:
        self.number = number
        self.dial = dial
        self.binder = binder
        self.c_open = True
        self.b_open = True
        self.up = Way(self, dial.peer, binder, ("b", dial.address, number))
        self.down = Way(self, binder, dial.peer, dial.link)

    def is_open(self, side: Side) -> bool:
        """Does this side think that the connection stands?"""
        return self.c_open if side == "c" else self.b_open

    def peer(self, side: Side) -> SimPeer:
        """Who is at this side."""
        return self.dial.peer if side == "c" else self.binder

    def into(self, side: Side) -> Way:
        """The direction that ends at this side."""
        return self.down if side == "c" else self.up

    @property
    def of_data(self) -> bool:
        """Is it one of the data plane?"""
        return self.up.data is not None

    def made(self) -> None:
        """It stands. (Of the data plane: its sockets are told.)"""

    def broke(self) -> None:
        """The binding side knows that it is gone."""
        self.binder.routes.pop(self.up.link, None)

    def __repr__(self) -> str:
        return f"connection {self.number} {self.dial.peer.name} -> {self.binder.name}"


class Dial:
    """A DEALER: one address that a peer connects to, over as many connections as it takes, one at a time."""

    __slots__ = ("address", "closed", "connection", "last", "link", "peer", "pipe", "tries")

    def __init__(self, peer: SimPeer, address: str) -> None:
        self.peer = peer
        self.address = bare(address)
        self.link: Link = ("c", address)
        self.connection: Connection | None = None
        self.last: Way | None = None
        self.pipe: deque[Frames] = deque()
        self.tries = 0
        self.closed = False

    def connect(self, number: int, binder: SimPeer) -> Connection:
        """A connection to whom it found there."""
        return Connection(number, self, binder)


def other(side: Side) -> Side:
    """The opposite side."""
    return "b" if side == "c" else "c"


class SimulatedNetwork:
    """All connections of a world, and what is done to them.

    Args:
        world: gives time, events, random streams and counters.
        hop_timeout_s: seconds of silence after which one end of a connection gives it up (ZMTP heartbeats).

    Attributes:
        rates: trouble per message.
        connections: those that at least one side thinks to stand, of either plane.
        data: the other plane.
    """

    data: DataPlane

    HOLD: PartitionMode = "hold"
    DROP: PartitionMode = "drop"

    def __init__(self, world: World, hop_timeout_s: float) -> None:
        self.world = world
        self.hop_timeout_s = hop_timeout_s
        self.rates = Rates()
        self.connections: dict[int, Connection] = {}
        self._random = world.stream("network messages")
        self._draw = self._random.random
        self._shape = world.stream("network connections")
        self._listeners: dict[str, SimPeer] = {}
        self._parts: dict[tuple[str, str], PartitionMode] = {}
        self._disturbed: dict[tuple[str, Hashable], float] = {}
        self._latency: dict[tuple[str, str], float] = {}
        self._number = 0
        self._counts = world.counts

    # ---- messages ----------------------------------------------------------------

    def send(self, way: Way, frames: Frames, now: float) -> None:
        """Put one message onto a direction."""
        draw = self._draw
        trouble = draw()
        if trouble < self.rates.total or not way.clear:
            self._send_in_trouble(way, list(frames), now, trouble)
            return
        arrival = now + way.base + way.jitter * draw()
        if arrival < way.last:
            arrival = way.last
        else:
            way.last = arrival
        queue = way.queue
        if queue:
            queue.append((arrival, list(frames)))
        else:
            queue.append((arrival, list(frames)))
            receiver = way.receiver
            receiver.wake_by(arrival + receiver.latency)

    def _send_in_trouble(self, way: Way, frames: Frames, now: float, trouble: float) -> None:
        counts, rates = self._counts, self.rates
        if way.dead:
            counts["sent to a dead connection"] += 1
            return
        if way.part == "drop":
            counts["lost in a partition"] += 1
            return
        late = 0.0
        copies = 1
        if trouble < rates.loss:
            counts["lost"] += 1
            return
        trouble -= rates.loss
        if trouble < rates.duplicate:
            counts["duplicated"] += 1
            copies = 2
        elif trouble < rates.duplicate + rates.reorder:
            counts["reordered"] += 1
            if not way.queue:
                way.stash.append(frames)  # goes out after the next one
                way.clear = False
                return
            place = len(way.queue) - 1 - int(self._draw() * min(3, len(way.queue)))
            self._append(way, frames, now, 0.0)
            times = [at for at, _ in way.queue]
            bodies = [body for _, body in way.queue]
            bodies.insert(place, bodies.pop())
            way.queue.clear()
            way.queue.extend(zip(times, bodies, strict=True))
            return
        elif trouble < rates.total:
            counts["delayed"] += 1
            late = self._random.expovariate(20.0)
        for _ in range(copies):
            self._append(way, list(frames), now, late)
        if way.stash:
            self._flush(way, now)

    def _append(self, way: Way, frames: Frames, now: float, late: float) -> None:
        way.last = max(way.last, now + way.base + way.jitter * self._draw() + late)
        way.queue.append((way.last, frames))
        if way.part is None:
            way.receiver.wake_by(way.queue[0][0] + way.receiver.latency)

    def _flush(self, way: Way, now: float) -> None:
        stash, way.stash = way.stash, []
        for frames in stash:
            self._append(way, frames, now, 0.0)
        way.settle()

    # ---- binding and connecting --------------------------------------------------

    def listen(self, peer: SimPeer, address: str) -> None:
        """Bind."""
        holder = self._listeners.get(address)
        if holder is not None and holder is not peer:
            raise ValueError(f"{address} is bound by {holder.name}")
        self._listeners[address] = peer

    def dial(self, peer: SimPeer, address: str) -> Dial:
        """Connect, and go on connecting."""
        dial = Dial(peer, address)
        peer.routes[dial.link] = dial
        self.go_dial(dial)
        return dial

    def go_dial(self, dial: Dial) -> None:
        """Begin to connect."""
        self.world.after(0.001 + 0.004 * self._shape.random(), self._attempt, dial)

    def hang_up(self, dial: Dial) -> None:
        """Stop connecting: what waits in the pipe is lost."""
        dial.closed = True
        dial.peer.routes.pop(dial.link, None)
        self._drop(dial)

    def redial(self, dial: Dial) -> None:
        """Drop the connection and make a new one: what waits in the pipe is lost."""
        self._counts["redialled"] += 1
        self._drop(dial)

    def _drop(self, dial: Dial) -> None:
        if dial.connection is not None:
            self._close(dial.connection, "c", cut=False)
        if dial.last is not None:
            dial.last.queue.clear()
        dial.pipe.clear()

    def _attempt(self, dial: Dial) -> None:
        peer = dial.peer
        if dial.closed or dial.connection is not None:
            return
        listener = self._listeners.get(dial.address)
        if listener is None or listener.stopped or peer.stopped or self.is_cut(peer.host, listener.host):
            self._counts["connect failed"] += 1
            self._attempt_later(dial)
            return
        self._number += 1
        connection = dial.connect(self._number, listener)
        self.connections[self._number] = connection
        latency = self._base_latency(peer.host, listener.host)
        now = self.world.clock.now
        for way in (connection.up, connection.down):
            way.base = latency
            way.jitter = latency * self._shape.random()
            way.last = now
        if dial.tries or dial.last is not None:
            self._counts["reconnected"] += 1
        dial.tries = 0
        dial.connection = connection
        if connection.of_data:
            dial.last = connection.down
            connection.made()
            peer.notify(0.002 * self._shape.random(), "link_up", dial.link)
            return
        if dial.last is not None:
            connection.down.queue.extend(dial.last.queue)  # one pipe: what had come before is received before
            dial.last.queue.clear()
        dial.last = connection.down
        peer.ways.append(connection.down)
        listener.ways.append(connection.up)
        if peer.keeps_pipe:
            peer.routes[dial.link] = connection.up
        listener.routes[connection.up.link] = connection.down
        pipe, dial.pipe = dial.pipe, deque()
        if pipe:
            self._counts["sent from the pipe"] += len(pipe)
        for frames in pipe:
            self.send(connection.up, frames, now)
        peer.notify(0.002 * self._shape.random(), "link_up", dial.link)

    def told_up(self, peer: SimPeer, link: Link) -> None:
        """The core is being told `link_up`: from now on its sends go out."""
        dial = peer.routes.get(link)
        if isinstance(dial, Dial) and dial.connection is not None:
            peer.routes[link] = dial.connection.up

    def send_unconnected(self, dial: Dial, frames: Frames) -> None:
        """A send to an address that there is no connection to."""
        if dial.peer.keeps_pipe:
            dial.pipe.append(list(frames))
        else:
            self._counts["sent without a connection"] += 1

    def _attempt_later(self, dial: Dial) -> None:
        wait = min(RECONNECT_MAX_S, RECONNECT_FIRST_S * 2.0 ** min(dial.tries, 6))
        dial.tries += 1
        self.world.after(wait * (0.5 + self._shape.random()), self._attempt, dial)

    def _base_latency(self, one: str, two: str) -> float:
        pair = (one, two) if one <= two else (two, one)
        known = self._latency.get(pair)
        if known is None:
            draw = self._shape.random()
            known = 0.00003 if one == two else 0.0001 + 0.002 * draw if draw < 0.8 else 0.03 * draw
            self._latency[pair] = known
        return known

    # ---- breaking ----------------------------------------------------------------

    def break_connection(self, connection: Connection, *, half_open: bool = False) -> None:
        """Reset it. One side learns at once; the other soon, or only from its hop heartbeat (`half_open`)."""
        self._counts["half-open break" if half_open else "break"] += 1
        first: Side = "c" if self._shape.random() < 0.5 else "b"
        if not connection.is_open(first):
            first = other(first)
        self._close(connection, first, tell=not half_open)
        if half_open:
            wait = self.hop_timeout_s * (1.0 + 0.2 * self._shape.random())
            self.world.after(wait, self._give_up, connection, other(first))

    def vanish(self, peer: SimPeer, *, how: Literal["closed", "killed", "power cut"]) -> None:
        """A process ends: its connections break, and nobody listens any more.

        ``closed``: all that it sent arrives. ``killed``: the kernel tells the others. ``power cut``: nobody does.
        """
        for address, listener in list(self._listeners.items()):
            if listener is peer:
                del self._listeners[address]
        for dial in peer.dials.values():
            dial.closed = True
        for endpoint in peer.data.values():
            if endpoint.dial is not None:
                endpoint.dial.closed = True
        for connection in list(self.connections.values()):
            for side in ("c", "b"):
                if connection.peer(side) is peer and connection.is_open(side):
                    self._close(connection, side, cut=how != "closed", tell=how != "power cut")
                    if how == "power cut":
                        wait = self.hop_timeout_s * (1.0 + 0.2 * self._shape.random())
                        self.world.after(wait, self._give_up, connection, other(side))

    def close_side(self, connection: Connection, side: Side) -> None:
        """One side closes a connection for good."""
        self._close(connection, side)

    def _close(self, connection: Connection, side: Side, *, cut: bool = True, tell: bool = True) -> None:
        """One side stops to think that the connection stands."""
        if not connection.is_open(side):
            return
        now = self.world.clock.now
        inward, outward = connection.into(side), connection.into(other(side))
        kept = self._cut(outward, now) if cut else []
        while inward.queue and inward.queue[-1][0] > now:
            inward.queue.pop()
            self._counts["lost in a break"] += 1
        inward.stash.clear()
        outward.stash.clear()
        inward.dead = True
        inward.settle()
        peer = connection.peer(side)
        if side == "c":
            connection.c_open = False
            dial = connection.dial
            dial.connection = None
            if peer.keeps_pipe:
                dial.pipe.extendleft(reversed(kept))
            if not dial.closed and peer.alive:
                if not connection.of_data:
                    peer.routes[dial.link] = dial
                peer.notify(0.002 * self._shape.random(), "link_down", dial.link)
                self._attempt_later(dial)
        else:
            connection.b_open = False
            connection.broke()
            if peer.alive:
                self._disturb(peer, ("d" if connection.of_data else "b", connection.dial.address))
        if not (connection.c_open or connection.b_open):
            self.connections.pop(connection.number, None)
        elif tell:
            # After what it had sent, as FIN does; a reset overtakes nothing either, it only cuts.
            wait = max(0.0, outward.last - now) + outward.base + 0.02 * self._shape.random() ** 4
            self.world.after(wait, self._learn, connection, other(side))

    def _cut(self, way: Way, now: float) -> list[Frames]:
        """What is on its way when its sender's end breaks: some arrives, some is lost, some never left the pipe."""
        if way.dead or not way.queue or self._shape.random() < 0.3:
            return []
        queue = way.queue
        landed = sum(1 for at, _ in queue if at <= now)
        cut = landed + int(self._shape.random() * (len(queue) - landed + 1))
        gone = [frames for _, frames in list(queue)[cut:]]
        for _ in gone:
            queue.pop()
        keeps = way.sender.keeps_pipe and way.data is None
        kept = int(self._shape.random() * (len(gone) + 1)) if keeps else 0
        self._counts["lost in a break"] += len(gone) - kept
        return gone[len(gone) - kept :] if kept else []

    def _learn(self, connection: Connection, side: Side) -> None:
        """The other end closed, and says so, if it can be heard."""
        if not connection.is_open(side):
            return
        if connection.into(side).part is not None or connection.peer(side).stopped:
            self.world.after(0.2, self._learn, connection, side)
        else:
            self._close(connection, side)

    def _give_up(self, connection: Connection, side: Side) -> None:
        """Nothing was heard for the hop timeout."""
        if not connection.is_open(side):
            return
        if connection.peer(side).stopped:
            self.world.after(0.2, self._give_up, connection, side)
            return
        self._counts["hop timeout"] += 1
        self._close(connection, side)

    def _disturb(self, peer: SimPeer, group: Hashable) -> None:
        key = (peer.name, group)
        now = self.world.clock.now
        due = max(now, self._disturbed.get(key, -1.0) + DISTURBED_EVERY_S)
        if due > now and self._disturbed.get(key, -1.0) > now:
            return  # one is on its way already
        self._disturbed[key] = due
        peer.notify(due - now + 0.001 * self._shape.random(), "links_disturbed", group)

    # ---- partitions, stops, healing ----------------------------------------------

    def partition(self, source: str, target: str, mode: PartitionMode) -> None:
        """Nothing gets from one host to another, in this one direction, until `mend`."""
        if source == target:
            raise ValueError("a host is never cut off from itself")
        self._parts[source, target] = mode
        now = self.world.clock.now
        for way in self._ways(source, target):
            way.part = mode if way.data is None else "hold"  # there nothing may be missing
            way.blocks += 1
            if way.part == "drop":
                while way.queue and way.queue[-1][0] > now:
                    way.queue.pop()
                    self._counts["lost in a partition"] += 1
            way.settle()
            wait = self.hop_timeout_s * (1.0 + 0.2 * self._shape.random())
            self.world.after(wait, self._blocked, way, way.blocks)

    def mend(self, source: str, target: str) -> None:
        """End a partition."""
        self._parts.pop((source, target), None)
        for way in self._ways(source, target):
            way.part = None
            way.settle()
            way.receiver.wake_by(self.world.clock.now)

    def _blocked(self, way: Way, blocks: int) -> None:
        if way.part is not None and way.blocks == blocks:
            self._give_up(way.connection, "b" if way is way.connection.up else "c")

    def is_cut(self, one: str, two: str) -> bool:
        """Is there a partition between two hosts, in either direction?"""
        return (one, two) in self._parts or (two, one) in self._parts

    def silence(self, peer: SimPeer) -> None:
        """A stopped process answers no heartbeat: if it stays so, the others give its connections up."""
        stop = peer.stops
        for connection in list(self.connections.values()):
            for side in ("c", "b"):
                if connection.peer(side) is peer and connection.is_open(other(side)):
                    wait = self.hop_timeout_s * (1.0 + 0.2 * self._shape.random())
                    self.world.after(wait, self._stopped, connection, side, stop)

    def _stopped(self, connection: Connection, side: Side, stop: int) -> None:
        peer = connection.peer(side)
        if peer.stopped and peer.stops == stop:
            self._give_up(connection, other(side))

    def heal(self) -> None:
        """Everything works from now on."""
        self.rates = Rates()
        for source, target in list(self._parts):
            self.mend(source, target)
        for connection in self.connections.values():
            for way in (connection.up, connection.down):
                if way.stash:
                    self._flush(way, self.world.clock.now)

    def _ways(self, source: str, target: str) -> list[Way]:
        return [
            way
            for connection in self.connections.values()
            for way in (connection.up, connection.down)
            if way.sender.host == source and way.receiver.host == target
        ]
