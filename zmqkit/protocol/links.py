"""Connections come and go, and devices say what is to become of them (docs/protocol.md, sections 1.2 and 15).

Pure. A device passes sessions on between two connections. It tells those who dialled it that a connection leads nowhere
any more (GONE), that the other side says HELLO (LISTEN), how many connections it would use (MORE); here is all that
follows from that. What is said in handshakes: `zmqkit.protocol.handshake`.
"""

from __future__ import annotations

import random
from collections.abc import Hashable, Iterable
from typing import Any, Final

from zmqkit.address import bare, nth
from zmqkit.errors import DecodeError
from zmqkit.protocol import wire
from zmqkit.protocol.core import Link, Outputs
from zmqkit.protocol.handshake import Dial, Handshake
from zmqkit.protocol.local import Local
from zmqkit.protocol.session import Session
from zmqkit.protocol.wire import GONE, LISTEN

FEWER_DELAY: Final = 5.0
"""Seconds after which connections that a device has no more use for are left: whoever says now many, now few, must not
have us open and close as fast as he says it."""


class Further:
    """The connections to one address besides the first.

    Attributes:
        total: how many connections the device there would use, the first one included.
        links: those that are dialled, and their numbers.
    """

    __slots__ = ("links", "total")

    def __init__(self) -> None:
        self.total = 1
        self.links: dict[tuple[str, str], int] = {}


