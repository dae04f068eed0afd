"""The learning switch: sessions through a device, each over one connection on either side.

Pure (docs/protocol.md, section 15): a core, see `zmqkit.protocol.core`. On one side, the *initiating* one, peers dial
the switch and say HELLO. On the other there are acceptors, who answer it: dialled, or dialling and told to listen. The
switch finds an acceptor for each HELLO, learns from WELCOME where the session runs, and from then on passes on what
comes, untouched: session ids, numbers and credit go from end to end. It keeps nothing that it could lose. When a way
breaks, or the switch itself, both ends resume: HELLO is asked of all acceptors, and he answers who has the session.

How messages pass is here, and what is done about connections; what is done about HELLO and its answers is in
`zmqkit.devices.greetings`.
"""

from __future__ import annotations

import random
from collections.abc import Collection, Hashable, Iterable, Sequence
from typing import Any, Final

from zmqkit.address import bare
from zmqkit.devices.acceptors import Line, group_of
from zmqkit.devices.greetings import Greetings
from zmqkit.errors import DecodeError
from zmqkit.protocol import wire
from zmqkit.protocol.core import Frames, Link, Read, Row
from zmqkit.protocol.wire import DATA, GONE, GOODBYE, HELLO, LISTEN, LOST, MORE, REFUSED, WELCOME

PASSING: Final = frozenset(bytes((0x90 | length, kind)) for length in range(2, 16) for kind in range(DATA, GOODBYE + 1))
"""How the header of a session frame begins, in msgpack: a short array, and the kind. (A longer form is legal, and goes
the long way.)"""

PROBE_DELAYS: Final = (0.05, 0.25, 1.0, 4.0)
"""When links are probed again after some connection broke, in seconds: a socket takes a moment to know that it did."""


