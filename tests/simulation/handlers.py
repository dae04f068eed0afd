"""What the user of a simulated server does: takes executions, and ends them after a while, or never.

Knows the server's verbs and the judge; nothing of clients.
"""

from __future__ import annotations

import random
from functools import partial
from typing import Any

from tests.simulation.calls import STREAM, UPLOAD, Executed, Judge
from zmqkit.patterns.reqrep.calls import DONE, ERROR, REFUSED, RESULT, UNKNOWN, Answer, Execution, Item
from zmqkit.patterns.reqrep.rows import CALLS
from zmqkit.patterns.reqrep.server import ServerCore
from zmqkit.testing.contract import ContractBroken
from zmqkit.testing.peers import SimPeer
from zmqkit.testing.tickets import SimTicket

SLOW = ("slow", "slowlook")
AHEAD = 3
"""So many items of an upload may come before the first is taken."""


class Ping(SimTicket):
    """A ticket that calls back."""

    __slots__ = ("then",)

    def __init__(self, about: Any, then: partial[None]) -> None:
        super().__init__(about)
        self.then = then

    def resolve(self, result: object) -> None:
        super().resolve(result)
        self.then()


class Sink:
    """Takes the items of an upload, and its end once."""

    __slots__ = ("answer", "items", "then")

    def __init__(self) -> None:
        self.items: list[bytes] = []
        self.answer: Answer | None = None
        self.then: partial[None] | None = None

    def resolve(self, result: object) -> None:
        """Called by the driver."""
        if self.answer is not None:
            raise ContractBroken(f"an upload goes on after its end: {result!r}")
        if isinstance(result, Item):
            self.items.append(result.body)
        else:
            assert isinstance(result, Answer)
            self.answer = result
        if self.then is not None:
            self.then()


class Handlers:
    """The handlers of one incarnation of a server."""

    def __init__(self, peer: SimPeer, judge: Judge, rng: random.Random, window: bytes, capacity: int) -> None:
        self.peer = peer
        self.judge = judge
        self.rng = rng
        self.window = window
        self.capacity = capacity
        self.incarnation = peer.incarnation
        self.running: dict[Executed, None] = {}

    @property
    def there(self) -> bool:
        """This incarnation lives."""
        return self.peer.alive and self.peer.incarnation == self.incarnation

    def take(self, execution: Execution) -> None:
        """Begin one."""
        peer, rng, core = self.peer, self.rng, self.peer.core
        assert isinstance(core, ServerCore)
        made = self.judge.started(peer, self.window, execution, int(core.counters["replies_evicted"]))
        self.running[made] = None
        assert len(self.running) <= self.capacity, f"{peer.name} runs {len(self.running)} at once, not {self.capacity}"
        ones = sum(each.execution.method == "one" for each in self.running)
        assert ones <= 1, f"{peer.name} runs {ones} of a method that is to run alone"
        if made.only_look_up:
            found = self.judge.inbox.get((self.window, execution.client, execution.number))
            peer.world.counts["looked up, and found" if found else "looked up, and not found"] += 1
            answer = found or Answer(UNKNOWN, code="started", message="it is not known")
            peer.world.after(0.01, self._finish, made, answer)
            return
        if peer.disk is not None and execution.method not in ("look", "slowlook"):
            row = peer.disk.table(CALLS).rows.get(execution.core.key)
            assert row is not None, f"{peer.name} executes {made.deed.name!r}, and its start is not stored"
        peer.post("watch", execution, Ping("cancelled", partial(self._cancelled, made)))
        if execution.method == STREAM:
            made.total = rng.choice((0, 1, 3, 8, 20))
            self._emit(made)
        elif execution.method == UPLOAD:
            assert isinstance(execution.upload, Sink)
            execution.upload.then = partial(self._collect, made)
            peer.post("grant_upload", execution, AHEAD)
            self._collect(made)
        else:
            seconds = rng.uniform(0.1, 1.2) if execution.method in SLOW else rng.expovariate(100.0)
            what = rng.random()
            if peer.world.healed:
                what = 1.0
            made.declined = what < 0.04
            kind = REFUSED if made.declined else ERROR if what < 0.12 else UNKNOWN if what < 0.14 else RESULT
            peer.world.after(seconds, self._finish, made, self._answer(made, kind))

    def _answer(self, made: Executed, kind: int) -> Answer:
        if kind in (REFUSED, UNKNOWN):
            return Answer(kind, code="arguments" if kind == REFUSED else "timeout", message="so says the handler")
        size = 17_000 if made.deed.method == "large" and kind == RESULT else self.rng.choice((0, 0, 20, 300))
        return Answer(kind, b"%d|%s%s" % (made.serial, made.deed.name, b"." * size))

    def _finish(self, made: Executed, answer: Answer) -> None:
        if self.there and self.running.pop(made, made) is None:
            self.judge.ended(made, answer)
            self.peer.post("finish", made.execution, answer)

    def _cancelled(self, made: Executed) -> None:
        assert made.execution.cancelled
        self.peer.world.counts["handlers cancelled"] += 1
        if self.rng.random() < 0.7:
            # Not now: this is the middle of a drain.
            self.peer.world.after(0.002, self._finish, made, self._answer(made, ERROR))

    # ---- streams -------------------------------------------------------------------

    def _emit(self, made: Executed) -> None:
        execution = made.execution
        if not self.there or made not in self.running:
            return
        if execution.cancelled:
            self._finish(made, self._answer(made, ERROR))
            return
        count = min(execution.limit - made.emitted, made.total - made.emitted, self.rng.choice((1, 2, 8)))
        if count > 0:
            bodies = [(b"%s#%d" % (made.deed.name, made.emitted + n), "msgpack") for n in range(count)]
            made.emitted += count
            self.peer.post("emit", execution, bodies)
        if made.emitted >= made.total:
            self._finish(made, Answer(DONE))
        elif made.emitted < execution.limit:
            self.peer.world.after(self.rng.expovariate(50.0), self._emit, made)
        else:
            self.peer.world.counts["streams waited for credit"] += 1
            more = partial(self.peer.world.after, 0.001, self._emit, made)
            self.peer.post("await_limit", execution, made.emitted, Ping("limit", more))

    # ---- uploads -------------------------------------------------------------------

    def _collect(self, made: Executed) -> None:
        sink = made.execution.upload
        while made.taken < len(sink.items):
            expected = b"%s#%d" % (made.deed.name, made.taken)
            assert sink.items[made.taken] == expected, f"an upload has {sink.items[made.taken]!r}, not {expected!r}"
            made.taken += 1
            self.peer.world.counts["items uploaded"] += 1
        if not self.there or made not in self.running:
            return
        if sink.answer is not None:
            good = sink.answer.kind == DONE
            self.peer.world.counts["uploads ended" if good else f"uploads broken: {sink.answer.code}"] += 1
            answer = self._answer(made, RESULT if good else ERROR)
            self.peer.world.after(self.rng.expovariate(100.0), self._finish, made, answer)
            sink.then = None
        elif made.taken:
            self.peer.post("grant_upload", made.execution, made.taken + AHEAD)
