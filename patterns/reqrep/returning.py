"""What becomes of calls whose server refuses them, or is lost (docs/protocol.md, section 12).

Pure. A call is sent again only where that is safe: to the same window under the same number, or anywhere if the method
is idempotent or nothing was executed. Else its outcome is unknown, and that is said.
"""

from __future__ import annotations

import random
from typing import Final

from zmqkit.events import CallRetried, ServerBack, ServerOut
from zmqkit.options import Backoff, Limits
from zmqkit.patterns.reqrep.balance import Server, Window
from zmqkit.patterns.reqrep.calls import (
    CANCELLED,
    LOST,
    NO_REPLY_IN_TIME,
    NOT_SENT_IN_TIME,
    UNKNOWN,
    Answer,
    Call,
    ServerState,
)
from zmqkit.patterns.reqrep.placing import Placing
from zmqkit.patterns.reqrep.wire import CALL
from zmqkit.protocol.handshake import FORGOTTEN, WENT_BACK
from zmqkit.protocol.local import Local
from zmqkit.protocol.session import Session
from zmqkit.protocol.timers import Timers

OVERLOADED: Final = Backoff(first=0.05, factor=2.0, cap=5.0)
"""How long a call waits that every server refused as overloaded, before it asks them all again."""

LIVES: Final = frozenset({FORGOTTEN, "replaced"})
"""A session that ended so was forgotten, but the server may well be there: a new one shows it in a moment."""

MAX_RENUMBERED: Final = 3
"""A server that says so often that a fresh number has expired is not to be helped."""


