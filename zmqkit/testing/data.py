"""The data plane of a simulated network: XPUB and XSUB, with the manners that the driver over libzmq shows to a core.

- Each data endpoint is one link ``("d", address)``. A bound one is up from the start, and never down; that one of its
  connections broke is told as ``links_disturbed(("d", address))``.
- Of a connecting one each connection is a socket of its own: ``link_up``, then its messages, then ``link_down``, and
  nothing of it after that. What is sent while there is none is dropped.
- A connection is whole or gone: nothing in it is lost, doubled or overtaken, only late. But a scenario may say that
  there is a *forwarder* on the way to an address: that one drops frames, singly and in runs, and tells nobody.
- Subscriptions are messages. An XPUB hands them up with a token that names the connection (b"" where that is not
  known), fans out by prefix, and says itself, without a token, that nobody is left who subscribes a prefix when its
  last subscriber's connection has gone. They are in force as soon as they have arrived, read or not.
- An XSUB counts what it subscribes, tells only the first and the last of one prefix, drops what it has not
  subscribed, and, where it is bound, tells each new connection all that it has subscribed, in the order of bytes.

Knows nothing of cores: peers are given notices, as `zmqkit.testing.network` does.
"""

from __future__ import annotations

from collections import Counter, deque
from typing import TYPE_CHECKING, Literal, NamedTuple

from zmqkit.protocol.core import Frames, Link
from zmqkit.testing.network import Connection, Dial, Side, Way, other

if TYPE_CHECKING:
    from zmqkit.testing.network import SimulatedNetwork
    from zmqkit.testing.peers import SimPeer

DataKind = Literal["XPUB", "XSUB"]


class Forwarder(NamedTuple):
    """What is on the way to an address and loses frames.

    Attributes:
        single: probability for one frame of being dropped.
        run: probability for one frame of being the first of many that are.
        longest: how many frames such a run has at most.
    """

    single: float = 0.02
    run: float = 0.005
    longest: int = 30


class DataDial(Dial):
    """A data socket that connects: a new one for each connection."""

    __slots__ = ("endpoint",)

    def __init__(self, peer: SimPeer, address: str, endpoint: Endpoint) -> None:
        super().__init__(peer, address)
        self.link = ("d", address)
        self.endpoint = endpoint

    def connect(self, number: int, binder: SimPeer) -> Connection:
        """A connection to whom it found there."""
        return DataConnection(number, self, binder, binder.data[self.address])


class DataConnection(Connection):
    """One connection between two data sockets.

    Attributes:
        token: names it at the side that binds.
        prefixes: what the XPUB at one end knows to be subscribed over it.
        dropping: so many frames the forwarder still drops.
    """

    __slots__ = ("applied", "bound", "dropping", "endpoint", "prefixes", "token")

    def __init__(self, number: int, dial: DataDial, binder: SimPeer, bound: Endpoint) -> None:
        super().__init__(number, dial, binder)
        self.up.link = ("d", dial.address)
        self.up.data, self.down.data = bound, dial.endpoint
        self.endpoint, self.bound = dial.endpoint, bound
        self.token = b"%d" % number
        self.prefixes: set[bytes] = set()
        self.applied = 0
        self.dropping = 0

    def made(self) -> None:
        """Both sockets are told."""
        self.endpoint.stands(self)
        self.bound.stands(self)

    def broke(self) -> None:
        """The bound socket is told."""
        self.bound.broke(self)

    def was_told(self, prefix: bytes) -> bool:
        """Whether a bound XPUB has told its core that this is subscribed over it."""
        return prefix in self.prefixes and not any(frames[0] == b"\x01" + prefix for _, frames in self.up.queue)


