"""Who answers HELLO behind a learning switch, and the connections that lead to them (docs/protocol.md, section 15).

Pure. An acceptor is an address that the switch dials, or an instance that dialled the switch. Each has *lines*: one
connection each, for one session, or idle. What goes over the lines: `zmqkit.devices.switch`.
"""

from __future__ import annotations

import heapq
from collections.abc import Hashable, Iterator
from typing import Final

from zmqkit.address import nth
from zmqkit.devices.initiators import Initiator
from zmqkit.protocol import wire
from zmqkit.protocol.core import Link, Outputs
from zmqkit.protocol.timers import Timers
from zmqkit.protocol.wire import MAX_CONNECTIONS

SPARE: Final = 2
"""So many idle lines to a dialled acceptor are kept for the next session; others are closed."""

ASKS: Final = 32
"""So many resumed sessions are asked for at one acceptor at a time."""

MAX_ACCEPTORS: Final = 1000
"""More instances than these that dial the switch are refused."""

MAX_GONE: Final = 1000
"""So many connections are remembered that acceptors were told to close."""

FLUSH_SECONDS: Final = 0.25
"""How long a line that is given up still stands, so that what was said last, a GOODBYE say, gets out."""


class Line:
    """One connection to an acceptor.

    Attributes:
        number: of the connection to a dialled address, from 2; 0 where the acceptor dialled.
        up: whether the connection stands.
        user: whose session runs over it, or who asks over it; None: it is idle.
    """

    __slots__ = ("acceptor", "link", "number", "up", "user")

    def __init__(self, acceptor: Acceptor, link: Link, number: int, *, up: bool) -> None:
        self.acceptor = acceptor
        self.link = link
        self.number = number
        self.up = up
        self.user: Initiator | None = None


class Acceptor:
    """Somebody who answers HELLO.

    Attributes:
        key: the address, or the instance.
        address: what is dialled; empty where the acceptor dials.
        lines: all of them by their links; `idle` are those without a user, `asked` those over which nothing was
            answered yet.
        places: how many acceptors this is: more than one where a switch is behind the address. `more` says it of
            single instances, to which that switch told another number.
        keeper: whether the connection stands that only tells whether the address does.
        told: how many connections an acceptor that dials was last told to have.
    """

    __slots__ = ("_free", "_next", "address", "asked", "idle", "keeper", "key", "lines", "more", "places", "told")

    def __init__(self, address: str = "", instance: bytes = b"") -> None:
        self.key: str | bytes = address or instance
        self.address = address
        self.lines: dict[Link, Line] = {}
        self.idle: dict[Link, Line] = {}
        self.asked: dict[Link, Line] = {}
        self.places = 1
        self.more: dict[bytes, int] = {}
        self.keeper = False
        self.told = 0
        self._free: list[int] = []
        self._next = 2

    @property
    def stands(self) -> bool:
        """Whether a session can be begun there."""
        return self.keeper if self.address else bool(self.lines)

    def places_for(self, instance: bytes) -> int:
        """How many sessions there are of use to an instance."""
        return self.more.get(instance, self.places)

    @property
    def used(self) -> int:
        """How many lines have a user."""
        return len(self.lines) - len(self.idle)

    def take_number(self) -> int:
        """The lowest number that no connection to the address has."""
        if self._free:
            return heapq.heappop(self._free)
        self._next += 1
        return self._next - 1

    def free_number(self, number: int) -> None:
        """The connection of that number is closed."""
        heapq.heappush(self._free, number)


