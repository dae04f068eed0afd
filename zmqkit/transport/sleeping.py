"""How the thread of a driver sleeps until its sockets have something. Knows sockets by their descriptors only.

Asking ZeroMQ (`Polling`) costs a microsecond or two a socket, at every turn. The kernel's set (`Watching`) costs
nothing for those that are quiet; but it tells of a socket's news once, and sending on the socket, too, may take the
notice: so what was sent to, or not read empty, is looked at again.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any, Protocol

import zmq

from zmqkit.transport.readiness import Readiness
from zmqkit.transport.wakeup import Waker
from zmqkit.transport.wires import Wires


class Sleeper(Protocol):
    """One way to sleep.

    Attributes:
        wakeups: how often it was woken by another thread.
    """

    wakeups: int

    def sleep(self, seconds: float) -> list[Any]:
        """Sleep so long at most. Returns the sockets that have something, messages before monitors."""

    def settle(self, now: float) -> bool:
        """All that came was dealt with: True if there is more at once."""

    def close(self) -> None:
        """Give back what it holds."""


class Polling:
    """For few sockets, and for those of which not every notice is wanted."""

    def __init__(self, waker: Waker, wires: Wires) -> None:
        self._waker = waker
        self._wires = wires
        self.wakeups = 0

    def sleep(self, seconds: float) -> list[Any]:
        """See `Sleeper`."""
        waker = self._waker
        ready = zmq.zmq_poll([(waker.fd, zmq.POLLIN), *self._wires.pollset], math.ceil(seconds * 1000))
        sockets: list[Any] = [socket for socket, _ in ready]
        if sockets and sockets[0] == waker.fd:
            self.wakeups += 1
            waker.clear()
        return sockets

    def settle(self, now: float) -> bool:
        """See `Sleeper`."""
        return False

    def close(self) -> None:
        """See `Sleeper`."""


class SocketSet(Readiness):
    """The descriptors of a driver's sockets.

    Attributes:
        sockets: by descriptor.
    """

    def __init__(self, waker: Waker) -> None:
        super().__init__()
        self.add(waker.fd)
        self.sockets: dict[int, Any] = {}
        self.seen = 0
        """`Wires.changes`, when it was last looked at."""
        self._ranks: dict[Any, int] = {}

    def watch(self, wires: Wires) -> list[Any]:
        """The sockets have changed: sleep on those that are there.

        Returns the new ones: their descriptors tell nothing until they were once found empty.
        """
        self.seen = wires.changes
        before, self.sockets = self.sockets, wires.descriptors()
        self._ranks = {socket: rank for rank, socket in enumerate(self.sockets.values())}
        # A closed socket's descriptor may be closed by now, and even be the number of a new one.
        self.remove([fd for fd, socket in before.items() if self.sockets.get(fd) is not socket])
        new = [(fd, socket) for fd, socket in self.sockets.items() if before.get(fd) is not socket]
        for fd, _ in new:
            self.add(fd)
        return [socket for _, socket in new]

    def ready(self, events: Iterable[tuple[int, int]]) -> list[Any]:
        """The sockets that `poll` told of, in the order in which they are to be read."""
        sockets = self.sockets
        found = [socket for fd, _ in events if (socket := sockets.get(fd)) is not None]
        if len(found) > 1:
            found.sort(key=self._ranks.__getitem__)  # what a peer said is heard before that it left
        return found


class Watching:
    """For many sockets."""

    def __init__(self, waker: Waker, wires: Wires) -> None:
        self._waker = waker
        self._wires = wires
        self._set = SocketSet(waker)
        self.wakeups = 0
        wires.unread = []

    def sleep(self, seconds: float) -> list[Any]:
        """See `Sleeper`."""
        events = self._set.poll(seconds)
        waker = self._waker
        for fd, _ in events:
            if fd == waker.fd:
                self.wakeups += 1
                waker.clear()
        return self._set.ready(events)

    def settle(self, now: float) -> bool:
        """See `Sleeper`."""
        wires = self._wires
        more = False
        if wires.changes != self._set.seen:
            wires.handle(self._set.watch(wires), now)
            more = True
        return (bool(wires.unread) and wires.reread(now)) or more

    def close(self) -> None:
        """See `Sleeper`."""
        self._set.close()
