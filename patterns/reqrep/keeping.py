"""Durable calls: what of them is in the journal, and when they may go on (docs/protocol.md, section 12).

Pure. A row says where the call was handed, and is stored before it is handed there: whoever reads it after a crash
knows which server may have executed it. So a call that goes to another window is stored again first. Its row goes when
its answer is out, not before: else a crash between would leave nobody who knows. And no floor passes it while it is
there: who reads it asks for it again, and the server must know it then.
"""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Iterable
from typing import Final

from zmqkit.errors import JournalError, JournalFull
from zmqkit.events import JournalRecovered, JournalTrouble
from zmqkit.options import Limits
from zmqkit.patterns.reqrep.balance import Server, Window
from zmqkit.patterns.reqrep.calls import CLOSED, LOST, STORE_FAILED, Answer, Call
from zmqkit.patterns.reqrep.placing import CLOSED as WHY_CLOSED
from zmqkit.patterns.reqrep.returning import Returning
from zmqkit.patterns.reqrep.rows import NOWHERE, REQUESTS, Mark, pack_request
from zmqkit.protocol.local import Local

ELSEWHERE: Final = b"elsewhere"
"""In place of the ids of windows that the journal does not name."""

RETRY_STORE: Final = 1.0
"""Seconds until what a full disk refused is written again."""


class _Kept:
    """What the journal has, or will have, of one call.

    Attributes:
        mark: what its row says; None: there is no row yet.
        storing: the number of the write that it waits for; 0: it waits for none.
    """

    __slots__ = ("mark", "storing")

    def __init__(self, mark: Mark | None) -> None:
        self.mark = mark
        self.storing = 0