class SwitchCore(Greetings):
    """The core of a switch.

    Args:
        name: of the device, for people.
        sides: how the initiating side and the other one are called, "frontend" and "backend" say.
        roles: which roles are welcome at each of them.
        dialled: addresses of acceptors that the driver dials from the first.
        open_ended: acceptors may come that are not dialled now: they dial, or are discovered.
        rng: to choose among equals; `random.SystemRandom` outside of simulations.
    """

    def __init__(
        self,
        *,
        name: str,
        sides: tuple[str, str],
        roles: tuple[Collection[str], Collection[str]],
        dialled: Iterable[str] = (),
        open_ended: bool = False,
        rng: random.Random,
    ) -> None:
        super().__init__(name=name, sides=sides, roles=roles, open_ended=open_ended, rng=rng)
        for address in dialled:
            self.acceptors.add(address)
        self._initiating: frozenset[str] = frozenset()
        self._listening: frozenset[str] = frozenset()
        self._probes: dict[Hashable, int] = {}
        """How often each bound socket was probed again since a connection of it broke."""
        self._finished = False

    # ---- verbs of the engine -------------------------------------------------------

    def bound_at(self, initiating: Iterable[str], answering: Iterable[str], now: float) -> None:
        """Which addresses are bound on each side, ports filled in. To be told before the first message."""
        self._initiating, self._listening = frozenset(initiating), frozenset(answering)
        self._began = now

    def expect(self, address: str, now: float) -> None:
        """The driver dials one more acceptor, from now on."""
        self.acceptors.add(address)

    def link_forgotten(self, link: Link, now: float) -> None:
        """The driver will not dial this acceptor again: what runs there is cut off."""
        if isinstance(link, tuple):
            for line in self.acceptors.remove(link[1]):
                self._line_down(line, now)

    def uses(self, address: str) -> bool:
        """Whether a session runs at this dialled address."""
        acceptor = self.acceptors.find(address)
        return acceptor is not None and acceptor.used > 0

    def pause(self, ticket: Any, now: float) -> None:
        """Pass nothing on until `resume`: what comes is dropped, and the ends will send it again."""
        self._paused = True
        self.counters["paused"] = 1
        self._ways = {}
        self.out.replies.append((ticket, None))

    def resume(self, ticket: Any, now: float) -> None:
        """Pass on again."""
        self._paused = False
        self.counters["paused"] = 0
        self._ways = self._all_ways
        self.acceptors.changed = True
        self.out.replies.append((ticket, None))

    # ---- messages ------------------------------------------------------------------

    def receive_message(self, link: Link, frames: Frames, now: float) -> None:
        """See `Core`. Nearly all messages are passed on by the first lines."""
        way = self._ways.get(link)
        if way is not None and frames and frames[0][:2] in PASSING:
            to, flow = way
            flow.messages += 1
            flow.size_bytes += len(frames[0]) if len(frames) == 1 else sum(map(len, frames))
            self.out.sends.append((to, frames))
            return
        self._receive(link, frames, now)

    def _receive(self, link: Link, frames: Frames, now: float) -> None:
        """Whatever else comes. Never raises: what is bad is counted."""
        kind, address = link[:2] if isinstance(link, tuple) else ("", "")
        initiating = kind == "b" and address in self._initiating
        self._count("received", not initiating, frames)
        try:
            if not frames or len(frames[0]) > wire.MAX_SESSION_HEADER_BYTES:
                raise DecodeError("a message without a header, or with one that is too large")
            header = wire.unpack(frames[0])
            if type(header) is not list or not header or type(header[0]) is not int:
                raise DecodeError("a message without a header")
            if header[0] <= GOODBYE and len(header) < 2:
                raise DecodeError(f"a frame of kind {header[0]} without a field")
            if initiating:
                self._from_initiator(link, header, frames, now)
            elif kind == "b" and address in self._listening and header[0] == HELLO:
                self._hello_of_acceptor(link, header[1], now)
            else:
                self._from_acceptor(link, header, frames, now)
        except DecodeError as error:
            self._bad_frame(link, str(error))

    def _from_initiator(self, link: Link, header: Sequence[Any], frames: Frames, now: float) -> None:
        kind = header[0]
        if kind == HELLO:
            self._hello(link, header[1], frames, now)
        elif kind == LOST or DATA <= kind <= GOODBYE:
            way = self._all_ways.get(link)
            if way is None:
                self._stray(link)
            elif self._paused:
                self.counters["frames_dropped"] += 1
            else:
                self._pass(way[0], frames, back=True)
        else:
            raise DecodeError(f"{wire.NAMES.get(kind, f'a frame of kind {kind}')} from a side that dialled us")

    def _from_acceptor(self, link: Link, header: Sequence[Any], frames: Frames, now: float) -> None:
        kind = header[0]
        line = self.acceptors.lines.get(link)
        if line is None:
            if not self.acceptors.is_leaving(link):
                self._stray(link)
        elif kind == GONE and line.number:
            self._line_down(line, now)
        elif kind == MORE and line.number:
            total = wire.read_more(list(header))
            if line.user is not None:
                self.acceptors.counts(line.acceptor, total, line.user.instance)
        elif kind == LISTEN and line.number:
            self._cannot_listen(line, now)
        elif not (kind in (WELCOME, REFUSED, LOST) or DATA <= kind <= GOODBYE):
            raise DecodeError(f"{wire.NAMES.get(kind, f'a frame of kind {kind}')} from an acceptor")
        elif self._paused:
            self.counters["frames_dropped"] += 1
        elif kind == WELCOME:
            self._welcome(line, header[1], frames, now)
        elif kind == REFUSED:
            self._refused(line, header, frames, now)
        elif kind == LOST:
            self._lost(line, header[1], frames, now)
        else:
            self._in_session(line, kind, frames, now)

    def _in_session(self, line: Line, kind: int, frames: Frames, now: float) -> None:
        way = self._all_ways.get(line.link)
        if way is not None:
            self._pass(way[0], frames, back=False)
            return
        self.counters["frames_dropped"] += 1
        if line.user is None and kind != GOODBYE:
            # A session lives in it that nobody asks for any more: its WELCOME came too late, or got lost.
            self.acceptors.give_up(line, now)

    # ---- connections ---------------------------------------------------------------

    def link_up(self, link: Link, now: float) -> None:
        """See `Core`. Only acceptors are dialled."""
        if not isinstance(link, tuple) or self.acceptors.is_leaving(link):
            return
        if link[1] == bare(link[1]):
            acceptor = self.acceptors.find(link[1])
            if acceptor is not None:  # or it was forgotten
                self.acceptors.keep(acceptor, True)
            return
        line = self.acceptors.lines.get(link)
        if line is None:
            return
        if line.up:  # the driver saw it come back before it saw it go
            self._line_down(line, now)
            return
        line.up = True
        self.acceptors.changed = True
        if line.user is not None and line.user.hello is not None:
            self._pass(link, line.user.hello, back=True)

    def link_down(self, link: Link, now: float) -> None:
        """See `Core`."""
        self._offences.pop(link, None)
        self.acceptors.closed(link)
        initiator = self.initiators.by_link.get(link)
        if initiator is not None:
            self._forget(initiator, now)
            return
        if self.acceptors.is_leaving(link):
            self.acceptors.flushed(link)
            return
        line = self.acceptors.lines.get(link)
        if line is not None:
            # News of an earlier connection of that number may come late.
            if line.up:
                self._line_down(line, now)
        elif isinstance(link, tuple) and link[0] == "c" and (acceptor := self.acceptors.find(link[1])) is not None:
            for each in self.acceptors.keep(acceptor, False):
                self._line_down(each, now)

    def links_disturbed(self, group: Hashable, now: float) -> None:
        """See `Core`: what may be said any number of times finds out whose connection broke."""
        self._probe(group)
        self._probes[group] = 0
        self.timers.set(("probe", group), now + PROBE_DELAYS[0])

    def _probe_again(self, group: Hashable, now: float) -> None:
        self._probe(group)
        self._probes[group] += 1
        if self._probes[group] < len(PROBE_DELAYS):
            self.timers.set(("probe", group), now + PROBE_DELAYS[self._probes[group]])
        else:
            del self._probes[group]

    def _probe(self, group: Hashable) -> None:
        for initiator in self.initiators:
            if group_of(initiator.link) == group:
                self.out.sends.append((initiator.link, [wire.more(max(initiator.told, 1))]))
        for link in self.acceptors.lines:
            if group_of(link) == group:
                self.out.sends.append((link, [wire.listen()]))
        self.acceptors.ask_gone(group)

    # ---- time ----------------------------------------------------------------------

    def next_deadline(self) -> float | None:
        """See `Core`."""
        return self.timers.next()

    def handle_timer(self, now: float) -> None:
        """See `Core`."""
        while (key := self.timers.pop(now)) is not None:
            assert isinstance(key, tuple)
            what, link = key
            if what == "flush":
                self.acceptors.flushed(link)
            elif what == "probe":
                self._probe_again(link, now)
            elif what == "lost":
                self._serve(self.initiators.by_link[link], now)
            else:
                self._call_again(now)

    def end_turn(self, now: float) -> None:
        """See `Core`."""
        if self.acceptors.changed:
            self._look_again(now)
        if self._forth.messages:
            self._sum_up(self._forth, *self._sides)
        if self._back.messages:
            self._sum_up(self._back, self._sides[1], self._sides[0])

    # ---- what a core must have besides ----------------------------------------------

    def process_gone(self, key: Hashable, now: float) -> None:
        """See `Core`: nothing is probed."""

    def stored(self, up_to: int, now: float) -> None:
        """See `Core`: nothing is stored."""

    def store_failed(self, up_to: int, error: Exception, now: float) -> None:
        """See `Core`: nothing is stored."""

    def loaded(self, read: Read, rows: Sequence[Row], now: float) -> None:
        """See `Core`: nothing is read."""

    def close(self, now: float) -> None:
        """See `Core`: the connections will be closed, and that says it all."""
        self._finished = True

    @property
    def finished(self) -> bool:
        """See `Core`."""
        return self._finished
