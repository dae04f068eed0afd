"""The server's core: takes calls in, executes each at most once, answers whoever repeats one (docs/protocol.md,
section 8).

Pure. A call's way::

    CALL --> queued --> (its start is stored) --> running --> done, kept in the window
      |        |                 |                                  |
      |        '-----------------'---> refused, forgotten           '--> closed by its client, or evicted
      '--> repeated: answered from its entry

What was refused was not executed, and its number is free again.
"""

from __future__ import annotations

from typing import Final

from zmqkit.errors import DecodeError
from zmqkit.patterns.reqrep import calls, wire
from zmqkit.patterns.reqrep.callers import Caller
from zmqkit.patterns.reqrep.calls import Answer, Execution
from zmqkit.patterns.reqrep.dispatch import Dispatch
from zmqkit.patterns.reqrep.window import DONE, QUEUED, RUNNING, STARTED, STORING, Entry
from zmqkit.protocol import wire as protocol
from zmqkit.protocol.core import Frames
from zmqkit.protocol.session import Session

EXPIRED: Final = Answer(calls.UNKNOWN, code="expired", message="whether it was executed is not remembered any more")
BEFORE: Final = Answer(
    calls.UNKNOWN, code="started", message="it was started before the server ended, and its outcome is not known"
)

MAX_OTHERS: Final = 100
"""So many may ask at once for one call by its request id."""


