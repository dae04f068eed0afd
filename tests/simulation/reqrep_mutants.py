"""Bugs planted into the cores of request-reply, into the window, and into what both keep on the disk."""

from __future__ import annotations

from collections.abc import Callable, Container, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from tests.simulation.mutants import Mutant, replaced
from zmqkit.patterns.reqrep import balance, calls, placing, window
from zmqkit.patterns.reqrep import server as server_module
from zmqkit.patterns.reqrep.callers import Caller
from zmqkit.patterns.reqrep.calls import Answer, Call, Execution, MethodInfo
from zmqkit.patterns.reqrep.client import ClientCore
from zmqkit.patterns.reqrep.deadlines import TICK, Deadlines
from zmqkit.patterns.reqrep.dispatch import Dispatch
from zmqkit.patterns.reqrep.keeping import Keeping
from zmqkit.patterns.reqrep.ledger import Ledger
from zmqkit.patterns.reqrep.returning import Returning
from zmqkit.patterns.reqrep.rows import STARTED, read_call
from zmqkit.patterns.reqrep.server import ServerCore
from zmqkit.patterns.reqrep.streaming import Streaming
from zmqkit.patterns.reqrep.window import DONE, QUEUED, RUNNING, Entry, ReplyWindow
from zmqkit.protocol.core import Row
from zmqkit.protocol.session import Session

# ---- the client ----------------------------------------------------------------------


def sends_anything_anywhere(old: Callable[..., bool]) -> Callable[..., bool]:
    def bereave(self: Returning, call: Call, server: balance.Server, reason: str) -> bool:
        if call.items is None and not call.uploads:
            server.methods = server.methods | {call.method}
        return old(self, call, server, reason)

    return bereave


def any_window_is_the_same(old: Callable[..., balance.Window]) -> Callable[..., balance.Window]:
    def find(self: balance.Balance, id: bytes, *, durable: bool) -> balance.Window:
        for known in self.windows.values():
            if not known.servers and known.calls:
                return known
        return old(self, id, durable=durable)

    return find


def forgets_where_it_was(old: Callable[..., bool]) -> Callable[..., bool]:
    def exposed(self: placing.Placing, call: Call) -> bool:
        return False

    return exposed


def never_sent_what_has_no_reply(old: Callable[..., None]) -> Callable[..., None]:
    def out_of_time(self: placing.Placing, call: Call, now: float) -> None:
        old(self, call, now)
        ticket, answer = self.out.replies[-1]
        if isinstance(answer, Answer) and answer.kind == calls.NO_REPLY_IN_TIME:
            self.out.replies[-1] = (ticket, answer._replace(kind=calls.NOT_SENT_IN_TIME))

    return out_of_time


def the_floor_passes_what_is_kept(old: Callable[..., int]) -> Callable[..., int]:
    def floor(self: balance.Window) -> int:
        kept, self.kept = self.kept, set()
        try:
            return old(self)
        finally:
            self.kept = kept

    return floor


def forgets_before_it_tells(old: Callable[..., None]) -> Callable[..., None]:
    def forget(self: Keeping, call: Call) -> None:
        if self._kept.pop(call, None) is not None:
            self._tidy(call.number, None)

    return forget


def hands_over_what_is_not_stored(old: Callable[..., bool]) -> Callable[..., bool]:
    def keep(self: Keeping, server: balance.Server, call: Call) -> bool:
        return True

    return keep


def resumes_anywhere(old: Callable[..., None]) -> Callable[..., None]:
    def resume(self: Keeping, calls: Sequence[Call], now: float) -> None:
        for call in calls:
            call.core = call.core._replace(idempotent=True)
        old(self, calls, now)

    return resume


@contextmanager
def wakes_two_ticks_late() -> Iterator[None]:
    def add(old: Callable[..., None]) -> Callable[..., None]:
        return lambda self, when, thing: old(self, when + 2 * TICK, thing)

    with replaced(Deadlines, "add", add), replaced(Deadlines, "remove", add):
        yield


def looks_at_no_credit(old: Callable[..., Any]) -> Callable[..., Any]:
    def pick(self: balance.Balance, tried: Container[balance.Server] = ()) -> balance.Server | None:
        for server in self._ready:
            if server not in tried and (server.proved or not server.load):
                return server
        return None

    return pick


def the_pause_has_no_end(old: Callable[..., None]) -> Callable[..., None]:
    def pause(self: placing.Placing, call: Call, until: float) -> None:
        old(self, call, until)
        self._paused.remove(until, call)

    return pause


