"""Where a call is: it waits, or was handed to a server, until it ends (docs/protocol.md, section 12).

Pure. The lowest part of the client's core: hands calls over, gathers records, answers. What becomes of calls whose
server refuses or is lost is decided above, in `zmqkit.patterns.reqrep.returning`.

`Call.core` tells where it is: a `Server`, it was handed there; a `Window`, its server is lost and it waits in limbo for
the same window; None, it is with neither.
"""

from __future__ import annotations

import random
from collections import OrderedDict
from typing import Any, Final

from zmqkit.options import Limits
from zmqkit.patterns.reqrep.balance import Balance, Server
from zmqkit.patterns.reqrep.calls import (
    LOST,
    NO_REPLY_IN_TIME,
    NOT_SENT,
    NOT_SENT_IN_TIME,
    REFUSED,
    UNKNOWN,
    Answer,
    Call,
)
from zmqkit.patterns.reqrep.deadlines import Deadlines
from zmqkit.patterns.reqrep.wire import CALL, CANCEL, LARGE, MAX_BLOB, MAX_RECORDS, Record
from zmqkit.protocol.local import Local
from zmqkit.protocol.pattern import PatternCore

CLOSED: Final = "this client was closed"

EARLIER: Final = b""
"""Stands in `Trail.exposed` for where it was under an earlier number: no server's answer to the new one clears that."""


class Trail:
    """What only some calls have: those that met trouble, and those that upload.

    Attributes:
        exposed: ids of the windows where it may have been executed, for all we know.
        tried: servers that refused it in this round as overloaded.
        rounds: so many rounds were ended by refusals.
        retries: so many of its retries are used up.
        renumbered: how often a server said that its number has expired.
        paused: until then it waits to begin another round.
        granted: items of its argument that the server takes, all before included.
        uploaded: items of its argument that were sent.
        waiters: (limit that must be passed, ticket) of those who wait to upload more.
    """

    __slots__ = ("exposed", "granted", "paused", "renumbered", "retries", "rounds", "tried", "uploaded", "waiters")

    def __init__(self) -> None:
        self.exposed: set[bytes] = set()
        self.tried: list[Server] = []
        self.rounds = 0
        self.retries = 0
        self.renumbered = 0
        self.paused: float | None = None
        self.granted = 0
        self.uploaded = 0
        self.waiters: list[tuple[int, Any]] = []


