"""Who does not read what is sent to him: connections whose descriptors are never writable while much is sent.

Knows descriptors; no zmq, no core, no clock. libzmq tells nothing of how much waits for one connection. But it writes
as soon as a connection takes something, so where one can be written to, hardly anything waits. One that never could,
whenever it was looked at while so much was sent, has about so much waiting, or is about to.
"""

from __future__ import annotations

import select
from typing import Final

from zmqkit.transport.data import alive

LOOKS: Final = 16
"""So often each is looked at while as much is sent as may wait; more often with little traffic would tell no more."""


class Lagging:
    """The connections of one socket, by their tokens (see `zmqkit.transport.data`).

    Args:
        most_bytes: so much may wait for one connection...
        most_messages: ...or so many messages.
    """

    def __init__(self, most_bytes: int, most_messages: int) -> None:
        self._most = (most_bytes, most_messages)
        self._steps = (max(1, most_bytes // LOOKS), max(1, most_messages // LOOKS))
        self._looked = (0, 0)
        self._marks: dict[bytes, tuple[int, int]] = {}
        """Token -> how much had been sent when it could be written to."""
        self._fds: dict[bytes, int] = {}

    def __len__(self) -> int:
        return len(self._marks)

    def add(self, token: bytes, fd: int, size: int, messages: int) -> None:
        """Something came over the connection with this descriptor, when so much had been sent."""
        if token not in self._marks:
            self._marks[token] = (size, messages)
            self._fds[token] = fd

    def is_due(self, size: int, messages: int) -> bool:
        """Whether so much has been sent by now that it is time to `look`."""
        return size - self._looked[0] >= self._steps[0] or messages - self._looked[1] >= self._steps[1]

    def look(self, size: int, messages: int) -> list[bytes]:
        """Tokens of those for whom too much waits; they are forgotten, as are those that are gone.

        Args:
            size: bytes sent so far.
            messages: the same in messages.
        """
        self._looked = (size, messages)
        poller = select.poll()
        by_fd: dict[int, bytes] = {}
        for token, fd in list(self._fds.items()):
            if alive(token):
                by_fd[fd] = token
                poller.register(fd, select.POLLOUT)
            else:
                self._forget(token)
        for fd, _ in poller.poll(0):  # also of broken ones: libzmq is about to notice
            self._marks[by_fd.pop(fd)] = (size, messages)
        late = [
            token
            for token in by_fd.values()
            if size - self._marks[token][0] > self._most[0] or messages - self._marks[token][1] > self._most[1]
        ]
        for token in late:
            self._forget(token)
        return late

    def _forget(self, token: bytes) -> None:
        del self._marks[token], self._fds[token]