class Endpoint:
    """One XPUB or XSUB of one incarnation, at one address, bound or connecting.

    Args:
        peer: whose it is.
        kind: which socket.
        address: where.
        network: that it is in.
        tells_tokens: an XPUB knows which connection a subscription came over.

    Attributes:
        side: of its connections: "b" where it is bound.
        connections: what it would send over now.
        subscribed: of an XSUB: how often each prefix.
    """

    __slots__ = ("_coming", "_network", "_plane", "address", "connections", "dial", "kind", "peer", "side",
                 "subscribed", "tells_tokens")  # fmt: skip

    def __init__(
        self, peer: SimPeer, kind: DataKind, address: str, network: SimulatedNetwork, *, tells_tokens: bool
    ) -> None:
        self.peer = peer
        self.kind = kind
        self.address = address
        self.side: Side = "b"
        self.dial: DataDial | None = None
        self.connections: list[DataConnection] = []
        self.subscribed: Counter[bytes] = Counter()
        self._coming: deque[DataConnection] = deque()
        self._network = network
        self._plane = network.data
        self.tells_tokens = tells_tokens

    @property
    def link(self) -> Link:
        """As the core knows it."""
        return ("d", self.address)

    # ---- connections ---------------------------------------------------------------

    def stands(self, connection: DataConnection) -> None:
        """A connection was made, and this end knows."""
        if self.side == "c":
            self._plane.counts["data connection"] += 1
            self._coming.append(connection)
            return
        self.connections.append(connection)
        self.peer.ways.append(connection.up)
        for prefix in sorted(self.subscribed):
            self._plane.put(connection.down, [b"\x01" + prefix], self._network.world.clock.now)

    def told_up(self) -> None:
        """The core is being told that a connection stands: what came over it may be read."""
        connection = self._coming.popleft()
        self.connections = [connection]
        self.peer.ways.append(connection.down)

    def told_down(self) -> None:
        """The core is being told that it is gone: its socket is closed, and what waited in it is lost."""
        for connection in self.connections:
            connection.down.queue.clear()
            if connection.down in self.peer.ways:
                self.peer.ways.remove(connection.down)
        self.connections = []
        self.subscribed.clear()

    def redial(self) -> None:
        """Close the connection, and make another. A bound socket is left alone."""
        if self.dial is not None:
            self._network.redial(self.dial)

    def broke(self, connection: DataConnection) -> None:
        """A connection of a bound socket is gone."""
        if connection not in self.connections:
            return
        self.connections.remove(connection)
        if self.kind != "XPUB":
            return
        way = connection.up
        self._apply(connection, self._network.world.clock.now)
        left = set().union(*(each.prefixes for each in self.connections)) if self.connections else set()
        for prefix in sorted(connection.prefixes - left):
            way.queue.append((self._network.world.clock.now, [b"\x00" + prefix, b""]))
            connection.applied += 1
        if way.queue:
            self.peer.wake_by(self._network.world.clock.now)

    def expel(self, token: bytes) -> None:
        """Close one connection. Nothing happens if it is gone already."""
        for connection in self.connections:
            if connection.token == token and connection.is_open(self.side):
                self._plane.counts["data connection expelled"] += 1
                self._network.close_side(connection, self.side)
                return

    # ---- messages --------------------------------------------------------------------

    def send(self, frames: Frames, now: float) -> None:
        """Send to whom it concerns; to nobody is no error."""
        if self.kind == "XSUB":
            self._subscribe(frames, now)
            return
        first, plane, bound = frames[0], self._plane, self.side == "b"
        for connection in self.connections:
            queue = (connection.up if bound else connection.down).queue
            if connection.applied < len(queue):
                self._apply(connection, now)
            if first.startswith(tuple(connection.prefixes)) and not plane.dropped(connection):
                plane.put(connection.down if bound else connection.up, frames, now)

    def _subscribe(self, frames: Frames, now: float) -> None:
        message, subscribed = frames[0], self.subscribed
        prefix = message[1:]
        if message[:1] == b"\x01":
            subscribed[prefix] += 1
        elif message[:1] == b"\x00":
            subscribed[prefix] -= 1
            if subscribed[prefix] > 0:
                return
            missing = subscribed[prefix] < 0
            del subscribed[prefix]
            if missing:
                return
        for connection in self.connections:
            self._plane.put(connection.into(other(self.side)), frames, now)

    def _apply(self, connection: DataConnection, now: float) -> None:
        """Subscriptions that have arrived are in force, whether or not they were read."""
        queue = connection.into(self.side).queue
        at = connection.applied
        while at < len(queue) and queue[at][0] <= now:
            self._take_in(connection, queue[at][1][0])
            at += 1
        connection.applied = at

    @staticmethod
    def _take_in(connection: DataConnection, message: bytes) -> bool:
        """Take a subscription in. Returns whether the core is told of it."""
        prefix = message[1:]
        if message[:1] == b"\x01":
            connection.prefixes.add(prefix)
        else:
            connection.prefixes.discard(prefix)
        return True

    def incoming(self, way: Way, frames: Frames) -> Frames | None:
        """What the core is given of a message that it reads now; None: nothing."""
        connection = way.connection
        assert isinstance(connection, DataConnection)
        if self.kind == "XSUB":
            return frames if frames[0].startswith(tuple(self.subscribed)) else None
        if len(frames) == 2:
            connection.applied -= 1
            # The socket's own words: nobody is left who subscribes this. They come before what came after them.
            return None if any(each.was_told(frames[0][1:]) for each in self.connections) else frames
        if connection.applied:
            connection.applied -= 1
        else:
            self._take_in(connection, frames[0])
        message = frames[0]
        if message[:1] == b"\x00" and any(message[1:] in each.prefixes for each in self.connections):
            return None  # somebody else still does
        return [message, connection.token if self.tells_tokens else b""]