class Links(Handshake):
    """The connections that we make and that are made to us. See `Liveness` for the arguments."""

    def __init__(self, local: Local, out: Outputs, counters: dict[str, int | float], rng: random.Random) -> None:
        super().__init__(local, out, counters, rng)
        self._further: dict[str, Further] = {}
        """By address: where a device said MORE."""
        self._dialled: dict[str, int] = {}
        """How often the pattern dialled an address by itself."""
        self._offences: dict[Link, int] = {}

    # ---- verbs of the pattern ----------------------------------------------------

    def dial(self, address: str) -> None:
        """Connect to an address, or count one more user of it; see `Outputs.dials`."""
        self._dialled[address] = self._dialled.get(address, 0) + 1
        self._out.dials.append((address, True))

    def hang_up(self, address: str) -> None:
        """Take back one `dial`. With the last the connection goes, and all further ones to that address.

        Their sessions are judged as those of connections that broke: they may go on over other ones.
        """
        self._out.dials.append((address, False))
        left = self._dialled.pop(address, 1) - 1
        if left:
            self._dialled[address] = left
            return
        for link in self._take_further(address):
            self._leave(link)
        self._abandon(("c", address))

    def place(self, session: Session) -> Hashable:
        """By what the other side is known again in a later session: the link that we made for it, or, where a device
        lies between and leads now to one and now to another, its instance."""
        home = session.home
        if home is None or (isinstance(home, tuple) and bare(home[1]) in self._further):
            return session.peer.instance
        return home

    # ---- inputs ------------------------------------------------------------------

    def link_up(self, link: Link, now: float) -> None:
        """A connection that we made stands: say HELLO."""
        self._offences.pop(link, None)
        if self._closed or self._was_left(link):
            return
        dial = self._dials.get(link)
        if dial is None:
            dial = self._dials[link] = Dial(link)
        dial.left = False  # before its session is judged: the dial of one that was left ends with it
        session = self._by_link.get(link)
        self._standing.add(link)
        if session is not None:
            self._link_lost(session, now)  # the driver saw it come back before it saw it go
        elif dial.session is not None:
            self._not_attached(dial.session, link, now)
        elif dial.wanted and isinstance(link, tuple) and bare(link[1]) in self._further:
            # Somebody may have begun that session, and its WELCOME got lost. The device may lead to another now.
            dial.replaces, dial.wanted = dial.wanted, b""
        dial.refused = dial.listening = False
        dial.tries = 0
        dial.since = self._attempts + 1
        self._say_hello(dial, now)

    def link_down(self, link: Link, now: float) -> None:
        """A connection is gone, ours or theirs."""
        self._offences.pop(link, None)
        dial = self._dials.get(link)
        self._standing.discard(link)
        if dial is not None:
            self.timers.cancel(("hello", link))
            dial.listening = False
        session = self._by_link.get(link)
        if session is not None:
            self._link_lost(session, now)
        elif dial is not None and dial.session is not None:
            self._not_attached(dial.session, link, now)

    def link_forgotten(self, link: Link, now: float) -> None:
        """We shall not make this connection again, nor further ones to its address: end their sessions."""
        self._forget(link, now)
        for each in self._take_further(link[1]) if isinstance(link, tuple) else ():
            self._forget(each, now)
            self._leave(each)

    def _not_attached(self, session: Session, link: Link, now: float) -> None:
        """Its connection came or went before a WELCOME: the grace begins anew, unless a device said that it is gone."""
        if not session.ended:
            if link not in self._astray:
                session.down_at = now
            self._judge(session, now)

    def _forget(self, link: Link, now: float) -> None:
        dial = self._dials.pop(link, None)
        self.timers.cancel(("hello", link))
        if dial is not None:
            session = self._by_link.get(link) or dial.session
            if session is not None:
                self._say_goodbye(session, "disconnected", now)
            else:
                self._take_back(dial, "disconnected")
        self._standing.discard(link)

    def _was_left(self, link: Link) -> bool:
        """Whether it is a further connection that we have left; news of it may come late."""
        if not isinstance(link, tuple):
            return False
        address = bare(link[1])
        further = self._further.get(address)
        return address != link[1] and (further is None or link not in further.links)

    def _take_further(self, address: str) -> Iterable[tuple[str, str]]:
        further = self._further.pop(address, None)
        self.timers.cancel(("fewer", address))
        return further.links if further is not None else ()

    def _leave(self, link: tuple[str, str]) -> None:
        """Have the driver leave a further connection."""
        self._out.dials.append((link[1], False))
        self._abandon(link)

    def _abandon(self, link: Link) -> None:
        """The driver leaves this connection, and tells so. What runs over it may go on over another."""
        dial = self._dials.get(link)
        if dial is None:
            return
        if dial.session is not None:
            dial.left = True
            return
        del self._dials[link]
        self.timers.cancel(("hello", link))
        self._standing.discard(link)

    # ---- what devices say --------------------------------------------------------

    def _receive_from_device(self, link: Link, kind: int, header: list[Any], now: float) -> None:
        if not isinstance(link, tuple) or link[0] != "c":
            raise DecodeError(f"{wire.NAMES[kind]} from a side that dialled us")
        dial = self._dials.get(link)
        if dial is None or link not in self._standing:
            self.counters["frames_stray"] += 1
        elif kind == GONE:
            self._gone(dial, now)
        elif kind == LISTEN:
            self._listen(dial)
        else:
            self._more(bare(link[1]), wire.read_more(header), now)

    def _gone(self, dial: Dial, now: float) -> None:
        """It leads nowhere any more: dial anew. Until a WELCOME comes the session is one without a connection."""
        if dial.session is not None:
            self._astray.add(dial.link)
        self.link_down(dial.link, now)
        self._out.disconnects.append(dial.link)

    def _listen(self, dial: Dial) -> None:
        """The other side says HELLO here, as long as this connection stands."""
        if dial.session is not None:
            raise DecodeError("LISTEN where a session lives that this side began")
        dial.listening = True
        dial.refused = False
        dial.wanted = dial.replaces = b""
        self.timers.cancel(("hello", dial.link))

    def _more(self, address: str, total: int, now: float) -> None:
        """Have so many connections to an address, whichever of them told it."""
        further = self._further.setdefault(address, Further())
        links = further.links
        for number in range(further.total + 1, total + 1):
            link = ("c", nth(address, number))
            if link not in links:
                links[link] = number
                self._out.dials.append((link[1], True))
        fewer = total < further.total
        further.total = total
        if fewer and ("fewer", address) not in self.timers:
            self.timers.set(("fewer", address), now + FEWER_DELAY)

    def _leave_some(self, address: str, now: float) -> None:
        """Leave what there is no use for and carries no session; look again later for what does."""
        further = self._further[address]
        above = [link for link, number in further.links.items() if number > further.total]
        for link in above:
            dial = self._dials.get(link)
            if link not in self._by_link and (dial is None or dial.session is None):
                del further.links[link]
                self._leave(link)
        if above:
            self.timers.set(("fewer", address), now + FEWER_DELAY)
