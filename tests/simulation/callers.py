"""What the user of a simulated client does: makes calls of all kinds, takes items, uploads, and changes its mind.

Knows the client's verbs and the judge; nothing of servers.
"""

from __future__ import annotations

import random
from collections import deque
from functools import partial
from typing import Any, Final

from tests.simulation.calls import IDEMPOTENT, STREAM, UPLOAD, Deed, Judge
from tests.simulation.handlers import Ping
from zmqkit.patterns.reqrep.calls import Answer, Call, Item
from zmqkit.patterns.reqrep.client import ClientCore
from zmqkit.patterns.reqrep.deadlines import TICK
from zmqkit.patterns.reqrep.rows import REQUESTS
from zmqkit.testing.peers import SimPeer
from zmqkit.testing.tickets import SimTicket

METHODS: Final = (
    "add", "add", "add", "look", "look", "slow", "slow", "slowlook", "one", "large", STREAM, UPLOAD, "nonesuch",
)  # fmt: skip

SHARED: Final = 5
"""Request ids that several clients use; after a while, others."""


class Told(SimTicket):
    """The ticket of a call: items, and one answer."""

    __slots__ = ("then",)

    def __init__(self, about: Any, then: partial[None]) -> None:
        super().__init__(about)
        self.then = then

    def resolve(self, result: object) -> None:
        if not isinstance(result, Item) or self.done:
            super().resolve(result)
        self.then(result)


