"""What happened to each call of a simulated service, and what of it may not be.

The judge: it sees what callers ask and are told, and what handlers are given and make of it, and no state of a core. A
call is its body, and no two bodies are alike, but for those that two clients ask for under one request id.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from typing import Final

from zmqkit.patterns.reqrep.calls import Answer, Call, Execution, Kind
from zmqkit.testing.peers import SimPeer

IDEMPOTENT: Final = frozenset({"look", "slowlook"})
STREAM, UPLOAD = "count", "sum"
ONCE: Final = frozenset({"add", "slow", "one", "large", STREAM, UPLOAD})

NOTHING: Final = frozenset({Kind.REFUSED, Kind.NOT_SENT, Kind.NOT_SENT_IN_TIME})
"""Ends that say that nothing was executed, and never will be."""


@dataclasses.dataclass(slots=True, eq=False)
class Deed:
    """One call that a user made.

    Attributes:
        name: what its body begins with.
        numbers: all that it was ever given.
        nothing: what it was told that means that nothing was executed; empty: it was not.
        ends: how often it was told how it ended: once, but for durable calls whose client crashed after it.
        gone: nobody can be told any more: its client is gone, or the journal that had it.
        executions: of it.
        granted, received: items of its stream.
        total, sent: items of its upload.
        posted_healed: it was made after the faults had ended.
    """

    name: bytes
    client: SimPeer
    key: bytes
    incarnation: int
    method: str
    call: Call
    durable: bool = False
    numbers: set[int] = dataclasses.field(default_factory=set)
    answer: Answer | None = None
    nothing: str = ""
    ends: int = 0
    gone: bool = False
    cancelled: bool = False
    executions: list[Executed] = dataclasses.field(default_factory=list)
    granted: int = 0
    received: int = 0
    total: int = 0
    sent: int = 0
    posted_healed: bool = False

    @property
    def open(self) -> bool:
        """Somebody is still to be told."""
        return self.answer is None and not self.gone


@dataclasses.dataclass(slots=True, eq=False)
class Executed:
    """One execution that a handler was given.

    Attributes:
        serial: what its result begins with.
        server, incarnation: where.
        declined: its handler refused it before it did anything.
        only_look_up: it was not executed: the handler looked for what an earlier one had left.
        shaky: what the server remembered of it is gone, and its window goes by the same name: it was restored from a
            snapshot, or the power took commits that were never promised to survive.
        answer: what its handler made of it.
        emitted, taken: items of its stream, and of its upload.
    """

    serial: int
    deed: Deed
    execution: Execution
    server: SimPeer
    incarnation: int
    window: bytes
    declined: bool = False
    only_look_up: bool = False
    shaky: bool = False
    answer: Answer | None = None
    emitted: int = 0
    total: int = 0
    taken: int = 0
    lapsed: bool = False

    @property
    def real(self) -> bool:
        """It was executed, and its server knows."""
        return not (self.declined or self.only_look_up or self.shaky)


class Judge:
    """Holds what is seen against what was seen before; asserts."""

    def __init__(self, counts: Counter[str]) -> None:
        self.counts = counts
        self.deeds: list[Deed] = []
        self.by_number: dict[tuple[bytes, int], Deed] = {}
        self.by_call: dict[Call, Deed] = {}
        self.executed: list[Executed] = []
        self.inbox: dict[tuple[bytes, bytes, int], Answer] = {}
        """What handlers left in their own database: by window, client and number."""
        self._by_id: dict[tuple[str, int, str], list[Executed]] = {}

    # ---- callers -------------------------------------------------------------------

    def asked(self, deed: Deed) -> None:
        """A user is about to make a call."""
        self.deeds.append(deed)
        self.by_call[deed.call] = deed
        self.numbered(deed, deed.call.number)

    def numbered(self, deed: Deed, number: int) -> None:
        """It got this number."""
        assert (deed.key, number) not in self.by_number, f"{deed.name!r} gets number {number}, which was given before"
        deed.numbers.add(number)
        self.by_number[deed.key, number] = deed

    def told(self, deed: Deed, answer: Answer) -> None:
        """It ended, as far as its client knows."""
        kind = Kind(answer.kind)
        self.counts[f"told: {kind.name}"] += 1
        if answer.code and kind in (Kind.REFUSED, Kind.UNKNOWN):
            self.counts[f"told: {kind.name} {answer.code}"] += 1
        assert not deed.gone, f"{deed.name!r} is answered, and nobody is there: {answer}"
        deed.ends += 1
        deed.answer = answer
        if kind in (Kind.RESULT, Kind.ERROR):
            self._check_reply(deed, answer)
        elif kind == Kind.DONE:
            self._check_stream(deed)
        elif kind in NOTHING or (kind == Kind.STORE_FAILED and "Indeterminate" not in type(answer.error).__name__):
            deed.nothing = f"{kind.name} {answer.code}"
            self.check_nothing(deed)
        if deed.nothing and kind not in NOTHING and kind != Kind.STORE_FAILED:
            assert kind == Kind.CLOSED, f"{deed.name!r} was told {deed.nothing}, and now {answer}"

    def check_nothing(self, deed: Deed) -> None:
        """It was told that nothing was executed, and nothing was."""
        for each in deed.executions:
            assert not each.real, (
                f"{deed.name!r} ({deed.method}) was told {deed.nothing}; {each.server.name} had executed it"
            )

    def _check_reply(self, deed: Deed, answer: Answer) -> None:
        serial, _, rest = answer.body.partition(b"|")
        made = self.executed[int(serial)]
        name = made.deed.name
        assert name == deed.name, f"{deed.name!r} got the reply of {name!r}: a mix-up"
        assert rest.startswith(name)
        assert made.deed.method == deed.method, f"{deed.name!r} got a reply of {made.deed.method}, not {deed.method}"
        given = made.answer
        assert given is not None, f"{deed.name!r} got a reply of an execution that is not over"
        assert (given.kind, given.body) == (answer.kind, answer.body), f"{deed.name!r} got another reply than was made"
        if deed.method == UPLOAD and answer.kind == Kind.RESULT:
            assert made.taken == deed.total == deed.sent, (
                f"{deed.name!r}: {made.taken} of {deed.total} items were taken"
            )

    def item(self, deed: Deed, body: bytes) -> None:
        """The next item of its stream."""
        assert deed.open, f"an item of {deed.name!r} after its end"
        expected = b"%s#%d" % (deed.name, deed.received)
        assert body == expected, f"{deed.name!r} got item {body!r}; {expected!r} is next"
        deed.received += 1
        assert deed.received <= deed.granted, f"{deed.name!r} got {deed.received} items of {deed.granted} that may come"
        self.counts["items received"] += 1

    def _check_stream(self, deed: Deed) -> None:
        ended = [each for each in deed.executions if each.answer is not None and each.answer.kind == Kind.DONE]
        assert ended, f"{deed.name!r} is done, and no handler said so"
        assert ended[-1].emitted == deed.received, (
            f"{deed.name!r} is done with {deed.received} items of {ended[-1].emitted}"
        )

    # ---- servers -------------------------------------------------------------------

    def started(self, server: SimPeer, window: bytes, execution: Execution, evicted: int) -> Executed:
        """A handler is given an execution."""
        deed = self.by_number.get((execution.client, execution.number))
        assert deed is not None, f"{server.name} executes call {execution.number}, which nobody made"
        name, _, _ = execution.body.partition(b".")
        assert name == deed.name, f"{server.name} executes {name!r} for {deed.name!r}"
        assert execution.method == deed.method
        made = Executed(len(self.executed), deed, execution, server, server.incarnation, window)
        self.executed.append(made)
        made.only_look_up = execution.only_look_up
        if made.only_look_up:
            self.counts["looked up"] += 1
        else:
            self._check_once(made, evicted)
        deed.executions.append(made)
        return made

    def _check_once(self, made: Executed, evicted: int) -> None:
        deed, execution = made.deed, made.execution
        assert not deed.nothing, f"{deed.name!r} ({deed.method}) is executed; it was told {deed.nothing}"
        for each in deed.executions:
            if not each.real:
                continue
            where = f"{each.server.name} ({each.incarnation}) and {made.server.name} ({made.incarnation})"
            assert deed.method in IDEMPOTENT, f"{deed.name!r} ({deed.method}) is executed twice: by {where}"
            same = each.execution.number == execution.number and each.server is made.server
            assert not same or each.incarnation != made.incarnation, f"{deed.name!r} is executed twice in one epoch"
            self.counts["idempotent executed again"] += 1
        if execution.id:
            known = self._by_id.setdefault((made.server.name, made.incarnation, execution.id), [])
            for each in known:
                assert each.declined or evicted, f"request {execution.id!r} is executed twice by {made.server.name}"
            known.append(made)

    def ended(self, made: Executed, answer: Answer) -> None:
        """A handler says how it ended."""
        made.answer = answer
        if answer.kind == Kind.RESULT and not made.only_look_up:
            execution = made.execution
            self.inbox[made.window, execution.client, execution.number] = answer

    def shake(self, server: SimPeer) -> None:
        """The server's memory is back where it was at some earlier time, and says nothing of it."""
        for each in self.executed:
            if each.server is server:
                each.shaky = True
