"""Which server gets the next call: what a client thinks of each, and the pick (docs/protocol.md, section 12).

Pure; knows sessions by what they say of themselves, and sends nothing. One state a server::

    up --link gone, or busy--> suspect --link back, answers--> up
     '-------------lost--------> out --a new session--> probing --a call answered, or one bound survived--> up

Up servers take calls, and probing ones a call at a time. The others take none.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Container, Hashable
from typing import Final

from zmqkit.patterns.reqrep.calls import Call, ServerState
from zmqkit.patterns.reqrep.wire import Packer
from zmqkit.protocol.session import Session

MAX_REMEMBERED: Final = 1024
"""So many addresses that are out, and so many windows' floors, are remembered; the oldest go first."""


class Window:
    """A server's memory of our calls; it may outlive sessions, and with a journal the server.

    Attributes:
        id: as the server says it.
        durable: it is in a journal: it comes back.
        calls: what was handed there and may still be answered from there, by number.
        servers: the sessions that lead there now.
        address: of the server that was lost last.
        kept: numbers that were answered, and that our journal has still: after a crash they are asked for again.
        told: the highest floor that was told there.
        answered: how many calls were taken since the floor was looked for.
        high: above all numbers that were handed there.
    """

    __slots__ = ("_low", "address", "answered", "calls", "durable", "high", "id", "kept", "servers", "told")

    def __init__(self, id: bytes, durable: bool, told: int) -> None:
        self.id = id
        self.durable = durable
        self.calls: dict[int, Call] = {}
        self.servers: list[Server] = []
        self.address: Hashable = None
        self.kept: set[int] = set()
        self.told = told
        self._low = told
        self.high = told
        self.answered = 0

    def put(self, call: Call) -> None:
        """A call is handed there."""
        number = call.number
        self.calls[number] = call
        if number >= self.high:
            self.high = number + 1
        elif number < self._low:
            self._low = number

    def take(self, call: Call) -> None:
        """A call is no longer to be answered from there."""
        del self.calls[call.number]
        self.answered += 1

    def floor(self) -> int:
        """No call below it is open there. It may lag behind: to look costs as much as there are calls."""
        if self.answered >= len(self.calls):
            self.answered = 0
            self._low = min(self.calls, default=self.high)
        low = min(self._low, min(self.kept)) if self.kept else self._low
        if low > self.told:
            self.told = low
        return self.told


class Server:
    """One session with a server.

    Attributes:
        session: it.
        name: for people.
        address: by which it is known again when it comes back: see `Sessions.place`.
        epoch: its calls are for this one.
        window: where its replies are kept.
        load: calls that were handed there and not answered.
        packer: records on their way, until the turn ends.
        methods: the names of the idempotent ones.
        draining: it takes no more calls.
        proved: it has answered a call since it came back from being out, or was never out.
        state: see `ServerState`.
        again: calls of its window that are to be sent there again as soon as it has room.
        uploaded: (number, bytes) of messages with items of uploads that are not known to be heard.
        uploading: bytes of items that `packer` holds.
        unheard_bytes: bytes of items that it is not known to have heard, those of `packer` included.
        held: calls whose upload waits until it has heard more.
    """

    __slots__ = (
        "address", "again", "draining", "epoch", "held", "load", "methods", "name", "packer", "proved", "session",
        "state", "unheard_bytes", "uploaded", "uploading", "window",
    )  # fmt: skip

    def __init__(self, session: Session, address: Hashable, window: Window, epoch: bytes, *, proved: bool) -> None:
        self.session = session
        self.name = session.peer.name or session.peer.instance.hex()
        self.address = address
        self.epoch = epoch
        self.window = window
        self.load = 0
        self.packer = Packer()
        self.uploaded: deque[tuple[int, int]] = deque()
        self.uploading = self.unheard_bytes = 0
        self.held: dict[Call, None] = {}
        self.methods: frozenset[str] = frozenset()
        self.draining = False
        self.proved = proved
        self.state = ServerState.UP if proved else ServerState.PROBING
        self.again: list[Call] = []

    @property
    def room(self) -> int:
        """How many more calls its credit allows."""
        return self.session.room_messages - self.packer.calls

    def judge(self) -> None:
        """Read the state off the session."""
        session = self.session
        if session.ended:
            self.state = ServerState.OUT
        elif session.link is None or session.busy:
            self.state = ServerState.SUSPECT
        else:
            self.state = ServerState.UP if self.proved else ServerState.PROBING