class Acceptors:
    """All acceptors of a switch.

    Args:
        out: where dials, GONE, LISTEN and MORE go.
        timers: of the switch; those named ("flush", link) are told to `flushed`.

    Attributes:
        lines: of all acceptors, by their links.
        changed: set when there may be more, or others, than before; the switch looks and clears it.
        recount: likewise, when the number of acceptors may be another.
    """

    def __init__(self, out: Outputs, timers: Timers) -> None:
        self.lines: dict[Link, Line] = {}
        self.changed = self.recount = False
        self._out = out
        self._timers = timers
        self._by_key: dict[str | bytes, Acceptor] = {}
        self._leaving: dict[Link, Line] = {}
        self._gone: dict[Link, None] = {}
        """Lines of those who dialled us that were given up and are not known to be closed."""

    def __iter__(self) -> Iterator[Acceptor]:
        return iter(self._by_key.values())

    def __len__(self) -> int:
        return len(self._by_key)

    def total(self, instance: bytes) -> int:
        """How many sessions an instance can make use of."""
        return sum(acceptor.places_for(instance) for acceptor in self._by_key.values())

    def find(self, key: str | bytes) -> Acceptor | None:
        """The acceptor of this address or instance."""
        return self._by_key.get(key)

    # ---- those that are dialled --------------------------------------------------

    def add(self, address: str) -> Acceptor:
        """An address that the driver dials from now on. Again: nothing happens."""
        acceptor = self._by_key.get(address)
        if acceptor is None:
            acceptor = self._by_key[address] = Acceptor(address=address)
            self.changed = self.recount = True
        return acceptor

    def remove(self, address: str) -> list[Line]:
        """It is dialled no more. Returns its lines, which the switch then gives up."""
        acceptor = self._by_key.pop(address, None)
        self.changed = self.recount = True
        # Should the address come back, its numbers begin anew.
        for link in [link for link, line in self._leaving.items() if line.acceptor is acceptor]:
            self.flushed(link)
        return list(acceptor.lines.values()) if acceptor is not None else []

    def keep(self, acceptor: Acceptor, stands: bool) -> list[Line]:
        """Whether the address stands. If not, returns the lines that will not come up, for the switch to give up."""
        acceptor.keeper = stands
        self.changed = True
        return [] if stands else [line for line in acceptor.lines.values() if not line.up]

    def counts(self, acceptor: Acceptor, places: int, instance: bytes) -> None:
        """Behind the address are so many acceptors, to this instance; to others hardly more."""
        if acceptor.more.get(instance) != places:
            acceptor.more[instance] = places
            acceptor.places = min(acceptor.more.values())
            self.changed = self.recount = True

    def forget(self, instance: bytes) -> None:
        """That instance is gone."""
        for acceptor in self:
            acceptor.more.pop(instance, None)

    # ---- those that dial us ------------------------------------------------------

    def listen(self, link: Link, instance: bytes) -> bool:
        """An acceptor said HELLO on this link: have it listen. False: there are too many."""
        self._gone.pop(link, None)
        line = self.lines.get(link)
        if line is None:
            acceptor = self._by_key.get(instance)
            if acceptor is None:
                if len(self._by_key) >= MAX_ACCEPTORS:
                    return False
                acceptor = self._by_key[instance] = Acceptor(instance=instance)
                self.recount = True
            line = Line(acceptor, link, 0, up=True)
            self.lines[link] = acceptor.lines[link] = acceptor.idle[link] = line
            self.changed = True
        self._out.sends.append((link, [wire.listen()]))
        return True

    def call_for_more(self, acceptor: Acceptor, waiting: int) -> None:
        """Have an acceptor that dials keep a spare connection for each HELLO that waits, and one at least."""
        if acceptor.address or not acceptor.lines:
            return
        wanted = min(acceptor.used + max(1, waiting), MAX_CONNECTIONS)
        if wanted > acceptor.told or 2 * wanted < acceptor.told:
            acceptor.told = wanted
            self._out.sends.append((next(reversed(acceptor.lines)), [wire.more(wanted)]))

    def call_again(self) -> bool:
        """Say once more what was not heeded. Returns whether there was anything."""
        self.ask_gone()
        said = bool(self._gone)
        for acceptor in self:
            if not (acceptor.address or acceptor.idle or acceptor.told == MAX_CONNECTIONS == len(acceptor.lines)):
                self._out.sends.extend((link, [wire.more(max(acceptor.told, 1))]) for link in acceptor.lines)
                said = True
        return said

    def ask_gone(self, group: Hashable = None) -> None:
        """Say GONE again where it was said: who heeded it is not there any more. `group`: only to its links."""
        gone = [wire.gone()]
        self._out.sends.extend((link, gone) for link in self._gone if group in (None, group_of(link)))

    def closed(self, link: Link) -> None:
        """A connection that was made to us is gone."""
        self._gone.pop(link, None)

    # ---- lines -------------------------------------------------------------------

    def take(self, acceptor: Acceptor, user: Initiator) -> Line | None:
        """A line for this user; None: not now. What was not up is dialled, and told to `rise`."""
        idle = acceptor.idle
        if idle:
            link = next((link for link, line in idle.items() if line.up), None) or next(iter(idle))
            line = idle.pop(link)
        elif acceptor.address:
            number = acceptor.take_number()
            link = ("c", nth(acceptor.address, number))
            line = Line(acceptor, link, number, up=False)
            self.lines[link] = acceptor.lines[link] = line
            self._out.dials.append((link[1], True))
        else:
            return None
        line.user = user
        acceptor.asked[line.link] = line
        return line

    def release(self, line: Line) -> None:
        """It carries nothing, and nothing is to be answered over it: another may use it."""
        line.user = None
        acceptor = line.acceptor
        acceptor.asked.pop(line.link, None)
        if acceptor.address and (len(acceptor.idle) >= SPARE or acceptor.key not in self._by_key):
            self._close(line)
            return
        acceptor.idle[line.link] = line
        self.changed = True

    def give_up(self, line: Line, now: float) -> None:
        """Over there something may live in it: have that side see that it is over."""
        line.user = None
        if not line.acceptor.address:
            self._out.sends.append((line.link, [wire.gone()]))
            self.drop(line)
            self._gone[line.link] = None
            if len(self._gone) > MAX_GONE:
                del self._gone[next(iter(self._gone))]
        elif not line.up:
            self._close(line)
        else:
            self._take_out(line)
            self._leaving[line.link] = line
            self._timers.set(("flush", line.link), now + FLUSH_SECONDS)

    def drop(self, line: Line) -> None:
        """Its connection is gone."""
        line.user = None
        if line.acceptor.address:
            self._close(line)
            return
        self._take_out(line)
        acceptor = line.acceptor
        if not acceptor.lines and self._by_key.get(acceptor.key) is acceptor:
            del self._by_key[acceptor.key]
            self.recount = True

    def flushed(self, link: Link) -> None:
        """A line that was given up has stood long enough; or it is gone. Again: nothing happens."""
        line = self._leaving.pop(link, None)
        self._timers.cancel(("flush", link))
        if line is not None:
            self._hang_up(line)

    def is_leaving(self, link: Link) -> bool:
        """Whether it was given up, and is not closed yet."""
        return link in self._leaving

    def _close(self, line: Line) -> None:
        self._take_out(line)
        self._hang_up(line)

    def _hang_up(self, line: Line) -> None:
        line.acceptor.free_number(line.number)
        self._out.dials.append((nth(line.acceptor.address, line.number), False))

    def _take_out(self, line: Line) -> None:
        acceptor = line.acceptor
        if self.lines.get(line.link) is line:
            del self.lines[line.link]
        acceptor.lines.pop(line.link, None)
        acceptor.idle.pop(line.link, None)
        acceptor.asked.pop(line.link, None)
        self.changed = True


def group_of(link: Link) -> Hashable:
    """The bound socket that a link is of; see `zmqkit.protocol.core.Core.links_disturbed`."""
    return link[:2] if isinstance(link, tuple) else None