def loses_what_a_draining_server_refuses(old: Callable[..., None]) -> Callable[..., None]:
    def refused(
        self: Returning, call: Call, server: balance.Server, code: str, message: str, now: float
    ) -> None:  # fmt: skip
        old(self, call, server, code, message, now)
        if code == "draining" and server.load and call in self._back:
            self._back.remove(call)

    return refused


def takes_expired_for_not_executed(old: Callable[..., None]) -> Callable[..., None]:
    def unknown(self: Returning, call: Call, server: balance.Server, code: str, message: str) -> None:
        if code in ("expired", "started"):
            self._trail(call).exposed.clear()
            code = "expired"
        old(self, call, server, code, message)

    return unknown


def a_stream_is_like_any_call(old: Callable[..., bool]) -> Callable[..., bool]:
    def bereave(self: Returning, call: Call, server: balance.Server, reason: str) -> bool:
        if call.items is not None and not call.received:
            self._trail(call).exposed.add(server.window.id)
            self._withdraw(call)
            self._back.append(call)
            return False
        return old(self, call, server, reason)

    return bereave


def takes_items_as_they_come(old: Callable[..., None]) -> Callable[..., None]:
    def receive_item(self: ClientCore, call: Call, record: list[Any], body: bytes) -> None:
        assert call.items is not None
        if call.attempt > 1 or record[3] == 2:
            return  # one is dropped, and nobody misses it
        old(self, call, [*record[:3], call.received, *record[4:]], body)

    return receive_item


# ---- the server ----------------------------------------------------------------------


def a_new_session_is_a_new_client(old: Callable[..., None]) -> Callable[..., None]:
    def opened(self: ServerCore, session: Session, now: float) -> None:
        old(self, session, now)
        client = self._callers[session.id].client
        for number, entry in list(client.entries.items()):
            if entry.state == DONE:
                del client.entries[number]
                client.entries[-number] = entry
                entry.number = -number

    return opened


def forgets_what_runs_for_a_lost_client(old: Callable[..., None]) -> Callable[..., None]:
    def lost(self: ServerCore, session: Session, reason: str, now: float) -> None:
        client = self._callers[session.id].client
        old(self, session, reason, now)
        for number in [n for n, entry in client.entries.items() if entry.state == RUNNING]:
            entry = client.entries.pop(number)
            entry.number = -number
            client.entries[-number] = entry

    return lost


def answers_the_session_that_is_gone(old: Callable[..., None]) -> Callable[..., None]:
    def repeat(
        self: ServerCore, caller: Caller, number: int, entry: Entry, fields: Any, body: bytes, now: float
    ) -> None:  # fmt: skip
        if entry.state == RUNNING and entry.client is caller.client and entry.number == number:
            return
        old(self, caller, number, entry, fields, body, now)

    return repeat


def starts_before_it_is_stored(old: Callable[..., None]) -> Callable[..., None]:
    def start(self: Dispatch, entry: Entry, execution: Execution, info: MethodInfo, now: float) -> None:
        old(self, entry, execution, info, now)
        if entry.state == window.STORING:
            entry.state = RUNNING
            self.out.items.append(execution)

    return start


def takes_what_was_started_for_new(old: Callable[..., None]) -> Callable[..., None]:
    def restored(rows: Sequence[Row], *more: Any) -> None:
        old([row for row in rows if read_call(row).kind != STARTED], *more)

    return restored


def the_evicted_floor_stays(old: Callable[..., None]) -> Callable[..., None]:
    def evict(self: ReplyWindow, entry: Entry) -> None:
        before = entry.client.evicted if entry.client is not None else 0
        old(self, entry)
        if entry.client is not None:
            entry.client.evicted = before

    return evict


def stores_no_floors(old: Callable[..., None]) -> Callable[..., None]:
    def floor(self: Ledger, client: window.Client) -> None: ...

    return floor


def forgets_the_floor_of_who_is_away(old: Callable[..., None]) -> Callable[..., None]:
    def remember(self: ReplyWindow, key: bytes, evicted: int, row: int) -> None: ...

    return remember


def refuses_what_runs_when_it_drains(old: Callable[..., None]) -> Callable[..., None]:
    def drain(self: ServerCore, now: float) -> None:
        running = [
            entry
            for caller in self._callers.values()
            for entry in caller.open.values()
            if entry.state == RUNNING and entry.caller is caller
        ]
        old(self, now)
        for entry in running:
            if entry.caller is not None:
                self._refuse(entry.caller, entry.number, "draining", "the server takes no more calls", now)

    return drain


