"""The smallest core there is, to try the driver with: what comes in becomes an item, and is answered if asked for.

It implements the contract of zmqkit/protocol/core.py directly, without sessions. `take_until` waits, bounded, for
what a test expects; nothing here sleeps.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import time
from collections.abc import Callable, Hashable, Iterator, Sequence
from typing import Any, Literal, NamedTuple

from zmqkit.events import BadFrame
from zmqkit.options import Heartbeat, Limits
from zmqkit.protocol.core import Frames, Link, Outputs, Probe, Read, Row, Write
from zmqkit.transport.housekeeper import TICKING
from zmqkit.transport.iothread import SLEEPING, IoThread
from zmqkit.transport.shared import SharedPump
from zmqkit.transport.tickets import Ticket

PATIENCE_S = 20.0
"""Every wait of these tests ends after so long, as a failure."""

AnyDriver = IoThread | SharedPump
KINDS: dict[str, type[IoThread] | type[SharedPump]] = {"iothread": IoThread, "shared": SharedPump}


class Chosen:
    """Which of them is tried."""

    kind = os.environ.get("ZMQKIT_TESTED_DRIVER", "iothread")


chosen = Chosen()

ASK = b"ask"
ANSWER = b"answer"


class Up(NamedTuple):
    link: Any


class Down(NamedTuple):
    link: Any


class Heard(NamedTuple):
    link: Any
    frames: list[bytes]


class Disturbed(NamedTuple):
    group: Any


class Gone(NamedTuple):
    key: Any


class RawCore:
    """Every input becomes an item; a message that begins with ASK is answered."""

    def __init__(self) -> None:
        self.out = Outputs()
        self.counters: dict[str, int | float] = {"heard": 0}
        self.finished = False
        self.finish_at_once = True
        self.goodbyes: list[tuple[Link, Frames]] = []
        """Sent when closing."""
        self.raises: dict[str, int] = {}
        """Name of an input -> how often it is still to raise."""
        self.stored_up_to = 0
        self.turns = 0
        self.deadline: float | None = None
        self.fired: list[float] = []
        self._unstored: list[tuple[int, Ticket, object]] = []
        self._reads: dict[Read, Ticket] = {}

    def _perhaps_raise(self, name: str) -> None:
        if self.raises.get(name, 0) > 0:
            self.raises[name] -= 1
            raise RuntimeError(f"planted in {name}")

    # ---- inputs ------------------------------------------------------------------------

    def link_up(self, link: Link, now: float) -> None:
        self._perhaps_raise("link_up")
        self.out.items.append(Up(link))

    def link_down(self, link: Link, now: float) -> None:
        self._perhaps_raise("link_down")
        self.out.items.append(Down(link))

    def receive_message(self, link: Link, frames: Frames, now: float) -> None:
        self._perhaps_raise("receive_message")
        self.counters["heard"] += 1
        self.out.items.append(Heard(link, list(frames)))
        if frames and frames[0] == ASK:
            self.out.sends.append((link, [ANSWER, *frames[1:]]))

    def links_disturbed(self, group: Hashable, now: float) -> None:
        self._perhaps_raise("links_disturbed")
        self.out.items.append(Disturbed(group))

    def stored(self, up_to: int, now: float) -> None:
        self._perhaps_raise("stored")
        self.stored_up_to = up_to
        for number, ticket, result in self._unstored:
            assert number <= up_to
            self.out.replies.append((ticket, result))
        self._unstored.clear()

    def store_failed(self, up_to: int, error: Exception, now: float) -> None:
        self._perhaps_raise("store_failed")
        for number, ticket, _ in self._unstored:
            assert number <= up_to
            self.out.replies.append((ticket, error))
        self._unstored.clear()

    def loaded(self, read: Read, rows: Sequence[Row], now: float) -> None:
        self._perhaps_raise("loaded")
        self.out.replies.append((self._reads.pop(read), list(rows)))

    def process_gone(self, key: Hashable, now: float) -> None:
        self._perhaps_raise("process_gone")
        self.out.items.append(Gone(key))

    def handle_timer(self, now: float) -> None:
        self._perhaps_raise("handle_timer")
        self.deadline = None
        self.fired.append(now)
        self.out.items.append("fired")

    def next_deadline(self) -> float | None:
        return self.deadline

    def end_turn(self, now: float) -> None:
        self.turns += 1
        self._perhaps_raise("end_turn")

    def close(self, now: float) -> None:
        self._perhaps_raise("close")
        self.out.sends += self.goodbyes
        self.finished = self.finish_at_once

    # ---- verbs -------------------------------------------------------------------------

    def say(self, link: Link, frames: Frames, ticket: Ticket | None, now: float) -> None:
        """Send a message; the ticket's result is "said"."""
        self.out.sends.append((link, frames))
        self.out.replies.append((ticket, "said"))

    def answer(self, ticket: Ticket, result: object, now: float) -> None:
        """Resolve a ticket."""
        self.out.replies.append((ticket, result))

    def give(self, items: list[Any], now: float) -> None:
        """Put items into the mailbox."""
        self.out.items += items

    def store(self, key: int, value: bytes | None, ticket: Ticket, now: float) -> None:
        """Write; the ticket's result is the number of the write, once it is stored."""
        number = self.out.write("rows", key, 1, value)
        self._unstored.append((number, ticket, number))

    def load(self, read: Read, ticket: Ticket, now: float) -> None:
        """Read; the ticket's result is the list of rows."""
        self._reads[read] = ticket
        self.out.reads.append(read)

    def probe(self, probe: Probe, now: float) -> None:
        self.out.probes.append(probe)

    def drop(self, link: Link, now: float) -> None:
        self.out.disconnects.append(link)

    def dial(self, address: str, wanted: bool, now: float) -> None:
        self.out.dials.append((address, wanted))

    def tell(self, reason: str, now: float) -> None:
        self.out.events.append(BadFrame("raw", reason))

    def wake_at(self, when: float, now: float) -> None:
        self.deadline = when

    def finish(self, now: float) -> None:
        self.finished = True

    def fail(self, ticket: Ticket | None, now: float) -> None:
        raise RuntimeError("planted in a verb")