class DataPlane:
    """All data connections of a network.

    Attributes:
        forwarders: by the address that they stand before.
        counts: of the world.
    """

    def __init__(self, network: SimulatedNetwork) -> None:
        self.network = network
        self.counts = network.world.counts
        self.forwarders: dict[str, Forwarder] = {}
        self._random = network.world.stream("data plane")
        self._draw = self._random.random

    def open(self, peer: SimPeer, kind: DataKind, address: str, *, bind: bool) -> Endpoint:
        """A data socket of a peer: bound, or connecting from now on."""
        endpoint = Endpoint(peer, kind, address, self.network, tells_tokens=self._draw() < 0.85)
        peer.data[address] = endpoint
        if bind:
            self.network.listen(peer, address)
        else:
            endpoint.side = "c"
            endpoint.dial = DataDial(peer, address, endpoint)
            self.network.go_dial(endpoint.dial)
        return endpoint

    def close(self, endpoint: Endpoint) -> None:
        """Stop connecting."""
        if endpoint.dial is not None:
            self.network.hang_up(endpoint.dial)

    def dropped(self, connection: DataConnection) -> bool:
        """Whether a forwarder on the way loses the next frame."""
        forwarder = self.forwarders.get(connection.dial.address)
        if forwarder is None:
            return False
        if connection.dropping:
            connection.dropping -= 1
            self.counts["dropped by a forwarder"] += 1
            return True
        draw = self._draw()
        if draw >= forwarder.single + forwarder.run:
            return False
        if draw >= forwarder.single:
            connection.dropping = int(self._draw() * forwarder.longest)
            self.counts["run dropped by a forwarder"] += 1
        self.counts["dropped by a forwarder"] += 1
        return True

    def put(self, way: Way, frames: Frames, now: float) -> None:
        """Put one message onto a direction of a connection: it arrives, sometime, or the connection breaks."""
        if way.dead:
            self.counts["sent to a dead connection"] += 1
            return
        late, draw = 0.0, self._draw
        if draw() < self.network.rates.spike:
            self.counts["data delayed"] += 1
            late = self._random.expovariate(20.0)
        arrival = now + way.base + way.jitter * draw() + late
        if arrival < way.last:
            arrival = way.last
        else:
            way.last = arrival
        way.queue.append((arrival, list(frames)))
        if way.part is None and len(way.queue) == 1:
            way.receiver.wake_by(arrival + way.receiver.latency)
