"""What a forwarder rewrites between publishers and subscribers: private subscriptions, and fences (protocol, 14.3).

Pure: no socket, no thread, no clock. Data and beats pass a forwarder as they are. Only what tells either side where the
other one's recovery channel is has to name the forwarder's own, and what it named before is where the forwarder goes::

    subscriber                 forwarder                    publisher
      p INSTANCE/7/:9001  -->    p INSTANCE/7/:6001   -->                      subscriptions; :9001 if he binds
      fence, :6002        <--    fence, :5001         <--                      :5001 if it binds

All subscriptions of one prefix from below go up as one, and end with the last.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from typing import Final, NamedTuple

from zmqkit.errors import DecodeError
from zmqkit.patterns.pubsub import topics, wire
from zmqkit.patterns.pubsub.reach import recovery_address
from zmqkit.protocol.core import Link

MAX_SUBSCRIPTIONS: Final = 240_000
"""So many different subscriptions go up: a publisher closes the connection that brings more (14.7)..."""

MAX_SUBSCRIBED_BYTES: Final = 15 * 1024 * 1024
"""...or so many bytes of them."""

MAX_SUBSCRIPTIONS_OF_ONE: Final = 120_000
MAX_SUBSCRIBED_BYTES_OF_ONE: Final = 8 * 1024 * 1024
"""What one connection from below may bring of that."""

MAX_PRIVATES: Final = 20_000
"""So many private topics are known."""

MAX_PLACES: Final = 256
"""So many recovery channels are connected to because of what was said over one endpoint."""

MAX_STREAMS: Final = 20_000
"""So many streams are known by name."""

MAX_CONNECTIONS: Final = 20_000
"""So many connections from below are counted; the oldest are forgotten first."""

FADE_SECONDS: Final = 10.0
"""When a connection was made anew, what was said over the one before is good for so long after the first fence."""


class Place(NamedTuple):
    """Where the forwarder's recovery channel is to be connected, or no longer.

    Attributes:
        front: to a publisher; else to a subscriber.
        address: where.
        wanted: False: no longer.
    """

    front: bool
    address: str
    wanted: bool


class Inlet:
    """An endpoint in front: an XSUB.

    Attributes:
        link: its name.
        address: where it is.
        dialled: it connects there; else publishers connect to it.
        hint: what private topics tell over it of where the forwarder's recovery channel is bound; "" if it dials.
        places: recovery channels of which was told over it, each with the connection's number.
        connection: the number of its present connection.
        fade_at: when what was told over older ones is forgotten.
    """

    __slots__ = ("address", "connection", "dialled", "fade_at", "hint", "link", "places")

    def __init__(self, link: Link, address: str, dialled: bool, hint: str) -> None:
        self.link = link
        self.address = address
        self.dialled = dialled
        self.hint = hint
        self.places: dict[str, int] = {}
        self.connection = 0
        self.fade_at: float | None = None


class Outlet(Inlet):
    """An endpoint behind: an XPUB.

    Attributes:
        hint: what fences tell over it of where the forwarder's recovery channel is bound.
        prefixes: what is subscribed over it.
        privates: instance and number of a private topic, to its names there (one, but for strangers).
    """

    __slots__ = ("prefixes", "privates")

    def __init__(self, link: Link, address: str, dialled: bool, hint: str) -> None:
        super().__init__(link, address, dialled, hint)
        self.prefixes: set[bytes] = set()
        self.privates: dict[tuple[bytes, int], list[bytes]] = {}


class Fences:
    """What is subscribed through a forwarder, and what it tells either side.

    Attributes:
        up: subscriptions to send: (inlet's link, frame).
        down: fences to send: (outlet's link, frame).
        cuts: connections to close, because they subscribe too much: (outlet's link, token).
        places: see `Place`; each address once, whoever told of it.
        streams: names of the publishers' streams: a frame that bears one is theirs, and single (14.2).
        counters: by name.
    """

    def __init__(self) -> None:
        self.up: list[tuple[Link, bytes]] = []
        self.down: list[tuple[Link, bytes]] = []
        self.cuts: list[tuple[Link, bytes]] = []
        self.places: list[Place] = []
        self.streams: dict[bytes, None] = {}
        self.counters = {
            "fences": 0, "fences_bad": 0, "hints_bad": 0, "subscriptions": 0, "subscriptions_refused": 0,
            "places_refused": 0,
        }  # fmt: skip
        self._inlets: dict[Link, Inlet] = {}
        self._outlets: dict[Link, Outlet] = {}
        self._counts: dict[tuple[Link, bytes], list[int]] = {}
        """Of a connection from below: how many subscriptions came, less those taken back, and their bytes."""
        self._size = 0
        self._told: dict[tuple[bool, str], int] = {}
        """Of each place: how many endpoints told of it."""

    # ---- endpoints -------------------------------------------------------------------

    def add_inlet(self, link: Link, address: str, *, dialled: bool, hint: str = "") -> None:
        """An endpoint in front: all that is subscribed goes up over it, too."""
        self._inlets[link] = Inlet(link, address, dialled, hint)
        self.remade(link)

    def add_outlet(self, link: Link, address: str, *, dialled: bool, hint: str = "") -> None:
        """An endpoint behind."""
        self._outlets[link] = Outlet(link, address, dialled, hint)

    def remove(self, link: Link) -> None:
        """An endpoint is gone, with all that came over it."""
        inlet = self._inlets.pop(link, None)
        if inlet is not None:
            self._forget_places(inlet)
        outlet = self._outlets.get(link)
        if outlet is not None:
            for prefix in list(outlet.prefixes):
                self._unsubscribe(outlet, prefix)
            self._forget_places(outlet)
            del self._outlets[link]
            for key in [key for key in self._counts if key[0] == link]:
                del self._counts[key]

    def broken(self, link: Link) -> None:
        """The connection of an endpoint that dials broke; the next one tells again what is true."""
        endpoint = self._inlets.get(link) or self._outlets.get(link)
        if endpoint is not None:
            endpoint.connection += 1

    def remade(self, link: Link) -> None:
        """An endpoint is a new one under the same name: one in front knows no subscriptions, one behind has none."""
        inlet, outlet = self._inlets.get(link), self._outlets.get(link)
        if inlet is not None:
            self.up += [(link, wire.subscription(each)) for each in sorted(self._all(inlet))]
        if outlet is not None:
            for prefix in list(outlet.prefixes):
                self._unsubscribe(outlet, prefix)

    # ---- from below ------------------------------------------------------------------

    def subscription(self, link: Link, frame: bytes, token: bytes, now: float) -> None:
        """An XPUB got this: a subscription, or the end of one. What is neither is counted, and dropped.

        Args:
            link: the outlet's.
            frame: as it came.
            token: names the connection; b"" where it is not known which it is.
            now: the time.
        """
        outlet = self._outlets.get(link)
        if outlet is None:
            return
        try:
            change = wire.read_subscription(frame)
        except DecodeError:
            self.counters["hints_bad"] += 1
            return
        if change.on:
            self._subscribe(outlet, change.prefix, token, now)
        else:
            self._count(outlet, token, -1, -len(change.prefix))
            if change.prefix in outlet.prefixes:
                self._unsubscribe(outlet, change.prefix)

    def _count(self, outlet: Outlet, token: bytes, more: int, size: int) -> bool:
        """Count what a connection subscribes. False: it is too much."""
        key = (outlet.link, token)
        counts = self._counts.get(key)
        if counts is None:
            if more < 0:
                return True
            if len(self._counts) >= MAX_CONNECTIONS:
                del self._counts[next(iter(self._counts))]
            counts = self._counts[key] = [0, 0]
        counts[0] += more
        counts[1] += size
        if counts[0] <= 0:
            del self._counts[key]
        return not token or (counts[0] <= MAX_SUBSCRIPTIONS_OF_ONE and counts[1] <= MAX_SUBSCRIBED_BYTES_OF_ONE)

    def _subscribe(self, outlet: Outlet, prefix: bytes, token: bytes, now: float) -> None:
        private = _private(prefix)
        known = prefix in outlet.prefixes
        if not self._count(outlet, token, 1, len(prefix)) or not (known or self._has_room(prefix, private)):
            self.counters["subscriptions_refused"] += 1
            if token:
                self.cuts.append((outlet.link, token))
                self._counts.pop((outlet.link, token), None)
            return
        if known:
            return
        first = not self._wanted(prefix)
        outlet.prefixes.add(prefix)
        self._size += len(prefix)
        self.counters["subscriptions"] += 1
        if private is None:
            if first:
                self.up += [(link, wire.subscription(prefix)) for link in self._inlets]
            return
        key = (private.instance, private.number)
        first = not any(key in each.privates for each in self._outlets.values())
        outlet.privates.setdefault(key, []).append(prefix)
        if outlet.dialled and private.hint:
            self._learn(outlet, False, private.hint, now)
        if first:
            self.up += [(inlet.link, wire.subscription(_named(key, inlet.hint))) for inlet in self._inlets.values()]

    def _has_room(self, prefix: bytes, private: wire.Private | None) -> bool:
        count = sum(len(each.prefixes) for each in self._outlets.values())
        if count >= MAX_SUBSCRIPTIONS or self._size + len(prefix) > MAX_SUBSCRIBED_BYTES:
            return False
        return private is None or sum(len(each.privates) for each in self._outlets.values()) < MAX_PRIVATES

    def _wanted(self, prefix: bytes) -> bool:
        return any(prefix in each.prefixes for each in self._outlets.values())

    def _unsubscribe(self, outlet: Outlet, prefix: bytes) -> None:
        outlet.prefixes.discard(prefix)
        self._size -= len(prefix)
        private = _private(prefix)
        if private is None:
            if not self._wanted(prefix):
                self.up += [(link, wire.subscription(prefix, False)) for link in self._inlets]
            return
        key = (private.instance, private.number)
        names = outlet.privates[key]
        names.remove(prefix)
        if names:
            return
        del outlet.privates[key]
        if not any(key in each.privates for each in self._outlets.values()):
            for inlet in self._inlets.values():
                self.up.append((inlet.link, wire.subscription(_named(key, inlet.hint), False)))

    def _all(self, inlet: Inlet) -> Iterator[bytes]:
        """What is subscribed over an inlet."""
        yield from {each for outlet in self._outlets.values() for each in outlet.prefixes if _private(each) is None}
        yield from {_named(key, inlet.hint) for outlet in self._outlets.values() for key in outlet.privates}

    # ---- from above ------------------------------------------------------------------

    def fence(self, link: Link, frame: bytes, now: float) -> bool:
        """A single frame that begins with ``p`` came over an inlet. False: it is no fence, but somebody's message.

        A fence is told to whoever asked for it; one that nobody asked for, or that cannot be read, is dropped.
        """
        inlet = self._inlets.get(link)
        end = frame.find(0, 1, wire.MAX_PRIVATE + 2)
        private = _private(frame[: end + 1]) if end > 0 else None
        if private is None or inlet is None:
            return False
        key = (private.instance, private.number)
        asked = [(each, name) for each in self._outlets.values() for name in each.privates.get(key, ())]
        try:
            found = wire.read(frame)
        except DecodeError:
            self.counters["fences_bad"] += 1
            return True
        if isinstance(found, wire.Fence):
            self._know(found.stream)
            if asked and inlet.dialled and found.recovery:
                self._learn(inlet, True, found.recovery, now)
            for outlet, name in asked:
                told = found._replace(private=name[1:-1].decode(), recovery=outlet.hint, seat=_seat(inlet, found))
                self.down.append((outlet.link, told.pack()))
        else:  # of a version that is not spoken here: only the name may be read
            self.down += [(outlet.link, name + frame[end + 1 :]) for outlet, name in asked]
        self.counters["fences"] += 1
        return True

    def _know(self, stream: bytes) -> None:
        if stream not in self.streams:
            if len(self.streams) >= MAX_STREAMS:
                del self.streams[next(iter(self.streams))]
            self.streams[stream] = None

    # ---- places ----------------------------------------------------------------------

    def _learn(self, endpoint: Inlet, front: bool, told: str, now: float) -> None:
        """Somebody says where his recovery channel is: it is followed at the host of the endpoint only."""
        address = recovery_address(endpoint.address, told)
        if not address:
            self.counters["fences_bad" if front else "hints_bad"] += 1
            return
        places = endpoint.places
        if address not in places:
            if len(places) >= MAX_PLACES:
                self.counters["places_refused"] += 1
                return
            self._tell(front, address, 1)
        places[address] = endpoint.connection
        if endpoint.fade_at is None and any(each != endpoint.connection for each in places.values()):
            endpoint.fade_at = now + FADE_SECONDS

    def _forget_places(self, endpoint: Inlet, but: int | None = None) -> None:
        front = not isinstance(endpoint, Outlet)
        for address, connection in list(endpoint.places.items()):
            if connection != but:
                del endpoint.places[address]
                self._tell(front, address, -1)

    def _tell(self, front: bool, address: str, more: int) -> None:
        count = self._told.pop((front, address), 0)
        if count + more:
            self._told[front, address] = count + more
        if not count or not count + more:
            self.places.append(Place(front, address, more > 0))

    def next_deadline(self) -> float | None:
        """When `handle_timer` is to be called; None: never, as things stand."""
        return min((each.fade_at for each in self._endpoints() if each.fade_at is not None), default=None)

    def handle_timer(self, now: float) -> None:
        """Forget what is out of date."""
        for each in self._endpoints():
            if each.fade_at is not None and each.fade_at <= now:
                each.fade_at = None
                self._forget_places(each, each.connection)

    def _endpoints(self) -> Iterator[Inlet]:
        yield from self._inlets.values()
        yield from self._outlets.values()


def _private(prefix: bytes) -> wire.Private | None:
    """Whose private topic this is; None: it is none, but any other subscription."""
    if prefix[:1] != b"p":
        return None
    try:
        return wire.read_private(prefix)
    except DecodeError:
        return None


def _seat(inlet: Inlet, fence: wire.Fence) -> str:
    """Who else comes with this seat came in the place of the one who had it: at an address to which we connect there is
    one publisher, or a forwarder that knows their seats. Those who connect to us come beside each other."""
    if not inlet.dialled:
        return fence.publisher
    return hashlib.blake2b(f"{inlet.address} {fence.seat}".encode(), digest_size=8).hexdigest()


def _named(key: tuple[bytes, int], hint: str) -> bytes:
    return topics.private_topic(wire.private_name(*key, hint))
