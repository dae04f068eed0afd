"""The contract between a pure core and the driver that pumps it.

A core is a state machine: no zmq, no threads, no files, no clock, no randomness of its own. A driver hands
it inputs, each with ``now`` (seconds on the driver's monotonic clock), then carries out what the core has
put into its `Outputs`. One caller at a time; a core never calls back and never raises on a peer's input.

One turn of a driver::

    inputs           link_up, link_down, receive_message, loaded, process_gone, handle_timer, the verbs
    core.end_turn    what came in since is batched, and what is due is put out
    drain            writes are committed, then core.stored; replies, items and events are handed on;
                     sends are sent; reads and probes are answered by further inputs
    again            until a drain was empty; then sleep until core.next_deadline()

The core itself holds back what may only be sent, or said, after ``stored()``. So the journal may live in any
thread, and every crash point is an input to the core.

This module imports no other part of zmqkit but the levels below it.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import Any, NamedTuple, Protocol

from zmqkit.events import Event

Link = Hashable
"""One way to one peer, as the driver names it. A new connection of the binding side is a new link.

``("c", address)``: a connection that we made. ``("b", address, routing id)``: one that was made to us.
``("c", nth(address, 2))`` and so on: further connections to that address, see `zmqkit.address.nth`.
``("d", address)``: a data endpoint, an XPUB, XSUB, PUSH or PULL, with all its connections; see `Core.link_up`.
``("d", address, token)``: one connection of such a one, where it is to be closed (`Outputs.disconnects`).
"""

Frames = Sequence[bytes]
"""One message. Its boundaries are kept."""


class Write(NamedTuple):
    """One change of the journal: ``value`` None deletes. The last write of a key in a commit wins."""

    log: str
    key: int
    weight: int
    """How many messages the row stands for; the journal sums it up at open."""
    value: bytes | None


class Row(NamedTuple):
    """One row, as the journal gives it back."""

    key: int
    weight: int
    value: bytes


class Read(NamedTuple):
    """Asks for rows of a log in the order of their keys; answered by ``loaded(read, rows, now)``.

    The answer is empty only when there is none in the span: at least one row comes, however large.
    """

    log: str
    first: int
    """The lowest key wanted."""
    last: int
    """The highest key wanted."""
    size_bytes: int
    """Stop after the row that reaches this many bytes."""


class Probe(NamedTuple):
    """Asks whether a process on this host still lives; a dead one is told by ``process_gone(key, now)``."""

    key: Hashable
    host: str
    pid: int
    started: str


class Outputs:
    """What a core wants done. The driver takes each list and leaves a new, empty one in its place."""

    __slots__ = (
        "dials", "disconnects", "events", "items", "probes", "pulls", "pushes", "reads", "replies", "sends", "writes",
        "written",
    )  # fmt: skip

    def __init__(self) -> None:
        self.sends: list[tuple[Link, Frames]] = []
        self.writes: list[Write] = []
        self.reads: list[Read] = []
        self.probes: list[Probe] = []
        self.replies: list[tuple[Any, object]] = []
        """(ticket, result): the outcome of a verb; a BaseException instance is raised by the waiter."""
        self.items: list[Any] = []
        """What the user's ``receive`` takes."""
        self.events: list[Event] = []
        self.disconnects: list[Link] = []
        """Links that are of no more use: their connections are closed. What we connected is connected anew."""
        self.dials: list[tuple[str, bool]] = []
        """Addresses to connect to (True), as link ("c", address), or to leave (False); also names that `nth` gave. They
        are counted: an address is left with the last who wanted it, the user among them. One that cannot be read is
        logged, and no link."""
        self.pushes: list[tuple[Link, Sequence[Frames]]] = []
        """Messages for data endpoints that are PUSH sockets. Each entry is answered by `PushCore.pushed`."""
        self.pulls: list[tuple[Link, int]] = []
        """How many messages may be taken from now on from a data endpoint that is a PULL socket; 0 until it is told."""
        self.written = 0
        """How many writes were ever put out; what ``stored(up_to)`` counts."""

    def write(self, log: str, key: int, weight: int, value: bytes | None) -> int:
        """Put out one change of the journal and return its number."""
        self.writes.append(Write(log, key, weight, value))
        self.written += 1
        return self.written


class Core(Protocol):
    """What every pattern's core offers its driver. The verbs of the user come on top."""

    out: Outputs
    counters: dict[str, int | float]

    def link_up(self, link: Link, now: float) -> None:
        """A connection that we made stands. (The binding side learns of links by their first message.)

        A data endpoint is ("d", address). A bound one is up from the first: this is the first input there is. One that
        connects is up with its connection; the next connection is a new socket, and knows nothing of the last one's
        subscriptions.
        """

    def link_down(self, link: Link, now: float) -> None:
        """The link's connection is gone, or a send to it found nobody there.

        Of a data endpoint that connects: what came over the connection was handed in before this, and nothing of the
        next connection is before its link_up. A bound one is never down.
        """

    def receive_message(self, link: Link, frames: Frames, now: float) -> None:
        """One message came in.

        To an XPUB come subscriptions, as two frames: what the subscriber sent (1 or 0, then the prefix; or anything
        else), and a token that names the connection it came over. The token is empty where that is not known: within
        the process, and where nobody said it, because the last subscriber to that prefix is gone. Only the last
        unsubscription from a prefix is told; of subscriptions each one is, but of connections that are gone by now.
        """

    def links_disturbed(self, group: Hashable, now: float) -> None:
        """Some connection of the bound socket ``group`` broke; whose is not known: ask each of its links.

        The group of the links ("b", address, routing id) is ("b", address); of a bound data endpoint it is its link.
        """

    def stored(self, up_to: int, now: float) -> None:
        """Writes up to this number are in the journal, at its durability. Without a journal: at once."""

    def store_failed(self, up_to: int, error: Exception, now: float) -> None:
        """Writes since the last `stored`, up to this number, are not in the journal.

        ``error`` says why: `JournalFull` passes; `CommitIndeterminate` and all others end the journal's use.
        """

    def loaded(self, read: Read, rows: Sequence[Row], now: float) -> None:
        """The answer to a `Read`. The one input that may raise: `JournalError`, if these rows cannot be read."""

    def process_gone(self, key: Hashable, now: float) -> None:
        """The process of a `Probe` is dead."""

    def handle_timer(self, now: float) -> None:
        """The deadline has come; ``now = max(deadline, clock())``."""

    def next_deadline(self) -> float | None:
        """When to call `handle_timer`. Changes nothing."""

    def end_turn(self, now: float) -> None:
        """All inputs that were ready are in: batch them."""

    def close(self, now: float) -> None:
        """Say goodbye to all peers. `finished` turns true when all is said that can be said."""

    @property
    def finished(self) -> bool:
        """True when the driver may tear everything down."""


class PushCore(Core, Protocol):
    """A core whose data endpoints are PUSH sockets. Nothing is received there."""

    def pushed(self, link: Link, taken: int, now: float) -> None:
        """Of one entry of `Outputs.pushes` ZeroMQ has taken so many of the first messages, and none of the others.

        There is nothing to push to this link before `link_room`.
        """

    def link_room(self, link: Link, now: float) -> None:
        """After a `pushed`: the endpoint has a peer, and room for a message at least."""
