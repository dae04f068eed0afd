"""The server's queue: what waits, what runs, and how it is answered (docs/protocol.md, section 12).

Pure. First come, first served, up to the capacity. What calls say, and sessions, lie above in `server`.
"""

from __future__ import annotations

import math
import random
from collections import deque
from collections.abc import Mapping
from typing import Any, Final

from zmqkit.events import JournalRecovered, JournalTrouble
from zmqkit.options import Limits, Window
from zmqkit.patterns.reqrep import calls, wire
from zmqkit.patterns.reqrep.callers import Caller
from zmqkit.patterns.reqrep.calls import Answer, Execution, MethodInfo
from zmqkit.patterns.reqrep.ledger import Ledger
from zmqkit.patterns.reqrep.streams import Flow
from zmqkit.patterns.reqrep.window import DONE, DROPPED, GONE, QUEUED, RUNNING, STARTED, STORING, Entry, ReplyWindow
from zmqkit.protocol import wire as protocol
from zmqkit.protocol.core import Link
from zmqkit.protocol.local import Local
from zmqkit.protocol.pattern import PatternCore

HEADER: Final = 128
"""Bytes that a header counts beside its text."""

BEFORE: Final = Answer(
    calls.UNKNOWN, code="started", message="it was started before the server ended, and its outcome is not known"
)
"""What a call is answered that was started before a crash."""

COUNTERS: Final = (
    "calls_received", "calls_executed", "calls_repeated", "calls_cancelled", "calls_late", "calls_unknown",
    "calls_dropped", "calls_refused_epoch", "calls_refused_method", "calls_refused_arguments", "calls_refused_record",
    "calls_refused_late", "calls_refused_overloaded", "calls_refused_draining", "calls_refused_cancelled",
    "calls_refused_journal", "calls_refused_id", "calls_refused_executor", "calls_refused_other",
    "items_sent", "items_received", "plain_received", "plain_refused", "commits_failed",
)  # fmt: skip