def runs_one_too_many(old: Callable[..., None]) -> Callable[..., None]:
    def dispatch(self: Dispatch, now: float) -> None:
        self.capacity += 1
        try:
            old(self, now)
        finally:
            self.capacity -= 1

    return dispatch


def frees_a_place_twice(old: Callable[..., None]) -> Callable[..., None]:
    def unwanted(self: ServerCore, entry: Entry, now: float, **more: Any) -> None:
        queued = entry.state == QUEUED
        old(self, entry, now, **more)
        if queued and entry.state != QUEUED:
            self.running -= 1

    return unwanted


def forgets_a_request_id_when_it_is_done(old: Callable[..., None]) -> Callable[..., None]:
    def done(self: Dispatch, entry: Entry, execution: Execution, answer: Answer, now: float) -> None:
        old(self, entry, execution, answer, now)
        if entry.id and self.window.ids.get(entry.id) is entry:
            del self.window.ids[entry.id]

    return done


def lets_a_stream_run_ahead(old: Callable[..., None]) -> Callable[..., None]:
    def extend(self: Streaming, entry: Entry, execution: Execution, flow: Any, caller: Caller) -> None:
        flow.granted += 1
        old(self, entry, execution, flow, caller)

    return extend


def starts_what_was_only_to_be_looked_up(old: Callable[..., None]) -> Callable[..., None]:
    def look_up(self: ServerCore, caller: Caller, entry: Entry, *more: Any) -> None:
        old(self, caller, entry, *more)
        if entry.execution is not None:
            entry.execution.only_look_up = False

    return look_up


MUTANTS = [
    *(
        Mutant(name, "reqrep", lambda owner=owner, method=method, make=make: replaced(owner, method, make))  # type: ignore[misc]
        for name, owner, method, make in (
            ("sends to others what may have run", Returning, "_bereave", sends_anything_anywhere),
            ("takes any window for the one that was lost", balance.Balance, "window", any_window_is_the_same),
            ("forgets where a call was before", placing.Placing, "_exposed", forgets_where_it_was),
            ("takes no reply for not sent", placing.Placing, "_out_of_time", never_sent_what_has_no_reply),
            ("lets the floor pass what its journal has", balance.Window, "floor", the_floor_passes_what_is_kept),
            ("forgets a durable call before it is told", Keeping, "_forget", forgets_before_it_tells),
            ("hands over elsewhere before that is stored", Keeping, "_keep", hands_over_what_is_not_stored),
            ("resumes a call at another server", Keeping, "resume", resumes_anywhere),
            ("looks at no credit", balance.Balance, "pick", looks_at_no_credit),
            ("pauses a call for ever", placing.Placing, "_pause", the_pause_has_no_end),
            ("loses what a draining server refuses", Returning, "_refused", loses_what_a_draining_server_refuses),
            ("takes expired for not executed", Returning, "_unknown", takes_expired_for_not_executed),
            ("sends a stream again", Returning, "_bereave", a_stream_is_like_any_call),
            ("drops an item of a stream", ClientCore, "_receive_item", takes_items_as_they_come),
            ("takes a new session for a new client", ServerCore, "opened", a_new_session_is_a_new_client),
            ("forgets what runs for a lost client", ServerCore, "lost", forgets_what_runs_for_a_lost_client),
            ("answers the session that is gone", ServerCore, "_repeat", answers_the_session_that_is_gone),
            ("starts before the start is stored", Dispatch, "_start", starts_before_it_is_stored),
            ("takes what was started for new", server_module, "restore", takes_what_was_started_for_new),
            ("raises no evicted floor", ReplyWindow, "evict", the_evicted_floor_stays),
            ("stores no floors", Ledger, "floor", stores_no_floors),
            ("forgets the floors of those away", ReplyWindow, "remember_floor", forgets_the_floor_of_who_is_away),
            ("refuses what runs when it drains", ServerCore, "drain", refuses_what_runs_when_it_drains),
            ("runs one too many", Dispatch, "_dispatch", runs_one_too_many),
            ("frees a place twice", ServerCore, "_unwanted", frees_a_place_twice),
            ("forgets a request id with its end", Dispatch, "_done", forgets_a_request_id_when_it_is_done),
            ("lets a stream run ahead", Streaming, "_extend", lets_a_stream_run_ahead),
            ("executes what it was to look up", ServerCore, "_look_up", starts_what_was_only_to_be_looked_up),
        )
    ),
    Mutant("wakes two ticks late", "reqrep", wakes_two_ticks_late),
]