class Balance:
    """All servers of a client, and which of them may take calls.

    Attributes:
        servers: by the session's id.
        windows: by their id: those that a server leads to, or where calls are open.
    """

    def __init__(self) -> None:
        self.servers: dict[bytes, Server] = {}
        self.windows: dict[bytes, Window] = {}
        self._ready: list[Server] = []
        self._turn = 0
        self._out: dict[Hashable, str] = {}
        """Addresses that are out: the reason."""
        self._floors: dict[bytes, int] = {}

    def add(self, session: Session, address: Hashable, epoch: bytes, window: bytes, *, durable: bool) -> Server:
        """A session opened. The server is to prove itself if its address was out."""
        home = self.window(window, durable=durable)
        home.durable = durable
        server = Server(session, address, home, epoch, proved=True)
        if self._out.pop(server.address, None) is not None:
            server.proved = False
        home.servers.append(server)
        self.servers[session.id] = server
        self.refresh(server)
        return server

    def window(self, id: bytes, *, durable: bool) -> Window:
        """The window of this id; a new one remembers what floor was told there before."""
        known = self.windows.get(id)
        if known is None:
            known = self.windows[id] = Window(id, durable, self._floors.get(id, 0))
        return known

    def remove(self, session: Session, reason: str) -> Server | None:
        """A session is lost: its address is out."""
        server = self.servers.pop(session.id, None)
        if server is None:
            return None
        self._out[server.address] = reason
        if len(self._out) > MAX_REMEMBERED:
            del self._out[next(iter(self._out))]
        server.window.servers.remove(server)
        server.window.address = server.address
        self.refresh(server)
        return server

    def release(self, window: Window) -> None:
        """Forget a window if nothing leads there and nothing is open there, but for its floor."""
        if window.servers or window.calls or window.kept:
            return
        if self.windows.pop(window.id, None) is not None:
            self._floors.pop(window.id, None)
            self._floors[window.id] = window.told
            if len(self._floors) > MAX_REMEMBERED:
                del self._floors[next(iter(self._floors))]

    def refresh(self, server: Server) -> None:
        """Something of this server changed that its state, or the pick, depends on."""
        server.judge()
        wanted = (ServerState.UP, ServerState.PROBING)
        self._ready = [each for each in self.servers.values() if each.state in wanted and not each.draining]

    def ready(self, server: Server) -> bool:
        """It may be sent calls, as far as its state and its credit go."""
        return server.state in (ServerState.UP, ServerState.PROBING) and not server.draining and server.room > 0

    def states(self) -> dict[str, ServerState]:
        """What is thought of each, by name; of those that are out, by address."""
        found = {str(address): ServerState.OUT for address in self._out}
        found.update((server.name, server.state) for server in self.servers.values())
        return found

    def pick(self, tried: Container[Server] = ()) -> Server | None:
        """The one that has the fewest calls outstanding, in turn among equals; None: all must wait."""
        ready = self._ready
        if len(ready) == 1:
            only = ready[0]
            session = only.session
            # `session.room_messages` written out, for each lone call comes here.
            has_room = session.used_bytes < session.peer_bytes and (
                session.peer_messages - session.used_messages > only.packer.calls
            )
            return only if has_room and (only.proved or not only.load) and only not in tried else None
        best: Server | None = None
        least = at = 0
        count = len(ready)
        if self._turn >= count:
            self._turn = 0
        for step in range(self._turn - count, self._turn):
            server = ready[step]  # a negative index is one from the end: this goes round once
            load = server.load
            if (
                (best is None or load < least)
                and (load == 0 or server.proved)
                and server not in tried
                and server.session.room_messages > server.packer.calls
            ):
                best, least, at = server, load, step
                if load == 0:
                    break
        if best is not None and count > 1:
            self._turn = (at + 1) % count
        return best