class Placing(PatternCore):
    """Hands calls to servers, and answers them.

    Args:
        local: what this side says of itself.
        rng: ids and jitter.
        limits: how many calls, and bytes of them, may wait for a server.
    """

    def __init__(self, local: Local, rng: random.Random, limits: Limits) -> None:
        super().__init__(local, rng)
        self.balance = Balance()
        self.limits = limits
        self._waiting: OrderedDict[int, Call] = OrderedDict()
        self._waiting_bytes = 0
        self._back: list[Call] = []
        """Calls that came back in this turn: they go before all others at its end."""
        self._deadlines: Deadlines[Call] = Deadlines()
        self._paused: Deadlines[Call] = Deadlines()
        self._trails: dict[Call, Trail] = {}
        self._closing = False
        self._gathered: list[Server] = []
        """Servers for whom there are records."""
        for name in ("calls_sent", "calls_answered", "calls_late", "calls_cancelled"):
            self.counters.setdefault(name, 0)

    # ---- hooks of the parts above --------------------------------------------------

    def _keep(self, server: Server, call: Call) -> bool:
        """See to it that the journal knows where a durable call is handed. True: it does, go on."""
        return True

    def _forget(self, call: Call) -> None:
        """A durable call ended: it need not be kept any more."""

    def _renumber(self, call: Call) -> bool:
        """Give a call, which is nowhere, a fresh number. False: it has none to give."""
        if call.renumber is None:
            return False
        if self._exposed(call):
            self._trails[call].exposed.add(EARLIER)
        call.number = call.renumber()
        call.attempt = 0  # of this number it will be the first
        return True

    # ---- handing over ----------------------------------------------------------------

    def _wait(self, call: Call) -> None:
        """Last in line, for a server with room."""
        self._waiting[call.number] = call
        self._waiting_bytes += len(call.body)

    def _turned_away(self, call: Call) -> bool:
        """One more would be too much to wait: it was answered so. (One larger than the whole limit waits alone.)"""
        limits, count = self.limits, len(self._waiting)
        if not count or (
            count < limits.queued_messages and self._waiting_bytes + len(call.body) <= limits.queued_bytes
        ):
            return False
        why = f"{count} calls wait for a server already"
        self._end(call, Answer(NOT_SENT, code="full", message=why))
        return True

    def _hand(self, server: Server, call: Call, now: float) -> None:
        """Put a call on its way to a server that has room."""
        deadline = call.deadline
        if deadline is None:
            remaining = None
        else:
            remaining = deadline - now
            if remaining <= 0:
                self._out_of_time(call, now)
                return
        window = server.window
        if call.number < window.told and call.core is None:
            self._renumber(call)  # replies below the floor that was told there are not kept
        if call.durable and not self._keep(server, call):
            return
        call.core = server
        call.attempt += 1
        number = call.number
        if number >= window.high:  # `put`, written out for fresh numbers
            window.high = number + 1
            window.calls[number] = call
        else:
            window.put(call)
        server.load += 1
        server.session.outstanding = True  # what is sent at the turn's end quickens the heart
        more = None
        if (
            call.attempt > 1 or call.items is not None or call.headers or call.request_id or call.uploads
            or call.codec != "msgpack"
        ):  # fmt: skip
            more = _more(call)
        body = call.body
        packer = server.packer
        records = packer.records
        if len(body) < LARGE and len(records) < MAX_RECORDS - 1 and packer.size < MAX_BLOB - LARGE:
            # `_gather` for what is small, and does not fill the message.
            if not records:
                self._gathered.append(server)
            records.append([CALL, number, body, call.method, remaining, now, more])
            packer.calls += 1
            packer.size += len(body)
        else:
            self._gather(server, [CALL, number, 0, call.method, remaining, now, more], body, now)

    def _gather(self, server: Server, record: Record, body: bytes | None, now: float) -> None:
        """Add a record to what goes to this server at the turn's end."""
        packer = server.packer
        if not packer.records:
            self._gathered.append(server)
        # A large one is sent at once, so that it counts against the credit in bytes before the next.
        if packer.add(record, body) or (body is not None and len(body) >= LARGE):
            self._flush(server, now)

    def _flush(self, server: Server, now: float) -> None:
        packer = server.packer
        if packer.records:
            calls = packer.calls
            self.counters["calls_sent"] += calls
            number = self.sessions.send(server.session, packer.pack(server.epoch, server.window.floor()), calls, now)
            if server.uploading:
                server.uploaded.append((number, server.uploading))
                server.uploading = 0

    def _place_waiting(self, now: float) -> None:
        """Hand over what waits, as far as there is room."""
        waiting = self._waiting
        back, self._back = self._back, []
        for call in reversed(back):
            if not call.done:
                self._wait(call)
                waiting.move_to_end(call.number, last=False)
        while waiting:
            server = self.balance.pick()
            if server is None:
                return
            _, call = waiting.popitem(last=False)
            self._waiting_bytes -= len(call.body)
            self._hand(server, call, now)

    # ---- ends ------------------------------------------------------------------------

    def _trail(self, call: Call) -> Trail:
        trail = self._trails.get(call)
        if trail is None:
            trail = self._trails[call] = Trail()
        return trail

    def _exposed(self, call: Call) -> bool:
        """Some server that was lost may have executed it."""
        trail = self._trails.get(call)
        return trail is not None and bool(trail.exposed)

    def _withdraw(self, call: Call) -> None:
        """Take a call out of wherever it is; it has no answer yet."""
        where = call.core
        if where is None:
            if self._waiting.pop(call.number, None) is not None:
                self._waiting_bytes -= len(call.body)
            return
        call.core = None
        if type(where) is Server:
            where.load -= 1
            if not where.load:
                where.session.outstanding = False
            window = where.window
            del window.calls[call.number]  # `take`, written out
            window.answered += 1
        else:
            where.take(call)
            self.balance.release(where)

    def _end(self, call: Call, answer: Answer) -> None:
        """Answer a call, wherever it is."""
        if call.core is not None or self._waiting:
            self._withdraw(call)
        call.done = True
        call.body = b""  # nobody will send it again; it may be large
        if call.deadline is not None:
            self._deadlines.remove(call.deadline, call)
        if self._trails:
            trail = self._trails.pop(call, None)
            if trail is not None:
                if trail.paused is not None:
                    self._paused.remove(trail.paused, call)
                self.out.replies.extend((ticket, None) for _, ticket in trail.waiters)
        if not call.durable:
            self.out.replies.append((call.ticket, answer))
            return
        if call.ticket is not None:
            self.out.replies.append((call.ticket, answer))
        else:
            self.out.items.append((call, answer))
        self._forget(call)

    def _refuse(self, call: Call, server: Server, code: str, message: str) -> None:
        """Nobody will execute it. That is said only if nobody has."""
        if self._exposed(call):
            why = f"{message} (and a server that was lost before may have executed it)"
            self._end(call, Answer(UNKNOWN, code=code, message=why, server=server.name))
        else:
            self._end(call, Answer(REFUSED, code=code, message=message, server=server.name))

    def _out_of_time(self, call: Call, now: float) -> None:
        """Its deadline is past."""
        self.counters["calls_late"] += 1
        where = call.core
        name = ""
        kind = NO_REPLY_IN_TIME
        if type(where) is Server:
            name = where.name
            self._gather(where, [CANCEL, call.number, None], None, now)
        elif where is None and not self._exposed(call):
            kind = NOT_SENT_IN_TIME
        self._end(call, Answer(kind, server=name))

    def _pause(self, call: Call, until: float) -> None:
        """It is nowhere until then, and waits for a server after it."""
        self._trail(call).paused = until
        self._paused.add(until, call)

    def _end_closed(self, call: Call) -> None:
        """This client is being closed."""
        if call.core is None and not self._exposed(call):
            self._end(call, Answer(NOT_SENT, code="closed", message=CLOSED))
        else:
            name = call.core.name if type(call.core) is Server else ""
            self._end(call, Answer(LOST, code="closed", message=CLOSED, server=name))


def _more(call: Call) -> dict[str, Any]:
    """What only some calls say."""
    more: dict[str, Any] = {}
    if call.attempt > 1:
        more["attempt"] = call.attempt
    if call.items is not None:
        more["items"] = call.items
    if call.headers:
        more["headers"] = dict(call.headers)
    if call.request_id:
        more["id"] = call.request_id
    if call.uploads:
        more["uploads"] = list(call.uploads)
    if call.codec != "msgpack":
        more["codec"] = call.codec
    return more