class Caller:
    """The user of one incarnation of a client."""

    def __init__(self, peer: SimPeer, judge: Judge, rng: random.Random, key: bytes, first: int) -> None:
        self.peer = peer
        self.judge = judge
        self.rng = rng
        self.key = key
        self.number = first - 1
        self.incarnation = peer.incarnation
        self.open: deque[Deed] = deque(maxlen=40)
        self.due: list[tuple[float, Deed]] = []
        """Deadlines of open calls."""

    @property
    def there(self) -> bool:
        """This incarnation lives, and takes calls."""
        return self.peer.alive and self.peer.incarnation == self.incarnation

    def next(self) -> int:
        """A fresh number."""
        self.number += 1
        return self.number

    # ---- calls -----------------------------------------------------------------------

    def call(self, *, method: str = "", healed: bool = False) -> Deed:
        """Make one."""
        peer, rng = self.peer, self.rng
        method = method or rng.choice(METHODS)
        serial = len(self.judge.deeds)
        deadline: float | None = None
        request_id = ""
        items: int | None = None
        uploads: tuple[int | str, ...] = ()
        retries: int | None = rng.choice((None, None, None, 0, 1, 5))
        durable = peer.disk is not None and method in ("add", "look", "slow") and rng.random() < 0.5
        name = b"%d" % serial
        if healed:
            retries = 1000
        else:
            seconds = rng.choice((None, 0.03, 0.3, 1.0, 1.0, 3.0))
            deadline = None if seconds is None else peer.now() + seconds
            if method == "add" and rng.random() < 0.3:
                request_id = f"id {serial // 40}-{rng.randrange(SHARED)}"
                name = request_id.encode()
        if method == STREAM:
            items = rng.choice((0, 1, 4))
        elif method == UPLOAD:
            uploads = (0,)
        body = name + b"." + b"x" * rng.choice((0, 0, 10, 200))
        if method == "large" and rng.random() < 0.3:
            body += b"x" * 17_000
        call = Call(
            self.next(), method, body, deadline=deadline, retries=retries, request_id=request_id, items=items,
            uploads=uploads, durable=durable,
        )  # fmt: skip
        deed = Deed(name, peer, self.key, peer.incarnation, method, call, durable, posted_healed=healed)
        deed.granted, deed.total = items or 0, rng.choice((0, 2, 7, 15))
        call.renumber = partial(self._renumber, deed)
        call.ticket = Told(name, partial(self._told, deed))
        self.judge.asked(deed)
        self.open.append(deed)
        if deadline is not None and not durable:
            self.due.append((deadline, deed))
        if request_id:
            peer.world.counts["request ids asked"] += 1
        peer.post("call", call)
        if method == UPLOAD:
            self._upload(deed)
        elif items == 0:
            peer.world.after(0.02, self._grant, deed)
        return deed

    def resume(self, calls: list[Call]) -> None:
        """Go on with what the journal had."""
        for call in calls:
            deed = self.judge.by_number.get((self.key, call.number))
            assert deed is not None, f"the journal of {self.peer.name} holds call {call.number}, which nobody made"
            assert call.body.partition(b".")[0] == deed.name
            deed.call, deed.incarnation = call, self.incarnation
            if deed.answer is not None:
                # It was told, and the client died before its journal had forgotten it: it will be told again.
                self.peer.world.counts["durable calls told, and resumed"] += 1
            deed.answer, deed.nothing = None, ""
            self.judge.by_call[call] = deed
            call.renumber = partial(self._renumber, deed)
            self.peer.world.counts["durable calls resumed"] += 1

    def _renumber(self, deed: Deed) -> int:
        number = self.next()
        self.judge.numbered(deed, number)
        self.peer.world.counts["renumbered"] += 1
        return number

    def cancel(self) -> None:
        """The user does not want one any more."""
        deed = self._some()
        if deed is not None:
            deed.cancelled = True
            self.peer.post("cancel", deed.call)

    def abandon(self) -> None:
        """The user waits no more for a durable one, which goes on."""
        deed = self._some()
        if deed is not None and deed.durable and deed.call.ticket is not None:
            self.peer.world.counts["abandoned"] += 1
            self.peer.post("abandon", deed.call, deed.call.ticket)

    def _some(self) -> Deed | None:
        deeds = [each for each in self.open if each.open]
        return self.rng.choice(deeds) if deeds else None

    # ---- what is told ------------------------------------------------------------------

    def _told(self, deed: Deed, result: Any) -> None:
        if isinstance(result, Item):
            self.judge.item(deed, result.body)
            if deed.received >= deed.granted - 1:
                self.peer.world.after(self.rng.choice((0.0, 0.0, 0.1)), self._grant, deed)
            return
        self.ended(deed, result)

    def ended(self, deed: Deed, answer: Answer) -> None:
        """One of its calls ended."""
        peer = self.peer
        assert deed.call.done, f"{deed.name!r} is told its end, and is not done"
        assert deed.answer is None, f"{deed.name!r} ends twice: {deed.answer}, {answer}"
        self.judge.told(deed, answer)
        if deed.call.durable and peer.disk is not None and deed.executions and not peer.closing:
            # Forgotten before it was told, a crash between would leave nobody who knows.
            stored = deed.call.number in peer.disk.table(REQUESTS).rows
            assert stored, f"{deed.name!r} ends, and was forgotten before it was told"

    def _grant(self, deed: Deed) -> None:
        if self.there and deed.open:
            deed.granted += self.rng.choice((1, 2, 8))
            self.peer.post("grant", deed.call, deed.granted)

    def _upload(self, deed: Deed) -> None:
        call = deed.call
        if not self.there or call.done:
            return
        if self.rng.random() < 0.02 and deed.sent and not deed.posted_healed:
            self.peer.post("upload_abort", call, "the argument broke")
            deed.total = -1
            return
        count = min(call.upload_limit, deed.total) - deed.sent
        if count > 0:
            self.peer.post("upload", call, [(b"%s#%d" % (deed.name, deed.sent + n), "msgpack") for n in range(count)])
            deed.sent += count
        if deed.sent >= deed.total and call.upload_limit:
            self.peer.post("upload_end", call)
        else:
            again = partial(self.peer.world.after, self.rng.choice((0.0, 0.05)), self._upload, deed)
            self.peer.post("await_upload", call, deed.sent, Ping("upload", again))

    # ---- what must hold ------------------------------------------------------------------

    def check_deadlines(self, now: float) -> None:
        """After a turn at `now`: what was due a tick ago was answered."""
        if not self.due:
            return
        late = [deed for due, deed in self.due if due + TICK + 1e-6 < now and deed.open]
        assert not late, f"{late[0].name!r} was due {now - (late[0].call.deadline or 0.0):.4f} s ago, and has no end"
        core = self.peer.core
        self.due = [each for each in self.due if each[1].open]
        if self.due and isinstance(core, ClientCore):
            first = min(due for due, deed in self.due)
            wakes = core.next_deadline()
            assert (wakes is not None and wakes <= first + TICK + 1e-6) or self.peer.has_commands, (
                f"{self.peer.name} has a call that is due at {first:.4f}, and will wake at {wakes}"
            )


def idempotent(deed: Deed) -> bool:
    """It may be sent to any server, any number of times."""
    return deed.method in IDEMPOTENT