class Returning(Placing):
    """Servers come and go. See `Placing` for the arguments."""

    def __init__(self, local: Local, rng: random.Random, limits: Limits) -> None:
        super().__init__(local, rng, limits)
        self._timers = Timers()
        self._again: dict[Server, None] = {}
        """Servers to which calls are to be sent again."""
        for name in ("calls_retried", "calls_unknown", "calls_refused", "servers_out", "servers_probed"):
            self.counters.setdefault(name, 0)

    # ---- servers ---------------------------------------------------------------------

    def opened(self, session: Session, now: float) -> None:
        """A server came."""
        about = session.peer.about
        epoch = about.get("epoch")
        window = about.get("window", epoch)
        if type(epoch) is not bytes or len(epoch) != 16 or type(window) is not bytes or not 0 < len(window) <= 16:
            self.sessions.bad_frame(session.link, "a server without an epoch")
            self.sessions.goodbye(session, "no epoch", now)
            return
        address = self.sessions.place(session)
        server = self.balance.add(session, address, epoch, window, durable=about.get("journal") is True)
        if not server.proved:
            self.counters["servers_probed"] += 1
            self._timers.set(("proof", session.id), now + session.peer.bound)
        self._timers.cancel(("limbo", window))
        for other in list(self.balance.windows.values()):
            if other.address == server.address and not other.servers and not other.durable:
                # Somebody else is there now.
                self._lose_limbo(other, "another server came in its place")
            elif not other.servers and not other.durable and ("limbo", other.id) not in self._timers:
                # From the journal: its server may be there too, and would show it by now.
                self._timers.set(("limbo", other.id), now + session.peer.bound)
        self._resume(server)

    def changed(self, session: Session, now: float) -> None:
        """See `PatternCore`: its state may be another."""
        server = self.balance.servers.get(session.id)
        if server is not None:
            self.balance.refresh(server)

    def _prove(self, server: Server) -> None:
        """It takes its share of the calls again."""
        server.proved = True
        self._timers.cancel(("proof", server.session.id))
        self.balance.refresh(server)
        self.out.events.append(ServerBack(self.local.name, server.name))

    def _resume(self, server: Server) -> None:
        """Calls in limbo for its window are to be sent there again."""
        window = server.window
        server.again = sorted(
            (call for call in window.calls.values() if call.core is window), key=lambda call: call.number
        )
        if server.again:
            self._again[server] = None

    def _best(self, window: Window) -> Server:
        """The server to ask, of those that lead to a window."""
        return next((each for each in window.servers if self.balance.ready(each)), window.servers[0])

    def _send_again(self, now: float) -> None:
        """As far as there is room: also to one that drains, for it answers what it knows; and to one that probes."""
        for server in list(self._again):
            calls = server.again
            at = 0
            while at < len(calls) and server.state in (ServerState.UP, ServerState.PROBING) and server.room > 0:
                call = calls[at]
                at += 1
                if not call.done and call.core is server.window:
                    self._retried(call, "its server came back")
                    self._hand(server, call, now)
            del calls[:at]
            if not calls:
                del self._again[server]

    def _retried(self, call: Call, reason: str) -> None:
        trail = self._trail(call)
        trail.retries += 1
        trail.tried.clear()
        self.counters["calls_retried"] += 1
        self.out.events.append(CallRetried(self.local.name, call.request_id or str(call.number), reason))

    def _may_retry(self, call: Call) -> bool:
        trail = self._trails.get(call)
        return call.retries is None or (trail.retries if trail else 0) < call.retries

    def _write_owed(self) -> None:
        """A hook of the part above: the journal may take now what it refused."""

    # ---- a lost server ---------------------------------------------------------------

    def lost(self, session: Session, reason: str, now: float) -> None:
        """A server is lost: what was handed there is sent again where that is safe, waits in limbo, or is unknown."""
        server = self.balance.remove(session, reason)
        if server is None:
            return
        if not self._closing:
            self.counters["servers_out"] += 1
            self.out.events.append(ServerOut(self.local.name, server.name, reason))
        self._timers.cancel(("proof", session.id))
        self._again.pop(server, None)
        unsent = {record[1] for record in server.packer.records if record[0] == CALL}
        server.packer.pack()
        window = server.window
        alone = not window.servers
        limbo = False
        for call in list(window.calls.values()):
            if call.core is server:
                if call.number in unsent:
                    self._withdraw(call)
                    call.attempt -= 1
                    self._back.append(call)
                else:
                    limbo |= self._bereave(call, server, reason)
            elif call.core is window:
                limbo |= not alone or self._bereave(call, server, reason)
        if limbo:
            if window.servers:
                self._resume(self._best(window))
            elif not window.durable:
                self._timers.sooner(("limbo", window.id), now + session.peer.bound)
        self.balance.release(window)

    def _bereave(self, call: Call, server: Server, reason: str) -> bool:
        """A call whose server is lost; it may have been executed. True: it is in limbo."""
        window = server.window
        self._trail(call).exposed.add(window.id)
        if call.items is not None or call.uploads or not self._may_retry(call):
            self._lose(call, server.name, reason)
            return False
        if call.method in server.methods:
            self._withdraw(call)
            self._retried(call, reason)
            self._back.append(call)
            return False
        if reason != WENT_BACK and (window.servers or window.durable or reason in LIVES):
            call.core = window
            return True
        self._lose(call, server.name, reason)
        return False

    def _lose(self, call: Call, name: str, reason: str) -> None:
        self.counters["calls_unknown"] += 1
        self._end(call, Answer(LOST, code=reason, server=name))

    def _lose_limbo(self, window: Window, reason: str) -> None:
        """Who was waited for does not come."""
        for call in list(window.calls.values()):
            if call.core is window:
                self._lose(call, "", reason)
        self.balance.release(window)

    # ---- a refusal -------------------------------------------------------------------

    def _refused(self, call: Call, server: Server, code: str, message: str, now: float) -> None:
        """The server did not execute it, and will not."""
        self.counters["calls_refused"] += 1
        self._withdraw(call)
        trail = self._trails.get(call)
        # It would know; but of what is idempotent its journal keeps nothing.
        if trail is not None and code != "epoch" and not (server.window.durable and call.method in server.methods):
            trail.exposed.discard(server.window.id)
        if code in ("draining", "epoch"):
            server.draining = True
            self.balance.refresh(server)
        if code == "cancelled":
            self._end(call, Answer(CANCELLED, server=server.name))
        elif code == "late" and call.deadline is not None:
            self.counters["calls_late"] += 1
            kind = NO_REPLY_IN_TIME if self._exposed(call) else NOT_SENT_IN_TIME
            self._end(call, Answer(kind, code=code, message=message, server=server.name))
        elif call.upload_limit:
            self._refuse(call, server, code, message)  # items are on their way, and cannot be had again
        elif code in ("draining", "epoch"):
            self._back.append(call)
        elif code == "overloaded":
            self._overloaded(call, server, message, now)
        else:
            self._refuse(call, server, code, message)

    def _overloaded(self, call: Call, server: Server, message: str, now: float) -> None:
        """Ask each other server once; then, if retries were asked for, all of them again after a while."""
        trail = self._trail(call)
        trail.tried.append(server)
        other = self.balance.pick(trail.tried)
        if other is not None:
            self._hand(other, call, now)
        elif call.durable or (call.retries is not None and self._may_retry(call)):
            trail.rounds += 1
            self._pause(call, now + self.rng.random() * OVERLOADED.ceiling(trail.rounds))
            self._retried(call, "overloaded")
            if call.durable:
                trail.retries -= 1  # it goes on for as long as it takes
        else:
            self._refuse(call, server, "overloaded", message)

    def _unknown(self, call: Call, server: Server, code: str, message: str) -> None:
        """The server does not know, or does not say, what became of it."""
        trail = self._trail(call)
        window = server.window
        if code == "expired" and window.id not in trail.exposed:
            # Never handed there before: so it was not executed there, only the number is too old.
            self._withdraw(call)
            trail.renumbered += 1
            if trail.renumbered <= MAX_RENUMBERED and not call.upload_limit and self._renumber(call):
                self._back.append(call)
            else:
                self._refuse(call, server, code, message)
            return
        trail.exposed.add(window.id)
        if (
            code in ("expired", "dropped") and call.method in server.methods and call.items is None
            and not call.uploads and self._may_retry(call)
        ):  # fmt: skip
            self._withdraw(call)
            if self._renumber(call):
                self._retried(call, code)
                self._back.append(call)
                return
        self.counters["calls_unknown"] += 1
        self._end(call, Answer(UNKNOWN, code=code, message=message, server=server.name))

    # ---- timers ----------------------------------------------------------------------

    def _run_timers(self, now: float) -> None:
        for call in self._deadlines.pop(now):
            self._out_of_time(call, now)
        for call in self._paused.pop(now):
            self._trails[call].paused = None
            self._back.append(call)
        while (key := self._timers.pop(now)) is not None:
            assert isinstance(key, tuple)
            what, name = key
            if what == "limbo":
                window = self.balance.windows.get(name)
                if window is not None and not window.servers:
                    self._lose_limbo(window, "its server did not come back")
            elif what == "store":
                self._write_owed()
            elif what == "proof":
                server = self.balance.servers[name]
                if server.state is ServerState.PROBING:
                    self._prove(server)
                else:
                    self._timers.set(key, now + server.session.peer.bound)
