"""What moves in the streams of running calls, both ways (docs/protocol.md, section 12).

Pure. Credit is absolute: so many items may come, all before included. Items of a client that does not take them stay
at the handler, which is told to wait.
"""

from __future__ import annotations

from typing import Any

from zmqkit.errors import DecodeError
from zmqkit.patterns.reqrep import calls, wire
from zmqkit.patterns.reqrep.callers import Caller
from zmqkit.patterns.reqrep.calls import Answer, Execution, Item
from zmqkit.patterns.reqrep.dispatch import Dispatch, too_large
from zmqkit.patterns.reqrep.streams import AHEAD, Flow
from zmqkit.patterns.reqrep.window import RUNNING, Entry
from zmqkit.protocol import wire as protocol


class Streaming(Dispatch):
    """See `zmqkit.patterns.reqrep.server.ServerCore` for the arguments."""

    # ---- verbs of the handlers ---------------------------------------------------

    def emit(self, execution: Execution, bodies: list[tuple[bytes, str]], now: float) -> None:
        """Items of a stream, each with its codec; the caller keeps to `Execution.limit`."""
        entry: Entry = execution.core
        flow, caller = entry.flow, entry.caller
        if entry.execution is not execution or entry.state != RUNNING or flow is None or caller is None:
            return
        for body, codec in bodies:
            if flow.failure:
                return
            if len(body) > caller.largest:
                flow.failure = too_large(len(body), caller.largest)
                self._cancel_execution(entry, execution)
                return
            record = [wire.ITEM, entry.number, None, entry.emitted, None if codec == "msgpack" else codec]
            entry.emitted += 1
            self.counters["items_sent"] += 1
            self._add(caller, record, body, now)
        self._extend(entry, execution, flow, caller)

    def await_limit(self, execution: Execution, beyond: int, ticket: Any, now: float) -> None:
        """`ticket` gets None once more than `beyond` items may be emitted, or the execution is cancelled or over."""
        entry: Entry = execution.core
        flow = entry.flow
        if entry.execution is not execution or flow is None or execution.cancelled or execution.limit > beyond:
            self.out.replies.append((ticket, None))
        else:
            flow.waiters.append((beyond, ticket))

    def grant_upload(self, execution: Execution, limit: int, now: float) -> None:
        """So many items of the upload may come, all before included."""
        entry: Entry = execution.core
        flow, caller = entry.flow, entry.caller
        if entry.execution is not execution or flow is None or not flow.uploading or limit <= flow.upload_granted:
            return
        flow.upload_granted = limit
        if caller is not None:
            self._add(caller, [wire.GRANT, entry.number, None, limit], None, now)

    # ---- records -----------------------------------------------------------------

    def _receive_in_stream(self, caller: Caller, record: wire.Record, body: bytes) -> None:
        """GRANT, ITEM, END or ABORT. Of a call that is over it is late: nothing to do."""
        op, number = record[0], record[1]
        entry = caller.open.get(number)
        if entry is None or entry.caller is not caller or entry.flow is None or entry.execution is None:
            return
        execution, flow = entry.execution, entry.flow
        if op == wire.GRANT:
            granted = protocol.number(record[3], "limit")
            if granted > flow.granted:
                flow.granted = granted
                self._extend(entry, execution, flow, caller)
        elif flow.uploading:
            try:
                self._receive_upload(execution, flow, record, body)
            except DecodeError as error:
                self._upload_ends(execution, flow, Answer(calls.UNKNOWN, code="broken", message=str(error)))
                raise

    def _receive_upload(self, execution: Execution, flow: Flow, record: wire.Record, body: bytes) -> None:
        op = record[0]
        if op != wire.ABORT:
            protocol.number(record[3], "index" if op == wire.ITEM else "count")
        if op == wire.ITEM:
            if record[3] != flow.uploaded or flow.uploaded >= flow.upload_granted:
                raise DecodeError(
                    f"ITEM {protocol.shown(record[3])} of an upload: {flow.uploaded} came, "
                    f"{flow.upload_granted} are allowed"
                )
            codec = wire.codec(record[4])
            flow.uploaded += 1
            self.counters["items_received"] += 1
            self.out.replies.append((execution.upload, Item(body, codec)))
        elif op == wire.END:
            if record[3] != flow.uploaded:
                raise DecodeError(f"END of an upload of {protocol.shown(record[3])} items: {flow.uploaded} came")
            self._upload_ends(execution, flow, Answer(calls.DONE))
        else:
            reason = protocol.text(record[3], "reason", wire.MAX_MESSAGE)
            self._upload_ends(execution, flow, Answer(calls.UNKNOWN, code="aborted", message=reason))

    # ---- hooks -------------------------------------------------------------------

    def _extend(self, entry: Entry, execution: Execution, flow: Flow, caller: Caller) -> None:
        """Let it emit more, unless its client is behind."""
        if self._backed_up(caller):
            caller.held[entry] = None
            return
        limit = min(flow.granted, entry.emitted + AHEAD)
        if limit > execution.limit:
            execution.limit = limit
            if flow.waiters:
                self.out.replies.extend((ticket, None) for beyond, ticket in flow.waiters if beyond < limit)
                flow.waiters = [each for each in flow.waiters if each[0] >= limit]

    def _heard_more(self, caller: Caller) -> None:
        """A client took what it was behind with: its streams go on."""
        held, caller.held = caller.held, {}
        for entry in held:
            if entry.execution is not None and entry.flow is not None and entry.caller is caller:
                self._extend(entry, entry.execution, entry.flow, caller)

    def _upload_ends(self, execution: Execution, flow: Flow, answer: Answer) -> None:
        if flow.uploading:
            flow.uploading = False
            self.out.replies.append((execution.upload, answer))

    def _cancel_execution(self, entry: Entry, execution: Execution) -> None:
        """Nobody waits for it any more: tell its handler."""
        if execution.cancelled:
            return
        execution.cancelled = True
        if execution.on_cancel is not None:
            self.out.replies.append((execution.on_cancel, None))
            execution.on_cancel = None
        flow = entry.flow
        if flow is not None:
            self._release(flow)
            self._upload_ends(execution, flow, Answer(calls.UNKNOWN, code="cancelled", message="nobody waits for it"))

    def _flow_ends(self, entry: Entry, flow: Flow, answer: Answer) -> Answer:
        flow.uploading = False
        self._release(flow)
        if entry.caller is not None:
            entry.caller.held.pop(entry, None)
        entry.flow = None
        return Answer(calls.ERROR, flow.failure) if flow.failure else answer

    def _release(self, flow: Flow) -> None:
        self.out.replies.extend((ticket, None) for _, ticket in flow.waiters)
        flow.waiters = []
