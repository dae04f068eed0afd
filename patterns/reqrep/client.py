"""The client's core: calls go to servers, and each ends with one answer (docs/protocol.md, section 12).

Pure. A call's way::

    waiting --room at a server--> handed --RESULT, ERROR, END--> done
       ^                            |--REFUSED, or lost and safe to send again--> waiting
       |                            '--lost, its window may come back--> limbo --the window is back--> handed
       '--its deadline, a cancellation, or the close end it anywhere

The parts below: `zmqkit.patterns.reqrep.placing` hands over and answers, `returning` decides what follows when a
server refuses or is lost, `keeping` stores durable calls, `balance` picks the server.
"""

from __future__ import annotations

import random
from typing import Any, Final

from zmqkit.errors import DecodeError
from zmqkit.options import Limits
from zmqkit.patterns.reqrep import wire
from zmqkit.patterns.reqrep.balance import Server
from zmqkit.patterns.reqrep.calls import (
    CANCELLED,
    DONE,
    ERROR,
    NOT_SENT,
    NOT_SENT_IN_TIME,
    RESULT,
    UNKNOWN,
    Answer,
    Call,
    Item,
)
from zmqkit.patterns.reqrep.keeping import Keeping
from zmqkit.patterns.reqrep.placing import CLOSED
from zmqkit.protocol import wire as session_wire
from zmqkit.protocol.core import Frames
from zmqkit.protocol.local import Local
from zmqkit.protocol.session import Session
from zmqkit.protocol.timers import Timers

AHEAD: Final = 64
"""An upload may be so many items ahead of what went out, however many its server would take."""

_new = tuple.__new__
"""Past the constructors of named tuples, which are Python functions; for the one that each call needs."""