class Dispatch(PatternCore):
    """See `zmqkit.patterns.reqrep.server.ServerCore` for the arguments."""

    def __init__(
        self,
        local: Local,
        rng: random.Random,
        *,
        methods: Mapping[str, MethodInfo],
        capacity: int,
        window: Window,
        limits: Limits,
        durable: bool,
    ) -> None:
        super().__init__(local, rng)
        self.methods = methods
        self.capacity = capacity
        self.limits = limits
        self.running = 0
        """Executions that were handed out and are not finished."""
        self.waiting = 0
        """Calls that wait for their turn."""
        self.waiting_bytes = 0
        self.draining = False
        self._queue: deque[Entry] = deque()
        self._at_once: dict[str, int] = {}
        """How many of each method that bounds them are waiting or running."""
        self._callers: dict[bytes, Caller] = {}
        self._plain: dict[Link, dict[Entry, None]] = {}
        """What plain clients wait for, by their connection."""
        self._touched: list[Caller] = []
        self._unheard_bytes = 0
        for name in COUNTERS:
            self.counters.setdefault(name, 0)
        self._ledger = Ledger(self.out, durable=durable)
        self.window = ReplyWindow(window, self._ledger, self.counters)
        self._credit = local.credit_messages
        self._credit_bytes = local.credit_bytes

    # ---- verbs of the handlers ---------------------------------------------------

    def finish(self, execution: Execution, answer: Answer, now: float) -> None:
        """An execution has ended, with RESULT, DONE, ERROR, REFUSED (nothing was executed) or UNKNOWN."""
        entry: Entry = execution.core
        if entry.execution is not execution or entry.state != RUNNING:
            return
        self.running -= 1
        self._freed(entry)
        if entry.flow is not None:
            answer = self._flow_ends(entry, entry.flow, answer)
        if answer.kind == calls.REFUSED:
            self._refuse_all(entry, answer.code, answer.message, now)
        else:
            self.counters["calls_executed"] += 1
            self._done(entry, execution, answer, now)
        if self._queue:
            self._dispatch(now)

    def watch(self, execution: Execution, ticket: Any, now: float) -> None:
        """`ticket` gets None if the execution is cancelled, at once if it was."""
        entry: Entry = execution.core
        if execution.cancelled:
            self.out.replies.append((ticket, None))
        elif entry.execution is execution:
            execution.on_cancel = ticket

    def _done(self, entry: Entry, execution: Execution, answer: Answer, now: float) -> None:
        """It was executed, or may have been: say so to all who wait, and keep it."""
        entry.execution = None
        if execution.plain is not None:
            entry.state = GONE
            self._answer_plain(entry, execution, answer)
            return
        caller = entry.caller
        if caller is not None:
            self._answer(caller, entry.number, answer, entry.emitted, now)
        if entry.others:
            for other, number in entry.others:
                self._answer(other, number, answer, 0, now)
                other.client.entries.pop(number, None)
            entry.others = None
        client = entry.client
        assert client is not None
        if execution.only_look_up and answer.kind == calls.UNKNOWN:
            entry.state = STARTED  # as it was
            self.window.keep(entry, now)
            return
        entry.answer = answer if execution.items is None else DROPPED
        entry.state = DONE
        if not entry.id and (client.gone or (caller is not None and caller.finish(entry.number))):
            self.window.drop(entry)
            return
        self.window.keep(entry, now)
        if entry.key:
            self._ledger.done(entry)

    # ---- the queue ---------------------------------------------------------------

    def _overloaded(self, method: str, info: MethodInfo, size: int) -> str:
        """Why one more call of this method cannot be taken in; empty if it can."""
        if info.concurrency is not None and self._at_once.get(method, 0) >= info.concurrency:
            return f"{info.concurrency} calls of {method!r} are open, and it takes no more at once"
        limits = self.limits
        if self.waiting >= limits.queued_messages:
            return f"{self.waiting} calls wait already"
        if self.waiting_bytes and self.waiting_bytes + size > limits.queued_bytes:
            return f"{self.waiting_bytes} bytes of arguments wait already"
        return ""

    def _accept(self, entry: Entry, execution: Execution, info: MethodInfo, now: float) -> None:
        """Take a call in: it has its place in the queue, or is dispatched at once."""
        size = len(execution.body)
        if execution.headers:
            size += sum(len(name) + len(value) + HEADER for name, value in execution.headers.items())
        entry.paid = size
        if entry.payer is not None:
            entry.payer.open_bytes += size
        execution.core = entry
        entry.execution = execution
        if info.concurrency is not None:
            self._at_once[entry.method] = self._at_once.get(entry.method, 0) + 1
        if self.running < self.capacity and not self.waiting:
            self._start(entry, execution, info, now)
        else:
            self._queue.append(entry)
            self.waiting += 1
            self.waiting_bytes += size

    def _dispatch(self, now: float) -> None:
        queue = self._queue
        while queue and self.running < self.capacity:
            entry = queue.popleft()
            if entry.state != QUEUED:
                continue
            self.waiting -= 1
            self.waiting_bytes -= entry.paid
            execution = entry.execution
            assert execution is not None
            self._start(entry, execution, self.methods[entry.method], now)

    def _start(self, entry: Entry, execution: Execution, info: MethodInfo, now: float) -> None:
        """It is its turn."""
        if execution.deadline is not None and execution.deadline <= now:
            self._refuse_waiting(entry, "late", "its time was over before it could be started", now)
            return
        caller = entry.caller
        if (
            caller is not None
            and caller.unheard_bytes + self._unheard_bytes > self.limits.queued_bytes  # or it cannot be
            and self._backed_up(caller)
        ):
            self._refuse_waiting(entry, "overloaded", "too many answers wait for this client to take them", now)
            return
        if not self._ledger.durable or info.idempotent or entry.client is None or entry.key:
            entry.state = RUNNING
            self.running += 1
            self.out.items.append(execution)
        elif self._ledger.failed is not None:
            self._refuse_waiting(entry, "journal", f"nothing was executed: {self._ledger.failed}", now)
        else:
            entry.state = STORING
            self.running += 1
            self._ledger.start(entry)

    def _unqueue(self, entry: Entry) -> None:
        """It is not to be started after all."""
        if entry.state == QUEUED:
            self.waiting -= 1
            self.waiting_bytes -= entry.paid
            if len(self._queue) > 2 * self.waiting + 1000:
                self._queue = deque(each for each in self._queue if each.state == QUEUED and each is not entry)
        elif entry.state == STORING:
            self.running -= 1

    def _freed(self, entry: Entry) -> None:
        """It waits and runs no more."""
        at_once = self._at_once.get(entry.method)
        if at_once is not None:
            if at_once > 1:
                self._at_once[entry.method] = at_once - 1
            else:
                del self._at_once[entry.method]
        payer = entry.payer
        if payer is not None:
            payer.open_bytes -= entry.paid
            entry.payer = None

    # ---- storing -----------------------------------------------------------------

    def stored(self, up_to: int, now: float) -> None:
        """The journal has it: what waited for that is started."""
        ailing = self._ledger.full
        for entry in self._ledger.stored(up_to):
            execution = entry.execution
            if entry.state != STORING or execution is None:
                continue
            if execution.deadline is not None and execution.deadline <= now:
                self.running -= 1
                self._refuse_waiting(entry, "late", "its time was over before it could be started", now)
                continue
            entry.state = RUNNING
            self.out.items.append(execution)
        if ailing is not None and self._ledger.full is None:
            self.out.events.append(JournalRecovered(self.local.name))
        self._dispatch(now)

    def store_failed(self, up_to: int, error: Exception, now: float) -> None:
        """It is not stored, or may not be: what waited for that is refused."""
        self.counters["commits_failed"] += 1
        if self._ledger.failed is None:
            self.out.events.append(JournalTrouble(self.local.name, str(error)))
        for entry in self._ledger.store_failed(up_to, error, now):
            if entry.state == STORING:
                self.running -= 1
                self._refuse_waiting(entry, "journal", f"nothing was executed: {error}", now)
        self._dispatch(now)

    # ---- answers -----------------------------------------------------------------

    def _refuse_waiting(self, entry: Entry, code: str, message: str, now: float) -> None:
        """Refuse one that was taken in and not started; it is in no queue any more."""
        self._freed(entry)
        self._refuse_all(entry, code, message, now)

    def _refuse_all(self, entry: Entry, code: str, message: str, now: float) -> None:
        """Nothing was executed: say so to all who wait, and forget it."""
        execution, entry.execution = entry.execution, None
        if execution is not None and execution.plain is not None:
            entry.state = GONE
            self._answer_plain(entry, execution, Answer(calls.REFUSED, code=code, message=message))
            return
        if execution is not None and execution.only_look_up:
            self._done(entry, execution, BEFORE, now)  # perhaps it was executed, before the crash
            return
        if entry.caller is not None:
            self._refuse(entry.caller, entry.number, code, message, now)
        for other, number in entry.others or ():
            self._refuse(other, number, code, message, now)
            other.client.entries.pop(number, None)
        entry.others = None
        self.window.drop(entry)

    def _refuse(self, caller: Caller, number: int, code: str, message: str, now: float) -> None:
        """Nothing was executed, and the number is free again."""
        name = f"calls_refused_{code}"
        self.counters[name if name in self.counters else "calls_refused_other"] += 1
        if code == "late":
            self.counters["calls_late"] += 1
        self._answer(caller, number, Answer(calls.REFUSED, code=code, message=message), 0, now)

    def _answer(self, caller: Caller, number: int, answer: Answer, count: int, now: float) -> None:
        """Say how a call ended."""
        caller.open.pop(number, None)
        caller.answered += 1
        kind, body = answer.kind, answer.body
        if len(body) > caller.largest:
            kind, body = calls.ERROR, too_large(len(body), caller.largest)
        if kind == calls.RESULT:
            codec = answer.codec
            self._add(caller, [wire.RESULT, number, None, None if codec == "msgpack" else codec], body, now)
        elif kind == calls.ERROR:
            self._add(caller, [wire.ERROR, number, None], body, now)
        elif kind == calls.DONE:
            self._add(caller, [wire.END, number, None, count], None, now)
        else:
            op = wire.REFUSED if kind == calls.REFUSED else wire.UNKNOWN
            if kind != calls.REFUSED:
                self.counters["calls_unknown"] += 1
            code, message = answer.code[: wire.MAX_CODE], answer.message[: wire.MAX_MESSAGE]
            self._add(caller, [op, number, None, code, message], None, now)

    def _add(self, caller: Caller, record: wire.Record, body: bytes | None, now: float) -> None:
        """Gather a record for the turn's end."""
        if caller.session.ended:
            return
        if not caller.touched:
            caller.touched = True
            self._touched.append(caller)
        if body is not None:
            size = len(body)
            caller.gathered += size
            caller.unheard_bytes += size
            self._unheard_bytes += size
            if size < wire.LARGE:
                packer = caller.packer
                if packer.size and packer.size + size > caller.most:
                    caller.gathered -= size
                    self._flush(caller, now)
                    caller.gathered += size
                if len(packer.records) < wire.MAX_RECORDS - 1 and packer.size < wire.MAX_BLOB - wire.LARGE:
                    # `Packer.add` for what is small, and does not fill the message; no CALL comes here.
                    record[2] = body
                    packer.records.append(record)
                    packer.size += size
                    return
        if caller.packer.add(record, body):
            self._flush(caller, now)

    def _backed_up(self, caller: Caller) -> bool:
        """A client does not take its answers: it gets no more of them until it does.

        Each may have as much as is left for all (Choudhury and Hahne, "Dynamic queue length thresholds", 1998): one
        alone half of the limit, several less each, and who has little is never held up by those who have much.
        """
        return caller.unheard_bytes > max(0, self.limits.queued_bytes - self._unheard_bytes)

    # ---- hooks of the layers above -----------------------------------------------

    def _flow_ends(self, entry: Entry, flow: Flow, answer: Answer) -> Answer:
        """A call with streams has ended. Returns what to answer."""
        raise NotImplementedError

    def _answer_plain(self, entry: Entry, execution: Execution, answer: Answer) -> None:
        """Answer a plain client."""
        raise NotImplementedError

    # ---- the turn's end ----------------------------------------------------------

    def _touch(self, caller: Caller) -> None:
        if not caller.touched:
            caller.touched = True
            self._touched.append(caller)

    def _flush(self, caller: Caller, now: float) -> None:
        """Send what is gathered for one client."""
        frames = caller.packer.pack()
        size = sum(map(len, frames))
        session = caller.session
        # Raised without `grant`: this very message tells it.
        messages, octets = self._room(caller)
        if messages > session.limit_messages:
            session.limit_messages = messages
        if octets > session.limit_bytes:
            session.limit_bytes = octets
        number = self.sessions.send(session, frames, 0, now)
        caller.sent.append((number, caller.answered, size))
        caller.unheard_bytes += size - caller.gathered
        self._unheard_bytes += size - caller.gathered
        caller.answered = caller.gathered = 0

    def _room(self, caller: Caller) -> tuple[int, int]:
        """The absolute limits of what a client may send."""
        return (
            caller.taken_calls + self._credit - caller.open_calls,
            caller.taken_bytes + self._credit_bytes - caller.open_bytes,
        )

    def end_turn(self, now: float) -> None:
        """Write and send what this turn gathered."""
        if self.window.sweep_at <= now:
            self.window.sweep(now)
        if self._ledger.durable:
            self._ledger.flush(now)
        if self._touched:
            touched, self._touched = self._touched, []
            for caller in touched:
                caller.touched = False
                session = caller.session
                if session.ended:
                    continue
                if caller.packer.records:
                    self._flush(caller, now)
                elif (
                    caller.taken_calls + self._credit - caller.open_calls - session.limit_messages
                ) * 4 >= self._credit or (
                    caller.taken_bytes + self._credit_bytes - caller.open_bytes - session.limit_bytes
                ) * 4 >= self._credit_bytes:
                    # Credit rides on the answers. It is told alone only where the client may soon want it.
                    self.sessions.grant(session, *self._room(caller))
                owed = bool(caller.open)
                if owed != session.outstanding:
                    self.sessions.owe(session, owed, now)
        if self.sessions.granted or self.sessions.ups:
            super().end_turn(now)

    def next_deadline(self) -> float | None:
        """See `Core`."""
        heap = self.sessions.timers.heap
        due = heap[0][0] if heap else None
        sweep = self.window.wake_at
        if sweep != math.inf and (due is None or sweep < due):
            due = sweep
        if self._ledger.durable:
            when = self._ledger.next_deadline()
            if when is not None and (due is None or when < due):
                due = when
        return due


def too_large(size: int, most: int) -> bytes:
    """The body of the ERROR that takes the place of a reply that its client could not take."""
    message = f"the call was executed, but its reply of {size} bytes is more than the {most} that the client takes"
    return protocol.pack({"type": "EncodeError", "message": message, "code": "", "data": None, "traceback": ""})