class ServerCore(Dispatch):
    """The server's state machine.

    Args:
        local: what this side says of itself; ``about`` holds "epoch", "window" and "journal".
        rng: ids and jitter.
        methods: by name; what the core must know of each.
        capacity: so many executions run at once.
        window: how long, and how many, replies are kept.
        limits: bounds of what waits.
        durable: there is a journal.
        rows: what it held of the log ``calls`` when it was opened.
        make_upload: makes what takes the items of an upload (see `Execution`); None: uploads are refused.
        looks_up: an execution that was started before a crash may look for its reply (see `Execution`).

    Raises:
        JournalDamaged: a row cannot be read.
    """

    # ---- sessions ----------------------------------------------------------------

    def opened(self, session: Session, now: float) -> None:
        """A client came: tell it which methods are idempotent."""
        key = session.peer.about.get("client")
        if type(key) is not bytes or len(key) != 16:
            key = session.peer.instance
        client = self.window.client(key)
        self.window.came(client)
        caller = self._callers[session.id] = Caller(session, client)
        names = sorted(name for name, info in self.methods.items() if info.idempotent)
        self._add(caller, [wire.METHODS, 0, None], protocol.pack(names), now)
        if self.draining:
            self._add(caller, [wire.DRAINING, 0, None], None, now)

    def lost(self, session: Session, reason: str, now: float) -> None:
        """A client is gone, perhaps to come back: what nobody waits for is not begun; what runs goes on."""
        caller = self._callers.pop(session.id)
        self._unheard_bytes -= caller.unheard_bytes
        client = caller.client
        for number, entry in list(caller.open.items()):
            self._left(caller, number, entry, now)
        mortal = client.key == session.peer.instance
        self.window.went(client, for_good=mortal and reason in ("process gone", "goodbye: closed"))

    def heard(self, session: Session, now: float) -> None:
        """A client heard more: its credit comes back."""
        caller = self._callers.get(session.id)
        if caller is not None and caller.sent:
            self._unheard_bytes -= caller.heard()
            self._touch(caller)

    def received(self, session: Session, frames: Frames, messages: int, now: float) -> None:
        """Records of a client."""
        caller = self._callers[session.id]
        if messages:
            caller.taken_calls += messages
            caller.taken_bytes += sum(map(len, frames))
            self._touch(caller)
        message = wire.read(frames, wire.FROM_CLIENT)
        records = message.records
        if sum(record[0] == wire.CALL for record in records) > messages:
            raise DecodeError("a message with more calls than it counts against the credit")
        ours = message.epoch == self._epoch
        if ours and message.floor != caller.floor:
            self._close_below(caller, message.floor)
        for record, body in zip(records, message.bodies, strict=True):
            try:
                if record[0] == wire.CALL:
                    self._call(caller, record, body, ours, now)
                elif record[0] == wire.CANCEL:
                    self._cancel(caller, record[1], now)
            except DecodeError as error:
                self.sessions.bad_frame(session.link, str(error))

    def _close_below(self, caller: Caller, floor: int) -> None:
        entries = caller.client.entries
        for number in caller.closed(floor):
            entry = entries.get(number)
            if entry is not None and entry.caller is caller and entry.state == DONE:
                self.window.drop(entry)

    # ---- calls -------------------------------------------------------------------

    def _call(self, caller: Caller, record: wire.Record, body: bytes, ours: bool, now: float) -> None:
        number = record[1]
        counters = self.counters
        counters["calls_received"] += 1
        caller.open_calls += 1
        client = caller.client
        entry = client.entries.get(number)
        try:
            fields = wire.call(record)
            if not number:
                raise DecodeError("CALL of the number 0")
        except DecodeError as error:
            if entry is not None:
                caller.answered += 1  # it stays what it was
                raise
            self._refuse(caller, number, "record", str(error), now)
            raise
        if not ours:
            self._refuse(caller, number, "epoch", "the call is for another epoch of this server", now)
            return
        method = fields.method
        if entry is None and fields.id:
            entry = self.window.ids.get(fields.id)
        if entry is not None:
            self._repeat(caller, number, entry, method, now)
            return
        if number <= client.evicted or (client.doubtful and fields.attempt > 1):
            client.evicted = max(client.evicted, number)
            self._answer(caller, number, EXPIRED, 0, now)
            return
        if self.draining:
            self._refuse(caller, number, "draining", "the server takes no more calls", now)
            return
        info = self.methods.get(method)
        if info is None:
            self._refuse(caller, number, "method", f"there is no method {method!r}", now)
            return
        eaten = caller.eaten.of(fields.stamp, now)
        deadline = None
        if fields.remaining is not None:
            deadline = now + fields.remaining - eaten
            if deadline <= now:
                self._refuse(caller, number, "late", "its time was over when it came", now)
                return
        if info.concurrency is not None and self._at_once.get(method, 0) >= info.concurrency:
            self._refuse(caller, number, "overloaded", f"{info.concurrency} calls of {method!r} are open", now)
            return
        limits = self.limits
        if self.waiting >= limits.queued_messages or (
            self.waiting_bytes and self.waiting_bytes + len(body) > limits.queued_bytes
        ):
            self._refuse(caller, number, "overloaded", f"{self.waiting} calls wait already", now)
            return
        execution = Execution(client.key, number, method, body)
        execution.id = fields.id
        execution.codec = fields.codec
        execution.deadline = deadline
        execution.attempt = fields.attempt
        execution.headers = fields.headers
        execution.session = caller.session
        execution.peer_host = caller.session.peer.host
        entry = Entry(client, number, fields.id, method, QUEUED)
        entry.caller = entry.payer = caller
        caller.open_bytes += len(body)
        client.entries[number] = entry
        caller.open[number] = entry
        if fields.id:
            self.window.ids[fields.id] = entry
        self._accept(entry, execution, info, now)

    def _repeat(self, caller: Caller, number: int, entry: Entry, method: str, now: float) -> None:
        """The number, or the request id, is known: it is answered from its entry, now or when that ends."""
        self.counters["calls_repeated"] += 1
        if entry.method != method:
            self._refuse(caller, number, "id", f"this number or id is that of a call of {entry.method!r}", now)
            return
        if entry.state == DONE:
            self._answer(caller, number, entry.answer, 0, now)
            if entry.client is caller.client and entry.number == number and entry.caller is not caller:
                entry.caller = caller
                if not entry.id:
                    caller.finish(number)
            return
        if entry.state == STARTED:
            self._answer(caller, number, BEFORE, 0, now)
            return
        if caller.open.get(number) is entry:
            caller.answered += 1  # the same again: one answer does for both
            self._touch(caller)
            return
        if entry.client is caller.client and entry.number == number:
            old = entry.caller
            if old is not None:
                old.open.pop(number, None)
                old.answered += 1
            entry.caller = caller
            entry.unwanted = False
            caller.open[number] = entry
            return
        if entry.others is not None and len(entry.others) >= MAX_OTHERS:
            self._refuse(caller, number, "overloaded", f"{MAX_OTHERS} calls wait for the same request id", now)
            return
        entry.others = [*(entry.others or ()), (caller, number)]
        caller.open[number] = entry
        caller.client.entries[number] = entry

    def _cancel(self, caller: Caller, number: int, now: float) -> None:
        """Its client wants it no more."""
        entry = caller.open.get(number)
        if entry is None:
            return
        self.counters["calls_cancelled"] += 1
        if entry.caller is caller and entry.number == number:
            entry.unwanted = True
        if entry.state == RUNNING:
            self._unwanted(entry)
        elif not entry.others:
            self._unqueue(entry)
            self._refuse_waiting(entry, "cancelled", "it was cancelled before it was started", now)
            self._dispatch(now)

    def _unwanted(self, entry: Entry) -> None:
        execution = entry.execution
        if execution is None or execution.cancelled or not entry.unwanted or entry.others:
            return
        execution.cancelled = True
        if execution.on_cancel is not None:
            self.out.replies.append((execution.on_cancel, None))
            execution.on_cancel = None

    def _left(self, caller: Caller, number: int, entry: Entry, now: float) -> None:
        """Who waited for it here is gone."""
        if entry.caller is caller and entry.number == number:
            entry.caller = None
        else:
            entry.others = [each for each in entry.others or () if each != (caller, number)] or None
            caller.client.entries.pop(number, None)
        if entry.caller is not None or entry.others:
            return
        if entry.state in (QUEUED, STORING):
            self.counters["calls_dropped"] += 1
            self._unqueue(entry)
            self._refuse_waiting(entry, "cancelled", "", now)
