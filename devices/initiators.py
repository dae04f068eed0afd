"""Who says HELLO to a learning switch, and where each session was last seen (docs/protocol.md, section 15).

Pure bookkeeping: one `Initiator` a connection, by its link, its session and its instance. What is done with them:
`zmqkit.devices.switch`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Final

from zmqkit.protocol.core import Frames, Link

if TYPE_CHECKING:
    from zmqkit.devices.acceptors import Acceptor, Line
    from zmqkit.protocol.wire import Hello

MAX_TRACES: Final = 20_000
"""The ways of so many sessions are remembered. What is forgotten is asked for everywhere."""


class Initiator:
    """A connection over which HELLO was said.

    Attributes:
        session, instance, attempt, bound: of the newest HELLO; `bound` is its silence that is death, in seconds.
        resume: it goes on with a session that was welcomed before.
        hello: the newest HELLO, until it is answered.
        line: where its session runs; None: it was not welcomed yet.
        asked: where HELLO was said, or will be, and nothing was answered.
        denied: the keys of those who do not have the session, or refused it.
        refusal: what the last of those said who refused.
        told: how many connections it was last told to have.
        former: the session before this one.
    """

    __slots__ = (
        "asked", "attempt", "bound", "denied", "former", "hello", "instance", "line", "link", "refusal", "resume",
        "session", "told",
    )  # fmt: skip

    def __init__(self, link: Link, instance: bytes) -> None:
        self.link = link
        self.instance = instance
        self.session = b""
        self.attempt = -1
        self.bound = 0.0
        self.resume = False
        self.hello: Frames | None = None
        self.line: Line | None = None
        self.asked: dict[Acceptor, Line] = {}
        self.denied: set[str | bytes] = set()
        self.refusal: Frames | None = None
        self.told = 0
        self.former = b""

    def read(self, hello: Hello) -> None:
        """Take in a HELLO."""
        if hello.session != self.session:
            self.former = self.session
        self.session, self.attempt, self.bound, self.resume = hello.session, hello.attempt, hello.bound, hello.resume


class Trace:
    """Where a session runs, or ran.

    Attributes:
        key: of the acceptor; None: not known.
        bound: seconds of silence after which it is taken for dead there.
        since: when it was cut off from its acceptor, or first asked for; None: it runs.
        instance: who said WELCOME; empty: not known.
    """

    __slots__ = ("bound", "instance", "key", "since")

    def __init__(self, key: str | bytes | None, bound: float, since: float | None) -> None:
        self.key = key
        self.bound = bound
        self.since = since
        self.instance = b""


class Initiators:
    """All connections over which HELLO was said.

    Attributes:
        by_link: all of them.
        waiting: those whose HELLO is not answered, in the order in which they came.
        traces: by session.
    """

    def __init__(self) -> None:
        self.by_link: dict[Link, Initiator] = {}
        self.waiting: dict[Link, Initiator] = {}
        self.traces: dict[bytes, Trace] = {}
        self._by_session: dict[bytes, Initiator] = {}
        self._by_instance: dict[bytes, dict[Link, Initiator]] = {}

    def __iter__(self) -> Iterator[Initiator]:
        return iter(self.by_link.values())

    def __len__(self) -> int:
        return len(self.by_link)

    @property
    def instances(self) -> Mapping[bytes, Mapping[Link, Initiator]]:
        """The connections of each instance."""
        return self._by_instance

    def of_session(self, session: bytes) -> Initiator | None:
        """Over which connection this session was last asked for."""
        return self._by_session.get(session)

    def add(self, link: Link, instance: bytes) -> Initiator:
        """A first HELLO on a link."""
        made = self.by_link[link] = Initiator(link, instance)
        self._by_instance.setdefault(instance, {})[link] = made
        return made

    def remove(self, initiator: Initiator) -> None:
        """Its connection is of no more use."""
        del self.by_link[initiator.link]
        self.waiting.pop(initiator.link, None)
        if self._by_session.get(initiator.session) is initiator:
            del self._by_session[initiator.session]
        others = self._by_instance[initiator.instance]
        del others[initiator.link]
        if not others:
            del self._by_instance[initiator.instance]

    def take_in(self, initiator: Initiator, hello: Hello) -> None:
        """It says another HELLO."""
        if self._by_session.get(initiator.session) is initiator:
            del self._by_session[initiator.session]
        initiator.read(hello)
        self._by_session[hello.session] = initiator

    def taken(self, initiator: Initiator) -> dict[Acceptor, int]:
        """Which acceptors the other connections of its instance use, or are about to, and how often."""
        counts: dict[Acceptor, int] = {}
        for other in self._by_instance[initiator.instance].values():
            if other is initiator:
                continue
            if other.line is not None:
                counts[other.line.acceptor] = counts.get(other.line.acceptor, 0) + 1
            elif not other.resume:
                for acceptor in other.asked:
                    counts[acceptor] = counts.get(acceptor, 0) + 1
        return counts

    def surplus(self, instance: bytes) -> int:
        """How many sessions of an instance are at acceptors where it has one already: it needs so many more."""
        counts: dict[Acceptor, int] = {}
        for each in self._by_instance[instance].values():
            if each.line is not None:
                counts[each.line.acceptor] = counts.get(each.line.acceptor, 0) + 1
        return sum(max(0, count - acceptor.places_for(instance)) for acceptor, count in counts.items())

    def trace(self, session: bytes, key: str | bytes | None, bound: float, since: float | None) -> Trace:
        """Remember where a session is."""
        traces = self.traces
        traces.pop(session, None)
        made = traces[session] = Trace(key, bound, since)
        if len(traces) > MAX_TRACES:
            del traces[next(iter(traces))]
        return made
