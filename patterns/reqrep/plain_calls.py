"""Calls of plain clients: in the same queue as all others, without window, retry or credit.

Pure. Bounded by the queue's limits, and by how many a connection may have open.
"""

from __future__ import annotations

from typing import Final

from zmqkit.patterns.reqrep import calls, plain
from zmqkit.patterns.reqrep.calls import Answer, Execution
from zmqkit.patterns.reqrep.plain import Plain
from zmqkit.patterns.reqrep.streaming import Streaming
from zmqkit.patterns.reqrep.window import QUEUED, RUNNING, Entry
from zmqkit.protocol.core import Frames, Link

MAX_OPEN: Final = 100
"""Requests that one connection may have open..."""
MAX_BEHIND: Final = 10_000
"""...and one behind which others are: a device's."""


class PlainCalls(Streaming):
    """See `zmqkit.patterns.reqrep.server.ServerCore` for the arguments."""

    def receive_message(self, link: Link, frames: Frames, now: float) -> None:
        """See `Core`."""
        # First whether it may be: most messages are not.
        if frames and frames[0][:1] not in plain.HEADERS and plain.is_plain(frames):
            self._receive_plain(link, frames, now)
        else:
            super().receive_message(link, frames, now)

    def _receive_plain(self, link: Link, frames: Frames, now: float) -> None:
        self.counters["plain_received"] += 1
        origin = plain.origin(link, frames)
        try:
            origin, request = plain.read(origin, frames, self.limits)
        except plain.BadPlain as bad:
            self.counters["plain_refused"] += 1
            self.out.sends.append((link, plain.failure(origin._replace(id=bad.id), bad.code, str(bad))))
            return
        method, body, timeout = request
        info = self.methods.get(method)
        open_here = self._plain.get(link, ())
        if self.draining:
            self._refuse_plain(origin, "draining", "the server takes no more calls")
        elif info is None:
            self._refuse_plain(origin, "method", f"there is no method {method!r}")
        elif len(open_here) >= (most := MAX_OPEN if len(origin.envelope) < 2 else MAX_BEHIND):
            self._refuse_plain(origin, "overloaded", f"{most} requests of this connection are open")
        elif why := self._overloaded(method, info, len(body)):
            self._refuse_plain(origin, "overloaded", why)
        else:
            execution = Execution(b"", 0, method, body)
            execution.plain = origin
            execution.deadline = None if timeout is None else now + timeout
            entry = Entry(None, 0, "", method, QUEUED)
            self._plain.setdefault(link, {})[entry] = None
            self._accept(entry, execution, info, now)

    def _refuse_plain(self, origin: Plain, code: str, message: str) -> None:
        self.counters["plain_refused"] += 1
        refused = Answer(calls.REFUSED, code=code, message=message)
        self.out.sends.append((origin.link, plain.answer(origin, refused, self.limits)))

    def _answer_plain(self, entry: Entry, execution: Execution, answer: Answer) -> None:
        origin: Plain = execution.plain
        open_here = self._plain.get(origin.link)
        if open_here is None or entry not in open_here:
            return  # its connection is gone
        del open_here[entry]
        if not open_here:
            del self._plain[origin.link]
        if answer.kind == calls.REFUSED:
            self.counters["plain_refused"] += 1
        self.out.sends.append((origin.link, plain.answer(origin, answer, self.limits)))

    def link_down(self, link: Link, now: float) -> None:
        """See `Core`. Nobody can ask again for what a plain client waited for."""
        for entry in self._plain.pop(link, ()):
            if entry.state == RUNNING and entry.execution is not None:
                self._cancel_execution(entry, entry.execution)
            elif entry.state == QUEUED:
                self.counters["calls_dropped"] += 1
                self._unqueue(entry)
                self._refuse_waiting(entry, "cancelled", "", now)
        super().link_down(link, now)