@dataclasses.dataclass
class MemoryStore:
    """The smallest journal: a dict. ``errors`` are raised, one a commit."""

    rows: dict[int, Write] = dataclasses.field(default_factory=dict)
    errors: list[Exception] = dataclasses.field(default_factory=list)
    read_error: Exception | None = None
    commits: int = 0
    closed: int = 0

    def commit(self, writes: Sequence[Write]) -> None:
        if self.errors:
            raise self.errors.pop(0)
        self.commits += 1
        for write in writes:
            if write.value is None:
                self.rows.pop(write.key, None)
            else:
                self.rows[write.key] = write

    def read(self, request: Read) -> list[Row]:
        if self.read_error is not None:
            raise self.read_error
        found = [write for key, write in sorted(self.rows.items()) if request.first <= key <= request.last]
        return [Row(write.key, write.weight, write.value) for write in found if write.value is not None]

    def close(self) -> None:
        self.closed += 1


def unstarted(core: RawCore, **options: Any) -> AnyDriver:
    """A driver of the kind that is tried."""
    return KINDS[chosen.kind](core, **options)


def sleeps(io: AnyDriver) -> bool:
    """Whether its own thread sleeps until it is woken."""
    return io._depth == SLEEPING if isinstance(io, IoThread) else io.keeper.depth != TICKING


def waiting(io: AnyDriver) -> int:
    """How many threads and tasks wait for results."""
    return len(io._desk.waiting) + (isinstance(io, SharedPump) and io.polling)


@contextlib.contextmanager
def driver(
    core: RawCore | None = None,
    *,
    name: str = "raw",
    journal: Any = None,
    binds: Sequence[str] = (),
    connects: Sequence[str] = (),
    data: Literal["XPUB", "XSUB"] | None = None,
    data_binds: Sequence[str] = (),
    data_connects: Sequence[str] = (),
    heartbeat: Heartbeat | None = None,
    limits: Limits | None = None,
    waker: Any = "auto",
) -> Iterator[AnyDriver]:
    """A started driver of a raw core, of the kind that is tried, closed at the end."""
    made = unstarted(
        core or RawCore(),
        journal=journal,
        name=name,
        binds=binds,
        connects=connects,
        data=data,
        data_binds=data_binds,
        data_connects=data_connects,
        heartbeat=heartbeat,
        limits=limits,
        waker=waker,
    )
    made.start()
    try:
        yield made
    finally:
        made.close(0)


def raw(io: AnyDriver) -> RawCore:
    assert isinstance(io.core, RawCore)
    return io.core


def take(io: AnyDriver, patience_s: float = PATIENCE_S) -> Any:
    """The next item."""
    until = time.monotonic() + patience_s
    mailbox = io.mailbox
    while True:
        item = mailbox.take()
        if item is not None:
            return item
        if not io.wait_items(until - time.monotonic()):
            raise AssertionError(f"nothing came; closed {mailbox.closed} {mailbox.failure!r}")


def take_until(io: AnyDriver, wanted: type | Callable[[Any], bool]) -> Any:
    """The next item of this type, or that satisfies this; others before it are dropped."""
    until = time.monotonic() + PATIENCE_S
    while True:
        item = take(io, until - time.monotonic())
        if isinstance(item, wanted) if isinstance(wanted, type) else wanted(item):
            return item


def until(condition: Callable[[], object]) -> None:
    """Wait for what gives no event."""
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.002)