class Keeping(Returning):
    """Stores durable calls. See `Placing` for the arguments."""

    def __init__(self, local: Local, rng: random.Random, limits: Limits) -> None:
        super().__init__(local, rng, limits)
        self._kept: dict[Call, _Kept] = {}
        self._storing: deque[tuple[int, Call, Mark]] = deque()
        """(number of the write, call, what its row says then): calls that wait for it."""
        self._tidying: deque[tuple[int, int, bytes | None]] = deque()
        """(number of the write, key, value): changes for which nobody waits."""
        self._owed: dict[int, bytes | None] = {}
        """Such changes that the journal refused, to be written again: value by key."""
        self._ailing = False
        self._ended: list[int] = []
        """Calls whose answers go out at the end of this turn."""
        self._told: list[int] = []
        """Calls whose answers are out: their rows may go."""
        self._held: dict[int, Window] = {}
        """Where the floor does not pass a call: its row is still there."""
        self._broken: Exception | None = None
        for name in ("calls_kept", "commits_failed"):
            self.counters.setdefault(name, 0)

    # ---- calls come ------------------------------------------------------------------

    def _begin_durable(self, call: Call, now: float) -> None:
        """Store it, for the server that will get it if there is one now."""
        call.deadline = None
        if self._turned_away(call):
            return
        self._kept[call] = _Kept(None)
        server = self.balance.pick() if not self._waiting and not self._back else None
        self._store(call, self._mark(server, call))

    def resume(self, calls: Iterable[Call], now: float) -> None:
        """Go on with calls from the journal, as `rows.read_request` made them.

        What was handed to a server goes to the same window only, unless its method was idempotent there. Where a call
        has no ticket, its outcome is put into ``out.items``, as (call, `Answer`).
        """
        for call in calls:
            mark = call.core if isinstance(call.core, Mark) else NOWHERE
            call.core = None
            call.durable = True
            call.deadline = None
            self._kept[call] = _Kept(mark)
            if mark.exposed:
                self._trail(call).exposed.add(ELSEWHERE)
            if not mark.window:
                self._wait(call)
                continue
            self._trail(call).exposed.add(mark.window)
            if not self._may_retry(call):
                self._lose(call, "", "this client was started anew")
            elif mark.idempotent:
                self._wait(call)
            else:
                window = self.balance.window(mark.window, durable=mark.durable)
                call.core = window
                window.put(call)
                if window.servers:
                    self._resume(self._best(window))

    def abandon(self, call: Call, ticket: object, now: float) -> None:
        """Nobody waits on this ticket any more; the call goes on, and its outcome goes to ``out.items``."""
        if call.ticket is ticket and not call.done:
            call.ticket = None

    # ---- hooks -----------------------------------------------------------------------

    def _keep(self, server: Server, call: Call) -> bool:
        kept = self._kept.get(call)
        if kept is None or (kept.mark is not None and kept.mark.window == server.window.id):
            return True
        self._store(call, self._mark(server, call))
        return False

    def _forget(self, call: Call) -> None:
        kept = self._kept.pop(call, None)
        if kept is None:
            return
        self._ended.append(call.number)
        self._hold(call, kept)

    def _hold(self, call: Call, kept: _Kept) -> None:
        """Let no floor pass a call that is over here, and whose row is there."""
        if kept.mark is not None and kept.mark.window:
            window = self.balance.window(kept.mark.window, durable=kept.mark.durable)
            window.kept.add(call.number)
            self._held[call.number] = window

    def _renumber(self, call: Call) -> bool:
        before = call.number
        if not super()._renumber(call):
            return False
        kept = self._kept.get(call)
        if kept is not None:
            # Both in one commit: at no time has the journal two of it, or none.
            kept.mark = self._mark(None, call)
            self._tidy(call.number, pack_request(call, kept.mark))
            self._tidy(before, None)
        return True

    def _mark(self, server: Server | None, call: Call) -> Mark:
        """What its row is to say when it is handed to this server."""
        trail = self._trails.get(call)
        exposed = trail.exposed if trail is not None else set()
        if server is None:
            return Mark(exposed=bool(exposed))
        window = server.window
        return Mark(window.id, window.durable, call.method in server.methods, bool(exposed - {window.id}))

    # ---- the journal -----------------------------------------------------------------

    def _store(self, call: Call, mark: Mark) -> None:
        """Write its row; it goes on once that is stored."""
        if self._broken is not None:
            self._fail(call, self._broken)
            return
        self._owed.pop(call.number, None)
        number = self.out.write(REQUESTS, call.number, 1, pack_request(call, mark))
        self._kept[call].storing = number
        self._storing.append((number, call, mark))

    def _tidy(self, key: int, value: bytes | None) -> None:
        self._owed.pop(key, None)
        if self._broken is None:
            number = self.out.write(REQUESTS, key, 0 if value is None else 1, value)
            self._tidying.append((number, key, value))

    def stored(self, up_to: int, now: float) -> None:
        """The rows are in the journal: their calls go on."""
        if self._ailing:
            self._ailing = False
            self.out.events.append(JournalRecovered(self.local.name))
        while self._tidying and self._tidying[0][0] <= up_to:
            _, key, _ = self._tidying.popleft()
            held = self._held.pop(key, None)
            if held is not None:
                held.kept.discard(key)
                self.balance.release(held)
        while self._storing and self._storing[0][0] <= up_to:
            number, call, mark = self._storing.popleft()
            kept = self._kept.get(call)
            if kept is None or kept.storing != number:
                continue  # it ended meanwhile
            if kept.mark is None:
                self.counters["calls_kept"] += 1
            kept.mark, kept.storing = mark, 0
            if self._closing:
                self._end_closed(call)
                continue
            window = self.balance.windows.get(mark.window)
            server = next((each for each in window.servers if self.balance.ready(each)), None) if window else None
            if server is not None and (server.proved or not server.load):
                self._hand(server, call, now)
            else:
                self._back.append(call)

    def store_failed(self, up_to: int, error: Exception, now: float) -> None:
        """What was being stored is not, or may not be. See `Core`."""
        self.counters["commits_failed"] += 1
        if self._broken is None and not self._ailing:
            self.out.events.append(JournalTrouble(self.local.name, str(error)))
        passes = isinstance(error, JournalFull) and self._broken is None
        self._ailing = passes
        if not passes and self._broken is None:
            self._broken = JournalError(
                f"nothing was stored: the journal failed before ({error}). Close this client and open it again"
            )
        while self._tidying and self._tidying[0][0] <= up_to:
            _, key, value = self._tidying.popleft()
            if passes and not self._closing:
                self._owed[key] = value
                self._timers.set(("store", b""), now + RETRY_STORE)
        while self._storing and self._storing[0][0] <= up_to:
            number, call, _ = self._storing.popleft()
            kept = self._kept.get(call)
            if kept is None or kept.storing != number:
                continue
            kept.storing = 0
            if passes and kept.mark is not None and not self._closing:
                self._pause(call, now + RETRY_STORE)  # its row stands as it was: it may be handed over later
            else:
                self._fail(call, error)

    def _fail(self, call: Call, error: Exception) -> None:
        """It cannot be handed over, for the journal would not know."""
        if self._kept[call].mark is None:
            del self._kept[call]  # there is no row that would have to go
        if self._exposed(call):
            self._end(call, Answer(LOST, code="journal", message=str(error), error=error))
        else:
            self._end(call, Answer(STORE_FAILED, message=str(error), error=error))

    def _write_owed(self) -> None:
        owed, self._owed = self._owed, {}
        for key, value in owed.items():
            self._tidy(key, value)

    def end_turn(self, now: float) -> None:
        """See `Core`. The answers of a turn go out right after this: what ended may be forgotten in the next one."""
        if self._ended or self._told:
            told, self._told, self._ended = self._told, self._ended, []
            for key in told:
                self._tidy(key, None)
            if self._told:
                self._timers.set(("told", b""), now)  # nothing else may bring a next turn
            else:
                self._timers.cancel(("told", b""))
        super().end_turn(now)

    # ---- the end ---------------------------------------------------------------------

    def _end_closed(self, call: Call) -> None:
        kept = self._kept.get(call)
        if kept is None:
            super()._end_closed(call)
        elif not kept.storing:  # else it ends when it is known whether it is stored
            del self._kept[call]
            self._hold(call, kept)
            self._end(call, Answer(CLOSED, code="closed", message=WHY_CLOSED))

    @property
    def finished(self) -> bool:
        """See `Core`."""
        return self._finished and not (self._storing or self._tidying or self._ended or self._told)