class ClientCore(Keeping):
    """The client's state machine.

    Args:
        local: what this side says of itself; ``about["client"]`` is its key.
        rng: ids and jitter.
        durable: there is a journal, for the calls that ask for it.
        limits: how many calls, and bytes of them, may wait for a server.
    """

    def __init__(
        self, local: Local, rng: random.Random, *, durable: bool = False, limits: Limits | None = None
    ) -> None:
        super().__init__(local, rng, limits or Limits())
        self.durable = durable
        for name in ("replies_late",):
            self.counters.setdefault(name, 0)

    # ---- verbs of the user -----------------------------------------------------------

    def call(self, call: Call, now: float) -> None:
        """A call begins. Its ticket gets an `Answer`, exactly once; a stream's each `Item` before it.

        A durable one has no deadline; it is handed over when it is stored.
        """
        deadline = call.deadline
        if self._closing:
            call.done = True
            self.out.replies.append((call.ticket, Answer(NOT_SENT, code="closed", message=CLOSED)))
            return
        if call.durable:
            call.durable = self.durable
            if self.durable:
                self._begin_durable(call, now)
                return
        if deadline is not None:
            if deadline <= now:
                self.counters["calls_late"] += 1
                call.done = True
                self.out.replies.append((call.ticket, Answer(NOT_SENT_IN_TIME)))
                return
            self._deadlines.add(deadline, call)
        if not self._waiting and not self._back:
            server = self.balance.pick()
            if server is not None:
                self._hand(server, call, now)
                return
        elif self._turned_away(call):
            return
        self._wait(call)

    def cancel(self, call: Call, now: float) -> None:
        """The caller does not want it any more. It is answered at once; its server is told."""
        if call.done:
            return
        self.counters["calls_cancelled"] += 1
        if type(call.core) is Server:
            self._gather(call.core, [wire.CANCEL, call.number, None], None, now)
        self._end(call, Answer(CANCELLED))

    def grant(self, call: Call, limit: int, now: float) -> None:
        """So many items of a stream may come, all that came included."""
        if call.done or call.items is None or limit <= call.items:
            return
        call.items = limit
        if type(call.core) is Server:
            self._gather(call.core, [wire.GRANT, call.number, None, limit], None, now)

    def upload(self, call: Call, bodies: list[tuple[bytes, str]], now: float) -> None:
        """Items of an argument that is a stream, each with its codec; not more than `Call.upload_limit` in all."""
        server = call.core
        if type(server) is not Server:
            return  # it ended, and the uploader will see that
        trail = self._trail(call)
        for body, codec in bodies:
            record = [wire.ITEM, call.number, 0, trail.uploaded, None if codec == "msgpack" else codec]
            trail.uploaded += 1
            server.uploading += len(body)
            server.unheard_bytes += len(body)
            self._gather(server, record, body, now)
        self._let_upload(call, server)

    def upload_end(self, call: Call, now: float) -> None:
        """All items were uploaded."""
        if type(call.core) is Server:
            self._gather(call.core, [wire.END, call.number, None, self._trail(call).uploaded], None, now)

    def upload_abort(self, call: Call, reason: str, now: float) -> None:
        """The argument broke: no more items come, and those that came are not all."""
        if type(call.core) is Server:
            self._gather(call.core, [wire.ABORT, call.number, None, reason[: wire.MAX_MESSAGE]], None, now)

    def await_upload(self, call: Call, beyond: int, ticket: Any, now: float) -> None:
        """`ticket` gets None once more than `beyond` items may be uploaded, or the call is done."""
        if call.done or call.upload_limit > beyond:
            self.out.replies.append((ticket, None))
        else:
            self._trail(call).waiters.append((beyond, ticket))

    def close(self, now: float) -> None:
        """See `Core`: all calls end, and it is goodbye."""
        self._closing = True
        self._end_all()
        self.end_turn(now)
        self._timers = Timers()
        super().close(now)

    def _end_all(self) -> None:
        waiting = [
            *self._back,
            *self._waiting.values(),
            *(call for call, trail in self._trails.items() if trail.paused),
        ]
        handed = [call for window in self.balance.windows.values() for call in window.calls.values()]
        for call in (*waiting, *handed, *self._kept):
            if not call.done:
                self._end_closed(call)

    # ---- records ---------------------------------------------------------------------

    def received(self, session: Session, frames: Frames, messages: int, now: float) -> None:
        """A server answers. What answers no open call of its window came too late: it is dropped."""
        server = self.balance.servers.get(session.id)
        if server is None:
            return
        _, _, records = wire.read(frames, wire.FROM_SERVER)
        open_calls = server.window.calls
        answered = late = 0
        for record in records:
            try:
                if record[0] == wire.RESULT:
                    call = open_calls.get(record[1])
                    if call is None:
                        late += 1
                        continue
                    if call.items is not None:
                        raise DecodeError("RESULT of a stream")
                    codec = record[3]
                    if codec is None:
                        answer = _new(Answer, (RESULT, record[2], "msgpack", "", "", "", None))
                    else:
                        answer = Answer(RESULT, record[2], wire.codec(codec))
                    answered += 1
                    self._end(call, answer)
                else:
                    self._receive_other(server, record, record[2], now)
            except DecodeError as error:
                self.sessions.bad_frame(session.link, str(error))
                self._spoiled(server, record)
        if answered:
            self.counters["calls_answered"] += answered
            if not server.proved:
                self._prove(server)
        if late:
            self.counters["replies_late"] += late

    def _receive_other(self, server: Server, record: wire.Record, body: bytes, now: float) -> None:
        op, number = record[0], record[1]
        if op == wire.METHODS:
            server.methods = wire.names(body)
            return
        if op == wire.DRAINING:
            server.draining = True
            self.balance.refresh(server)
            return
        call = server.window.calls.get(number)
        if call is None:
            if op not in (wire.ITEM, wire.GRANT):
                self.counters["replies_late"] += 1
            return
        if op == wire.ITEM:
            self._receive_item(call, record, body)
            return
        if op == wire.GRANT:
            self._receive_grant(call, server, session_wire.number(record[3], "limit"))
            return
        if op == wire.ERROR:
            self.counters["calls_answered"] += 1
            self._end(call, Answer(ERROR, body, server=server.name))
        elif op == wire.END:
            if call.items is None or type(record[3]) is not int or record[3] != call.received:
                raise DecodeError(f"END of {session_wire.shown(record[3])} items; {call.received} came")
            self.counters["calls_answered"] += 1
            self._end(call, Answer(DONE))
        elif op == wire.REFUSED:
            code, message = wire.refusal(record)
            self._refused(call, server, code, message, now)
        else:
            code, message = wire.refusal(record)
            self._unknown(call, server, code, message)
        if not server.proved:
            self._prove(server)

    def _receive_item(self, call: Call, record: wire.Record, body: bytes) -> None:
        items, index = call.items, record[3]
        if items is None or type(index) is not int or index != call.received or index >= items:
            raise DecodeError(f"ITEM {session_wire.shown(index)} after {call.received} of {items} that may come")
        codec = record[4]
        item = Item(body, "msgpack" if codec is None else wire.codec(codec))
        call.received += 1
        self.out.replies.append((call.ticket, item))

    def _receive_grant(self, call: Call, server: Server, limit: int) -> None:
        if call.uploads and limit > self._trail(call).granted:
            self._trail(call).granted = limit
            self._let_upload(call, server)

    def heard(self, session: Session, now: float) -> None:
        """See `PatternCore`: a server heard more, so uploads to it go on."""
        server = self.balance.servers.get(session.id)
        if server is None or not server.uploaded:
            return
        uploaded = server.uploaded
        while uploaded and uploaded[0][0] <= session.heard_by_peer:
            server.unheard_bytes -= uploaded.popleft()[1]
        held, server.held = server.held, {}
        for call in held:
            if not call.done and call.core is server:
                self._let_upload(call, server)

    def _let_upload(self, call: Call, server: Server) -> None:
        """Let more items come, as far as the server takes them, and hears what it said that it takes."""
        if server.unheard_bytes > self.limits.queued_bytes:
            server.held[call] = None
            return
        trail = self._trail(call)
        limit = min(trail.granted, trail.uploaded + AHEAD)
        if limit <= call.upload_limit:
            return
        call.upload_limit = limit
        self.out.replies.extend((ticket, None) for beyond, ticket in trail.waiters if beyond < limit)
        trail.waiters = [each for each in trail.waiters if each[0] >= limit]

    def _spoiled(self, server: Server, record: wire.Record) -> None:
        """An answer that cannot be read is one all the same: nothing more will come."""
        call = server.window.calls.get(record[1])
        if call is not None and record[0] != wire.GRANT:
            self.counters["calls_unknown"] += 1
            why = "its answer breaks the protocol, and cannot be read"
            self._end(call, Answer(UNKNOWN, code="unreadable", message=why, server=server.name))

    # ---- the turn --------------------------------------------------------------------

    def end_turn(self, now: float) -> None:
        """Send what was gathered; calls that wait go where there is room."""
        if self._again:
            self._send_again(now)
        if self._waiting or self._back:
            self._place_waiting(now)
        if self._gathered:
            gathered, self._gathered = self._gathered, []
            for server in gathered:
                self._flush(server, now)
        if self._ended or self._told or self.sessions.granted or self.sessions.ups:
            super().end_turn(now)

    def next_deadline(self) -> float | None:
        """See `Core`."""
        heap = self.sessions.timers.heap
        due = heap[0][0] if heap else None
        when = self._deadlines.next()
        if when is not None and (due is None or when < due):
            due = when
        if self._timers.heap or self._trails:  # what is paused has a trail
            times = (due, self._paused.next(), self._timers.next())
            due = min((each for each in times if each is not None), default=None)
        return due

    def handle_timer(self, now: float) -> None:
        """See `Core`."""
        self._run_timers(now)
        super().handle_timer(now)
