"""The server's core: takes calls in, executes each at most once, answers whoever repeats one (docs/protocol.md,
section 12).

Pure. A call's way::

    CALL --> queued --> (its start is stored) --> running --> done, kept in the window
      |        |                 |                                  |
      |        '-----------------'---> refused, forgotten           '--> closed by its client, or evicted
      '--> repeated: answered from its entry

What was refused was not executed, and its number is free again. The layers below: `plain_calls`, `streaming`,
`dispatch`; what is remembered of calls: `window`.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from zmqkit.errors import DecodeError
from zmqkit.options import Limits, Window
from zmqkit.patterns.reqrep import calls, wire
from zmqkit.patterns.reqrep.callers import Caller
from zmqkit.patterns.reqrep.calls import Answer, Execution, MethodInfo
from zmqkit.patterns.reqrep.dispatch import BEFORE
from zmqkit.patterns.reqrep.plain_calls import PlainCalls
from zmqkit.patterns.reqrep.restoring import restore
from zmqkit.patterns.reqrep.streams import AHEAD, Flow
from zmqkit.patterns.reqrep.window import DONE, DROPPED, QUEUED, RUNNING, STARTED, STORING, Entry
from zmqkit.protocol import wire as protocol
from zmqkit.protocol.core import Frames, Row
from zmqkit.protocol.local import Local
from zmqkit.protocol.session import Session

EXPIRED: Final = Answer(calls.UNKNOWN, code="expired", message="whether it was executed is not remembered any more")

CROWDED: Final = Answer(calls.UNKNOWN, code="crowded", message="it is running, and too many wait for its outcome")

MAX_OTHERS: Final = 100
"""So many may ask at once for one call by its request id."""


class ServerCore(PlainCalls):
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

    def __init__(
        self,
        local: Local,
        rng: random.Random,
        *,
        methods: Mapping[str, MethodInfo],
        capacity: int,
        window: Window,
        limits: Limits,
        durable: bool = False,
        rows: Sequence[Row] = (),
        make_upload: Callable[[], Any] | None = None,
        looks_up: bool = False,
    ) -> None:
        super().__init__(local, rng, methods=methods, capacity=capacity, window=window, limits=limits, durable=durable)
        self._epoch: bytes = local.about["epoch"]
        self._make_upload = make_upload
        self._looks_up = looks_up
        self._closing = False
        self._close_at: float | None = None
        restore(rows, self.window, self._ledger)

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
        self._dispatch(now)

    def heard(self, session: Session, now: float) -> None:
        """A client heard more: its credit comes back, and its streams may go on."""
        caller = self._callers.get(session.id)
        if caller is not None and caller.sent:
            self._unheard_bytes -= caller.heard()
            if not caller.touched:
                self._touch(caller)
            if caller.held:
                self._heard_more(caller)

    def received(self, session: Session, frames: Frames, messages: int, now: float) -> None:
        """Records of a client. One that is bad spoils only itself."""
        caller = self._callers[session.id]
        if messages:
            caller.taken_calls += messages
            caller.taken_bytes += sum(map(len, frames))
            if not caller.touched:
                self._touch(caller)
        epoch, floor, records = wire.read(frames, wire.FROM_CLIENT)
        if len(records) > messages and sum([record[0] == wire.CALL for record in records]) > messages:
            raise DecodeError("a message with more calls than it counts against the credit")
        ours = epoch == self._epoch
        if ours and floor != caller.floor:
            self._close_below(caller, floor)
        for record in records:
            try:
                op = record[0]
                if op == wire.CALL:
                    self._call(caller, record, record[2], ours, now)
                elif op == wire.CANCEL:
                    self._cancel(caller, record[1], now)
                else:
                    self._receive_in_stream(caller, record, record[2])
            except DecodeError as error:
                self.sessions.bad_frame(session.link, str(error))

    def _close_below(self, caller: Caller, floor: int) -> None:
        entries = caller.client.entries
        for number in caller.closed(floor):
            entry = entries.get(number)
            if entry is not None and entry.caller is caller and entry.state == DONE and not entry.id:
                self.window.drop(entry)

    # ---- calls -------------------------------------------------------------------

    def _call(self, caller: Caller, record: wire.Record, body: bytes, ours: bool, now: float) -> None:
        number = record[1]
        self.counters["calls_received"] += 1
        caller.open_calls += 1
        client = caller.client
        entry = client.entries.get(number)
        try:
            fields = wire.call(record)
            if not number:
                raise DecodeError("CALL of the number 0")
        except DecodeError as error:
            if entry is None:
                self._refuse(caller, number, "record", str(error), now)
            else:
                caller.answered += 1  # of a call that is known nothing can be said that the record asks for
            raise
        if not ours:
            self._refuse(caller, number, "epoch", "the call is for another epoch of this server", now)
            return
        method, id = fields.method, fields.id
        if entry is None and id:
            entry = self.window.ids.get(id)
        if entry is not None:
            self._repeat(caller, number, entry, fields, body, now)
            return
        if number <= client.evicted or number < caller.floor or (client.doubtful and fields.attempt > 1):
            self._answer(caller, number, EXPIRED, 0, now)
            return
        if self.draining:
            self._refuse(caller, number, "draining", "the server takes no more calls", now)
            return
        info = self.methods.get(method)
        if info is None:
            self._refuse(caller, number, "method", f"there is no method {method!r}", now)
            return
        execution = self._execution(caller, number, fields, body, now)
        if execution.deadline is not None and execution.deadline <= now:
            self._refuse(caller, number, "late", "its time was over when it came", now)
            return
        if (info.concurrency is not None or self.waiting) and (why := self._overloaded(method, info, len(body))):
            self._refuse(caller, number, "overloaded", why, now)
            return
        if fields.uploads and self._make_upload is None:
            self._refuse(caller, number, "arguments", "this server takes no arguments that are streams", now)
            return
        entry = Entry(client, number, id, method, QUEUED)
        client.entries[number] = entry
        if id:
            self.window.ids[id] = entry
        entry.caller = entry.payer = caller
        caller.open[number] = entry
        if execution.items is not None or execution.uploads:
            self._open_flow(entry, execution)
        self._accept(entry, execution, info, now)

    def _execution(self, caller: Caller, number: int, fields: wire.CallFields, body: bytes, now: float) -> Execution:
        execution = Execution(caller.client.key, number, fields.method, body)
        eaten = caller.eaten.of(fields.stamp, now)
        if fields.remaining is not None:
            execution.deadline = now + fields.remaining - eaten
        execution.id = fields.id
        execution.codec = fields.codec
        execution.attempt = fields.attempt
        execution.headers = fields.headers
        execution.session = caller.session
        execution.peer_host = caller.session.peer.host
        execution.items = fields.items
        execution.uploads = fields.uploads
        return execution

    def _open_flow(self, entry: Entry, execution: Execution) -> None:
        """Its streams, or its upload, begin."""
        entry.flow = Flow(execution.items or 0, uploading=bool(execution.uploads))
        execution.limit = min(entry.flow.granted, AHEAD)
        if execution.uploads and self._make_upload is not None:
            execution.upload = self._make_upload()

    def _repeat(
        self, caller: Caller, number: int, entry: Entry, fields: wire.CallFields, body: bytes, now: float
    ) -> None:
        """The number, or the request id, is known: it is answered from its entry, now or when that ends."""
        self.counters["calls_repeated"] += 1
        own = entry.client is caller.client and entry.number == number
        if entry.method != fields.method:
            if number in caller.open:
                caller.answered += 1  # it is answered when it ends; to refuse it here would deny that
                raise DecodeError(f"CALL {number} of {fields.method[:40]!r}: it is one of {entry.method!r}")
            self._refuse(caller, number, "id", f"its number or id is that of a call of {entry.method!r}", now)
        elif entry.state == DONE:
            self._answer(caller, number, entry.answer if fields.items is None else DROPPED, 0, now)
            if own and entry.caller is not caller:
                entry.caller = caller
                if not entry.id:
                    caller.finish(number)
        elif entry.state == STARTED:
            info = self.methods.get(entry.method)
            if own and self._looks_up and info is not None and not self.draining:
                self._look_up(caller, entry, fields, body, info, now)
            else:
                self._answer(caller, number, BEFORE, 0, now)
        elif caller.open.get(number) is entry:
            caller.answered += 1  # the same again: one answer does for both
        elif own:
            if entry.caller is not None:
                entry.caller.open.pop(number, None)
                entry.caller.answered += 1
            entry.caller = caller
            entry.unwanted = False
            caller.open[number] = entry
        elif entry.flow is not None or fields.items is not None:
            self._answer(caller, number, DROPPED, 0, now)
        elif entry.others is not None and len(entry.others) >= MAX_OTHERS:
            self._answer(caller, number, CROWDED, 0, now)
        else:
            entry.others = [*(entry.others or ()), (caller, number)]
            caller.open[number] = entry
            caller.client.entries[number] = entry

    def _look_up(
        self, caller: Caller, entry: Entry, fields: wire.CallFields, body: bytes, info: MethodInfo, now: float
    ) -> None:
        """It was started before a crash: its handler may find that its effect, and with it the reply, was stored.

        Nothing but the capacity holds it back: to refuse it would say that it was not executed.
        """
        self.window.unkeep(entry)
        entry.state = QUEUED
        execution = self._execution(caller, entry.number, fields, body, now)
        execution.only_look_up = True
        execution.items, execution.uploads = None, ()
        entry.caller = entry.payer = caller
        caller.open[entry.number] = entry
        self._accept(entry, execution, info, now)

    # ---- who waits no more -------------------------------------------------------

    def _cancel(self, caller: Caller, number: int, now: float) -> None:
        """Its client wants it no more."""
        entry = caller.open.get(number)
        if entry is None:
            return
        self.counters["calls_cancelled"] += 1
        if entry.caller is caller and entry.number == number:
            entry.unwanted = True
        else:
            self._no_other(caller, number, entry)
            self._refuse(caller, number, "cancelled", "nobody waits here any more for that request id", now)
        self._unwanted(entry, now, cancelled=True)
        self._dispatch(now)

    def _left(self, caller: Caller, number: int, entry: Entry, now: float) -> None:
        """Who waited for it here is gone."""
        if entry.caller is caller and entry.number == number:
            entry.caller = None
        else:
            self._no_other(caller, number, entry)
        self._unwanted(entry, now, cancelled=False)

    def _no_other(self, caller: Caller, number: int, entry: Entry) -> None:
        entry.others = [each for each in entry.others or () if each != (caller, number)] or None
        caller.client.entries.pop(number, None)

    def _unwanted(self, entry: Entry, now: float, *, cancelled: bool) -> None:
        """If nobody waits for it any more: what is not begun is dropped, what runs and was cancelled is told so.

        A call whose client is gone, and did not cancel it, goes on: the client may come back and ask.
        """
        execution = entry.execution
        if execution is None or entry.others or (entry.caller is not None and not entry.unwanted):
            return
        if entry.state in (QUEUED, STORING):
            if entry.caller is None:
                self.counters["calls_dropped"] += 1
            self._unqueue(entry)
            self._refuse_waiting(entry, "cancelled", "it was cancelled before it was started", now)
        elif entry.state == RUNNING and (entry.flow is not None or (cancelled and entry.unwanted)):
            self._cancel_execution(entry, execution)

    # ---- the end -----------------------------------------------------------------

    def drain(self, now: float) -> None:
        """Take no more calls, and say so; what is not begun is refused, what runs goes on. Again: nothing happens."""
        if self.draining:
            return
        self.draining = True
        for caller in self._callers.values():
            self._add(caller, [wire.DRAINING, 0, None], None, now)
        waiting = [entry for entry in self._queue if entry.state == QUEUED]
        waiting += [entry for entry in self._ledger.starting() if entry.state == STORING]
        for entry in waiting:
            self._unqueue(entry)
            self._refuse_waiting(entry, "draining", "the server takes no more calls", now)
        self._queue.clear()
        self._ledger.hurry()

    def close(self, now: float) -> None:
        """Drain, and say goodbye when all that runs is finished and answered. Again: goodbye at once."""
        if self._closing:
            self._say_goodbye(now)
            return
        self.drain(now)
        self._closing = True

    def end_turn(self, now: float) -> None:
        """See `Core`."""
        super().end_turn(now)
        if self._closing and not self._finished and not self.running:
            if self._close_at is None:
                self._close_at = now + self.local.heartbeat.bound
            if now >= self._close_at or not any(
                caller.session.unheard and caller.session.link is not None for caller in self._callers.values()
            ):
                self._say_goodbye(now)

    def _say_goodbye(self, now: float) -> None:
        if not self._finished:
            self._ledger.hurry()
            self._ledger.flush(now)
            super().close(now)

    def next_deadline(self) -> float | None:
        """See `Core`."""
        if self._finished:
            return None
        due = super().next_deadline()
        if self._close_at is not None and (due is None or self._close_at < due):
            return self._close_at
        return due
