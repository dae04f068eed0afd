"""One client's session, as the server sees it: what is open in it, its credit, and what is gathered for it.

Pure.
"""

from __future__ import annotations

import heapq
from collections import deque
from typing import TYPE_CHECKING, Final

from zmqkit.patterns.reqrep import wire
from zmqkit.patterns.reqrep.calls import Eaten
from zmqkit.protocol.session import Session

if TYPE_CHECKING:
    from zmqkit.patterns.reqrep.window import Client, Entry

LEAST_FRAME: Final = 65_536
"""No peer takes less in a frame, whatever it says."""

ENVELOPE: Final = 1024
"""Bytes of a frame that are kept free for what travels around a body."""


class Caller:
    """A session with a client.

    Attributes:
        session: with it.
        client: what is remembered of it, over all its sessions.
        open: entries that wait for their answer here, by the number that it is asked for by.
        finished: a heap of the numbers that were answered here and may be forgotten once the floor passes them.
        floor: the newest that it told.
        eaten: how much time messages lose on their way.
        packer: records that go out at the turn's end.
        taken_calls: CALLs that came.
        taken_bytes: bytes of the messages that they came in.
        open_calls: CALLs whose answer it is not known to have heard.
        open_bytes: bytes of arguments that are held for it.
        answered: CALLs that what `packer` holds answers.
        unheard_bytes: of answers that it is not known to have heard.
        gathered: bytes of the bodies that `packer` holds.
        most: so many fit into a frame that the client takes.
        largest: the largest body that the client takes.
        held: entries whose stream waits until it has heard more.
    """

    __slots__ = (
        "answered", "client", "eaten", "finished", "floor", "gathered", "held", "largest", "most", "open", "open_bytes",
        "open_calls", "packer", "sent", "session", "taken_bytes", "taken_calls", "touched", "unheard_bytes",
    )  # fmt: skip

    def __init__(self, session: Session, client: Client) -> None:
        self.session = session
        self.client = client
        self.open: dict[int, Entry] = {}
        self.finished: list[int] = []
        self.floor = 0
        self.eaten = Eaten()
        self.packer = wire.Packer()
        self.taken_calls = 0
        self.taken_bytes = 0
        self.open_calls = 0
        self.open_bytes = 0
        self.answered = 0
        self.unheard_bytes = 0
        self.gathered = 0
        frame = max(session.peer.frame_bytes, LEAST_FRAME)
        self.most = min(wire.MAX_BLOB, frame // 2)
        self.largest = frame - ENVELOPE
        self.sent: deque[tuple[int, int, int]] = deque()
        """(number, CALLs answered, bytes) of messages that are not known to be heard."""
        self.held: dict[Entry, None] = {}
        self.touched = False

    def heard(self) -> int:
        """The client has heard more: how many bytes are off our hands."""
        up_to, sent, freed = self.session.heard_by_peer, self.sent, 0
        while sent and sent[0][0] <= up_to:
            _, answered, size = sent.popleft()
            self.open_calls -= answered
            freed += size
        self.unheard_bytes -= freed
        return freed

    def closed(self, floor: int) -> list[int]:
        """The client has closed all below the floor: the numbers that may be forgotten."""
        self.floor = floor
        finished, passed = self.finished, []
        while finished and finished[0] < floor:
            passed.append(heapq.heappop(finished))
        return passed

    def finish(self, number: int) -> bool:
        """A call was answered here. True: its client has closed it already."""
        if number < self.floor:
            return True
        heapq.heappush(self.finished, number)
        if len(self.finished) > 1000 and len(self.finished) > 2 * len(self.client.entries):
            entries = self.client.entries
            self.finished = [each for each in self.finished if each in entries]
            heapq.heapify(self.finished)
        return False
